"""The mean token of each modality over a split, which a model subtracts from its input.

It is computed from a bounded sample, so that large datasets are not read as a whole. The sample
depends on the shards alone, and so is the same wherever it is drawn.

Axes: d values of a token.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from raymc.data.shards.manifest import Shard
from raymc.data.shards.ragged import Ragged, ragged
from raymc.data.shards.read import Dataset, read_shard
from raymc.data.shards.tokens import Modality

SHARDS = 8
TOKENS = 32768  # of each modality, in all

Means = Mapping[str, Sequence[float]]  # by modality, [d]
Sample = Mapping[str, tuple[np.ndarray, int]]  # by modality: a sum, [d] float64, of how many tokens


def token_means(dataset: Dataset, split: str) -> Means:
    """Return the mean token of each modality, in the numbers that stored values stand for.

    Up to `SHARDS` shards are read, evenly spread over the split. A modality without tokens there
    has zeros.

    Raises:
        DataError: The split is not there, or a shard can't be read.
    """
    modalities = dataset.manifest.modalities
    if split in dataset.means:
        known = dataset.means[split]
        return {modality.name: known[modality.name] for modality in modalities}
    names = [modality.name for modality in modalities]
    shards = sampled_shards(dataset.split(split))
    tables = (read_shard(dataset, shard, names) for shard in shards)
    decoded = ({m.name: ragged(table[m.name], m) for m in modalities} for table in tables)
    share = TOKENS // len(shards)
    return means_of([sample_of(tokens, share) for tokens in decoded], modalities)


def sampled_shards(shards: Sequence[Shard], most: int = SHARDS) -> list[Shard]:
    """Return up to `most` of a split's shards, evenly among those with rows."""
    filled = [shard for shard in shards if shard.rows]
    return [filled[index] for index in evenly_spread(len(filled), most)]


def evenly_spread(count: int, most: int) -> Int64[np.ndarray, " _"]:
    """Return up to `most` of the numbers below `count`, from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def sample_of(tokens: Mapping[str, Ragged], most: int = TOKENS) -> Sample:
    """Add up to `most` tokens of each modality, drawn at random if there are more."""
    found = {}
    for name, rows in tokens.items():
        values = rows.values
        if len(values) > most:
            # Not every n-th: where all rows are equally long, these may be all alike.
            chosen = np.random.default_rng(0).choice(len(values), most, replace=False)
            values = values[np.sort(chosen)]
        found[name] = (values.sum(axis=0, dtype=np.float64), len(values))
    return found


def means_of(samples: Sequence[Sample], modalities: Sequence[Modality]) -> Means:
    """Return the mean token of all samples, in the numbers that stored values stand for."""
    means = {}
    for one in modalities:
        totals, counts = zip(*(sample[one.name] for sample in samples))
        count = sum(counts)
        mean = np.sum(totals, axis=0) / max(count, 1) * one.scale + one.offset * (count > 0)
        means[one.name] = mean.tolist()
    return means
