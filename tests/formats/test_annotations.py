from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, read_shard, write_dataset
from raymc.errors import DataError
from raymc.formats import annotations as joined
from raymc.formats.annotations import (
    Features,
    fraction,
    parse_object,
    read_file,
    shown,
    span_of,
    window_of,
)

RNG = np.random.default_rng(0)
MODALITIES = (
    Modality("visual", 3, "float16", 2.0, "some encoder"),
    Modality("audio", 2, "uint8", 1.0, "another", scale=0.5, offset=-3.0),
    Modality("text", 1, "float32"),
)


def row(name: str, **extra: Any) -> Row:
    count = int(RNG.integers(1, 5))
    tokens = {
        "visual": RNG.normal(size=(count, 3)).astype("f2"),
        "audio": RNG.integers(0, 256, (count, 2), np.uint8),
        "text": None if count == 1 else RNG.normal(size=(count, 1)).astype("f4"),
    }
    return Row(id=name, labels=("l",), tokens=tokens, extra={"start_seconds": 0.0, **extra})


def written(folder: Path, splits: Mapping[str, Sequence[Row]], shard_rows: int = 3) -> str:
    write_dataset(
        str(folder),
        splits,
        vocabulary=Vocabulary(("l", "m"), {"g": ("m",)}),
        modalities=MODALITIES,
        license="CC0",
        shard_rows=shard_rows,
    )
    return str(folder)


def stored(address: str) -> dict[str, dict[str, Any]]:
    """All columns of all rows by id, read with nothing but pyarrow."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(Path(address).glob("*/*.parquet")):
        for values in pq.read_table(file).to_pylist():
            found[values.pop("id")] = values
    return found


def test_rows_are_kept_byte_for_byte(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(11)]
    rows = [row(name, url=f"https://x/{name}", size=i) for i, name in enumerate(names)]
    address = written(tmp_path / "features", {"train": rows[:7], "val": [], "test": rows[7:]})
    features = Features(address)
    assert features.modalities == MODALITIES
    assert features.license == "CC0"
    chosen = features.rows(
        ["v9", "v1", "absent", "v3"], lambda video, found: replace(found, labels=(f"{video}!",))
    )
    write_dataset(
        str(tmp_path / "joined"),
        {"train": chosen},
        vocabulary=Vocabulary(("v1!", "v3!", "v9!")),
        modalities=features.modalities,
    )
    before, after = stored(address), stored(str(tmp_path / "joined"))
    assert list(after) == ["v1", "v3", "v9"]  # the order of the shards
    for name, values in after.items():
        assert values.pop("labels") == [f"{name}!"]
        kept = {key: before[name][key] for key in before[name] if key not in ("labels", "observed")}
        assert values == kept
    schema = pq.read_schema(tmp_path / "joined/train/00000.parquet")
    assert schema.field("audio").metadata == MODALITIES[1].to_field().metadata


def test_all_windows_belong_to_their_video(tmp_path: Path) -> None:
    names = ["b@30-60", "a", "b@0-30", "me@home", "b@60-75.5", "a@b@5-10", "c@1e+06-1.00001e+06"]
    features = Features(written(tmp_path / "f", {"one": [row(n) for n in names]}))
    assert {video: [clip.id for clip in clips] for video, clips in features.clips.items()} == {
        "b": ["b@30-60", "b@0-30", "b@60-75.5"],
        "a": ["a"],
        "me@home": ["me@home"],
        "a@b": ["a@b@5-10"],
        "c": ["c@1e+06-1.00001e+06"],
    }
    rows = features.rows(["a", "b"], lambda video, found: found)
    assert [rows[i].id for i in range(len(rows))] == ["b@30-60", "a", "b@0-30", "b@60-75.5"]


@pytest.mark.parametrize(
    ("clip", "found"),
    [
        ("abc@30-60", ("abc", 30, 60)),
        ("abc@0.5-1e+06", ("abc", 0.5, 1e6)),
        ("abc@60-30", ("abc@60-30", 0, np.inf)),
        ("abc@30-30", ("abc@30-30", 0, np.inf)),
        ("@30-60", ("@30-60", 0, np.inf)),
        ("abc@30", ("abc@30", 0, np.inf)),
        ("abc@30-60s", ("abc@30-60s", 0, np.inf)),
        ("abc@-3-60", ("abc@-3-60", 0, np.inf)),
    ],
)
def test_windows_by_their_ids(clip: str, found: tuple[str, float, float]) -> None:
    assert window_of(clip) == found


@pytest.mark.parametrize(
    ("name", "extra", "span"),
    [
        ("a", {}, (0, np.inf)),
        ("a@5-10", {}, (5, 10)),
        ("a@5-10", {"start_seconds": 5.01, "end_seconds": 9.99}, (5.01, 9.99)),
        ("a", {"start_seconds": 5, "end_seconds": None}, (5, np.inf)),
        ("a@5-10", {"start_seconds": float("nan"), "end_seconds": "7"}, (5, 10)),
    ],
)
def test_the_span_of_a_clip(name: str, extra: dict[str, Any], span: tuple[float, float]) -> None:
    assert span_of(Row(name, (), {}, extra=extra)) == span


def test_each_shard_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"v{i}") for i in range(20)]
    features = Features(written(tmp_path / "f", {"train": rows}, shard_rows=4))
    reads: Counter[str] = Counter()

    def counted(dataset: Any, shard: Any, *columns: Any) -> pa.Table:
        reads[shard.file] += 1
        return read_shard(dataset, shard, *columns)

    monkeypatch.setattr(joined, "read_shard", counted)
    videos = [f"v{i}" for i in RNG.permutation(20)]
    rows_again = features.rows(videos, lambda video, found: found)
    for i in range(len(rows_again)):
        visual = rows_again[i].tokens["visual"]
        assert visual is not None
        assert visual.base is None  # owns its memory: the shard can go
    assert reads == {f"train/0000{k}.parquet": 1 for k in range(5)}


def test_a_folder_that_others_wrote(tmp_path: Path) -> None:
    values = RNG.normal(size=(4, 3)).astype("f4")
    (tmp_path / "all").mkdir()
    table = pa.table(
        {
            "id": ["a", "b"],
            "labels": [["x"], []],
            "visual": [values[:3].tolist(), values[3:].tolist()],
            "views": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "all/part.parquet")
    features = Features(str(tmp_path))
    found = features.row(features.clips["a"][0])
    np.testing.assert_array_equal(found.tokens["visual"], values[:3])
    assert (found.extra, found.labels) == ({"views": 1}, ())


def test_notes_name_what_is_on_one_side_alone(tmp_path: Path) -> None:
    features = Features(written(tmp_path / "f", {"all": [row(n) for n in "abcd"]}))
    assert list(features.notes(["a", "x", "y"], ["a", "b", "x", "y"])) == [
        "2 of 3 videos have no features ('x', 'y')",
        "2 of the 4 videos with features are not annotated; left out ('c', 'd')",
    ]
    assert list(features.notes("abcd", "abcd")) == []


def test_no_overlap_shows_the_ids_of_both_sides(tmp_path: Path) -> None:
    features = Features(written(tmp_path / "f", {"all": [row(n) for n in "abcd"]}))
    features.require(["d", "e"], "labels.json")
    with pytest.raises(DataError, match=r"no clip .*labels.json; .*'a', 'b', 'c', …, .* 'e'"):
        features.require(["e"], "labels.json")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "no dataset at .*check the path"),
        ("repeated", "test/00000.parquet, row 0: id 'a' is also used in train/00000.parquet"),
        ("empty", "all/part.parquet, row 1: id '' is empty; give each row"),
        ("null", "all/part.parquet, row 1: id None is empty; give each row"),
    ],
)
def test_features_that_cannot_be_used(tmp_path: Path, case: str, message: str) -> None:
    if case == "repeated":
        written(tmp_path, {"train": [row("a")], "test": [row("a")]})
    elif case != "nothing":
        (tmp_path / "all").mkdir()
        ids = pa.array(["a", "" if case == "empty" else None], pa.string())
        table = pa.table({"id": ids, "labels": [["x"]] * 2, "visual": [[1.0]] * 2})
        pq.write_table(table, tmp_path / "all/part.parquet")
    with pytest.raises(DataError, match=message):
        Features(str(tmp_path / "none" if case == "nothing" else tmp_path))


def test_torn_tokens_name_their_shard(tmp_path: Path) -> None:
    address = written(tmp_path, {"train": [row("a")]})
    file = tmp_path / "train/00000.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("visual")
    torn = table.set_column(at, table.schema.field(at), pa.array([b"12345"], pa.large_binary()))
    (tmp_path / "dataset.json").unlink()
    pq.write_table(torn, file)
    features = Features(address)
    with pytest.raises(DataError, match=r"train/00000.parquet: modality 'visual', row 0: 5 bytes"):
        features.row(features.clips["a"][0])


def test_files_of_annotations(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": 1}')
    assert parse_object(read_file(str(tmp_path / "a.json")), "a.json") == {"a": 1}
    for path in (tmp_path / "b.json", tmp_path):
        with pytest.raises(DataError, match="no such file; put the file of the release there"):
            read_file(str(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f.json: not JSON .*fetch the file again"),
        (b"{", "f.json: not JSON"),
        (b"\xff\xfe\xfd", "f.json: not JSON"),
        (b"[" * 100_000, "f.json: not JSON"),
        (b"[]", r"f.json: the JSON is a list; expected an object"),
        (b"null", "the JSON is null"),
        (b"3", "the JSON is a number"),
        (b'"{}"', "the JSON is a text"),
        (b"true", "the JSON is a boolean"),
    ],
)
def test_json_that_is_no_object(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        parse_object(data, "f.json")
    assert "\n" not in str(raised.value)


def test_fractions_are_even_and_depend_on_seed_and_key() -> None:
    values = np.array([[fraction(seed, f"v{i}") for i in range(2000)] for seed in (0, 1)])
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values[0], bins=10, range=(0, 1))[0]
    np.testing.assert_allclose(counts, 200, atol=50)
    assert abs(np.corrcoef(values)[0, 1]) < 0.1
    assert fraction(0, "v0") == values[0, 0]


def test_names_are_shown_up_to_a_few() -> None:
    assert shown(["a"]) == "'a'"
    assert shown("abcd") == "'a', 'b', 'c', …"


def test_the_source_is_named_by_its_digest(tmp_path: Path) -> None:
    address = written(tmp_path, {"train": [row("a")]})
    assert Features(address).provenance["digest"] == open_dataset(address).manifest.digest()
