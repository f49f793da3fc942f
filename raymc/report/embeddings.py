"""Runs a bundle over rows in this process: embeddings and scores, and their map in a plane.

No Ray: for splits so small that starting anything would take longer, and for samples.
Axes: N rows, C classes, E embedding dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from raymc.data.feed.batches import RowStore, block_from_table
from raymc.data.shards import Dataset, read_shard
from raymc.evaluation.scored import ScoredSplit
from raymc.training.bundle import ROWS_AT_A_TIME, Bundle

PERPLEXITY = 30.0  # of t-SNE, as in L. van der Maaten and G. Hinton 2008, *Visualizing Data*


@dataclass(frozen=True)
class EmbeddedSplit:
    """Rows of a split, their scores, and their embeddings [N, E] before normalisation."""

    scored: ScoredSplit
    embeddings: np.ndarray


def embed_split(bundle: Bundle, dataset: Dataset, split: str, *, most: int) -> EmbeddedSplit:
    """Embed and score a split here, or `most` rows of its first shards if it has more.

    Raises:
        BundleError: The bundle reads other tokens than the dataset has, or other labels.
        DataError: There is no such split, or a shard can't be read.
    """
    bundle.check_dataset(dataset.manifest)
    bundle.check_labels(dataset.manifest)
    ids: list[str] = []
    columns: list[tuple[np.ndarray, ...]] = []
    for store, rows in _stores(bundle, dataset, split):
        rows = rows[: most - len(ids)]
        ids += store.ids(rows)
        columns += [_embed(bundle, store, part) for part in _parts(rows)]
        if len(ids) >= most:
            break
    embeddings, scores, labels, observed = (np.concatenate(parts) for parts in zip(*columns))
    digest = dataset.manifest.digest()
    scored = ScoredSplit(
        tuple(ids), scores, labels, observed, bundle.vocabulary, split, dataset_digest=digest
    )
    return EmbeddedSplit(scored, embeddings)


def _stores(bundle: Bundle, dataset: Dataset, split: str) -> Iterator[tuple[RowStore, np.ndarray]]:
    """Yield the rows of one shard after the other."""
    manifest = replace(dataset.manifest, modalities=bundle.modalities)
    observed = ["observed"] if manifest.vocabulary.groups else []
    wanted = ["id", "labels", *observed, *(modality.name for modality in bundle.modalities)]
    for shard in dataset.split(split):
        block = block_from_table(read_shard(dataset, shard, wanted), manifest)
        store = RowStore(bundle.modalities, len(manifest.vocabulary))
        store.add(0, block)
        yield store, np.arange(len(block))


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[at : at + ROWS_AT_A_TIME] for at in range(0, len(rows), ROWS_AT_A_TIME)]


@torch.inference_mode()
def _embed(bundle: Bundle, store: RowStore, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return embeddings, scores, labels and what was observed."""
    batch = store.batch(rows).to(bundle.device)
    fused = bundle.model(batch.tokens, batch.lengths).fused
    parts = (fused.float(), bundle.model.scores(fused), batch.labels, batch.observed)
    return tuple(part.cpu().numpy() for part in parts)


def prototypes_of(bundle: Bundle) -> Float[np.ndarray, "C E"]:
    """Return the prototypes, or the weights of a linear head."""
    return bundle.model.prototypes.detach().float().cpu().numpy()


def to_plane(vectors: Float[np.ndarray, "N E"], *, seed: int = 0) -> tuple[np.ndarray, str]:
    """Lay vectors out in a plane so that those of similar direction lie close.

    Returns:
        [N, 2], and how: t-SNE on cosine distances, or principal components where there are too
        few vectors for it.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    if len(unit) < 10:
        centred = unit - unit.mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        plane = np.zeros((len(unit), 2))
        plane[:, : len(axes[:2])] = centred @ axes[:2].T
        return plane, "principal components"
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    layout = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed)
    return layout.fit_transform(unit), "t-SNE of cosine distances"
