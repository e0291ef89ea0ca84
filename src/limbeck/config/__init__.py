"""The settings of every command: values, names, settings with their descriptions, and how TOML and flags become them."""

from limbeck.config import settings
from limbeck.config.flag import Flag, Setting, flag_of, known_keys, settings_in
from limbeck.config.names import likely, nearest
from limbeck.config.resolve import AnySettings, resolve
from limbeck.config.settings import *  # noqa: F403
from limbeck.config.values import (
    ALL_TOKENS,
    ANSWERS,
    ATTENTION,
    BASELINES,
    FULL,
    LATENT,
    LAYERS,
    OF_TASK,
    OFF_POLICY,
    ONE_TEACHER,
    PTQ,
    STAGES,
    STOPS,
    TUNED,
    UNCORRECTED,
    UNMASKED,
    Stage,
    by_domain,
    byte_budget,
    count,
    require_one_teacher,
    reward_options,
    split_objectives,
)

__all__ = [
    "ALL_TOKENS",
    "ANSWERS",
    "ATTENTION",
    "BASELINES",
    "FULL",
    "LATENT",
    "LAYERS",
    "OFF_POLICY",
    "OF_TASK",
    "ONE_TEACHER",
    "PTQ",
    "STAGES",
    "STOPS",
    "TUNED",
    "UNCORRECTED",
    "UNMASKED",
    "AnySettings",
    "Flag",
    "Setting",
    "Stage",
    "by_domain",
    "byte_budget",
    "count",
    "flag_of",
    "known_keys",
    "likely",
    "nearest",
    "require_one_teacher",
    "resolve",
    "reward_options",
    "settings_in",
    "split_objectives",
]
__all__ += settings.__all__
