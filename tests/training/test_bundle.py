"""Bundles score as the model did, and are refused where they are torn, altered or don't fit."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LABELS, MODALITIES, SPLIT_ROWS, VOCABULARY, feed_of, tiny_row

from raymc.config import Config, override, to_dict
from raymc.data.feed.looks import group_look_alikes
from raymc.data.feed.shared import data_here
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Modality, read_shard
from raymc.errors import BundleError, CheckpointError, DataError
from raymc.metrics.calibration import Calibration
from raymc.training import bundle as bundles
from raymc.training import checkpoint, loop, validation
from raymc.training import learner as learning
from raymc.training.bundle import (
    DESCRIPTION,
    WEIGHTS,
    Bundle,
    digest_of,
    load_bundle,
    save_bundle,
    tokens_of_frames,
)
from raymc.training.checkpoint import Progress

CPU = torch.device("cpu")
THRESHOLDS = [0.25, None, -1.0, 0.1 + 0.2, None]
CALIBRATION = Calibration(
    4.0 + 1 / 3, (0.1, -0.2, -1 / 3, 0.0, 2.0), {2: ((-0.5, 0.7), (0.1, 0.9)), 4: ((0.2,), (0.5,))}
)


def make_checkpoint(config: Config, dataset: Dataset, folder: Path) -> Path:
    """An untrained model's checkpoint, with thresholds."""
    feeds = data_here(dataset, config).feeds(config)
    learner = learning.make_learner(config, dataset.manifest, feeds, device=CPU)
    metrics = {"train/lr": 0.1, "train/samples_per_second": 1.0, "val/mAP": 0.5}
    progress = Progress(
        epoch=1,
        best_epoch=1,
        metrics=metrics,
        best=metrics,
        thresholds=THRESHOLDS,
        calibration=CALIBRATION.to_json(),
        config=to_dict(config),
        dataset=loop.describe_dataset(dataset.manifest),
    )
    checkpoint.save(folder, learner.model.state_dict(), learner.optimizer.state_dict(), progress)
    return folder


@pytest.fixture(scope="module")
def made(tiny: Dataset, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its bundle; not to be written to."""
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(make_checkpoint(tiny_config, tiny, folder / "checkpoint"), folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def bundle(made: Path) -> Bundle:
    """The bundle, loaded."""
    return load_bundle(made / "bundle")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the bundle's folder, to break."""
    return shutil.copytree(made / "bundle", tmp_path / "bundle")


def table_of(dataset: Dataset, split: str) -> pa.Table:
    return pa.concat_tables([read_shard(dataset, shard) for shard in dataset.split(split)])


def test_a_bundle_says_what_it_was_made_from(
    bundle: Bundle, tiny: Dataset, tiny_config: Config
) -> None:
    assert bundle.config == tiny_config
    assert bundle.vocabulary == VOCABULARY
    assert bundle.modalities == MODALITIES
    assert bundle.metrics["val/mAP"] == 0.5
    assert bundle.dataset_digest == tiny.manifest.digest()
    assert bundle.device == CPU
    assert not bundle.model.training


def test_thresholds_may_be_out_of_reach(bundle: Bundle) -> None:
    expected = np.array([np.inf if t is None else t for t in THRESHOLDS], np.float32)
    assert bundle.thresholds.dtype == np.float32
    np.testing.assert_array_equal(bundle.thresholds, expected)


def test_only_safetensors_and_json_are_written(made: Path) -> None:
    assert sorted(path.name for path in (made / "bundle").iterdir()) == [DESCRIPTION, WEIGHTS]
    assert sorted(path.name for path in made.iterdir()) == ["bundle", "checkpoint"]


@pytest.mark.parametrize("queries", [0, 2])
@pytest.mark.parametrize("name", ["prototype_contrast", "bce"])
def test_scores_are_those_of_the_model(
    tiny: Dataset, tiny_config: Config, tmp_path: Path, name: str, queries: int
) -> None:
    config = override(tiny_config, {"loss.name": name, "model.class_queries": queries})
    save_bundle(make_checkpoint(config, tiny, tmp_path / "c"), tmp_path / "b")
    feeds = data_here(tiny, config).feeds(config)
    learner = learning.make_learner(config, tiny.manifest, feeds, device=CPU)
    loaded = load_bundle(str(tmp_path / "b"))
    for split in SPLIT_ROWS:
        expected = validation.predict(
            learner.model, feed_of(tiny, split, config), device=CPU
        ).scores
        scores = loaded.score(table_of(tiny, split))
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_a_bundle_knows_which_look_alikes_share_a_query(
    tiny: Dataset, tiny_config: Config, tmp_path: Path
) -> None:
    config = override(tiny_config, {"model.class_queries": 2})
    feeds = data_here(tiny, config).feeds(config)
    assert feeds.looks is not None
    groups = group_look_alikes(feeds.looks, feeds.class_counts, 2).tolist()
    assert groups != [k % 2 for k in range(len(LABELS))]
    save_bundle(make_checkpoint(config, tiny, tmp_path / "c"), tmp_path / "b")
    places = load_bundle(tmp_path / "b").model.places
    assert [place % 2 for place in places.tolist()] == groups


def test_scores_do_not_depend_on_how_many_rows_come_at_a_time(
    bundle: Bundle, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(tiny, "train")
    whole = bundle.score(table)
    monkeypatch.setattr(bundles, "ROWS_AT_A_TIME", 7)
    np.testing.assert_allclose(bundle.score(table), whole, rtol=0, atol=1e-6)
    nothing = bundle.score(table.slice(0, 0))
    assert (nothing.shape, nothing.dtype) == ((0, len(LABELS)), np.float32)


def test_a_table_without_a_modality_is_of_clips_without_it(bundle: Bundle, tiny: Dataset) -> None:
    table = table_of(tiny, "val")
    silent, none = table.drop_columns("audio"), pa.nulls(len(table), pa.binary())
    expected = bundle.score(silent.append_column("audio", none))
    assert (bundle.score(silent) == expected).all()
    assert not np.allclose(expected, bundle.score(table))
    bundle.check_dataset(replace(tiny.manifest, modalities=MODALITIES[:1]))
    recipe = {"visual": "patches", "fps": 1.0, "audio": "logmel"}
    made = {"made_by": "raymc extract", **recipe, "audio": "none"}
    without = replace(tiny.manifest, modalities=MODALITIES[:1], provenance=made)
    replace(bundle, recipe=recipe).check_dataset(without)
    with pytest.raises(BundleError, match=r"\(fps: 2.0 → 1.0\)"):
        replace(bundle, recipe={**recipe, "fps": 2.0}).check_dataset(
            replace(without, provenance={**made, "fps": 1.0})
        )
    later = replace(
        bundle,
        recipe={**recipe, "frames": "changed", "screen": "rapidocr", "audio_rate_hz": 5.0},
    )
    with pytest.raises(BundleError, match=r"\(screen: rapidocr → none; frames: changed → all\)"):
        later.check_dataset(without)  # which has no sound


def test_a_model_that_never_lost_a_modality_needs_all(bundle: Bundle, tiny: Dataset) -> None:
    needy = replace(bundle, config=override(bundle.config, {"model.modality_dropout": 0.0}))
    table = table_of(tiny, "val")
    with pytest.raises(DataError, match=r"no column 'audio', which is required"):
        needy.score(table.drop_columns("audio"))
    with pytest.raises(DataError, match=r"no column 'visual', which is required"):
        bundle.score(table.drop_columns(["audio", "visual"]))
    with pytest.raises(BundleError, match=r"reads modality 'audio', but the dataset has only vis"):
        needy.check_dataset(replace(tiny.manifest, modalities=MODALITIES[:1]))


def test_a_bundle_of_0_1_0_computes_as_there(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    means = {name: weights.pop(name) for name in sorted(weights) if name.endswith(".mean")}
    assert list(means) == ["embed.audio.mean", "embed.visual.mean"]
    assert all(mean.abs().max() > 0.1 for mean in means.values())
    save_file(weights, copy / "other")
    exchange_weights(copy, (copy / "other").read_bytes())
    edit(copy, as_in_0_1_0)
    loaded = load_bundle(copy)
    assert loaded.config.model.absent == "seen"
    assert loaded.model.absent_are_seen
    assert all(not mean.any() for mean in loaded.model.buffers())


def test_labels_are_given_from_their_threshold_on(bundle: Bundle) -> None:
    scores = np.tile(bundle.thresholds, (3, 1))
    scores[:, [1, 4]] = 1e9
    scores[1] = np.nextafter(scores[1], np.float32(-np.inf))
    scores[2, 0] = 2.0
    scores[2, 2:4] = -3.0
    assert bundle.labels_above(scores) == [["add", "rhyme", "spell"], [], ["add"]]


def test_probabilities_are_those_of_the_calibration(bundle: Bundle) -> None:
    assert bundle.calibration == CALIBRATION
    scores = np.random.default_rng(0).uniform(-1, 1, (20, 5)).astype(np.float32)
    found = bundle.probabilities(scores)
    assert found.dtype == np.float32
    logits = CALIBRATION.slope * scores.astype(np.float64) + np.array(CALIBRATION.biases)
    expected = 1.0 / (1.0 + np.exp(-logits))
    expected[:, 4] = 0.5
    expected[:, 2] = 0.1 + 0.8 * np.clip((scores[:, 2] + 0.5) / 1.2, 0.0, 1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("absent", ["key", "value"])
def test_a_bundle_without_a_calibration(copy: Path, absent: str) -> None:
    edit(
        copy,
        lambda values: (
            as_in_0_1_0({key: x for key, x in values.items() if key != "calibration"})
            if absent == "key"  # as earlier versions wrote it
            else values.update(calibration=None, digest=digest_of({**values, "calibration": None}))
        ),
    )
    old = load_bundle(copy)
    assert old.calibration is None
    assert np.isfinite(old.thresholds).any()
    with pytest.raises(BundleError, match=r"no probabilities: train.calibration was none, "):
        old.probabilities(np.zeros((1, 5), np.float32))


def test_a_beaten_epoch_makes_no_bundle(made: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(made / "checkpoint")
    beaten = replace(loaded.progress, epoch=7, best_epoch=4, thresholds=[], calibration=None)
    checkpoint.save(tmp_path / "beaten", loaded.weights, loaded.training_state, beaten)
    with pytest.raises(CheckpointError, match=r"of epoch 7 has no .* epoch 4 is better"):
        save_bundle(tmp_path / "beaten", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_says_how_long_its_clips_were(made: Path, tmp_path: Path) -> None:
    save_bundle(made / "checkpoint", tmp_path / "bundle", clip_seconds=12.5)
    assert load_bundle(tmp_path / "bundle").clip_seconds == 12.5
    assert load_bundle(made / "bundle").clip_seconds is None


def test_a_bundle_replaces_an_earlier_one(made: Path, copy: Path) -> None:
    (copy / "left over").write_text("")
    partial = copy.with_name("bundle.partial")
    partial.mkdir()
    (partial / "left over").write_text("")
    save_bundle(made / "checkpoint", copy)
    assert sorted(path.name for path in copy.iterdir()) == [DESCRIPTION, WEIGHTS]
    assert not partial.exists()


def test_an_interrupted_save_leaves_the_old_bundle(
    made: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    for folder in (copy, copy.with_name("fresh")):
        with pytest.raises(OSError, match="no space"):
            save_bundle(made / "checkpoint", folder)
    assert load_bundle(copy).config == load_bundle(made / "bundle").config
    assert not copy.with_name("fresh").exists()


def test_a_torn_checkpoint_makes_no_bundle(made: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(made / "checkpoint", tmp_path / "torn")
    (torn / checkpoint.WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="differs from what was written"):
        save_bundle(torn, tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        save_bundle(tmp_path / "nowhere", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description in place, or replace it by what `change` returns."""
    path = folder / DESCRIPTION
    values = json.loads(path.read_text())
    replaced = change(values)
    path.write_text(json.dumps(values if replaced is None else replaced))


def as_in_0_1_0(values: dict[str, Any]) -> dict[str, Any]:
    """A description as raymc 0.1.0 wrote it."""
    del values["config"]["model"]["absent"]
    return {key: value for key, value in values.items() if key != "digest"}


def new_loss(values: dict[str, Any]) -> dict[str, Any]:
    """A description as a later version may write it, with the digest that belongs to it."""
    values["config"]["loss"]["name"] = "arcface"
    return {**values, "digest": digest_of(values)}


def exchange_weights(folder: Path, data: bytes) -> None:
    """Replace the weights and their digest."""
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, lambda values: values.update(weights_sha256=hashlib.sha256(data).hexdigest()))


def flip_weights(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-7] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["prototypes"]
    save_file(weights, folder / "other")
    exchange_weights(folder, (folder / "other").read_bytes())


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, r"is not a raymc bundle: bundle.json can't be read .*`raymc tr"),
    "no description": (
        lambda folder: (folder / DESCRIPTION).unlink(),
        r"is not a raymc bundle: bundle.json can't be read \(No such file",
    ),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        r"is not a raymc bundle: model.safetensors can't be read \(No such file",
    ),
    "torn description": (
        lambda folder: (folder / DESCRIPTION).write_text('{"format_version": 1'),
        r"is corrupt: bundle.json can't be read",
    ),
    "binary description": (
        lambda folder: (folder / DESCRIPTION).write_bytes(b"\xff"),
        r"is corrupt: bundle.json can't be read",
    ),
    "a list": (lambda folder: edit(folder, lambda _: []), r"is corrupt: bundle.json can't be"),
    "a foreign object": (
        lambda folder: edit(folder, lambda _: {"name": 1}),
        r"is corrupt: bundle.json can't be read",
    ),
    "a version that is none": (
        lambda folder: edit(folder, lambda values: values.update(format_version="x")),
        r"is corrupt: bundle.json can't be read",
    ),
    "a newer version": (
        lambda folder: edit(folder, lambda values: values.update(format_version=2)),
        r"has format 2; this raymc reads up to 1: upgrade raymc",
    ),
    "torn weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
        r"is corrupt: model.safetensors differs from what was saved",
    ),
    "altered weights": (flip_weights, r"is corrupt: model.safetensors differs from what was saved"),
    "foreign weights": (
        lambda folder: exchange_weights(folder, b"nonsense"),
        r"model.safetensors does not match its configuration",
    ),
    "a weight that is missing": (
        drop_weight,
        r"model.safetensors does not match its configuration",
    ),
    "another model": (
        lambda folder: edit(folder, lambda values: values["config"]["model"].update(depth=3)),
        r"model.safetensors does not match its configuration",
    ),
    "other classes": (
        lambda folder: edit(folder, lambda values: values["vocabulary"]["names"].append("new")),
        r"model.safetensors does not match its configuration",
    ),
    "a setting of another raymc": (
        lambda folder: edit(folder, lambda values: values["config"]["model"].update(rope=True)),
        r"was made by a newer raymc than this, .*\(unknown setting 'model.rope'.*: upgrade raymc",
    ),
    "a key of another raymc": (
        lambda folder: edit(folder, lambda values: values.update(languages=["en"])),
        r"was made by a newer raymc than this, .*\(unknown key 'languages'\): upgrade raymc",
    ),
    "a modality's key of another raymc": (
        lambda folder: edit(folder, lambda values: values["modalities"][0].update(unit="dB")),
        r"was made by a newer raymc than this, .*\(unknown key 'unit' in 'modalities'\)",
    ),
    "a loss of another raymc": (
        lambda folder: edit(folder, lambda values: new_loss(values)),
        r"was made by a newer raymc than this, .*loss.name = 'arcface'.*: upgrade raymc",
    ),
    **{
        f"other {key}": (
            lambda folder, change=change: edit(folder, change),
            r"was changed after it was saved: bundle.json differs from its digest; restore it ",
        )
        for key, change in {
            "heads": lambda values: values["config"]["model"].update(heads=4),
            "fusion_depth": lambda values: values["config"]["model"].update(fusion_depth=2),
            "thresholds": lambda values: values["thresholds"].__setitem__(0, 0.2),
            "calibration": lambda values: values["calibration"].update(slope=1.0),
            "order of classes": lambda values: values["vocabulary"]["names"].reverse(),
            "rate": lambda values: values["modalities"][0].update(rate_hz=1.0),
            "dataset": lambda values: values.update(dataset_digest="0" * 64),
            "digest": lambda values: values.update(digest="0" * 64),
        }.items()
    },
    "no digest of all": (
        lambda folder: edit(folder, lambda values: values.pop("digest") and None),
        r"was changed after it was saved: bundle.json has lost its digest; restore it ",
    ),
    "a modality that is none": (
        lambda folder: edit(folder, lambda values: values["modalities"][0].update(dim=0)),
        r"is corrupt: bundle.json: DataError: modality 'visual': expected dim",
    ),
    "labels twice": (
        lambda folder: edit(folder, lambda values: values["vocabulary"]["names"].append("add")),
        r"is corrupt: bundle.json: DataError: the vocabulary lists the label .add. twice",
    ),
    "a threshold too few": (
        lambda folder: edit(folder, lambda values: values["thresholds"].pop()),
        r"is corrupt: bundle.json: ValueError: 4 thresholds of 5 classes",
    ),
    "a calibration of too few classes": (
        lambda folder: edit(folder, lambda values: values["calibration"]["biases"].pop(0) and None),
        r"is corrupt: bundle.json: ValueError: curves of classes \[2, 4\]; there are 4",
    ),
    "a calibration of too many classes": (
        lambda folder: edit(folder, lambda values: values["calibration"]["biases"].append(0.0)),
        r"is corrupt: bundle.json: ValueError: calibration of 6 of 5 classes",
    ),
    "a calibration without a slope": (
        lambda folder: edit(folder, lambda values: values["calibration"].pop("slope") and None),
        r"is corrupt: bundle.json: KeyError: 'slope'",
    ),
    "a threshold that is none": (
        lambda folder: edit(folder, lambda values: values.update(thresholds=["x"] * 5)),
        r"is corrupt: bundle.json: ValueError",
    ),
    **{
        f"no {key}": (
            lambda folder, key=key: edit(folder, lambda values: values.pop(key) and None),
            rf"is corrupt: bundle.json: KeyError: '{key}'",
        )
        for key in ("config", "vocabulary", "modalities", "thresholds", "metrics", "dataset_digest")
    },
    "no digest": (
        lambda folder: edit(folder, lambda values: values.pop("weights_sha256") and None),
        r"is corrupt: model.safetensors differs from what was saved",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bundle_that_is_broken(copy: Path, name: str) -> None:
    spoil, message = BROKEN[name]
    spoil(copy)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_fits(bundle: Bundle, tiny: Dataset) -> None:
    more = (*MODALITIES[::-1], Modality("text", 3))
    manifest = replace(tiny.manifest, modalities=more, license="another one")
    bundle.check_dataset(manifest)
    bundle.check_labels(manifest)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (
            (Modality("text", 3), MODALITIES[0], replace(MODALITIES[1], dim=5)),
            r"'audio' with dim 4, .* has dim 5",
        ),
        ((replace(MODALITIES[0], dim=7), MODALITIES[1]), r"'visual' with dim 6, .* has dim 7"),
        (
            (MODALITIES[0], replace(MODALITIES[1], dtype="float16")),
            r"'audio' with dtype float32, .* has dtype float16",
        ),
        (
            (MODALITIES[0], replace(MODALITIES[1], rate_hz=5.0)),
            r"'audio' with rate_hz 4.0, .* has rate_hz 5.0",
        ),
        (
            (replace(MODALITIES[0], scale=2.0), MODALITIES[1]),
            r"'visual' with scale 1.0, .* has scale 2.0",
        ),
        (
            (replace(MODALITIES[0], offset=0.5), MODALITIES[1]),
            r"'visual' with offset 0.0, .* has offset 0.5",
        ),
    ],
)
def test_a_dataset_with_other_tokens(
    bundle: Bundle, tiny: Dataset, modalities: tuple[Modality, ...], message: str
) -> None:
    with pytest.raises(BundleError, match=f"{message}.*: use a dataset made in the same way"):
        bundle.check_dataset(replace(tiny.manifest, modalities=modalities))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (LABELS[:-1], r"5 classes, the dataset 4: they differ in other: evaluate"),
        ((*LABELS[:-1], "else"), r"5 classes, the dataset 5: they differ in else, other: "),
        (LABELS[::-1], r"5 classes, the dataset 5: they differ in their order: "),
    ],
)
def test_a_dataset_with_other_labels(
    bundle: Bundle, tiny: Dataset, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        bundle.check_labels(replace(tiny.manifest, vocabulary=Vocabulary(names)))


def test_frames_of_lists_score_as_shards_do(bundle: Bundle, tiny: Dataset) -> None:
    rows = [tiny_row("val", i) for i in range(SPLIT_ROWS["val"])]
    columns: dict[str, list[Any]] = {"id": [row.id for row in rows]}
    for modality in MODALITIES:
        stored = [row.tokens[modality.name] for row in rows]
        columns[modality.name] = [None if x is None else x.tolist() for x in stored]
    scores = bundle.score_tokens(tokens_of_frames(columns, MODALITIES))
    np.testing.assert_allclose(scores, bundle.score(table_of(tiny, "val")), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_tokens_of_any_kind_of_list(dtype: Any) -> None:
    modality = Modality("m", 2, dtype)
    column = [
        [[1, 2], [3, 4]],
        None,
        np.array([[5.0, 6.0]]),
        float("nan"),
        [],
        [np.array([7, 8]), [9, 10]],
        np.empty((0, 2)),
    ]
    found = tokens_of_frames({"m": column, "other": [0] * 7}, [modality])["m"]
    assert found.values.dtype == np.dtype(dtype)
    assert found.values.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    assert found.lengths.tolist() == [2, 0, 1, 0, 0, 2, 0]
    nothing = tokens_of_frames({"m": []}, [modality])["m"]
    assert (len(nothing), nothing.values.shape) == (0, (0, 2))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float32", [1.0, 2.0], r"has shape \(2,\), expected \[tokens, 2\]"),
        ("float32", [[1.0], [2.0]], r"has shape \(2, 1\), expected \[tokens, 2\]"),
        ("float32", [[]], r"has shape \(1, 0\), expected \[tokens, 2\]"),
        ("float32", [[[1.0, 2.0]]], r"has shape \(1, 1, 2\), expected \[tokens, 2\]"),
        ("float32", [[1.0, 2.0], [3.0]], r"is not a nested list \[tokens\]\[dim\]"),
        ("float32", [["a", "b"]], r"is not a nested list \[tokens\]\[dim\]"),
        ("float32", [[1.0, None]], r"holds values that float32 can't represent"),
        ("float32", "text", r"is not a nested list \[tokens\]\[dim\]"),
        ("float32", 5, r"is not a nested list \[tokens\]\[dim\]"),
        ("float32", [[1.0, float("inf")]], r"holds values that float32 can't represent"),
        ("float32", [[1.0, 1e39]], r"holds values that float32 can't represent"),
        ("float16", [[1.0, 70000.0]], r"holds values that float16 can't represent"),
        ("float16", [[1.0, float("nan")]], r"holds values that float16 can't represent"),
        ("uint8", [[1, 256]], r"holds values that uint8 can't represent"),
        ("uint8", [[1, -1]], r"holds values that uint8 can't represent"),
        ("uint8", [[1, 0.5]], r"holds values that uint8 can't represent"),
        ("uint8", [[1, float("nan")]], r"holds values that uint8 can't represent"),
    ],
)
def test_frames_that_hold_no_tokens(dtype: Any, value: Any, message: str) -> None:
    good = [[1, 2]]
    with pytest.raises(BundleError, match=f"row 1: 'm' {message}"):
        tokens_of_frames({"m": [good, value, good]}, [Modality("m", 2, dtype)])


def test_a_frame_without_a_modality() -> None:
    with pytest.raises(BundleError, match=r"no column 'audio', which the model reads"):
        tokens_of_frames({"visual": []}, MODALITIES)
