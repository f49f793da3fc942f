import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import arff as scipy_arff

from raymc.config import ArffConfig
from raymc.data.check import check_dataset
from raymc.data.shards import Modality, open_dataset, ragged, read_shard
from raymc.errors import ConfigError, DataError, ResourceError
from raymc.formats.arff import arff
from raymc.formats.recipe import DatasetRecipe, make_dataset

RNG = np.random.default_rng(0)
TRAIN = RNG.normal(5, 3, (10, 3))
TEST = RNG.normal(5, 3, (4, 3))
TRAIN_LABELS = RNG.integers(0, 2, (10, 2))
TEST_LABELS = RNG.integers(0, 2, (4, 2))
HEADER = """% about birds
@relation 'birds: -C 2'

@attribute 'Stellar\\'s Jay' {0,1}
@attribute\tpitch\tnumeric
@ATTRIBUTE "loud ness" REAL
@attribute BH_low% integer
@attribute "dogs'" { 0, 1 }
@data
"""
XML = """<?xml version="1.0" encoding="utf-8"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="dogs'"></label><label name="Stellar's Jay"></label>
</labels>
"""
NAMES = ("dogs'", "Stellar's Jay")


def dense_rows(features: np.ndarray, labels: np.ndarray) -> str:
    """Write the first label, the features, the second label."""
    rows = zip(labels.tolist(), features.tolist())
    return "".join(
        f"{jay}," + ", ".join(map(repr, values)) + f",{dog}\n" for (dog, jay), values in rows
    )


def sparse_rows(features: np.ndarray, labels: np.ndarray) -> str:
    lines = []
    for (dog, jay), values in zip(labels.tolist(), features.tolist()):
        found = {0: jay, **{k + 1: v for k, v in enumerate(values)}, 4: dog}
        lines.append("{" + ", ".join(f"{k} {v!r}" for k, v in found.items() if v) + "}")
    return "\n".join(lines) + "\n"


def saved(folder: Path, **files: str | bytes) -> dict[str, Any]:
    """Write the files; return what ArffConfig needs to find them."""
    contents = {
        "train": HEADER + dense_rows(TRAIN, TRAIN_LABELS),
        "test": HEADER + dense_rows(TEST, TEST_LABELS),
        "labels": XML,
        **files,
    }
    paths: dict[str, Any] = {}
    for name, content in contents.items():
        path = folder / ("birds.xml" if name == "labels" else f"birds-{name}.arff")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths[name] = str(path)
    return paths


def recipe_for(folder: Path, files: dict[str, str | bytes], **settings: Any) -> DatasetRecipe:
    return arff(ArffConfig(**saved(folder, **files), **settings))


def numbers(recipe: DatasetRecipe, split: str, modality: str = "features") -> np.ndarray:
    tokens = [row.tokens[modality] for row in recipe.splits[split]]
    assert all(token is not None and token.dtype == np.float32 for token in tokens)
    return np.concatenate([token for token in tokens if token is not None])


def places(recipe: DatasetRecipe, split: str) -> list[int]:
    return [int(row.id.rpartition("-")[2]) for row in recipe.splits[split]]


def test_rows_are_the_lines_of_the_files(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, {}, standardise=False, val_share=0.0, license="none stated")
    assert list(recipe.splits) == ["train", "test"]
    np.testing.assert_array_equal(numbers(recipe, "train"), TRAIN.astype("f4"))
    np.testing.assert_array_equal(numbers(recipe, "test"), TEST.astype("f4"))
    for split, labels in {"train": TRAIN_LABELS, "test": TEST_LABELS}.items():
        for i in range(len(recipe.splits[split])):
            row = recipe.splits[split][i]
            assert row.id == f"birds-{split}-{i:05d}"
            assert row.labels == tuple(NAMES[k] for k in np.flatnonzero(labels[i]))
    assert recipe.vocabulary.names == NAMES
    assert recipe.modalities == (
        Modality("features", 3, "float32", 1.0, "birds-train.arff: features"),
    )
    assert recipe.license == "none stated"


def test_features_have_mean_0_and_variance_1_over_the_training_rows(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, {}, val_share=0.3, seed=7)
    train = TRAIN[places(recipe, "train")]
    mean, std = train.mean(axis=0), train.std(axis=0)
    for split, values in {"train": TRAIN, "val": TRAIN, "test": TEST}.items():
        expected = (values[places(recipe, split)] - mean) / std
        np.testing.assert_allclose(numbers(recipe, split), expected, rtol=1e-5, atol=1e-6)
    described: Any = recipe.provenance["features"]
    assert described["features"]["names"] == ["pitch", "loud ness", "BH_low%"]
    np.testing.assert_allclose(described["features"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(described["features"]["std"], std, rtol=1e-6)


def test_a_constant_feature_is_zero(tmp_path: Path) -> None:
    constant = np.concatenate([TRAIN[:, :2], np.full((10, 1), 4.0)], axis=1)
    recipe = recipe_for(tmp_path, {"train": HEADER + dense_rows(constant, TRAIN_LABELS)})
    assert (numbers(recipe, "train")[:, 2] == 0).all()
    np.testing.assert_allclose(numbers(recipe, "test")[:, 2], TEST[:, 2] - 4, rtol=1e-5)


def test_dense_rows_are_what_scipy_reads(tmp_path: Path) -> None:
    plain = "@relation r\n@attribute a numeric\n@attribute b real\n@attribute c {0,1}\n@data\n"
    text = plain + "".join(f"{x!r},{y!r},1\n" for x, y, _ in TRAIN.tolist())
    labels = '<labels><label name="c"/></labels>'
    files: dict[str, str | bytes] = {"train": text, "test": text, "labels": labels}
    recipe = recipe_for(tmp_path, files, val_share=0.0, standardise=False)
    table, _ = scipy_arff.loadarff(tmp_path / "birds-train.arff")
    expected = np.stack([table["a"], table["b"]], axis=1).astype("f4")
    np.testing.assert_array_equal(numbers(recipe, "train"), expected)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_sparse_rows_mean_the_same(tmp_path: Path, line_end: str) -> None:
    holed = np.where(TRAIN > 5, TRAIN, 0)
    rows = sparse_rows(holed, TRAIN_LABELS) + "{}\n{ 1 2.0,4 1 }\n"
    text = (HEADER + rows).replace("\n", line_end)
    recipe = recipe_for(tmp_path, {"train": text}, standardise=False, val_share=0.0)
    expected = np.concatenate([holed, [[0, 0, 0], [2, 0, 0]]]).astype("f4")
    np.testing.assert_array_equal(numbers(recipe, "train"), expected)
    labels = [row.labels for row in recipe.splits["train"]]
    first = [tuple(NAMES[k] for k in np.flatnonzero(row)) for row in TRAIN_LABELS]
    assert labels == [*first, (), ("dogs'",)]


def test_features_go_to_the_first_modality_that_matches(tmp_path: Path) -> None:
    recipe = recipe_for(
        tmp_path,
        {},
        modalities={"rhythm": "BH_.*", "sound": "BH.*|loud ness"},
        rest="timbre",
        standardise=False,
        val_share=0.0,
    )
    assert [(m.name, m.dim) for m in recipe.modalities] == [
        ("rhythm", 1),
        ("sound", 1),
        ("timbre", 1),
    ]
    for modality, column in {"rhythm": 2, "sound": 1, "timbre": 0}.items():
        expected = TEST[:, [column]].astype("f4")
        np.testing.assert_array_equal(numbers(recipe, "test", modality), expected)


def test_there_is_no_rest_where_all_features_are_taken(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, {}, modalities={"all": ".*"})
    assert [m.name for m in recipe.modalities] == ["all"]


def test_held_out_rows_depend_on_the_seed_alone(tmp_path: Path) -> None:
    drawn = [recipe_for(tmp_path, {}, val_share=0.4, seed=seed) for seed in (0, 0, 1)]
    assert [places(recipe, "val") for recipe in drawn[:2]] == [places(drawn[0], "val")] * 2
    assert places(drawn[0], "val") != places(drawn[2], "val")
    for recipe in drawn:
        train, val = places(recipe, "train"), places(recipe, "val")
        assert len(val) == 4
        assert (train, val) == (sorted(train), sorted(val))
        assert sorted(train + val) == list(range(10))
        assert "val is 4 of the 10 rows of birds-train.arff" in str(recipe.provenance["notes"])


def test_a_file_of_validation_rows_is_taken_whole(tmp_path: Path) -> None:
    val = HEADER + dense_rows(TEST[:2], TEST_LABELS[:2])
    recipe = recipe_for(tmp_path, {"val": val}, standardise=False)
    assert {split: len(rows) for split, rows in recipe.splits.items()} == {
        "train": 10,
        "val": 2,
        "test": 4,
    }
    assert recipe.splits["val"][1].id == "birds-val-00001"
    np.testing.assert_array_equal(numbers(recipe, "val"), TEST[:2].astype("f4"))


NOMINAL = """@relation r
@attribute level {10,20,30}
@attribute mood {calm, 'a b' , "it's"}
@attribute size numeric
@attribute c {0,1}
@data
20,'a b',1,1
?,"it's",?,0
10,calm,4,1
30,?,,0
"""
NOMINAL_XML = '<labels><label name="c"/></labels>'


def test_nominal_and_missing_values(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train": NOMINAL, "test": NOMINAL, "labels": NOMINAL_XML}
    settings: dict[str, Any] = {"val_share": 0.0, "standardise": False, "missing": "mean"}
    recipe = recipe_for(tmp_path, files, **settings)
    third = 1 / 3
    expected = [
        [20, 0, 1, 0, 1],
        [20, 0, 0, 1, 2.5],
        [10, 1, 0, 0, 4],
        [30, third, third, third, 2.5],
    ]
    np.testing.assert_array_equal(numbers(recipe, "train"), np.array(expected, "f4"))
    described: Any = recipe.provenance["features"]
    names = ["level", "mood=calm", "mood=a b", "mood=it's", "size"]
    assert described["features"]["names"] == names
    notes: Any = recipe.provenance["notes"]
    assert notes == [
        "1 nominal attributes became 3 features of 0 and 1, one for each value; 'mood' has the "
        "most, 3.",
        "4 missing values of birds-train.arff became the mean of the training rows.",
        "4 missing values of birds-test.arff became the mean of the training rows.",
    ]


def test_the_means_of_missing_values_are_zero_when_standardised(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train": NOMINAL, "test": NOMINAL, "labels": NOMINAL_XML}
    recipe = recipe_for(tmp_path, files, val_share=0.0, missing="mean")
    assert numbers(recipe, "train")[1, 0] == 0
    np.testing.assert_allclose(numbers(recipe, "train")[0, 0], 0)  # 20 is the mean of 10, 20, 30


def test_nested_labels_are_listed_from_the_top(tmp_path: Path) -> None:
    nested = '<labels><label name="c"><label name="d"><label name="e"/></label></label></labels>'
    text = "@relation r\n@attribute e {1,0}\n@attribute x real\n@attribute d {0,1}\n"
    text += "@attribute c {0,1}\n@data\n1,0.5,1,1\n0,1.5,0,1\n"
    files: dict[str, str | bytes] = {"train": text, "test": text, "labels": nested}
    recipe = recipe_for(tmp_path, files, val_share=0.0)
    assert recipe.vocabulary.names == ("c", "d", "e")
    assert [row.labels for row in recipe.splits["train"]] == [("c", "d", "e"), ("c",)]
    assert recipe.vocabulary.parents == {"d": "c", "e": "d"}


def test_the_written_dataset_holds_the_files(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, {}, modalities={"rhythm": "BH_.*"}, standardise=False)
    make_dataset(recipe, str(tmp_path / "shards"), shard_rows=3)
    assert check_dataset(str(tmp_path / "shards")) == ([], [])
    dataset = open_dataset(str(tmp_path / "shards"))
    assert {split: dataset.manifest.rows(split) for split in dataset.manifest.splits} == {
        "train": 8,
        "val": 2,
        "test": 4,
    }
    last = read_shard(dataset, dataset.split("test")[1])
    assert last["id"].to_pylist() == ["birds-test-00003"]
    for name, columns in {"rhythm": [2], "features": [0, 1]}.items():
        stored = ragged(last[name], dataset.manifest.modality(name)).row(0)
        np.testing.assert_array_equal(stored, TEST[[3]][:, columns].astype("f4"))
    assert {len(sha256) for sha256 in dataset.manifest.provenance["files"].values()} == {64}


ROW = "1,1.5,2.5,3,0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: Invalid layout"),
        ("@relation r\n@attribute a numeric\n", "line 2: Invalid layout"),
        (HEADER, "no rows; expected some below @data"),
        (HEADER + ROW + "1,2,3\n", "line 11: Bad @DATA instance format: 1,2,3"),
        (HEADER + ROW + "1,2,3,x,0\n", "line 11: Invalid numerical value"),
        (HEADER + ROW + "2,2,3,4,0\n", "line 11: Data value 2 not found in nominal"),
        (HEADER + ROW + "100%d,2,3,4,0\n", "line 11: Data value 100%d not found"),
        (HEADER + ROW + "1,2,3,4,'0\n", "line 11: Error parsing|line 11: Invalid layout"),
        (HEADER + "{0 1, 9 1}\n", "line 10: Bad @DATA instance format"),
        (HEADER + "{0 1, x 1}\n", "line 10: Invalid layout of the ARFF file"),
        (HEADER + "1,2,1e60,4,0\n", "line 10: a number is infinite or too large for float32"),
        (HEADER + "?,2,3,4,0\n", "line 10: label 'Stellar's Jay' is missing; expected 0 or 1"),
        (HEADER + ROW + "1,2,?,4,0\n", r"line 11: 'loud ness' is missing \('\?'\).*set `missing`"),
        (HEADER + "1,nan,?,4,0\n", "line 10: 'pitch' is missing .* one of 2 missing"),
        (HEADER.replace("REAL", "string") + ROW, "line 6: attribute 'loud ness' has type string"),
        (
            HEADER.replace("REAL", "date 'HH:mm'") + ROW,
            "line 6: attribute 'loud ness' has type date",
        ),
        (HEADER.replace("REAL", "reel") + ROW, "line 6: Bad @ATTRIBUTE type"),
        (HEADER.replace("REAL", "") + ROW, "line 6: found '@ATTRIBUTE \"loud ness\"'; expected"),
        (HEADER.replace('"loud ness"', "pitch") + ROW, "line 6: attribute 'pitch' is repeated"),
        (
            HEADER.replace("{ 0, 1 }", "{no,yes}") + "1,2,3,4,no\n",
            "no attribute 'dogs'' with values",
        ),
        (
            HEADER.replace("{ 0, 1 }", "{0,1,2}") + "1,2,3,4,2\n",
            "label 'dogs'' is 2; expected 0 or",
        ),
        (
            (HEADER + "1,2,3,4,0 % größer\n").encode("latin-1"),
            "line 10: 'utf-8' codec can't decode",
        ),
    ],
)
def test_a_fault_of_a_file_is_one_clear_error(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        recipe_for(tmp_path, {"train": text})
    assert str(raised.value).startswith(str(tmp_path / "birds-train.arff"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "birds.xml: can't be read as XML"),
        ("<labels><label", "birds.xml: can't be read as XML"),
        ("<labels/>", "birds.xml: no labels; expected <labels> of <label"),
        ("<labels><label/></labels>", 'birds.xml: found <label name="">; expected'),
        ('<labels><tag name="x"/></labels>', 'birds.xml: found <tag name="x">; expected'),
        ('<labels><label name="x"/><label name="x"/></labels>', 'found <label name="x">.*once'),
        ('<labels><label name="owl"/></labels>', "birds-train.arff: no attribute 'owl'.*birds.xml"),
        (
            "<labels>"
            + "".join(
                f"<label name={n}/>"
                for n in ('"pitch"', '"loud ness"', '"BH_low%"', '"dogs\'"', '"Stellar\'s Jay"')
            )
            + "</labels>",
            "no numeric or nominal attributes except the labels",
        ),
    ],
)
def test_a_fault_of_the_labels_is_one_clear_error(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        recipe_for(tmp_path, {"labels": xml})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pitch", "height"), "birds-test.arff: not the attributes of .*: 'pitch' differs"),
        (("{ 0, 1 }", "{1,0}"), "not the attributes of .*: 'dogs'' differs"),
        (("@data", "@attribute more real\n@data"), "there are more or fewer; expected the same"),
    ],
)
def test_files_must_have_the_same_attributes(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    text = HEADER.replace(*change) + (ROW if "more" not in change[1] else "1,2,3,4,0,5\n")
    with pytest.raises(DataError, match=message):
        recipe_for(tmp_path, {"test": text})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"modalities": {"a": "BH"}},
            ConfigError,
            "modalities.a: 'BH' matches none of the remaining",
        ),
        (
            {"modalities": {"a": "("}},
            ConfigError,
            r"modalities.a: '\(' is not a regular expression",
        ),
        (
            {"modalities": {"a": ".*", "b": "pitch"}},
            ConfigError,
            "modalities.b: .*none of the remaining",
        ),
        ({"modalities": {"a": "BH.*"}, "rest": "a"}, ConfigError, "rest is 'a', a name in"),
        (
            {"val_share": 0.99},
            DataError,
            "val_share of 0.99 of its 10 rows leaves no rows to train on",
        ),
        ({"rest": "labels"}, DataError, "modality 'labels': expected a name"),
    ],
)
def test_settings_must_fit_the_files(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        recipe_for(tmp_path, {}, **settings)


def test_files_are_told_apart_by_their_names(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    with pytest.raises(ConfigError, match="two of train, test are named 'birds-train'"):
        arff(ArffConfig(**{**paths, "test": paths["train"]}))


@pytest.mark.parametrize("name", ["train", "test", "labels"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    paths = {**saved(tmp_path), name: str(tmp_path / "nowhere")}
    with pytest.raises(DataError, match=r"nowhere: can't be read .*No such file"):
        arff(ArffConfig(**paths))


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arff", None)
    with pytest.raises(
        ResourceError, match=r"liac-arff is missing; pip install 'raymc\[formats\]'"
    ):
        recipe_for(tmp_path, {})
