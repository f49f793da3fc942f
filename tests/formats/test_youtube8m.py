import csv
import gc
import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from record_files import (
    bytes_feature,
    delimited,
    example,
    floats_feature,
    framed,
    ints_feature,
    masked,
    sequence_example,
    varint,
)

from raymc.config import Youtube8mConfig
from raymc.data.shards import Modality, Row, open_dataset, ragged, read_shard
from raymc.errors import ConfigError, DataError
from raymc.formats.recipe import DatasetRecipe, make_dataset
from raymc.formats.tfrecord import RecordReader
from raymc.formats.youtube8m import youtube8m

RNG = np.random.default_rng(0)
RGB = RNG.integers(256, size=(5, 1024), dtype=np.uint8)
AUDIO = RNG.integers(256, size=(5, 128), dtype=np.uint8)
MEAN_RGB = RNG.normal(size=1024).astype("<f4")
MEAN_AUDIO = RNG.normal(size=128).astype("<f4")
HEADER = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,W\n"


def context(
    clip: str | bytes | None = "abcd", labels: Sequence[int] = (3, 0), **more: bytes
) -> dict[str, bytes]:
    text = clip.encode() if isinstance(clip, str) else clip
    ids = {} if text is None else {"id": bytes_feature(text)}
    return {**ids, "labels": ints_feature(*labels), **more}


def frames(
    features: Mapping[str, bytes] | None = None,
    *,
    rgb: np.ndarray | None = RGB,
    audio: np.ndarray | None = AUDIO,
) -> bytes:
    """The record of a video, its seconds given as rows."""
    arrays = {"rgb": rgb, "audio": audio}
    lists = {
        name: [bytes_feature(second.tobytes()) for second in array]
        for name, array in arrays.items()
        if array is not None
    }
    return sequence_example(context() if features is None else features, lists)


def means(**features: bytes) -> bytes:
    arrays = {"mean_rgb": floats_feature(*MEAN_RGB), "mean_audio": floats_feature(*MEAN_AUDIO)}
    return example({**context(), **arrays, **features})


def saved(folder: Path, *payloads: bytes, name: str = "train0.tfrecord") -> Path:
    (folder / name).write_bytes(b"".join(map(framed, payloads)))
    return folder / name


def imported(file: Path | str, **settings: Any) -> DatasetRecipe:
    return youtube8m(Youtube8mConfig(train=str(file), **settings))


def rows_of(recipe: DatasetRecipe, split: str = "train") -> list[Row]:
    rows = recipe.splits[split]
    return [rows[i] for i in range(len(rows))]


def notes(recipe: DatasetRecipe) -> list[str]:
    found = recipe.provenance["notes"]
    assert isinstance(found, list)
    return found


def refused(file: Path | str, **settings: Any) -> str:
    with pytest.raises(DataError) as raised:
        imported(file, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def check_tokens(row: Row, expected: Mapping[str, np.ndarray | None]) -> None:
    assert list(row.tokens) == list(expected)
    for name, array in expected.items():
        tokens = row.tokens[name]
        if array is None or tokens is None:
            assert array is tokens
        else:
            assert tokens.dtype == array.dtype
            np.testing.assert_array_equal(tokens, array)


def test_frame_level_rows_are_the_bytes_of_the_records(tmp_path: Path) -> None:
    second = frames(context("efgh", [3861]), rgb=RGB[:2], audio=AUDIO[3:])
    rows = imported(saved(tmp_path, frames(), second)).splits["train"]
    assert [row.id for row in rows] == ["abcd", "efgh"]
    assert [row.labels for row in rows] == [("3", "0"), ("3861",)]
    check_tokens(rows[0], {"visual": RGB, "audio": AUDIO})
    check_tokens(rows[1], {"visual": RGB[:2], "audio": AUDIO[3:]})
    check_tokens(rows[0], {"visual": RGB, "audio": AUDIO})  # the same each time


def dequantize(values: np.ndarray, maximum: float = 2, minimum: float = -2) -> np.ndarray:
    """As the YouTube-8M starter code defines it, in the order of its terms."""
    spread = maximum - minimum
    return values * (spread / 255.0) + ((spread / 512.0) + minimum)


def test_stored_values_mean_what_youtube8m_says(tmp_path: Path) -> None:
    every = np.tile(np.arange(256, dtype=np.uint8), (2, 4))
    recipe = imported(saved(tmp_path, frames(rgb=every)))
    make_dataset(recipe, str(tmp_path / "shards"))
    dataset = open_dataset(str(tmp_path / "shards"))
    table = read_shard(dataset, dataset.split("train")[0])
    visual = dataset.manifest.modality("visual")
    stored = ragged(table["visual"], visual).row(0)
    np.testing.assert_array_equal(stored, every)
    real = stored * visual.scale + visual.offset
    np.testing.assert_allclose(real, dequantize(every), rtol=0, atol=1e-15)
    assert (real.min(), real.max()) == (-1.9921875, 2.0078125)
    assert recipe.modalities == (
        Modality("visual", 1024, "uint8", 1.0, "YouTube-8M rgb", 4 / 255, -1.9921875),
        Modality("audio", 128, "uint8", 1.0, "YouTube-8M audio", 4 / 255, -1.9921875),
    )


def test_video_level_rows_have_one_token(tmp_path: Path) -> None:
    recipe = imported(saved(tmp_path, means()), level="video")
    row = recipe.splits["train"][0]
    assert (row.id, row.labels) == ("abcd", ("3", "0"))
    check_tokens(row, {"visual": MEAN_RGB[None], "audio": MEAN_AUDIO[None]})
    assert recipe.modalities == (
        Modality("visual", 1024, "float32", 1.0, "YouTube-8M mean_rgb"),
        Modality("audio", 128, "float32", 1.0, "YouTube-8M mean_audio"),
    )
    make_dataset(recipe, str(tmp_path / "shards"))
    assert open_dataset(str(tmp_path / "shards")).manifest.rows("train") == 1


def test_splits_are_files_in_order(tmp_path: Path) -> None:
    for name in ("train1", "train0", "trainZ", "validate0", "other"):
        records = [frames(context(f"{name}-{i}"), rgb=None) for i in range(2)]
        saved(tmp_path, *records, name=f"{name}.tfrecord")
    (tmp_path / "train-folder.tfrecord").mkdir()
    recipe = imported(tmp_path / "train*.tfrecord", val=str(tmp_path / "validate*.tfrecord"))
    ids = {split: [row.id for row in rows] for split, rows in recipe.splits.items()}
    assert ids == {
        "train": ["train0-0", "train0-1", "train1-0", "train1-1", "trainZ-0", "trainZ-1"],
        "val": ["validate0-0", "validate0-1"],
    }
    rows = recipe.splits["train"]
    assert [rows[i].id for i in (5, 0, 3)] == ["trainZ-1", "train0-0", "train1-1"]
    digest = hashlib.sha256((tmp_path / "validate0.tfrecord").read_bytes()).hexdigest()
    files: Any = recipe.provenance["files"]
    assert files["val"] == [{"file": "validate0.tfrecord", "sha256": digest}]
    assert [file["file"] for file in files["train"]] == [f"train{k}.tfrecord" for k in "01Z"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    file = saved(tmp_path, frames(), name="train[1].tfrecord")
    assert len(imported(file).splits["train"]) == 1


def test_files_at_an_address(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/youtube8m/train0.tfrecord", framed(frames()))
    memory.pipe("/youtube8m/vocabulary.csv", b"Index,Name\n0,Game\n1,b\n2,c\n3,Vehicle\n")
    recipe = imported("memory://youtube8m/train*", vocabulary="memory://youtube8m/vocabulary.csv")
    check_tokens(recipe.splits["train"][0], {"visual": RGB, "audio": AUDIO})
    assert recipe.splits["train"][0].labels == ("Vehicle", "Game")
    assert "no files at memory://youtube8m/val*" in refused("memory://youtube8m/val*")


def test_modalities_are_named_and_chosen(tmp_path: Path) -> None:
    recipe = imported(saved(tmp_path, frames()), modalities={"sound": "audio"})
    check_tokens(recipe.splits["train"][0], {"sound": AUDIO})
    assert [modality.name for modality in recipe.modalities] == ["sound"]


def test_provenance_is_json_and_says_what_made_the_rows(tmp_path: Path) -> None:
    recipe = imported(saved(tmp_path, frames()))
    provenance = json.loads(json.dumps(recipe.provenance))
    assert provenance.keys() == {
        "files", "vocabulary", "level", "modalities", "skip_damaged", "notes"
    }  # fmt: skip
    assert provenance["modalities"] == {"visual": "rgb", "audio": "audio"}
    assert provenance["notes"] == []
    assert recipe.license == "CC BY 4.0"


def test_older_files_say_video_id(tmp_path: Path) -> None:
    old = frames({"video_id": bytes_feature(b"dQw4w9WgXcQ"), "labels": ints_feature(1)})
    assert imported(saved(tmp_path, old)).splits["train"][0].id == "dQw4w9WgXcQ"


def test_what_is_odd_is_counted(tmp_path: Path) -> None:
    silent = frames(context("b"), audio=None)
    empty = frames(context("c", []), audio=AUDIO[:0])
    unequal = frames(context("d", [2, 2, 1]), audio=AUDIO[:3])
    segments = frames(context("e", segment_start_times=ints_feature(5, 10)))
    recipe = imported(saved(tmp_path, frames(), silent, empty, unequal, segments))
    rows = rows_of(recipe)
    assert notes(recipe) == [
        "train: 2 of 5 records have no audio",
        "train: 1 of 5 records have no labels",
        "train: 1 of 5 records have segment labels, left out: rows keep the labels of the whole "
        "video",
        "train: 1 of 5 records have unequal numbers of seconds of visual and audio, kept as they "
        "are",
    ]
    check_tokens(rows[1], {"visual": RGB, "audio": None})
    check_tokens(rows[2], {"visual": RGB, "audio": None})
    check_tokens(rows[3], {"visual": RGB, "audio": AUDIO[:3]})
    assert [row.labels for row in rows[2:]] == [(), ("2", "1"), ("3", "0")]


def test_unknown_fields_change_nothing(tmp_path: Path) -> None:
    more = delimited(7, b"new") + varint(8 << 3) + varint(300)
    recipe = imported(saved(tmp_path, more + frames(context(new=ints_feature(1))) + more))
    check_tokens(recipe.splits["train"][0], {"visual": RGB, "audio": AUDIO})


def vocabulary_of(folder: Path, text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    (folder / "vocabulary.csv").write_bytes(data)
    return str(folder / "vocabulary.csv")


def test_labels_are_named_by_the_vocabulary(tmp_path: Path) -> None:
    lines = [
        '2,9,/m/a,"Jaguar, the car",https://a,Autos,,,"A car.\nOf two lines."',
        "0,99,/m/b,Game,https://b,Games,,,",
        "1,9,/m/c, Jaguar ,https://c,,,,",
        "3,9",
        "4,9,/m/e,Jaguar,https://e,,,,",
        "5,9,/m/f,Boat,,,,,",
    ]
    vocabulary = vocabulary_of(tmp_path, "\ufeff" + HEADER + "\r\n".join(lines))
    recipe = imported(saved(tmp_path, frames()), vocabulary=vocabulary)
    names = ("Game", "Jaguar (1)", "Jaguar, the car", "(3)", "Jaguar (4)", "Boat")
    assert recipe.vocabulary.names == names
    assert recipe.vocabulary.groups == {}
    assert recipe.splits["train"][0].labels == ("(3)", "Game")
    digest = hashlib.sha256(Path(vocabulary).read_bytes()).hexdigest()
    assert recipe.provenance["vocabulary"] == {"file": "vocabulary.csv", "sha256": digest}


def test_a_label_is_part_of_its_first_vertical(tmp_path: Path) -> None:
    lines = [
        "0,9,/m/0,Chess,,Games,Hobbies,,",
        "1,9,/m/1,Games,,Hobbies,,,",  # is a vertical itself
        "2,9,/m/2,Thing,,(Unknown),,,",
        "3,9,/m/3,Guitar,,Arts & Entertainment,,,",
        "4,9,/m/4,Other,,,,,",
    ]
    vocabulary = vocabulary_of(tmp_path, HEADER + "\n".join(lines))
    recipe = imported(saved(tmp_path, frames()), vocabulary=vocabulary)
    assert recipe.vocabulary.parents == {"Chess": "Games", "Guitar": "Arts & Entertainment"}


def test_labels_are_numbers_without_a_vocabulary(tmp_path: Path) -> None:
    recipe = imported(saved(tmp_path, frames()), classes=4716)
    assert (len(recipe.vocabulary), recipe.vocabulary.names[4715]) == (4716, "4715")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no columns Index and Name"),
        ("Index;Name\n0;Game\n", "line 1: no columns Index and Name"),
        ("Number,Name\n0,Game\n", "line 1: no columns Index and Name"),
        ("Index,Name\n", "0 labels; expected an Index from 0 on"),
        ("Index,Name\n0,a\none,b\n", "line 3: invalid literal for int.*'one'"),
        ("Index,Name\n0,a\n,b\n", "line 3: invalid literal for int"),
        ("Name,Index\na,0\nb\n", "line 3: invalid literal for int"),
        ("Index,Name\n0,a\n0,b\n", "line 3: the Index 0 is repeated"),
        ("Index,Name\n0,a\n2,b\n", "2 labels; expected an Index from 0 on without gaps"),
        ("Index,Name\n-1,a\n0,b\n", "2 labels; expected an Index from 0 on"),
        ("Index,Name\n" + "9" * 5000 + ",a\n", "line 2: Exceeds the limit"),
        ("Index,Name\n0," + "x" * 200_000, "line 1: field larger than field limit"),
        (b"Index,Name\n0,\xff\n", "line 1: 'utf-8' codec can't decode"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: 'utf-8' codec can't decode"),
    ],
)
def test_a_vocabulary_that_cannot_be_used(tmp_path: Path, text: str | bytes, message: str) -> None:
    csv.field_size_limit(131_072)  # which other libraries raise for everybody
    vocabulary = vocabulary_of(tmp_path, text)
    with pytest.raises(DataError, match=message) as raised:
        imported(saved(tmp_path, frames()), vocabulary=vocabulary)
    assert str(raised.value).startswith(f"{vocabulary}: ")
    assert "\n" not in str(raised.value)


def test_a_name_that_looks_like_a_disambiguated_one(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(tmp_path, "Index,Name\n0,a\n1,a\n2,a (1)\n")
    message = refused(saved(tmp_path, frames()), vocabulary=vocabulary)
    assert message.startswith(f"{vocabulary}: the vocabulary lists the label 'a (1)' twice")


def test_missing_files_and_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no files; give those of at least one of train, val"):
        youtube8m(Youtube8mConfig())
    for pattern in ("train0.tfrecord", "train*.tfrecord", "no/train*", "*/train0.tfrecord"):
        message = refused(tmp_path / pattern)
        assert message.startswith(f"train: no files at {tmp_path / pattern}; expected a path")
    file = saved(tmp_path, frames())
    assert "can't read or write" in refused(file, vocabulary=str(tmp_path / "none.csv"))
    assert "can't open nowhere://x" in refused("nowhere://x/train*")
    os.chmod(file, 0)
    if not os.access(file, os.R_OK):  # root may read everything
        assert "can't read or write" in refused(file)


WRONG_SIZE = [bytes_feature(RGB[0].tobytes()), bytes_feature(RGB[0].tobytes()[:-1])]
BAD_RECORDS = {
    "no example": (b"\xff\xff", "it is not a tf.train.Example or SequenceExample"),
    "no id": (frames(context(None)), "it has no id; expected one text in 'id' or 'video_id'"),
    "empty id": (frames(context("")), "it has no id"),
    "two ids": (frames(context(None, id=bytes_feature(b"a", b"b"))), "it has no id"),
    "number as id": (frames(context(None, id=ints_feature(4, 5))), "it has no id"),
    "id that is not text": (frames(context(b"\xff\xfe")), r"its id b'\xff\xfe' is not text"),
    "real labels": (frames(context(labels=[]) | {"labels": floats_feature(1)}), "its labels are"),
    "text as labels": (frames(context() | {"labels": bytes_feature(b"7")}), "its labels are no"),
    "wrong rgb": (
        sequence_example(context(), {"rgb": WRONG_SIZE}),
        "its 'rgb' has [1023] bytes in second 1; expected 1024",
    ),
    "empty second": (
        sequence_example(context(), {"audio": [bytes_feature(AUDIO[0].tobytes()), b""]}),
        "its 'audio' has [] bytes in second 1; expected 128",
    ),
    "two values a second": (
        sequence_example(context(), {"audio": [bytes_feature(bytes(64), bytes(64))]}),
        "its 'audio' has [64, 64] bytes in second 0",
    ),
    "numbers as rgb": (
        sequence_example(context(), {"rgb": [floats_feature(*MEAN_RGB)]}),
        "its 'rgb' has numbers, not bytes in second 0",
    ),
    "other data": (
        example({"image/encoded": bytes_feature(b"JFIF"), "a\nb": ints_feature(1)}),
        r"it is not a record of YouTube-8M: expected rgb, audio; found 'image/encoded, a\nb'",
    ),
    "nothing": (b"", "it is not a record of YouTube-8M: expected rgb, audio; found ''"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_stops_the_import_or_is_left_out(tmp_path: Path, case: str) -> None:
    payload, reason = BAD_RECORDS[case]
    good = [frames(context(name), rgb=RGB[:1], audio=AUDIO[:1]) for name in "xy"]
    file, at = saved(tmp_path, good[0], payload, good[1]), len(framed(good[0]))
    message = refused(file)
    assert message.startswith(f"{file}: record at byte {at}: {reason}")
    assert message.endswith("or leave damaged records out with skip_damaged")
    recipe = imported(file, skip_damaged=True)
    assert [row.id for row in recipe.splits["train"]] == ["x", "y"]
    (note,) = notes(recipe)
    assert note.startswith(
        "train: train0.tfrecord: damaged records left out: 1, the first of them the record at byte "
        f"{at}: {reason}"
    )


BAD_MEANS = {
    "too short": (floats_feature(*MEAN_RGB[1:]), "its 'mean_rgb' has 1023 values; expected 1024"),
    "whole numbers": (ints_feature(*range(1024)), "its 'mean_rgb' has 1024 values; expected 1024"),
    "bytes": (bytes_feature(RGB[0].tobytes()), "its 'mean_rgb' has 1 values; expected 1024"),
    "NaN": (floats_feature(*MEAN_RGB[1:], np.nan), "its 'mean_rgb' holds NaN or infinity"),
    "infinity": (floats_feature(*MEAN_RGB[1:], -np.inf), "its 'mean_rgb' holds NaN or infinity"),
}


@pytest.mark.parametrize("case", BAD_MEANS)
def test_a_bad_mean(tmp_path: Path, case: str) -> None:
    feature, reason = BAD_MEANS[case]
    file = saved(tmp_path, means(mean_rgb=feature))
    assert refused(file, level="video").startswith(f"{file}: record at byte 0: {reason}")


def test_a_missing_mean(tmp_path: Path) -> None:
    file = saved(tmp_path, means(mean_audio=b""))
    recipe = imported(file, level="video")
    check_tokens(recipe.splits["train"][0], {"visual": MEAN_RGB[None], "audio": None})
    assert notes(recipe) == ["train: 1 of 1 records have no audio"]


@pytest.mark.parametrize(
    ("payload", "settings", "reason"),
    [
        (frames(context(labels=[3862])), {}, "it has the label 3862, where .* has 0 to 3861"),
        (frames(context(labels=[-1])), {}, "it has the label -1, where the vocabulary has 0"),
        (frames(context(labels=[1, 2**62])), {}, "it has the label 4611686018427387904"),
        (frames(), {"classes": 3}, "it has the label 3, where the vocabulary has 0 to 2; give"),
        (frames(), {"level": "video"}, "it has frame-level features; set level to frame"),
        (means(), {"level": "frame"}, "it has video-level features; set level to video"),
    ],
)
def test_wrong_settings_are_no_damage(
    tmp_path: Path, payload: bytes, settings: dict[str, Any], reason: str
) -> None:
    file = saved(tmp_path, payload)
    with pytest.raises(DataError, match=f"^{file}: record at byte 0: {reason}"):
        imported(file, skip_damaged=True, **settings)


def huge(length: int) -> bytes:
    header = struct.pack("<Q", length)
    return header + masked(header)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "the checksum of its length is wrong"),
        (b"\x1f\x8b\x08" + bytes(500), "the checksum of its length is wrong"),
        (huge(2**62) + bytes(500), "the file ends inside of its 4611686018427387904 bytes"),
        (b"id", "the file ends inside of its length"),
    ],
)
def test_files_that_hold_no_record(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "train0.tfrecord"
    file.write_bytes(data)
    message = refused(file)
    assert message.startswith(f"{file}: record at byte 0: {reason}")
    assert "fetch the file again (unpack it, if it is compressed), or leave damaged" in message
    assert "no record of the split is left" in refused(file, skip_damaged=True)
    saved(tmp_path, frames(), name="train1.tfrecord")
    recipe = imported(tmp_path / "train*.tfrecord", skip_damaged=True)
    assert [row.id for row in recipe.splits["train"]] == ["abcd"]
    assert notes(recipe)[0].startswith("train: train0.tfrecord: damaged records left out: 1, the")
    files: Any = recipe.provenance["files"]
    assert files["train"][0]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bytes are held between two rows."""
    reader = partial(RecordReader, window_bytes=1)
    monkeypatch.setattr("raymc.formats.youtube8m.RecordReader", reader)


@pytest.mark.usefixtures("no_window")
def test_a_file_that_changes_after_it_was_looked_through(tmp_path: Path) -> None:
    file = saved(tmp_path, frames())
    rows = imported(file).splits["train"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"record at byte 0: the file .*, import it again"):
        rows[0]


def test_repeated_ids_are_kept_for_the_data_check(tmp_path: Path) -> None:
    rows = imported(saved(tmp_path, frames(), frames())).splits["train"]
    assert [row.id for row in rows] == ["abcd", "abcd"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_window")
def test_rows_are_not_held_in_memory(tmp_path: Path) -> None:
    file = saved(tmp_path, frames(rgb=np.repeat(RGB, 4, axis=0), audio=None))
    record = file.read_bytes()

    def held_bytes(records: int) -> int:
        file.write_bytes(record * records)
        tracemalloc.start()
        recipe = imported(file, modalities={"visual": "rgb"}, classes=4)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(recipe.splits["train"]) == records
        return held

    held_bytes(1)  # so that all modules are there
    # a tenth, since other threads may live here, too
    assert held_bytes(70) - held_bytes(10) < 60 * len(record) / 10


SMALL = [
    frames(context("aa", [1]), rgb=None, audio=AUDIO[:1]),
    frames(context("bb", [2, 0]), rgb=None, audio=AUDIO[1:3]),
    frames(context("cc", []), rgb=None, audio=AUDIO[4:]),
]
SMALL_FILE = b"".join(map(framed, SMALL))
SMALL_TOKENS = {"aa": AUDIO[:1], "bb": AUDIO[1:3], "cc": AUDIO[4:]}
SMALL_LABELS = {"aa": ("1",), "bb": ("2", "0"), "cc": ()}
ENDS = np.cumsum([len(framed(payload)) for payload in SMALL]).tolist()


def outcome(file: Path, data: bytes, *, skip_damaged: bool) -> list[str] | None:
    """The ids of the rows, each looked at; None for a DataError."""
    file.write_bytes(data)
    try:
        recipe = imported(file, modalities={"audio": "audio"}, classes=3, skip_damaged=skip_damaged)
        rows = rows_of(recipe)
    except DataError:
        return None
    for row in rows:
        np.testing.assert_array_equal(row.tokens["audio"], SMALL_TOKENS[row.id])
        assert row.labels == SMALL_LABELS[row.id]
    noted = any("damaged records left out" in note for note in notes(recipe))
    whole = SMALL_FILE.startswith(data) and len(data) in ENDS
    assert noted is (skip_damaged and not whole)
    return [row.id for row in rows]


@pytest.mark.slow
def test_a_file_cut_off_at_any_byte(tmp_path: Path) -> None:
    near = {begin + byte for begin in (0, *ENDS) for byte in range(-6, 14)}  # lengths, checksums
    for size in sorted(near & {*range(len(SMALL_FILE) + 1)} | {*range(0, len(SMALL_FILE), 23)}):
        whole = ["aa", "bb", "cc"][: sum(end <= size for end in ENDS)]
        strict = outcome(tmp_path / "x", SMALL_FILE[:size], skip_damaged=False)
        assert strict == (whole if size in ENDS else None)
        assert outcome(tmp_path / "x", SMALL_FILE[:size], skip_damaged=True) == (whole or None)


@pytest.mark.slow
def test_a_flipped_bit(tmp_path: Path) -> None:
    for bit in range(0, 8 * len(SMALL_FILE), 91):
        data = bytearray(SMALL_FILE)
        data[bit // 8] ^= 1 << bit % 8
        record = int(np.searchsorted(ENDS, bit // 8, side="right"))
        begin = [0, *ENDS][record]
        good = ["aa", "bb", "cc"]
        good = good[:record] + (good[record + 1 :] if bit // 8 >= begin + 12 else [])
        assert outcome(tmp_path / "x", bytes(data), skip_damaged=True) == (good or None)
        assert outcome(tmp_path / "x", bytes(data), skip_damaged=False) is None


@pytest.mark.slow
def test_random_damage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        at, cut, added = map(int, rng.integers([len(SMALL_FILE), 30, 30]))
        data = SMALL_FILE[:at] + rng.bytes(added + 1) + SMALL_FILE[at + cut :]
        assert outcome(tmp_path / "x", data, skip_damaged=False) is None
        found = outcome(tmp_path / "x", data, skip_damaged=True)
        assert found in (None, ["aa"], ["aa", "bb"], ["aa", "cc"], ["bb", "cc"])


@pytest.mark.slow
def test_damage_before_the_checksum_was_taken(tmp_path: Path) -> None:
    """A writer's own faults: any row is at least of the right form, and nothing else is raised."""
    rng, made = np.random.default_rng(0), 0
    for _ in range(150):
        payload = bytearray(SMALL[int(rng.integers(3))])
        for at in rng.integers(60, size=rng.integers(1, 4)):
            payload[at] = int(rng.integers(256))
        file = saved(tmp_path, bytes(payload))
        try:
            (row,) = imported(file, modalities={"audio": "audio"}, classes=3).splits["train"]
        except DataError:
            continue
        made += 1
        tokens = row.tokens["audio"]
        assert row.id
        assert set(row.labels) <= {"0", "1", "2"}
        assert tokens is None or (tokens.dtype == np.uint8 and tokens.shape[1] == 128)
    assert 0 < made < 150
