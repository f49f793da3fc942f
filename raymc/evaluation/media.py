"""A bundle's scores and embeddings of videos: in this process, or on Ray if there are many.

Features are made by the bundle's own recipe, scored as they come, and not kept.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from raymc.config import ExtractConfig
from raymc.data.feed.batches import decode_tokens
from raymc.errors import BundleError
from raymc.evaluation.scoring import scored_columns
from raymc.events import ExtractProgress
from raymc.features.clips import Failure
from raymc.features.extraction import (
    EncodedClip,
    ExtractPlan,
    Item,
    are_few,
    extract_here,
    plan_extraction,
)
from raymc.features.recipe import ENCODER_WEIGHTS, FEATURES, FEATURES_KEY, recipe_differences
from raymc.features.sources import Source
from raymc.training.bundle import ROWS_AT_A_TIME, Bundle


def plan_of(bundle: Bundle, *, device: str = "auto", **windows: float) -> ExtractPlan:
    """Return how to make the features that a bundle reads.

    Args:
        bundle: The model.
        device: `auto`, `cpu` or `gpu`.
        windows: `window_seconds` and `stride_seconds` in place of those of its recipe.

    Raises:
        BundleError: It doesn't say how, or they would be others here.
        ResourceError: Weights or a package are missing.
    """
    if bundle.recipe is None:
        raise BundleError(
            f"the bundle {bundle.folder} doesn't say how its features were made, because its "
            "dataset was not made by `raymc extract`, or by an older raymc: give a dataset made in "
            "the same way, not videos"
        )
    given: dict[str, Any] = {**bundle.recipe, **windows, "device": device}
    for name in (ENCODER_WEIGHTS, FEATURES_KEY):
        given.pop(name, None)
    plan = plan_extraction(ExtractConfig(**given))
    bundle.check_modalities(plan.modalities)
    if (made := bundle.recipe.get(FEATURES_KEY, 1)) != FEATURES:
        raise BundleError(
            f"the bundle's features were made by a raymc that makes others ({made}, here "
            f"{FEATURES}): give a dataset made by that raymc, not videos"
        )
    if changed := recipe_differences(
        bundle.recipe, {**bundle.recipe, ENCODER_WEIGHTS: plan.weights}
    ):
        raise BundleError(
            f"the bundle's features were made with other weights than those here "
            f"({'; '.join(changed)}): make the features with the first ones (raymc extract "
            "--weights FOLDER), and give the dataset"
        )
    return plan


def score_media(
    bundle: Bundle,
    sources: Sequence[Source],
    plan: ExtractPlan,
    *,
    first: int,
    threshold: float | None = None,
    listener: Callable[[ExtractProgress], None],
) -> Iterator[tuple[int, pa.Table]]:
    """Yield predictions of whole files from number `first`, and how many files are done.

    Raises:
        ResourceError: A GPU is asked for and there is none.
    """
    for done, items in media_parts(sources, plan, first, listener):
        yield done, _predictions(bundle, items, threshold)


class EmbeddedClip(NamedTuple):
    """A clip with its embedding [E], before normalisation, and its scores [C]."""

    source: Source
    clip: EncodedClip
    embedding: Float32[np.ndarray, " E"]
    scores: Float32[np.ndarray, " C"]


def embed_media(
    bundle: Bundle,
    sources: Sequence[Source],
    plan: ExtractPlan,
    *,
    listener: Callable[[ExtractProgress], None],
) -> Iterator[EmbeddedClip | str]:
    """Yield the clips in their order; in place of what can't be read, a line `path: reason`.

    Raises:
        ResourceError: A GPU is asked for and there is none.
    """
    for _, items in media_parts(sources, plan, 0, listener):
        clips = [item for _, item in items if isinstance(item, EncodedClip)]
        tokens = decode_tokens(token_table(bundle, clips), bundle.modalities)
        made = zip(*bundle.embed_tokens(tokens))
        for source, item in items:
            if isinstance(item, Failure):
                yield f"{source.path}: {item.error}"
                continue
            embedding, scores = next(made)
            if any(item.tokens.values()):
                yield EmbeddedClip(source, item, embedding, scores)
            else:
                yield f"{source.path}: nothing to see or hear"


_Items = Sequence[tuple[Source, EncodedClip | Failure]]


def media_parts(
    sources: Sequence[Source],
    plan: ExtractPlan,
    first: int,
    listener: Callable[[ExtractProgress], None],
) -> Iterator[tuple[int, _Items]]:
    """Yield the clips of whole files, a few hundred at a time, and how many files are done."""
    waiting: list[tuple[Source, EncodedClip | Failure]] = []
    clips, seconds, failed = 0, 0.0, set[str]()
    listener(ExtractProgress(first, len(sources), 0, 0.0, 0))
    for file, item in encoded_clips(sources, plan, first):
        if isinstance(item, EncodedClip):
            clips, seconds = clips + 1, seconds + item.end_seconds - item.start_seconds
        if item is not None:
            waiting.append((sources[file], item))
            failed |= {sources[file].path} if isinstance(item, Failure) or item.failures else set()
            continue
        listener(ExtractProgress(file + 1, len(sources), clips, seconds, len(failed)))
        if waiting and (len(waiting) >= ROWS_AT_A_TIME or file + 1 == len(sources)):
            yield file + 1, waiting
            waiting = []


def encoded_clips(
    sources: Sequence[Source], plan: ExtractPlan, first: int
) -> Iterator[tuple[int, Item]]:
    """Yield the clips of files from number `first`, as `extract_files` does; on Ray if many."""
    if are_few(sources[first:], plan):
        yield from extract_here(list(enumerate(sources))[first:], plan)
    else:
        from raymc.features.on_ray import extract_items  # Ray takes a second to import

        yield from extract_items(sources, plan, first)


def token_table(bundle: Bundle, clips: Sequence[EncodedClip]) -> pa.Table:
    """Return the tokens of clips as the columns that a bundle scores."""
    return pa.table(
        {
            modality.name: pa.array([clip.tokens[modality.name] for clip in clips], pa.binary())
            for modality in bundle.modalities
        }
    )


def _predictions(bundle: Bundle, items: _Items, threshold: float | None) -> pa.Table:
    """Return a row for each clip and each failure, in their order."""
    clips = [item for _, item in items if isinstance(item, EncodedClip)]
    scored = pa.table(scored_columns(bundle, token_table(bundle, clips), threshold))
    rows = [_row(source, item) for source, item in items]
    place, places = 0, []
    for _, item in items:
        places.append(place if isinstance(item, EncodedClip) else None)
        place += isinstance(item, EncodedClip)
    columns = {key: pa.array([row[key] for row in rows], kind) for key, kind in _KINDS.items()}
    filled = scored.take(pa.array(places, pa.int64()))
    return pa.table(columns | {name: filled[name] for name in filled.column_names})


_KINDS = {
    "id": pa.string(),
    "path": pa.string(),
    "start_seconds": pa.float64(),
    "end_seconds": pa.float64(),
    "error": pa.string(),
}


def _row(source: Source, item: EncodedClip | Failure) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.id, "path": source.path}
    if isinstance(item, Failure):
        return {**row, "start_seconds": None, "end_seconds": None, "error": item.error}
    error = "; ".join(failure.error for failure in item.failures) or None
    return {
        **row,
        "start_seconds": item.start_seconds,
        "end_seconds": item.end_seconds,
        "error": error,
    }
