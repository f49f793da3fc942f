"""A class from a few clips: its prototype and worth by slow computations; the others untouched."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from tiny import LABELS, MODALITIES, SPLIT_ROWS, VOCABULARY, bundle_here, tiny_row

import raymc
from raymc.cli.main import main
from raymc.config import Config, override
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Row, read_shard, write_dataset
from raymc.errors import BundleError, ConfigError, DataError
from raymc.evaluation.add_class import Share, add_class
from raymc.events import ExtractProgress
from raymc.metrics.calibration import RIDGE
from raymc.training.bundle import Bundle, load_bundle

NAME = "sing"


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


def embedded(model: Bundle, dataset: Dataset, split: str) -> tuple[list[str], np.ndarray]:
    """The ids of a split's rows, and their unit embeddings."""
    ids: list[str] = []
    units = []
    for shard in dataset.split(split):
        table = read_shard(dataset, shard)
        ids += table["id"].to_pylist()
        for row in range(len(table)):
            (x,), _ = model.embed_tokens(tokens_of(model, table.slice(row, 1)))
            units.append(x / np.linalg.norm(x))
    return ids, np.array(units)


def tokens_of(model: Bundle, table: object) -> dict:
    from raymc.data.feed.batches import decode_tokens

    return decode_tokens(table, model.modalities)  # pyright: ignore[reportArgumentType]


def scores_of(model: Bundle, dataset: Dataset) -> np.ndarray:
    return np.concatenate([model.score(read_shard(dataset, s)) for s in dataset.split("test")])


@pytest.mark.slow
def test_a_class_is_the_mean_of_its_examples(model: Bundle, tiny: Dataset, tmp_path: Path) -> None:
    ids, units = embedded(model, tiny, "train")
    chosen = [4, 9, 11, 30, 38]
    wanted = [ids[i] for i in chosen]
    new, found = raymc.add_class(model, NAME, tiny.path, tmp_path / "new", ids=wanted)
    assert new.vocabulary.names == (*LABELS, NAME)
    mean = np.mean(units[chosen], axis=0)
    prototype = mean / np.linalg.norm(mean)
    before, after = scores_of(model, tiny), scores_of(new, tiny)
    assert (after[:, :-1] == before).all()
    _, of_test = embedded(model, tiny, "test")
    np.testing.assert_allclose(after[:, -1], of_test @ prototype, atol=1e-6)
    assert (new.thresholds[:-1] == model.thresholds).all()
    assert (new.probabilities(after)[:, :-1] == model.probabilities(before)).all()

    _, others = embedded(model, tiny, "val")
    left_out = []
    for i in chosen:
        rest = np.sum([units[j] for j in chosen if j != i], axis=0)
        left_out.append(units[i] @ rest / np.linalg.norm(rest))
    scores = np.concatenate([left_out, others @ prototype])
    labels = np.arange(len(scores)) < 5
    assert (found.clips, found.videos, found.others) == (5, 5, SPLIT_ROWS["val"])
    assert found.of_others == f"of val of {tiny.path}, which are taken not to have it"
    assert found.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    if np.isfinite(found.threshold):
        given = scores >= found.threshold
        assert found.recall == Share(int(given[:5].sum()), 5)
        assert found.precision == Share(int(given[:5].sum()), int(given.sum()))
        assert found.precision.count >= 0.8 * found.precision.of

    assert model.calibration is not None
    assert new.calibration is not None
    high, low = 6 / 7, 1 / (SPLIT_ROWS["val"] + 2)
    mean_bias = np.mean(model.calibration.biases)

    def loss(bias: float) -> float:
        likely = expit(model.calibration.slope * scores + bias)
        targets = np.where(labels, high, low)
        cross = -(targets * np.log(likely) + (1 - targets) * np.log1p(-likely)).sum()
        return float(cross + RIDGE / 2 * (bias - mean_bias) ** 2)

    assert new.calibration.biases[:-1] == model.calibration.biases
    best = minimize_scalar(loss, bounds=(-50, 50), method="bounded", options={"xatol": 1e-9})
    assert new.calibration.biases[-1] == pytest.approx(best.x, abs=1e-4)


def test_more_classes_and_everything_that_takes_a_bundle(
    model: Bundle, tiny: Dataset, tmp_path: Path
) -> None:
    one, two, given = tmp_path / "one", tmp_path / "two", tmp_path / "given"
    arguments = ["add-class", model.folder, "dance", tiny.path, "--id", "train-004"]
    arguments += ["--id", "train-009", "--out", one]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "'dance' was added from 2 clips; the other labels are as before"
    assert "an example scores higher than a clip without it in " in lines[2]
    assert lines[-1] == f"bundle: {one}"
    second, _ = raymc.add_class(load_bundle(one), "sing", tiny.path, two, ids=["train-011"])
    assert (scores_of(second, tiny)[:, :-1] == scores_of(load_bundle(one), tiny)).all()
    assert second.prototypes.shape == (len(LABELS) + 2, model.prototypes.shape[1])
    exported = raymc.export(second, given, license="mit")
    assert (scores_of(exported, tiny) == scores_of(second, tiny)).all()
    card = (given / "README.md").read_text()
    assert "| dance | no |" in card
    assert "Added later from a few clips, without training: dance, sing." in card
    frame = raymc.predict(exported, tiny.path)
    assert {"probability.dance", "probability.sing"} < set(frame.columns)
    told = json.loads((two / "bundle.json").read_text())
    assert told["added"] == ["dance", "sing"]


def test_labelled_examples_bring_clips_without_the_label(
    model: Bundle, tiny: Dataset, tmp_path: Path
) -> None:
    def row(i: int) -> Row:
        of = tiny_row("train", i)
        labels = [*of.labels, NAME] if i % 3 == 0 else of.labels
        known = {1: ["music"], 2: []}.get(i % 4)
        return replace(of, id=f"film{i // 6}@{i}-{i + 1}", labels=labels, observed=known)

    vocabulary = Vocabulary((*VOCABULARY.names, NAME), {"music": (NAME,)})
    path, rows = str(tmp_path / "songs"), [row(i) for i in range(24)]
    write_dataset(path, {"train": rows}, vocabulary=vocabulary, modalities=MODALITIES)
    found = add_class(model, NAME, [path], tmp_path / "new", against=path, confidence=0.0)
    has = [i for i in range(24) if i % 3 == 0 and i % 4 != 2]
    lacks = [i for i in range(24) if i % 3 and i % 4 != 2]
    unknown = [i for i in range(24) if i % 4 == 2]
    assert (found.clips, found.videos) == (len(has), 4)
    assert found.of_others == f"of the same source and of {path}"
    assert found.others == 2 * len(lacks) + len(unknown)
    alone = add_class(model, NAME, [path], tmp_path / "alone")
    assert alone.others == len(lacks) + SPLIT_ROWS["val"]
    # A label of a video that is left out is scored without all clips of that video.
    one = add_class(
        model, NAME, [path], tmp_path / "one", ids=["film0@0-1", "film0@3-4"], confidence=0.0
    )
    assert np.isnan(one.auc)
    assert (
        one.reason == "it has examples of one video only, which can't be scored by those of others"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("children_are_threads")
def test_videos_are_examples(
    media_bundle: Path, media_dataset: Dataset, videos: Path, tmp_path: Path
) -> None:
    model = load_bundle(media_bundle)
    files, told = sorted(map(str, videos.iterdir())), list[ExtractProgress]()
    found = add_class(model, "tone", files, tmp_path / "new", listener=told.append)
    assert {one.files for one in told} == {len(files)}  # they are read in one go
    new = load_bundle(tmp_path / "new")
    assert (found.clips, found.videos) == (4, 2)
    (failure,) = found.failures
    assert failure.startswith(f"{videos / '2.mp4'}: ")
    table = read_shard(media_dataset, *media_dataset.split("train"))
    (before, after) = (one.score(table) for one in (model, new))
    assert (after[:, :2] == before).all()
    assert (after[:, 2] > 0.5).all()
    # The clips of val are the same videos, and so are no clips without it.
    assert (found.others, found.reason) == (
        0,
        "no clips without it are at hand to compare with: name some with --against",
    )


@pytest.mark.slow
def test_what_cannot_be_added(
    model: Bundle, tiny: Dataset, tiny_config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def refused(
        error: type[Exception], message: str, *, of: Bundle = model, **given: object
    ) -> None:
        asked = {"name": NAME, "examples": tiny.path, "out": out, **given}
        with pytest.raises(error, match=message):
            raymc.add_class(of, **asked)  # pyright: ignore[reportArgumentType]

    refused(DataError, "has the label 'add' already", name="add")
    refused(DataError, "a label's name is empty", name="")
    refused(ConfigError, "--id 'x': no clip of the examples has this id", ids=["x"])
    refused(ConfigError, "confidence is 1.0; it must be", confidence=1.0)
    refused(DataError, "no such file or folder", examples=tmp_path / "nowhere")
    refused(DataError, "already exists", out=tmp_path)
    config = override(tiny_config, {"loss.name": "bce", "train.epochs": 1})
    linear = load_bundle(bundle_here(tiny, config, tmp_path / "linear"))
    refused(BundleError, "the loss 'bce', whose classes have no prototypes", of=linear)
    assert not out.exists()


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    assert Share(4, 5).interval == pytest.approx((0.283582, 0.994949), abs=1e-6)
    assert str(Share(5, 5)) == "5 of 5 (48 to 100 %)"
    assert Share(0, 0).interval == (0.0, 1.0)
