"""The settings of every command, one class each; fields describe themselves with a `Flag`."""

from limbeck.config.settings.capture import (
    CaptureSettings,
    FolderSettings,
    InspectSettings,
    MergeSettings,
    VerifySettings,
)
from limbeck.config.settings.chat import ChatSettings
from limbeck.config.settings.common import Base, Settings, TeacherSettings
from limbeck.config.settings.constraints import ConstraintsSettings
from limbeck.config.settings.distil import DistilSettings, ShrinkSettings
from limbeck.config.settings.export import ExportSettings
from limbeck.config.settings.growth import GrowSettings
from limbeck.config.settings.importing import ImportSettings
from limbeck.config.settings.planning import PlanSettings, PredictSettings, ReproduceSettings
from limbeck.config.settings.probe import ProbeCommandSettings, ProbeSettings
from limbeck.config.settings.push import PushSettings
from limbeck.config.settings.rank import RankSettings
from limbeck.config.settings.train import PilotSettings, PretrainSettings
from limbeck.config.settings.training import TrainingSettings
from limbeck.config.settings.tune import TuneSettings

__all__ = [
    "Base",
    "CaptureSettings",
    "ChatSettings",
    "ConstraintsSettings",
    "DistilSettings",
    "ExportSettings",
    "FolderSettings",
    "GrowSettings",
    "ImportSettings",
    "InspectSettings",
    "MergeSettings",
    "PilotSettings",
    "PlanSettings",
    "PredictSettings",
    "PretrainSettings",
    "ProbeCommandSettings",
    "ProbeSettings",
    "PushSettings",
    "RankSettings",
    "ReproduceSettings",
    "Settings",
    "ShrinkSettings",
    "TeacherSettings",
    "TrainingSettings",
    "TuneSettings",
    "VerifySettings",
]
