"""All settings, with their ranges, defaults and meaning.

Start with `tree.py`: it joins the sections into one `Config`, reads YAML files and applies
overrides. To add a setting, add a field to its section's class in this room: type, default, range
and a description, which `raymc config --reference` and `--help` print. If it does not change the
result of a run, leave it out in `_identity` in `tree.py`. Only the
settings of a service are no section of the tree (`serve.py`). This room imports pydantic and YAML,
nothing heavier, so that a misspelt key is reported at once.
"""

from raymc.config.data import AUTO, NONE, BatchConfig, DataConfig, ExtractConfig
from raymc.config.formats import (
    EXAMPLE,
    EXAMPLE_FOLDER,
    IMPORTERS,
    ApproveConfig,
    ArffConfig,
    CoinConfig,
    DigitsConfig,
    Feature,
    Hdf5Config,
    LessonsConfig,
    Level,
    MakeConfig,
    NpzConfig,
    ParquetConfig,
    Youtube8mConfig,
)
from raymc.config.model import LossConfig, LossName, ModelConfig, OptimizerConfig
from raymc.config.presets import Preset, Shape, Size, preset_line
from raymc.config.reference import config_reference
from raymc.config.run import CalibrationName, RunConfig, TrackingConfig, TrainConfig
from raymc.config.search import Range, SearchConfig, default_space
from raymc.config.serve import ServeConfig
from raymc.config.tree import (
    SHORTEST_ID,
    Config,
    check_passwords,
    check_space,
    checked,
    differences,
    differing_settings,
    digest,
    flatten,
    from_dict,
    is_setting,
    load,
    overridden,
    override,
    places,
    run_name,
    settings_in,
    to_dict,
)
