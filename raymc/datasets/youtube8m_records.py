"""What one record of YouTube-8M holds, and its vocabulary: bytes to a row, CSV to label names.

Imports numpy. Apart from `youtube8m.py` so that what a record means stands in one place, and
which files are read in another.

What a record holds: research.google.com/youtube8m/download.html.
Axes: T seconds, D dim.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from raymc.datasets.tfrecord import Damage, Example, parse_example
from raymc.errors import DataError
from raymc.labels import Vocabulary
from raymc.shards import Modality, Row

Level = Literal["frame", "video"]
Feature = Literal["rgb", "audio"]

DIMS: Mapping[str, int] = {"rgb": 1024, "audio": 128}
# Dequantize(feat_vector, max=2, min=-2) of the YouTube-8M starter code (utils.py):
# value · range/255 + range/512 + min, where range = max - min
SCALE = 4 / 255
OFFSET = 4 / 512 - 2
_NO_VERTICAL = "(Unknown)"


class ForeignError(DataError):
    """A sound record that doesn't fit the settings; as it isn't damaged, it isn't left out."""


def describe(name: str, feature: Feature, level: Level) -> Modality:
    """Say what the tokens of a modality are: a second's bytes, or the mean over a video."""
    if level == "video":
        return Modality(name, DIMS[feature], "float32", 1.0, f"YouTube-8M mean_{feature}")
    encoder = f"YouTube-8M {feature}"
    return Modality(name, DIMS[feature], "uint8", 1.0, encoder, scale=SCALE, offset=OFFSET)


def read_row(
    record: bytes | Damage,
    *,
    level: Level,
    modalities: Mapping[str, Feature],
    names: Sequence[str],
) -> tuple[Row, bool]:
    """Turn a record into a row.

    Args:
        record: The record, as it was found in its file.
        level: The features to take.
        modalities: The feature of each modality.
        names: The labels, in the order of their numbers.

    Returns:
        The row, and whether the record has segment labels, which aren't in the row.

    Raises:
        ForeignError: It has the features of the other level, or a label beyond the vocabulary.
        DataError: It is damaged, or no record of YouTube-8M.
    """
    if isinstance(record, Damage):
        raise DataError(record.reason)
    example = parse_example(record)
    _check_level(example, level)
    tokens = _frames if level == "frame" else _mean
    row = Row(
        id=_id(example),
        labels=_labels(example, names),
        tokens={name: tokens(example, feature) for name, feature in modalities.items()},
    )
    return row, any(name.startswith("segment_") for name in example.features)


def _check_level(example: Example, level: Level) -> None:
    found = {
        "frame": any(feature in example.lists for feature in DIMS),
        "video": any(f"mean_{feature}" in example.features for feature in DIMS),
    }
    other = "video" if level == "frame" else "frame"
    if found[other] and not found[level]:
        raise ForeignError(f"it has {other}-level features; set level to {other}")
    if not found[level]:
        names = ", ".join([*example.features, *example.lists])[:80]
        raise DataError(f"it is no record of YouTube-8M: expected rgb and audio, found {names!r}")


def _id(example: Example) -> str:
    """The id, which older releases call video_id."""
    key = "id" if "id" in example.features else "video_id"
    values = example.features.get(key, ())
    if not isinstance(values, tuple) or len(values) != 1 or not values[0]:
        raise DataError("it has no id; expected one text in 'id' or 'video_id'")
    try:
        return values[0].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"its id {values[0][:16]!r} is no text") from error


def _labels(example: Example, names: Sequence[str]) -> tuple[str, ...]:
    numbers = example.features.get("labels", ())
    if len(numbers) == 0:
        return ()
    if isinstance(numbers, tuple) or numbers.dtype != np.int64:
        raise DataError("its labels are no whole numbers")
    for number in numbers[(numbers < 0) | (numbers >= len(names))]:
        raise ForeignError(
            f"it has the label {number}, where the vocabulary has 0 to {len(names) - 1}; give the "
            "vocabulary, or the number of classes, of the same release"
        )
    return tuple(names[int(number)] for number in dict.fromkeys(numbers))


def _frames(example: Example, feature: Feature) -> UInt8[np.ndarray, "T D"] | None:
    seconds = example.lists.get(feature, ())
    for second, values in enumerate(seconds):
        sizes = [len(value) for value in values] if isinstance(values, tuple) else "numbers, not"
        if sizes != [DIMS[feature]]:
            raise DataError(
                f"its '{feature}' has {sizes} bytes in second {second}; expected {DIMS[feature]}"
            )
    joined = b"".join(value for values in seconds for value in values)
    return np.frombuffer(joined, np.uint8).reshape(-1, DIMS[feature]) if seconds else None


def _mean(example: Example, feature: Feature) -> Float32[np.ndarray, "1 D"] | None:
    values = example.features.get(f"mean_{feature}", ())
    if len(values) == 0:
        return None
    if isinstance(values, tuple) or values.dtype != np.float32 or len(values) != DIMS[feature]:
        raise DataError(
            f"its 'mean_{feature}' has {len(values)} values; expected {DIMS[feature]} of float32"
        )
    if not np.isfinite(values).all():
        raise DataError(f"its 'mean_{feature}' holds NaN or infinity")
    return values[None]


def read_vocabulary(file: str, data: bytes) -> Vocabulary:
    """Read the labels of YouTube-8M's vocabulary.csv, in the order of their numbers.

    A name that is empty, or used more than once, is followed by its number. A label's parent is
    its first vertical; verticals don't become label groups, as these would mean that only some
    of the labels were annotated.

    Args:
        file: Where it is from, for messages.
        data: The bytes of the file.

    Raises:
        DataError: It isn't such a file, or doesn't number its labels from 0 on.
    """
    found, verticals = _labels_by_number(file, data)
    if not found or sorted(found) != list(range(len(found))):
        raise DataError(f"{file}: {len(found)} labels; expected an Index from 0 on without gaps")
    uses = Counter(found.values())
    names = {
        number: name if name and uses[name] == 1 else f"{name} ({number})".strip()
        for number, name in sorted(found.items())
    }
    above = set(verticals.values())
    parents = {
        name: verticals[number]
        for number, name in names.items()
        if number in verticals and name not in above
    }
    try:
        return Vocabulary(tuple(names.values()), parents=parents)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _labels_by_number(file: str, data: bytes) -> tuple[dict[int, str], dict[int, str]]:
    """Return each label's name, and the first vertical of those that have one."""
    names: dict[int, str] = {}
    verticals: dict[int, str] = {}
    line = 1
    try:
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if not {"Index", "Name"} <= set(table.fieldnames or ()):
            raise ValueError("no columns Index and Name")
        for row in table:
            line = table.line_num
            number = int(row["Index"] or "")
            if number in names:
                raise ValueError(f"the Index {number} was used before")
            names[number] = (row["Name"] or "").strip()
            vertical = (row.get("Vertical1") or "").strip()
            if vertical and vertical != _NO_VERTICAL:
                verticals[number] = vertical
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{file}: line {line}: {str(error)[:80]}; expected vocabulary.csv of YouTube-8M, in "
            "UTF-8 with the columns Index and Name"
        ) from error
    return names, verticals
