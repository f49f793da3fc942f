"""Numbers, tables and the picture of a dataset against counts over its rows."""

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from example_dataset import VOCABULARY, make_row, write
from matplotlib.image import imread
from rich.console import Console

from raymc.data.info import DatasetInfo, describe, plot_info, print_info
from raymc.data.labels import Vocabulary
from raymc.data.shards import Modality, Row, open_dataset, write_dataset
from raymc.errors import DataError

TRAIN = [make_row(i) for i in range(10)]
ROWS = TRAIN + [make_row(i) for i in range(3)]


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    path = tmp_path_factory.mktemp("dataset")
    write(path)
    return describe(open_dataset(str(path)))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """40 labels of awkward names, label k in k of 40 rows, and no tokens at all."""
    path = tmp_path_factory.mktemp("large")
    names = tuple(f"$a_{k}$ [b] a name that is far too long for any table {k}" for k in range(40))
    rows = [Row(str(i), names[39 - i :], {"visual": None}) for i in range(40)]
    write_dataset(
        str(path),
        {"train": rows, "test": []},
        vocabulary=Vocabulary(names),
        modalities=[Modality("visual", 2)],
    )
    return describe(open_dataset(str(path)))


def printed(info: DatasetInfo) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        print_info(info, console)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_counts(info: DatasetInfo) -> None:
    for k, name in enumerate(VOCABULARY.names):
        assert info.label_counts["train"][k] == sum(name in row.labels for row in TRAIN)
        assert info.total_counts[k] == sum(name in row.labels for row in ROWS)
        for j, other in enumerate(VOCABULARY.names):
            both = sum(name in row.labels and other in row.labels for row in ROWS)
            assert info.cooccurrence[k, j] == both
    assert info.unlabelled["train"] == sum(not row.labels for row in TRAIN)
    assert info.rows == 13
    assert info.bytes == sum(file.stat().st_size for file in Path(info.path).rglob("*.parquet"))


def test_observed_rows_are_counted_by_label(tmp_path: Path) -> None:
    rows = [Row(str(i), [], {}, observed) for i, observed in enumerate([None, ["math"], [], []])]
    write(tmp_path, splits={"train": rows})
    info = describe(open_dataset(str(tmp_path)))
    assert info.observed_counts["train"].tolist() == [4, 4, 2]


def test_pairs_of_many_labels_over_many_shards(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = tuple(f"label-{k}" for k in range(30))
    drawn = [generator.choice(names, size=generator.integers(6)).tolist() for _ in range(50)]
    rows = [Row(str(i), labels, {}) for i, labels in enumerate(drawn)]
    vocabulary = Vocabulary(names)
    write(tmp_path, splits={"train": rows}, vocabulary=vocabulary, shard_rows=7)
    encoded = vocabulary.encode(drawn).astype(int)
    info = describe(open_dataset(str(tmp_path)))
    np.testing.assert_array_equal(info.cooccurrence, encoded.T @ encoded)
    np.testing.assert_array_equal(info.label_counts["train"], encoded.sum(axis=0))
    assert info.unlabelled["train"] == (encoded.sum(axis=1) == 0).sum()


def test_token_lengths(info: DatasetInfo) -> None:
    for name in ("visual", "audio"):
        tokens = [row.tokens[name] for row in ROWS]
        expected = [0 if values is None else len(values) for values in tokens]
        assert info.lengths[name].tolist() == expected


def test_tables(info: DatasetInfo) -> None:
    lines = printed(info)
    assert lines[0] == info.path
    assert lines[1].startswith("13 rows · ")
    assert lines[1].endswith(f"3 labels · licence CC0-1.0 · digest {info.manifest.digest()[:12]}")
    table = {line.split()[0]: line.split()[1:] for line in lines if line}
    labels = sum(len(row.labels) for row in TRAIN)
    assert table["train"][:2] == ["10", "3"]
    assert table["train"][-2:] == [f"{labels / 10:.2f}", str(info.unlabelled["train"])]
    lengths = sorted(len(row.tokens["visual"]) for row in ROWS if row.tokens["visual"] is not None)
    low, middle, high = lengths[0], median(lengths), lengths[-1]
    expected = f"4 float16 {low} / {middle} / {high} {low / 2} / {middle / 2:g} / {high / 2:g} 0.0%"
    assert table["visual"] == expected.split()
    in_train, in_all = (sum("adding" in row.labels for row in rows) for rows in (TRAIN, ROWS))
    assert table["adding"][:3] == [str(in_train), str(in_all - in_train), f"{in_all / 13:.1%}"]


def test_pairs_are_sorted(info: DatasetInfo) -> None:
    lines = printed(info)
    first = next(i for i, line in enumerate(lines) if line.startswith("label") and "with" in line)
    counts = [int(line.split()[2]) for line in lines[first + 1 :]]
    together = info.cooccurrence[np.triu_indices(3, k=1)]
    assert counts == sorted(together[together > 0], reverse=True)


def test_many_labels_fit_80_columns(large: DatasetInfo) -> None:
    lines = printed(large)
    assert max(len(line) for line in lines[1:]) <= 80
    assert sum(line.startswith("$a_") and "█" in line for line in lines) == 20
    assert "… and 20 rarer labels; 0 labels occur in no row" in lines
    assert "licence not stated" in lines[1]
    assert len(lines) - next(i for i, line in enumerate(lines) if line.startswith("Pairs")) == 12


@pytest.mark.slow
@pytest.mark.parametrize("which", ["info", "large"])
def test_picture(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    plot_info(request.getfixturevalue(which), tmp_path / "info.png")
    picture = imread(tmp_path / "info.png")
    assert picture.shape[1] == 1800
    pixels = np.round(picture[..., :3].reshape(-1, 3)[::7] * 255).astype(int)
    for colour in ((0, 114, 178), (255, 255, 255)):
        assert (pixels == colour).all(axis=1).any()


def test_a_label_outside_of_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "dataset.json"
    file.write_text(file.read_text().replace('"sounds"', '"noises"'))
    with pytest.raises(DataError, match="unknown label 'sounds'"):
        describe(open_dataset(str(tmp_path)))
