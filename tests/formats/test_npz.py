import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymc.config import NpzConfig
from raymc.data.shards import Modality, open_dataset, ragged, read_shard
from raymc.errors import ConfigError, DataError
from raymc.formats.npz import npz
from raymc.formats.recipe import make_dataset

RNG = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "video": RNG.normal(size=(6, 5, 3)).astype(np.float16),
    "sound": RNG.normal(size=(6, 8, 2)),
    "y": np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], np.uint8),
    "classes": np.array(["col:red", "col:blue", "loud"]),
    "split": np.array([0, 2, 0, 1, 0, 2]),
    "names": np.array(["a", "b", "c", "d", "e", "f"]),
}


def config_for(file: Path, **settings: Any) -> NpzConfig:
    defaults: dict[str, Any] = {
        "modalities": {"visual": "video", "audio": "sound"},
        "rates_hz": {"visual": 25.0, "audio": 40.0},
    }
    return NpzConfig(file=str(file), **{**defaults, **settings})


def saved(folder: Path, **changes: np.ndarray | None) -> Path:
    arrays: dict[str, Any] = {
        name: array for name, array in {**ARRAYS, **changes}.items() if array is not None
    }
    np.savez(folder / "clips.npz", **arrays)
    return folder / "clips.npz"


def test_rows_are_the_arrays_clip_by_clip(tmp_path: Path) -> None:
    recipe = npz(config_for(saved(tmp_path), license="CC BY 4.0"))
    clips = {split: [row.id for row in rows] for split, rows in recipe.splits.items()}
    assert clips == {"train": ["a", "c", "e"], "val": ["d"], "test": ["b", "f"]}
    for rows in recipe.splits.values():
        for row in rows:
            i = "abcdef".index(row.id)
            names = ARRAYS["classes"][ARRAYS["y"][i].astype(bool)]
            assert list(row.labels) == names.tolist()
            np.testing.assert_array_equal(row.tokens["visual"], ARRAYS["video"][i])
            np.testing.assert_array_equal(row.tokens["audio"], ARRAYS["sound"][i].astype("f4"))
    encoder = {name: f"clips.npz: {name}" for name in ("video", "sound")}
    assert recipe.modalities == (
        Modality("visual", 3, "float16", 25.0, encoder["video"]),
        Modality("audio", 2, "float32", 40.0, encoder["sound"]),
    )
    assert recipe.vocabulary.names == ("col:red", "col:blue", "loud")
    assert recipe.vocabulary.groups == {}
    assert recipe.license == "CC BY 4.0"


def test_written_shards_hold_the_arrays(tmp_path: Path) -> None:
    recipe = npz(config_for(saved(tmp_path)))
    make_dataset(recipe, str(tmp_path / "shards"))
    dataset = open_dataset(str(tmp_path / "shards"))
    table = read_shard(dataset, dataset.split("test")[0])
    assert table["id"].to_pylist() == ["b", "f"]
    column = ragged(table["visual"], recipe.modalities[0])
    np.testing.assert_array_equal(column.row(1), ARRAYS["video"][5])
    assert len(dataset.manifest.provenance["sha256"]) == 64


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), ("uint8", "uint8")],
)
def test_types_are_kept_or_narrowed(tmp_path: Path, dtype: str, stored: str) -> None:
    video = (100 * np.abs(ARRAYS["video"])).astype(dtype)
    recipe = npz(config_for(saved(tmp_path, video=video)))
    assert recipe.modalities[0].dtype == stored
    tokens = recipe.splits["val"][0].tokens["visual"]
    assert tokens is not None
    assert tokens.dtype == stored
    np.testing.assert_array_equal(tokens, video[3].astype(stored))


@pytest.mark.parametrize("dtype", ["U5", "S5"])
def test_splits_may_be_named(tmp_path: Path, dtype: str) -> None:
    split = np.array(["train", "test", "train", "test", "train", "test"], dtype)
    recipe = npz(config_for(saved(tmp_path, split=split)))
    assert {name: len(rows) for name, rows in recipe.splits.items()} == {"train": 3, "test": 3}


def test_labels_are_grouped_by_prefix(tmp_path: Path) -> None:
    recipe = npz(config_for(saved(tmp_path), group_separator=":"))
    assert recipe.vocabulary.groups == {"col": ("col:red", "col:blue")}


def test_arrays_may_have_other_names(tmp_path: Path) -> None:
    renamed = {"multi_hot": "y", "label": "classes", "fold": "split", "clip": "names"}
    arrays: dict[str, Any] = {new: ARRAYS[old] for new, old in renamed.items()}
    np.savez(tmp_path / "other.npz", x=ARRAYS["sound"], **arrays)
    config = NpzConfig(
        file=str(tmp_path / "other.npz"),
        modalities={"text": "x"},
        rates_hz={"text": 1},
        labels="multi_hot",
        classes="label",
        split="fold",
        ids="clip",
    )
    assert [row.id for row in npz(config).splits["train"]] == ["a", "c", "e"]


def test_whole_numbers_serve_as_ids(tmp_path: Path) -> None:
    recipe = npz(config_for(saved(tmp_path, names=np.arange(10, 16))))
    assert recipe.splits["val"][0].id == "13"


def spoiled(name: str, index: tuple[int, ...], value: float | str) -> dict[str, np.ndarray]:
    array = ARRAYS[name].copy()
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "no array 'y'; the file has classes, names, sound, split, video"),
        ({"video": None}, "no array 'video'"),
        ({"video": ARRAYS["video"][0]}, r"'video' has shape \(5, 3\); expected \[clips, tokens"),
        ({"video": ARRAYS["video"][:5]}, "'video' has 5 rows, but 'y' has 6"),
        ({"video": ARRAYS["video"][:, :, :0]}, r"'video' has shape \(6, 5, 0\)"),
        ({"video": ARRAYS["video"].astype("i4")}, "'video' holds int32; expected float16"),
        (spoiled("video", (2, 0, 0), np.nan), "'video' holds NaN.* in row 2"),
        (spoiled("sound", (4, 7, 1), np.inf), "'sound' holds NaN, infinity.* in row 4"),
        (spoiled("sound", (1, 0, 0), 1e300), "'sound' holds .*too large for float32 in row 1"),
        ({"video": np.full((6, 5, 3), None)}, "'video' holds pickled Python objects"),
        (spoiled("y", (3, 1), 2), "'y' holds 2 in row 3, column 1; expected 0 or 1"),
        ({"y": np.full((6, 3), 0.5)}, "'y' holds 0.5 in row 0, column 0"),
        ({"y": np.full((6, 3), np.nan)}, "'y' holds nan in row 0, column 0"),
        ({"y": np.full((6, 3), "1")}, "'y' holds <U1; expected 0 and 1"),
        ({"y": ARRAYS["y"][:, 0]}, r"'y' has shape \(6,\); expected \[clips, classes\]"),
        ({"y": ARRAYS["y"][:0]}, r"'y' has shape \(0, 3\).*not empty"),
        ({"classes": ARRAYS["classes"][:2]}, "'classes' names 2 classes, but 'y' has 3"),
        ({"classes": np.arange(3)}, "'classes' holds int64 .*expected a list of strings"),
        ({"classes": np.array(["a", "b", "a"])}, "'classes': the vocabulary lists.*'a'"),
        ({"split": np.array([0, 1, 2, 3, 0, 0])}, "'split' holds 3 in row 3; expected one of 0"),
        ({"split": np.array(["train", "dev"] * 3)}, "'split' holds 'dev' in row 1.*train, val"),
        ({"split": np.zeros(6)}, "'split' holds float64"),
        ({"split": np.zeros(7, int)}, "'split' has 7 rows, but 'y' has 6"),
        ({"names": np.array(["a", "b", "c", "a", "e", "f"])}, "'names' holds 'a' in rows 0 and 3"),
        ({"names": np.array(["a", "b", "", "d", "e", "f"])}, "'names' is empty in row 2"),
        ({"names": np.array(list("abcde"))}, "'names' has 5 rows, but 'y' has 6"),
        (
            {"names": np.array([b"a", b"\xe9", b"c", b"d", b"e", b"f"])},
            "'names' holds bytes that are not",
        ),
        ({"names": np.zeros((6, 2))}, r"'names' holds float64 of shape \(6, 2\)"),
    ],
)
def test_a_mismatch_is_one_clear_error(
    tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    file = saved(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as raised:
        npz(config_for(file))
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


def single_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def damaged(folder: Path) -> bytes:
    data = bytearray(saved(folder).read_bytes())
    at = data.index(ARRAYS["video"].tobytes())
    data[at] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no such file; give the path of a .npz"),
        ("folder", "not a NumPy archive"),
        ("empty", "not a NumPy archive"),
        ("text", "not a NumPy archive .*expected a .npz file"),
        ("cut short", "not a NumPy archive"),
        ("npy", "a single array; expected a .npz file"),
        ("damaged", "'video' is damaged .*fetch the file again"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, case: str, message: str) -> None:
    file = tmp_path / "case.npz"
    contents = {
        "empty": b"",
        "text": b"clip,label\n",
        "npy": single_array(),
        "cut short": saved(tmp_path).read_bytes()[:-200],
        "damaged": damaged(tmp_path),
    }
    if case == "folder":
        file.mkdir()
    elif case in contents:
        file.write_bytes(contents[case])
    with pytest.raises(DataError, match=message) as raised:
        npz(config_for(file))
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("rates_hz", "message"),
    [
        ({"visual": 25.0}, "rates_hz has the keys visual; expected .* audio, visual"),
        ({"visual": 25.0, "audio": 0.0}, "rates_hz.audio is 0.0; expected tokens per second"),
        ({"visual": 25.0, "audio": float("nan")}, "rates_hz.audio is nan"),
    ],
)
def test_rates_must_fit_the_modalities(
    tmp_path: Path, rates_hz: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        npz(config_for(saved(tmp_path), rates_hz=rates_hz))
