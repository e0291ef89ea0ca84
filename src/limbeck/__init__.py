"""limbeck makes a large language model small: plan, prune, distil, prove."""

import os
from typing import TYPE_CHECKING, Any

# Fresh memory costs more than arithmetic on a CPU: 1.8 GB/s to fault pages in, 8.2 GB/s to reuse them. Huge pages take a
# fifth off a training step. Torch reads this once, so it must stand before torch is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# In bfloat16 a CPU compiles each shape of a product, a millisecond and two thirds of a MiB. Of these programs oneDNN and what
# calls it keep 1,024 by themselves; a training has about a hundred, other work many that do not come again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
os.environ.setdefault("LRU_CACHE_CAPACITY", "256")

from limbeck.registration import register_with_transformers

register_with_transformers()

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers; a test compares these names with _PUBLIC
    from limbeck.api import capture as capture
    from limbeck.api import distil as distil
    from limbeck.api import doctor as doctor
    from limbeck.api import export as export
    from limbeck.api import grow as grow
    from limbeck.api import pilot as pilot
    from limbeck.api import plan as plan
    from limbeck.api import predict as predict
    from limbeck.api import pretrain as pretrain
    from limbeck.api import probe as probe
    from limbeck.api import reproduce as reproduce
    from limbeck.api import shrink as shrink
    from limbeck.api import tune as tune
    from limbeck.corpora import Rows as Rows
    from limbeck.corpora import TokenStore as TokenStore
    from limbeck.corpora import build_stores as build_stores
    from limbeck.errors import BadCorpus as BadCorpus
    from limbeck.errors import BadFolder as BadFolder
    from limbeck.errors import BadModel as BadModel
    from limbeck.errors import BadObjective as BadObjective
    from limbeck.errors import BadPlugin as BadPlugin
    from limbeck.errors import BadPoints as BadPoints
    from limbeck.errors import BadRecord as BadRecord
    from limbeck.errors import BadServer as BadServer
    from limbeck.errors import BadSetting as BadSetting
    from limbeck.errors import BadShape as BadShape
    from limbeck.errors import BadTask as BadTask
    from limbeck.errors import Interrupted as Interrupted
    from limbeck.errors import LimbeckError as LimbeckError
    from limbeck.errors import Mismatch as Mismatch
    from limbeck.errors import NonFiniteLoss as NonFiniteLoss
    from limbeck.errors import NotConverged as NotConverged
    from limbeck.errors import NothingToLearn as NothingToLearn
    from limbeck.errors import OtherRankStopped as OtherRankStopped
    from limbeck.errors import OutOfMemory as OutOfMemory
    from limbeck.models.auto import LimbeckConfig as LimbeckConfig
    from limbeck.models.auto import LimbeckForCausalLM as LimbeckForCausalLM
    from limbeck.models.language_model import LanguageModel as LanguageModel
    from limbeck.models.load import load as load
    from limbeck.models.save import save as save
    from limbeck.objectives import ALM as ALM
    from limbeck.objectives import CTKD as CTKD
    from limbeck.objectives import DKD as DKD
    from limbeck.objectives import DPO as DPO
    from limbeck.objectives import TAID as TAID
    from limbeck.objectives import ULD as ULD
    from limbeck.objectives import AdaptiveKL as AdaptiveKL
    from limbeck.objectives import APODown as APODown
    from limbeck.objectives import APOZero as APOZero
    from limbeck.objectives import CrossEntropy as CrossEntropy
    from limbeck.objectives import EntropySelect as EntropySelect
    from limbeck.objectives import ForwardKL as ForwardKL
    from limbeck.objectives import JensenShannon as JensenShannon
    from limbeck.objectives import Objective as Objective
    from limbeck.objectives import Ramp as Ramp
    from limbeck.objectives import ReverseKL as ReverseKL
    from limbeck.objectives import SkewKL as SkewKL
    from limbeck.objectives import SkewReverseKL as SkewReverseKL
    from limbeck.objectives import TotalVariation as TotalVariation
    from limbeck.probes.tasks import write_task_text as write_task_text
    from limbeck.results import CaptureResult as CaptureResult
    from limbeck.results import DistilResult as DistilResult
    from limbeck.results import DoctorResult as DoctorResult
    from limbeck.results import ExportResult as ExportResult
    from limbeck.results import GrowResult as GrowResult
    from limbeck.results import Measured as Measured
    from limbeck.results import PilotResult as PilotResult
    from limbeck.results import PlanResult as PlanResult
    from limbeck.results import PredictResult as PredictResult
    from limbeck.results import PretrainResult as PretrainResult
    from limbeck.results import ProbeResult as ProbeResult
    from limbeck.results import ReproduceResult as ReproduceResult
    from limbeck.results import ShrinkResult as ShrinkResult
    from limbeck.results import TuneResult as TuneResult
    from limbeck.run.run import Plan as Plan
    from limbeck.run.run import Run as Run
    from limbeck.run.world import World as World
    from limbeck.run.world import alone as alone
    from limbeck.students.prune import prune as prune
    from limbeck.students.score import score as score
    from limbeck.students.shape import Shape as Shape
    from limbeck.students.shape import choose as choose
    from limbeck.types import Batch as Batch
    from limbeck.types import Outputs as Outputs
    from limbeck.types import Reading as Reading
    from limbeck.types import Signal as Signal

_PUBLIC = {
    "limbeck.api": (
        "capture",
        "distil",
        "doctor",
        "export",
        "grow",
        "pilot",
        "plan",
        "predict",
        "pretrain",
        "probe",
        "reproduce",
        "shrink",
        "tune",
    ),
    "limbeck.corpora": ("Rows", "TokenStore", "build_stores"),
    "limbeck.errors": (
        "BadCorpus",
        "BadFolder",
        "BadModel",
        "BadObjective",
        "BadPlugin",
        "BadPoints",
        "BadRecord",
        "BadServer",
        "BadSetting",
        "BadShape",
        "BadTask",
        "Interrupted",
        "LimbeckError",
        "Mismatch",
        "NonFiniteLoss",
        "NotConverged",
        "NothingToLearn",
        "OtherRankStopped",
        "OutOfMemory",
    ),
    "limbeck.models.auto": ("LimbeckConfig", "LimbeckForCausalLM"),
    "limbeck.models.language_model": ("LanguageModel",),
    "limbeck.models.load": ("load",),
    "limbeck.models.save": ("save",),
    "limbeck.objectives": (
        *(
            "ALM",
            "APODown",
            "APOZero",
            "AdaptiveKL",
            "CTKD",
            "CrossEntropy",
            "DKD",
            "DPO",
            "EntropySelect",
            "ForwardKL",
            "JensenShannon",
            "Objective",
            "Ramp",
        ),
        *("ReverseKL", "SkewKL", "SkewReverseKL", "TAID", "TotalVariation", "ULD"),
    ),
    "limbeck.probes.tasks": ("write_task_text",),
    "limbeck.results": (
        "CaptureResult",
        "DistilResult",
        "DoctorResult",
        "ExportResult",
        "GrowResult",
        "Measured",
        "PilotResult",
        "PlanResult",
        "PredictResult",
        "PretrainResult",
        "ProbeResult",
        "ReproduceResult",
        "ShrinkResult",
        "TuneResult",
    ),
    "limbeck.run.run": ("Plan", "Run"),
    "limbeck.run.world": ("World", "alone"),
    "limbeck.students.prune": ("prune",),
    "limbeck.students.score": ("score",),
    "limbeck.students.shape": ("Shape", "choose"),
    "limbeck.types": ("Batch", "Outputs", "Reading", "Signal"),
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use: `import limbeck` loads neither torch nor a model."""
    if name not in _WHERE:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    from importlib import import_module

    from limbeck.garbage import loading

    with loading():
        return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
