"""From a configuration to its dataset, which is made first if `data.make` says how."""

from collections.abc import Callable, Mapping
from typing import Any

from raymc.config import Config, MakeConfig
from raymc.data.shards import Dataset, open_dataset
from raymc.errors import ConfigError
from raymc.formats.approve import approve
from raymc.formats.arff import arff
from raymc.formats.coin import coin
from raymc.formats.digits import digits
from raymc.formats.hdf5 import hdf5
from raymc.formats.lessons import lessons
from raymc.formats.npz import npz
from raymc.formats.parquet import parquet
from raymc.formats.recipe import DatasetRecipe, make_dataset
from raymc.formats.youtube8m import youtube8m

_RECIPES: Mapping[str, Callable[[Any], DatasetRecipe]] = {
    "approve": approve,
    "arff": arff,
    "coin": coin,
    "digits": digits,
    "hdf5": hdf5,
    "lessons": lessons,
    "npz": npz,
    "parquet": parquet,
    "youtube8m": youtube8m,
}


def prepare_dataset(
    config: Config, *, on_row: Callable[[int, int], None] = lambda row, rows: None
) -> Dataset:
    """Open the configured dataset; write it first if `data.make` says how.

    A second call resumes an interrupted write, and does not change a finished dataset. `on_row` is
    called with the number of each row written, from 1, and the number of all rows.

    Raises:
        ConfigError: No dataset is named.
        DataError: There is none, or it can't be read or written.
    """
    if not config.data.path:
        raise ConfigError(
            "which dataset? Name its folder, such as data/lessons, or `digits` for the embedded "
            "example"
        )
    if config.data.make is not None:
        make_dataset(recipe_of(config.data.make), config.data.path, on_row=on_row)
    return open_dataset(config.data.path)


def recipe_of(config: MakeConfig) -> DatasetRecipe:
    """Return the recipe of a `data.make` section."""
    return _RECIPES[config.name](config)
