"""Settings: every one of them, with its range, its default and what it is for.

Start with `tree.py`, which joins the sections into one `Config`, reads YAML files and applies
overrides. This room sits on the ground floor: it imports pydantic and YAML, nothing heavier, so
that a misspelt key is reported at once.
"""

from raymc.config.data import IMPORTERS, BatchConfig, DataConfig, ExtractConfig, MakeConfig
from raymc.config.model import LossConfig, LossName, ModelConfig, OptimizerConfig
from raymc.config.run import RunConfig, TrackingConfig, TrainConfig
from raymc.config.search import Range, SearchConfig
from raymc.config.tree import (
    Config,
    check_space,
    differences,
    differing_settings,
    digest,
    flatten,
    from_dict,
    load,
    overridden,
    override,
    run_name,
    to_dict,
)

__all__ = [
    "IMPORTERS",
    "BatchConfig",
    "Config",
    "DataConfig",
    "ExtractConfig",
    "LossConfig",
    "LossName",
    "MakeConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Range",
    "RunConfig",
    "SearchConfig",
    "TrackingConfig",
    "TrainConfig",
    "check_space",
    "differences",
    "differing_settings",
    "digest",
    "flatten",
    "from_dict",
    "load",
    "overridden",
    "override",
    "run_name",
    "to_dict",
]
