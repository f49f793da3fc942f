import gc
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raymc.config import Hdf5Config
from raymc.data.shards import Modality, open_dataset, ragged, read_shard
from raymc.errors import ConfigError, DataError, ResourceError
from raymc.formats import hdf5 as hdf5_module
from raymc.formats.hdf5 import hdf5
from raymc.formats.recipe import make_dataset

RNG = np.random.default_rng(0)
IDS = ["a", "b", "c", "d", "e", "f"]
LENGTHS = [2, 0, 5, 1, 3, 4]
OFFSETS = np.array([0, 2, 2, 7, 8, 11, 15])
VIDEO = RNG.normal(size=(6, 5, 3)).astype(np.float16)
SOUND = RNG.normal(size=(15, 2))
TEXT = {clip: RNG.integers(0, 9, (length, 4)).astype("u1") for clip, length in zip(IDS, LENGTHS)}
LABELS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], np.uint8)
CLASSES = ["col:red", "col:blue", "löud"]
PLAIN: dict[str, Any] = {
    "features/video": VIDEO,
    "features/sound": SOUND,
    "features/sound_offsets": OFFSETS,
    **{f"text/{clip}/tokens": TEXT[clip] for clip in IDS if clip != "e"},
    "y": LABELS,
    "classes": CLASSES,
    "split": np.array([0, 2, 0, 1, 0, 2]),
    "names": IDS,
}


def saved(folder: Path, **changes: Any) -> Path:
    """Write the file; the keys of `changes` have __ where paths have /."""
    file = folder / "clips.h5"
    contents = {**PLAIN, **{name.replace("__", "/"): value for name, value in changes.items()}}
    with h5py.File(file, "w") as store:
        for path, value in contents.items():
            if value is not None:
                store[path] = value
    return file


def config_for(file: Path, **settings: Any) -> Hdf5Config:
    defaults: dict[str, Any] = {
        "modalities": {
            "visual": "features/video",
            "audio": "features/sound",
            "text": "text/{id}/tokens",
        },
        "offsets": {"audio": "features/sound_offsets"},
        "rates_hz": {"visual": 25.0, "audio": 40.0, "text": 1.0},
    }
    return Hdf5Config(file=str(file), **{**defaults, **settings})


@pytest.mark.usefixtures("children_are_threads")
def test_rows_are_the_datasets_clip_by_clip(tmp_path: Path) -> None:
    file = saved(tmp_path)
    recipe = hdf5(config_for(file, license="CC BY 4.0", group_separator=":"))
    clips = {split: [row.id for row in rows] for split, rows in recipe.splits.items()}
    assert clips == {"train": ["a", "c", "e"], "val": ["d"], "test": ["b", "f"]}
    assert recipe.modalities == (
        Modality("visual", 3, "float16", 25.0, "clips.h5: features/video"),
        Modality("audio", 2, "float32", 40.0, "clips.h5: features/sound"),
        Modality("text", 4, "uint8", 1.0, "clips.h5: text/{id}/tokens"),
    )
    assert recipe.vocabulary.names == tuple(CLASSES)
    assert recipe.vocabulary.groups == {"col": ("col:red", "col:blue")}
    assert recipe.license == "CC BY 4.0"
    assert recipe.provenance["notes"] == [
        "text/{id}/tokens: 1 of 6 clips have no such dataset, e.g. 'text/e/tokens'; the modality "
        "is missing there."
    ]


@pytest.mark.usefixtures("children_are_threads")
def test_written_shards_hold_the_datasets(tmp_path: Path) -> None:
    recipe = hdf5(config_for(saved(tmp_path)))
    make_dataset(recipe, str(tmp_path / "shards"), shard_rows=2)
    dataset = open_dataset(str(tmp_path / "shards"))
    seen = []
    for split in ("train", "val", "test"):
        for shard in dataset.split(split):
            table = read_shard(dataset, shard)
            columns = {m.name: ragged(table[m.name], m) for m in recipe.modalities}
            for k, clip in enumerate(table["id"].to_pylist()):
                i = IDS.index(clip)
                seen.append(clip)
                text = TEXT[clip] if clip != "e" else TEXT[clip][:0]
                names = [CLASSES[c] for c in np.flatnonzero(LABELS[i])]
                sound = SOUND[OFFSETS[i] : OFFSETS[i + 1]].astype("f4")
                assert table["labels"][k].as_py() == names
                np.testing.assert_array_equal(columns["visual"].row(k), VIDEO[i])
                np.testing.assert_array_equal(columns["audio"].row(k), sound)
                np.testing.assert_array_equal(columns["text"].row(k), text)
    assert seen == ["a", "c", "e", "d", "b", "f"]
    assert len(dataset.manifest.provenance["sha256"]) == 64


@pytest.mark.slow
def test_a_row_takes_the_memory_of_its_clip(tmp_path: Path) -> None:
    file = saved(tmp_path, features__video=None)
    with h5py.File(file, "a") as store:  # 60 MB once they are read
        store.create_dataset("features/video", (6, 10_000, 250), "f4", chunks=(1, 10_000, 250))
    recipe = hdf5(config_for(file))
    tracemalloc.start()
    shapes = {
        np.asarray(row.tokens["visual"]).shape for rows in recipe.splits.values() for row in rows
    }
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shapes == {(10_000, 250)}
    assert peak_bytes < 40e6


@pytest.mark.usefixtures("children_are_threads")
@pytest.mark.parametrize(
    ("changes", "train"),
    [
        ({"names": np.array(IDS, "S1")}, ["a", "c", "e"]),
        ({"names": np.arange(10, 16)}, ["10", "12", "14"]),
        ({"split": ["test", "val", "train", "train", "test", "test"]}, ["c", "d"]),
        ({"y": LABELS.astype(bool)}, ["a", "c", "e"]),
        ({"y": LABELS.astype(">f8")}, ["a", "c", "e"]),
    ],
)
def test_other_types_say_the_same(
    tmp_path: Path, changes: dict[str, Any], train: list[str]
) -> None:
    one = {"modalities": {"v": "features/video"}, "rates_hz": {"v": 1}, "offsets": {}}
    rows = hdf5(config_for(saved(tmp_path, **changes), **one)).splits["train"]
    assert [row.id for row in rows] == train
    assert [row.labels for row in rows if row.id in ("c", "12")] == [("col:blue",)]


@pytest.mark.usefixtures("children_are_threads")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, r"no dataset 'y'; the file has classes, features/sound, .*, …"),
        ({"y": np.full((6, 3), 0.5)}, "'y' holds 0.5 in row 0, column 0"),
        ({"y__deep": 1, "y": None}, "'y' is a group; expected a dataset"),
        ({"classes": CLASSES[:2]}, "'classes' names 2 classes, but 'y' has 3"),
        ({"classes": np.array([b"\xff", b"b", b"c"])}, "'classes' can't be read .*UTF-8 strings"),
        ({"split": np.zeros(6)}, "'split' holds float64"),
        ({"names": ["a", "b", "c", "a", "e", "f"]}, "'names' holds 'a' in rows 0 and 3"),
        ({"features__video": VIDEO[0]}, r"'features/video' has shape \(5, 3\); expected \[clips,"),
        ({"features__video": VIDEO[:5]}, "'features/video' has 5 rows, but 'y' has 6"),
        ({"features__video": VIDEO[:, :, :0]}, r"'features/video' has shape .*a dim of 1 or more"),
        ({"features__video": VIDEO.astype("i4")}, "'features/video' holds int32; expected float16"),
        ({"features__sound": SOUND[None]}, r"'features/sound' has shape .*; expected \[tokens of"),
        ({"features__sound_offsets": OFFSETS[:6]}, r"of shape \(6,\); expected 7 whole numbers"),
        ({"features__sound_offsets": OFFSETS / 1}, "'features/sound_offsets' holds float64"),
        ({"features__sound_offsets": OFFSETS + 1}, "runs from 1 to 16; expected .*from 0 to 15"),
        ({"features__sound_offsets": OFFSETS[[0, 2, 1, 3, 5, 4, 6]]}, "expected numbers that rise"),
        ({"features__sound": SOUND[:14]}, "runs from 0 to 15; expected .*from 0 to 14"),
        ({"text__a__tokens": TEXT["a"][0]}, r"'text/a/tokens' has shape \(4,\); expected \[tokens"),
        ({"text__a__tokens": None, "text__a__tokens__deep": 1}, "'text/a/tokens' is a group"),
        ({"names": list("uvwxyz")}, "no dataset 'text/u/tokens', nor one for any other id"),
    ],
)
def test_a_mismatch_is_one_clear_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = saved(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as raised:
        hdf5(config_for(file))
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("children_are_threads")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text__c__tokens": TEXT["c"][:, :3]},
            r"'train', row 1 \(id 'c'\).*'text'.*shape \[5, 3\]",
        ),
        ({"text__c__tokens": TEXT["c"] / 1}, "'text': tokens are float64; expected uint8"),
        ({"features__video": np.full_like(VIDEO, np.nan)}, "'visual': NaN or Inf among the tokens"),
        ({"features__sound": SOUND * 1e300}, "'audio': a value is too large for float32"),
    ],
)
def test_tokens_that_do_not_fit_are_found_when_they_are_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    recipe = hdf5(config_for(saved(tmp_path, **changes)))
    with pytest.raises(DataError, match=message):
        make_dataset(recipe, str(tmp_path / "shards"))


def damaged_chunk(folder: Path) -> Path:
    file = saved(folder, features__video=None)
    with h5py.File(file, "a") as store:
        noise = RNG.normal(size=VIDEO.shape)
        chunk = store.create_dataset(
            "features/video", data=noise, chunks=(1, 5, 3), fletcher32=True
        ).id.get_chunk_info(2)
    with file.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"damaged")
    return file


def test_a_damaged_part_is_an_error_of_its_row(tmp_path: Path) -> None:
    file = damaged_chunk(tmp_path)
    rows = hdf5(config_for(file)).splits["train"]
    assert rows[0].id == "a"
    with pytest.raises(
        DataError, match=r"'features/video' can't be read .*fetch the file"
    ) as raised:
        rows[1]
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.slow
def test_a_file_on_which_libhdf5_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: a size in the heap of strings, which reading the class names follows."""
    file = saved(tmp_path)
    data = bytearray(file.read_bytes())
    data[data.index(b"GCOL") + 48] = 255
    file.write_bytes(data)
    monkeypatch.setattr(hdf5_module, "MOST_CPU_SECONDS", 0.3)
    with pytest.raises(DataError, match=r"'classes' can't be read: libhdf5 never ended") as raised:
        hdf5(config_for(file))
    assert str(raised.value).startswith(f"{file}: ")
    assert children() == []


@pytest.mark.slow
def test_a_file_on_which_libhdf5_crashes(tmp_path: Path) -> None:
    file = saved(tmp_path)
    recipe = hdf5(config_for(file))
    assert recipe.splits["train"][0].id == "a"
    (child,) = children()
    os.kill(child, signal.SIGSEGV)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"'features/video' can't be read: libhdf5 crashed \(SIG"
        ):
            recipe.splits["train"][1]


def children() -> list[int]:
    """The processes that read HDF5 files for this one."""
    gc.collect()  # earlier tests' files
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "raymc.runtime.child_process"],
        capture_output=True,
        text=True,
    )
    return [int(line) for line in found.stdout.split()]


@pytest.mark.usefixtures("children_are_threads")
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no such file; give the path of a .h5"),
        ("folder", "not an HDF5 file"),
        ("empty", "not an HDF5 file"),
        ("text", "not an HDF5 file .*expected a .h5 file"),
        ("cut short", "not an HDF5 file .*truncated"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, case: str, message: str) -> None:
    file = tmp_path / "case.h5"
    contents = {
        "empty": b"",
        "text": b"clip,label\n",
        "cut short": saved(tmp_path).read_bytes()[:-2000],
    }
    if case == "folder":
        file.mkdir()
    elif case in contents:
        file.write_bytes(contents[case])
    with pytest.raises(DataError, match=message) as raised:
        hdf5(config_for(file))
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates_hz": {"visual": 25.0}}, "rates_hz has the keys visual; expected .* audio, text"),
        ({"offsets": {"sound": "o"}}, "offsets.sound: no such modality; .*audio, text, visual"),
        ({"offsets": {"text": "o"}}, "offsets.text: 'text/{id}/tokens' is one dataset per clip"),
    ],
)
def test_settings_must_fit_each_other(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        hdf5(config_for(saved(tmp_path), **settings))


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ResourceError, match=r"h5py is missing; pip install 'raymc\[formats\]'"):
        hdf5(config_for(file))
