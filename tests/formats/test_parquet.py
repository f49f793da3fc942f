import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymc.config import ParquetConfig
from raymc.data.check import check_dataset
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, ragged, read_shard, write_dataset
from raymc.errors import ConfigError, DataError
from raymc.formats.parquet import parquet
from raymc.formats.recipe import DatasetRecipe, make_dataset

RNG = np.random.default_rng(0)
LENGTHS = [2, 3, 1, 4, 2, 0, 3]
VIDEO = [RNG.normal(size=(length, 3)).astype("f4") for length in LENGTHS]
FIXED = [RNG.normal(size=(2, 3)).astype("f4") for _ in LENGTHS]
SINGLE = [RNG.normal(size=(1, 3)).astype("f4") for _ in LENGTHS]
IDS = list("abcdefg")
LABELS = [["cat"], ["dog", "cat"], [], ["owl"], ["dog"], ["cat", "owl"], []]
SPLITS = ["train", "val", "train", "train", "test", "val", "train"]
TABLE: dict[str, Any] = {
    "id": IDS,
    "labels": LABELS,
    "split": SPLITS,
    "video": pa.array([tokens.tolist() for tokens in VIDEO], pa.list_(pa.list_(pa.float32()))),
    "url": [f"https://example.org/{clip}" for clip in IDS],
    "views": list(range(7)),
}


def saved(folder: Path, name: str = "clips.parquet", **changes: Any) -> Path:
    columns = {k: v for k, v in {**TABLE, **changes}.items() if v is not None}
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, row_group_size=3)
    return folder / name


def recipe_for(address: Path | str, **settings: Any) -> DatasetRecipe:
    defaults: dict[str, Any] = {
        "files": str(address),
        "split": "split",
        "columns": {"visual": "video"},
        "rates_hz": {"visual": 2.0},
    }
    return parquet(ParquetConfig(**{**defaults, **settings}))


def tokens_of(recipe: DatasetRecipe, modality: str = "visual") -> dict[str, np.ndarray]:
    rows = [rows[i] for rows in recipe.splits.values() for i in range(len(rows))]
    return {row.id: np.asarray(row.tokens[modality]) for row in rows}


def test_rows_are_those_of_the_file_in_its_order(tmp_path: Path) -> None:
    recipe = recipe_for(saved(tmp_path), keep=("url", "views"), license="CC0")
    clips = {split: [row.id for row in rows] for split, rows in recipe.splits.items()}
    assert clips == {"train": ["a", "c", "d", "g"], "val": ["b", "f"], "test": ["e"]}
    for rows in recipe.splits.values():
        for row in rows:
            i = IDS.index(row.id)
            assert list(row.labels) == LABELS[i]
            assert row.extra == {"url": TABLE["url"][i], "views": i}
            np.testing.assert_array_equal(row.tokens["visual"], VIDEO[i])
    assert recipe.vocabulary.names == ("cat", "dog", "owl")
    assert recipe.modalities == (Modality("visual", 3, "float32", 2.0, "clips.parquet: video"),)
    assert recipe.license == "CC0"
    assert recipe.provenance["notes"] == ["2 of 7 rows have no label."]


def test_the_written_dataset_holds_the_file(tmp_path: Path) -> None:
    file = saved(tmp_path)
    make_dataset(recipe_for(file, keep=("views",)), str(tmp_path / "shards"), shard_rows=3)
    assert check_dataset(str(tmp_path / "shards")) == ([], [])
    dataset = open_dataset(str(tmp_path / "shards"))
    original = pq.read_table(file).to_pylist()
    found = []
    for split in dataset.manifest.splits:
        for shard in dataset.split(split):
            table = read_shard(dataset, shard)
            column = ragged(table["visual"], dataset.manifest.modalities[0])
            for k, row in enumerate(table.drop_columns(["visual"]).to_pylist()):
                found.append({**row, "split": split, "video": column.row(k).tolist()})
    wanted = [{k: v for k, v in row.items() if k != "url"} for row in original]
    assert sorted(found, key=lambda row: row["id"]) == wanted
    files = dataset.manifest.provenance["files"]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert files == [{"split": "", "file": "clips.parquet", "sha256": sha256}]


def nested(tokens: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    return pa.array([one.tolist() for one in tokens], kind)


def raw(tokens: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    return pa.array([one.tobytes() for one in tokens], kind)


BYTES = {"dims": {"visual": 3}, "dtypes": {"visual": "float32"}}
LAYOUTS = {
    "binary": (VIDEO, raw(VIDEO, pa.binary()), BYTES),
    "large_binary": (VIDEO, raw(VIDEO, pa.large_binary()), BYTES),
    "fixed_size_binary": (FIXED, raw(FIXED, pa.binary(24)), BYTES),
    "tensor": (
        FIXED,
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(FIXED)),
        {},
    ),
    "list of lists": (VIDEO, nested(VIDEO, pa.list_(pa.list_(pa.float64()))), {}),
    "large lists": (VIDEO, nested(VIDEO, pa.large_list(pa.large_list(pa.float32()))), {}),
    "list of fixed-size lists": (VIDEO, nested(VIDEO, pa.list_(pa.list_(pa.float32(), 3))), {}),
    "fixed-size lists": (FIXED, nested(FIXED, pa.list_(pa.list_(pa.float32(), 3), 2)), {}),
    "list": (SINGLE, pa.array([one[0].tolist() for one in SINGLE], pa.list_(pa.float32())), {}),
    "dims are told": (VIDEO, nested(VIDEO, pa.list_(pa.list_(pa.float32()))), BYTES),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_tokens(tmp_path: Path, layout: str) -> None:
    tokens, column, settings = LAYOUTS[layout]
    recipe = recipe_for(saved(tmp_path, video=column), **settings)
    assert (recipe.modalities[0].dim, recipe.modalities[0].dtype) == (3, "float32")
    for clip, found in tokens_of(recipe).items():
        np.testing.assert_array_equal(found, tokens[IDS.index(clip)])


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.float16(), "float16"),
        (pa.float64(), "float32"),
        (pa.int8(), "float16"),
        (pa.uint8(), "uint8"),
    ],
)
def test_values_are_kept_or_narrowed(tmp_path: Path, kind: pa.DataType, stored: str) -> None:
    whole = [np.abs(10 * tokens).astype("u1") for tokens in VIDEO]
    column = nested(whole, pa.list_(pa.list_(pa.uint8()))).cast(pa.list_(pa.list_(kind)))
    recipe = recipe_for(saved(tmp_path, video=column))
    assert recipe.modalities[0].dtype == stored
    for clip, found in tokens_of(recipe).items():
        np.testing.assert_array_equal(found, whole[IDS.index(clip)].astype(stored))


def test_a_column_of_raymc_tells_all_itself(tmp_path: Path) -> None:
    stated = Modality("v", 3, "uint8", 5.0, "an encoder", scale=0.5, offset=-1.0)
    tokens = RNG.integers(0, 255, (4, 3)).astype("u1")
    rows = [Row("a", ["cat"], {"v": tokens}), Row("b", [], {"v": None})]
    folder = tmp_path / "made"
    write_dataset(
        str(folder), {"train": rows}, vocabulary=Vocabulary(("cat",)), modalities=[stated]
    )
    files = {"train": str(folder / "train")}
    recipe = recipe_for("", split="", split_files=files, columns={"visual": "v"}, rates_hz={})
    assert recipe.modalities == (
        Modality("visual", 3, "uint8", 5.0, "an encoder", scale=0.5, offset=-1.0),
    )
    found = tokens_of(recipe)
    np.testing.assert_array_equal(found["a"], tokens)
    assert found["b"].shape == (0, 3)


def test_null_and_empty_tokens_are_missing(tmp_path: Path) -> None:
    column = pa.array([None, [], *(tokens.tolist() for tokens in VIDEO[2:])], TABLE["video"].type)
    make_dataset(recipe_for(saved(tmp_path, video=column)), str(tmp_path / "shards"))
    dataset = open_dataset(str(tmp_path / "shards"))
    table = read_shard(dataset, dataset.split("train")[0], ["id", "visual"])
    assert [r["id"] for r in table.to_pylist() if r["visual"] is None] == ["a"]


@pytest.mark.parametrize(
    ("labels", "separator", "expected"),
    [
        (
            ["cat", "dog", None, "", "owl", " cat ", "dog"],
            "",
            ["cat", "dog", "", "", "owl", "cat", "dog"],
        ),
        (
            ["cat; dog", "cat;cat", ";", None, "owl", "dog;", ""],
            ";",
            ["cat,dog", "cat", "", "", "owl", "dog", ""],
        ),
        (pa.array(LABELS, pa.large_list(pa.large_string())), "", [",".join(x) for x in LABELS]),
        (pa.array(["cat"] * 7).dictionary_encode(), "", ["cat"] * 7),
    ],
)
def test_labels_are_lists_or_text(
    tmp_path: Path, labels: Any, separator: str, expected: list[str]
) -> None:
    file = saved(tmp_path, labels=labels)
    recipe = recipe_for(file, label_separator=separator)
    found = {row.id: ",".join(row.labels) for rows in recipe.splits.values() for row in rows}
    assert [found[clip] for clip in IDS] == expected


def test_whole_numbers_serve_as_ids(tmp_path: Path) -> None:
    recipe = recipe_for(saved(tmp_path, id=list(range(10, 17))))
    assert [row.id for row in recipe.splits["train"]] == ["10", "12", "13", "16"]


def lay_out(folder: Path) -> Path:
    """Write x/1.parquet, x/2.parquet, y/1.parquet, each with a clip, and what is no clip."""
    for number, name in enumerate(["x/1.parquet", "x/2.parquet", "y/1.parquet"]):
        one = {k: v[number : number + 1] for k, v in TABLE.items()}
        saved(folder, name, **{**one, "split": ["train"]})
    (folder / "_metadata.parquet").write_text("hidden")
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.mark.parametrize(
    ("pattern", "clips"),
    [
        ("", "abc"),
        ("/", "abc"),
        ("/x", "ab"),
        ("/y/1.parquet", "c"),
        ("/x/*.parquet", "ab"),
        ("/*/1.parquet", "ac"),
        ("/*/*", "abc"),
        ("/x*/1*", "a"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_are_a_file_a_folder_or_a_pattern(
    tmp_path: Path, scheme: str, pattern: str, clips: str
) -> None:
    recipe = recipe_for(f"{scheme}{lay_out(tmp_path)}{pattern}")
    assert "".join(row.id for row in recipe.splits["train"]) == clips


def test_a_pattern_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lay_out(tmp_path) / "x")
    assert [row.id for row in recipe_for("*.parquet").splits["train"]] == ["a", "b"]


def test_each_split_may_have_its_files(tmp_path: Path) -> None:
    folder = lay_out(tmp_path)
    files = {"train": f"{folder}/x", "dev": f"{folder}/y/*.parquet"}
    recipe = recipe_for("", split="", split_files=files)
    clips = {split: [row.id for row in rows] for split, rows in recipe.splits.items()}
    assert clips == {"train": ["a", "b"], "dev": ["c"]}
    places: Any = recipe.provenance["files"]
    assert [(p["split"], p["file"]) for p in places] == [
        ("train", "1.parquet"),
        ("train", "2.parquet"),
        ("dev", "1.parquet"),
    ]
    assert "the splits are train, dev; training reads" in str(recipe.provenance["notes"])


def test_rows_may_be_asked_for_in_any_order(tmp_path: Path) -> None:
    rows = recipe_for(lay_out(tmp_path / "more")).splits["train"]
    assert [rows[i].id for i in (2, 0, 1, 1, 2)] == ["c", "a", "b", "b", "c"]
    many = pa.table(
        {
            "id": [str(i) for i in range(200)],
            "labels": [["x"]] * 200,
            "split": ["train"] * 200,
            "video": [[[float(i)]] for i in range(200)],
        }
    )
    pq.write_table(many, tmp_path / "many.parquet", row_group_size=100)
    rows = recipe_for(tmp_path / "many.parquet").splits["train"]
    for i in RNG.permutation(200)[:50].tolist():
        assert (rows[i].id, np.asarray(rows[i].tokens["visual"]).ravel().tolist()) == (str(i), [i])


def test_a_large_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    tokens = pa.array([np.full((100, 256), i, "f4").tobytes() for i in range(400)])  # 41 MB
    table = pa.table({"id": [str(i) for i in range(400)], "labels": [["x"]] * 400, "v": tokens})
    options: dict[str, Any] = {"use_dictionary": False, "write_batch_size": 16}  # small pages
    pq.write_table(table, tmp_path / "large.parquet", **options)
    del table, tokens
    settings: dict[str, Any] = {
        "dims": {"v": 256},
        "dtypes": {"v": "float32"},
        "rates_hz": {"v": 1},
    }
    files = {"train": str(tmp_path / "large.parquet")}
    recipe = recipe_for("", split="", split_files=files, columns={"v": "v"}, **settings)
    pool, peak_bytes = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    for i in range(400):
        row = recipe.splits["train"][i]
        assert np.asarray(row.tokens["v"])[[0, -1], [0, -1]].tolist() == [i, i]
        peak_bytes = max(peak_bytes, pool.bytes_allocated() - before)
    assert peak_bytes < 15e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "no columns 'id'; expected one, there are labels, split, video"),
        ({"labels": None}, "no columns 'labels'"),
        ({"split": None}, "no columns 'split'"),
        ({"video": None}, "no columns 'video'"),
        ({"url": None}, "no columns 'url'"),
        ({"id": [0.5] * 7}, "'id' is double; expected text or whole numbers"),
        ({"labels": list(range(7))}, "'labels' is int64; expected text or lists of it"),
        ({"labels": [[1]] * 7}, "'labels' is list<.*int64>; expected text or lists of it"),
        ({"split": list(range(7))}, "'split' is int64; expected text"),
        ({"url": [[1]] * 7}, "'url' is list<.*>; expected text, numbers, or true and false"),
        ({"id": ["a", "b", None, *"defg"]}, "row 2: 'id' is empty or null"),
        ({"id": ["a", "b", "c", "d", "", *"fg"]}, "row 4: 'id' is empty or null"),
        ({"split": ["train"] * 6 + [None]}, "row 6: 'split' is empty or null"),
        ({"labels": [["cat"]] * 5 + [["cat", None]] * 2}, "row 5: 'labels' is empty or null"),
        (
            {"video": pa.array([[[]]] * 7, TABLE["video"].type)},
            "'video': .*its dim is unknown.*; or give dims.visual",
        ),
    ],
)
def test_a_column_that_does_not_fit_is_one_clear_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = saved(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as raised:
        recipe_for(file, keep=("url",))
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


def test_a_repeated_id_is_found_across_files(tmp_path: Path) -> None:
    saved(tmp_path, "1.parquet")
    saved(tmp_path, "2.parquet", id=["t", "u", "v", "w", "e", "y", "z"])
    with pytest.raises(
        DataError, match=r"id 'e' is in .*1.parquet, row 4 and in .*2.parquet, row 4"
    ):
        recipe_for(tmp_path)


@pytest.mark.parametrize(
    ("column", "settings", "message"),
    [
        (
            raw(VIDEO, pa.binary()),
            {**BYTES, "dims": {"visual": 4}},
            "row 0: 24 bytes are not a multiple",
        ),
        (
            nested(VIDEO, pa.list_(pa.list_(pa.float32()))),
            {**BYTES, "dims": {"visual": 4}},
            "a token has 3 values; expected 4, its dim",
        ),
        (pa.array([[[1.0, None, 2.0]]] * 7), {}, "a token has a null value"),
        (pa.array([[["a", "b", "c"]]] * 7), BYTES, "values of string can't be read as float32"),
    ],
)
def test_tokens_that_do_not_fit_are_found_when_a_row_is_read(
    tmp_path: Path, column: pa.Array, settings: dict[str, Any], message: str
) -> None:
    file = saved(tmp_path, video=column)
    with pytest.raises(
        DataError, match=f"counted from row 0: modality 'visual'.*{message}"
    ) as raised:
        recipe_for(file, **settings).splits["train"][0]
    assert str(raised.value).startswith(f"{file}, ")


@pytest.mark.parametrize(
    ("column", "settings", "message"),
    [
        (
            raw(VIDEO, pa.binary()),
            {},
            "'video' is binary, which has no dim and dtype; give dims",
        ),
        (
            raw(VIDEO, pa.binary()),
            {"dims": {"visual": 3}},
            "'video' is binary, which has no dim",
        ),
        (
            pa.array([[["a"]]] * 7),
            {},
            "'video' is list<.*string>>, which has no dim and dtype",
        ),
        (
            TABLE["video"],
            {"rates_hz": {}},
            "rates_hz.visual is missing; give the tokens per second",
        ),
        (
            TABLE["video"],
            {"rates_hz": {"audio": 1.0}},
            "rates_hz.audio: no such modality; .*visual",
        ),
        (TABLE["video"], {"dims": {"audio": 1}}, "dims.audio: no such modality; .*visual"),
        (TABLE["video"], {"dtypes": {"audio": "uint8"}}, "dtypes.audio: no such modality"),
        (TABLE["video"], {"keep": ("id",)}, "keep: raymc uses the name 'id'"),
        (TABLE["video"], {"keep": ("visual",)}, "keep: raymc uses the name 'visual'"),
        (TABLE["video"], {"files": ""}, "give either `files`, .*, or `split_files`"),
        (
            TABLE["video"],
            {"split_files": {"train": "x"}},
            "give either `files`, .*, or `split_files`",
        ),
        (TABLE["video"], {"split": ""}, "`split` names the column that tells the splits"),
    ],
)
def test_settings_must_fit(
    tmp_path: Path, column: pa.Array, settings: dict[str, Any], message: str
) -> None:
    file = saved(tmp_path, video=column)
    with pytest.raises(ConfigError, match=message):
        recipe_for(file, **settings)


def test_a_rate_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="modality 'visual': expected rate_hz above 0, found 0"):
        recipe_for(saved(tmp_path), rates_hz={"visual": 0.0})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no files \\*.parquet; give a file, a folder or a pattern"),
        ("folder", "no files \\*.parquet"),
        ("empty", "case.parquet: can't be read as Parquet"),
        ("text", "case.parquet: can't be read as Parquet .*copy it again"),
        ("cut short", "case.parquet: can't be read as Parquet"),
        ("no rows", "no rows in any file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, case: str, message: str) -> None:
    file = tmp_path / "case.parquet"
    if case == "folder":
        file.mkdir()
    elif case == "no rows":
        pq.write_table(pa.table(TABLE)[:0], file)
    elif case != "missing":
        whole = saved(tmp_path / "other").read_bytes()
        file.write_bytes({"empty": b"", "text": b"clip,label\n", "cut short": whole[:-50]}[case])
    with pytest.raises(DataError, match=message) as raised:
        recipe_for(file)
    assert "\n" not in str(raised.value)


def test_damaged_tokens_are_an_error_of_their_file(tmp_path: Path) -> None:
    file = saved(tmp_path)
    data = bytearray(file.read_bytes())
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(3)
    assert chunk.path_in_schema.startswith("video")
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(data)
    rows = recipe_for(file, **BYTES).splits["train"]
    assert [rows[0].id, rows[1].id] == ["a", "c"]
    with pytest.raises(DataError, match=r"clips.parquet: can't be read as Parquet"):
        rows[2]


@pytest.mark.parametrize(
    ("column", "message"),
    [("labels", "can't be read as Parquet .*utf-8"), ("url", "row 0: 'url' is not UTF-8")],
)
def test_text_must_be_utf_8(tmp_path: Path, column: str, message: str) -> None:
    latin = pa.array(["größe".encode("latin-1")] * 7).view(pa.string())
    file = saved(tmp_path, **{column: latin})
    with pytest.raises(DataError, match=f"clips.parquet.*{message}"):
        recipe_for(file, keep=("url",)).splits["train"][0]


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    file = saved(tmp_path)
    rows = recipe_for(file).splits["train"]
    pq.write_table(pa.table(TABLE)[:1], file)
    with pytest.raises(DataError, match="changed while it was read; run again"):
        rows[1]
