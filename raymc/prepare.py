"""From a configuration to the dataset it names, made first if it has a recipe. Pure."""

from raymc.config import Config, MakeConfig
from raymc.datasets import DatasetRecipe, make_dataset
from raymc.datasets.digits import digits
from raymc.datasets.npz import NpzConfig, npz
from raymc.shards import Dataset, open_dataset


def prepare_dataset(config: Config) -> Dataset:
    """Open the configured dataset; write it first where `data.make` says how.

    Running again goes on with an interrupted write, and leaves a finished dataset alone.

    Raises:
        DataError: there is no dataset and no recipe, or the folder holds another dataset.
    """
    if config.data.make is not None:
        make_dataset(recipe_of(config.data.make), config.data.path)
    return open_dataset(config.data.path)


def recipe_of(config: MakeConfig) -> DatasetRecipe:
    """Return the recipe that a `data.make` section describes."""
    return npz(config) if isinstance(config, NpzConfig) else digits(config)
