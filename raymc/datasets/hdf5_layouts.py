"""The layouts in which an HDF5 file may hold the tokens of clips, checked, and read clip by clip.

Imports numpy; `hdf5_file.py` reads the file.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Shaped

from raymc.datasets.file_array import FileArray, check_length
from raymc.datasets.hdf5_file import Hdf5File, Node
from raymc.errors import DataError

ID = "{id}"  # in the path of a dataset that each clip has for itself
Reader = Callable[[int], Shaped[np.ndarray, "..."] | None]  # the tokens of a clip


def find_tokens(
    file: Hdf5File,
    path: str,
    *,
    offsets: str | None,
    labels: FileArray,
    ids: Sequence[str],
    notes: list[str],
) -> tuple[Node, Reader]:
    """Return a dataset with a modality's type and dim, and what reads a clip's tokens.

    Args:
        file: The file.
        path: [clips, tokens, dim]; with `offsets` [tokens of all clips, dim]; with {id} in it
            [tokens, dim] of each clip, None where there is none.
        offsets: The dataset [clips + 1] that says where a clip's tokens begin and end.
        labels: Has a row for each clip.
        ids: Of the clips.
        notes: Takes what a user may not expect.

    Raises:
        DataError: A dataset is missing, damaged, or of another shape.
    """
    if ID in path:
        return _per_clip(file, path, ids, notes)
    if offsets is not None:
        return _end_to_end(file, path, file.array(offsets), labels)
    return _padded(file, path, labels)


def _padded(file: Hdf5File, path: str, labels: FileArray) -> tuple[Node, Reader]:
    node = file.node(path)
    if len(node.shape) != 3:
        raise DataError(
            f"{node.where} has shape {node.shape}; expected [clips, tokens, dim], or [tokens of "
            "all clips, dim] with `offsets`."
        )
    check_length(labels, path, node.shape[0])
    return node, lambda clip: file.read(path, clip)


def _end_to_end(
    file: Hdf5File, path: str, offsets: FileArray, labels: FileArray
) -> tuple[Node, Reader]:
    node = file.node(path)
    if len(node.shape) != 2:
        raise DataError(
            f"{node.where} has shape {node.shape}; expected [tokens of all clips, dim], as it "
            "has offsets."
        )
    starts = _starts(offsets, len(labels.values), node.shape[0])
    return node, lambda clip: file.read(path, slice(starts[clip], starts[clip + 1]))


def _starts(offsets: FileArray, clips: int, tokens: int) -> list[int]:
    values = offsets.values
    if values.dtype.kind not in "iu" or values.shape != (clips + 1,):
        raise DataError(
            f"{offsets.where} holds {values.dtype} of shape {values.shape}; expected "
            f"{clips + 1} whole numbers, one more than there are clips."
        )
    starts: list[int] = values.tolist()
    if starts[0] != 0 or starts[-1] != tokens or starts != sorted(starts):
        raise DataError(
            f"{offsets.where} goes from {starts[0]} to {starts[-1]}; expected numbers that rise "
            f"from 0 to {tokens}, the number of tokens."
        )
    return starts


def _per_clip(
    file: Hdf5File, path: str, ids: Sequence[str], notes: list[str]
) -> tuple[Node, Reader]:
    paths = [path.replace(ID, clip) for clip in ids]
    present = [file.has(clip_path) for clip_path in paths]
    missing = [clip_path for clip_path, found in zip(paths, present) if not found]
    if len(missing) == len(paths):
        raise DataError(
            f"{file.path}: no dataset '{paths[0]}', nor that of any other id; the file has "
            f"{file.datasets()}."
        )
    if missing:
        notes.append(
            f"{path}: {len(missing)} of {len(paths)} clips have no such dataset, e.g. "
            f"'{missing[0]}'; the modality is missing there."
        )
    first = file.node(paths[present.index(True)])
    if len(first.shape) != 2:
        raise DataError(f"{first.where} has shape {first.shape}; expected [tokens, dim].")
    return first, lambda clip: file.read(paths[clip], ()) if present[clip] else None
