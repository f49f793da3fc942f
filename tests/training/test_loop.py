"""Runs: resumed, repeated, stopped early, diverged; and evaluations, row by row."""

import itertools
import math
import shutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import LABELS, MODALITIES, SPLIT_ROWS, VOCABULARY, feed_of, feeds_of, tiny_row

from raymc.config import Config, LossName, override, to_dict
from raymc.data.check import check_dataset
from raymc.data.feed.batches import block_from_table
from raymc.data.shards import Dataset, Row, open_dataset, read_shard, token_means, write_dataset
from raymc.errors import CheckpointError, DivergedError
from raymc.evaluation.scoring import score_split
from raymc.events import Ended, EpochEnded, Event, Started, Stepped
from raymc.metrics.calibration import fit_calibration
from raymc.metrics.families import family_means
from raymc.metrics.metrics import evaluate_scores
from raymc.metrics.thresholds import thresholds_at_precision
from raymc.model.losses import compute_loss, supcon
from raymc.training import checkpoint, loop, validation
from raymc.training import learner as learning
from raymc.training.bundle import load_bundle, save_bundle
from raymc.training.checkpoint import Progress
from raymc.training.optimizer import lr_at

CPU = torch.device("cpu")
# What of an epoch the clock decides.
TIMED = ("train/samples_per_second", "train/waiting")
every_loss = pytest.mark.parametrize("name", typing.get_args(LossName))


@dataclass
class Run:
    """What a run told, and the checkpoint of every epoch it trained."""

    folder: Path
    events: list[Event] = field(default_factory=list)
    reports: list[EpochEnded] = field(default_factory=list)
    progress: Progress | None = None

    def report(self, event: EpochEnded, checkpoint_folder: Path | None) -> None:
        assert checkpoint_folder is not None
        shutil.copytree(checkpoint_folder, self.checkpoint(event.epoch), dirs_exist_ok=True)
        self.reports.append(event)

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / f"epoch {epoch}"

    def metrics(self) -> dict[int, dict[str, float]]:
        """The metrics of every epoch that don't depend on the clock."""
        return {
            report.epoch: {k: v for k, v in report.metrics.items() if k not in TIMED}
            for report in self.reports
        }


def train(
    config: Config, dataset: Dataset, folder: Path, *, resume: Path | None = None, stop: int = 0
) -> Run:
    """Run `loop.fit`; with `stop`, as if the process were killed after that epoch's report."""
    run = Run(folder)

    def report(event: EpochEnded, checkpoint_folder: Path | None) -> None:
        run.report(event, checkpoint_folder)
        if event.epoch == stop:
            raise InterruptedError

    try:
        run.progress = loop.fit(
            config,
            dataset.manifest,
            feeds_of(dataset, config),
            device=CPU,
            emit=run.events.append,
            report=report,
            resume=resume,
        )
    except InterruptedError:
        assert stop
    return run


def tensors_of(state: Mapping[Any, Any]) -> Iterator[torch.Tensor]:
    """All tensors of nested mappings, in order."""
    for value in state.values():
        if isinstance(value, Mapping):
            yield from tensors_of(value)
        elif isinstance(value, torch.Tensor):
            yield value


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Weights, moments and progress, bit for bit, but for what the clock says."""
    first, second = checkpoint.load(one), checkpoint.load(other)
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(x, second.weights[name]) for name, x in first.weights.items())
    states = (tensors_of(found.training_state) for found in (first, second))
    for state, other_state in zip(*states, strict=True):
        assert torch.equal(state, other_state)
    cleared = [
        replace(
            found.progress,
            metrics={**found.progress.metrics, **dict.fromkeys(TIMED)},
            best={**found.progress.best, **dict.fromkeys(TIMED)},
        )
        for found in (first, second)
    ]
    assert cleared[0] == cleared[1]


@pytest.fixture(scope="module")
def random_config(tiny_config: Config) -> Config:
    """Three epochs with all that is drawn at random."""
    return override(
        tiny_config, {"train.epochs": 3, "model.dropout": 0.3, "model.modality_dropout": 0.5}
    )


@pytest.fixture(scope="module")
def whole(random_config: Config, tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupts."""
    return train(random_config, tiny, tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_a_run_tells_its_story(whole: Run, tiny: Dataset) -> None:
    started, *_, ended = whole.events
    assert isinstance(started, Started)
    assert (started.epochs, started.first_epoch, started.rows) == (3, 1, SPLIT_ROWS["train"])
    assert started.steps_per_epoch == math.ceil(SPLIT_ROWS["train"] / 8)
    weights = checkpoint.load_weights(whole.checkpoint(3))
    for name, mean in token_means(tiny, "train").items():
        found = weights.pop(f"embed.{name}.mean")
        torch.testing.assert_close(found, torch.tensor(mean), rtol=0, atol=0)
    assert started.parameters == sum(x.numel() for x in weights.values())
    assert whole.progress is not None
    assert ended == Ended("finished", whole.progress.best_epoch, whole.progress.best)
    assert [r.epoch for r in whole.reports] == [1, 2, 3]
    assert [r.is_last for r in whole.reports] == [False, False, True]
    assert all(r.seconds > 0 for r in whole.reports)
    losses = [metrics["train/loss"] for metrics in whole.metrics().values()]
    assert losses[-1] < losses[0]
    assert whole.progress.dataset["digest"] == tiny.manifest.digest()


@pytest.mark.slow
def test_the_best_epoch_is_that_of_the_best_metric(whole: Run) -> None:
    values = [metrics["val/mAP"] for metrics in whole.metrics().values()]
    assert len(set(values)) > 1
    best = -math.inf
    for report, value in zip(whole.reports, values):
        assert report.is_best == (value > best)
        best = max(best, value)
        progress = checkpoint.load_progress(whole.checkpoint(report.epoch))
        assert progress.epoch == report.epoch
        assert progress.best_epoch == 1 + values.index(best)
        assert progress.best["val/mAP"] == best
        assert progress.metrics == dict(report.metrics)
        assert progress.is_over == report.is_last


def test_a_resumed_run_is_the_uninterrupted_one(
    whole: Run, random_config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    rest = train(random_config, tiny, tmp_path, resume=whole.checkpoint(1))
    assert {1: whole.metrics()[1], **rest.metrics()} == whole.metrics()
    assert list(rest.metrics()) == [2, 3]
    assert isinstance(rest.events[0], Started)
    assert rest.events[0].first_epoch == 2
    for epoch in (2, 3):
        assert_same_checkpoint(rest.checkpoint(epoch), whole.checkpoint(epoch))


@pytest.mark.parametrize("name", ["prototype_contrast", "bce"])
def test_each_modality_s_own_loss_is_of_the_rows_that_have_it(
    name: str, tiny: Dataset, tiny_config: Config
) -> None:
    quiet = {"model.dropout": 0.0, "model.modality_dropout": 0.0, "loss.name": name}
    config = override(tiny_config, {**quiet, "loss.modality_weight": 0.7, "batch.size": 45})
    feeds = feeds_of(tiny, config)
    learner = learning.make_learner(config, tiny.manifest, feeds, device=CPU)
    learner.model.train()
    batch = next(iter(feeds.train.training(1)))
    assert not all((lengths > 0).all() for lengths in batch.lengths.values())
    embeddings = learner.model(batch.tokens, batch.lengths)

    def loss_of(embedding: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        scores = learner.model.scores(embedding[rows])
        return compute_loss(config.loss, scores, batch.labels[rows], batch.observed[rows])

    everyone = torch.ones(len(batch.rows), dtype=torch.bool)
    own = [loss_of(x, batch.lengths[m] > 0) for m, x in embeddings.by_modality.items()]
    expected = loss_of(embeddings.fused, everyone) + 0.7 * sum(own) / len(own)
    torch.testing.assert_close(learner.objective(batch), expected)


def test_the_probe_of_supcon_learns_and_teaches_the_model_nothing(
    tiny: Dataset, tiny_config: Config
) -> None:
    quiet = {"model.dropout": 0.0, "model.modality_dropout": 0.0}
    config = override(tiny_config, {**quiet, "loss.name": "supcon", "batch.size": 45})
    feeds = feeds_of(tiny, config)
    learner = learning.make_learner(config, tiny.manifest, feeds, device=CPU)
    batch = next(iter(feeds.train.training(1)))
    embedding = learner.model(batch.tokens, batch.lengths).fused
    head = (learner.model.prototypes, learner.model.bias)
    judged = (batch.labels, batch.observed)
    probe = compute_loss(config.loss, learner.model.scores(embedding.detach()), *judged)
    contrast = supcon(embedding, *judged, temperature=config.loss.temperature)
    loss = learner.objective(batch)
    torch.testing.assert_close(loss, contrast + probe)
    rest = [
        p for p in learner.model.parameters() if p.requires_grad and all(p is not h for h in head)
    ]
    of_loss = torch.autograd.grad(loss, [*head, *rest], retain_graph=True, allow_unused=True)
    torch.testing.assert_close(of_loss[:2], torch.autograd.grad(probe, head))
    of_contrast = torch.autograd.grad(contrast, rest, allow_unused=True)
    torch.testing.assert_close(of_loss[2:], of_contrast)


def test_a_modality_that_dropout_took_is_not_in_its_own_loss(
    tiny: Dataset, tiny_config: Config
) -> None:
    config = override(tiny_config, {"model.modality_dropout": 0.9, "batch.size": 45})
    feeds = feeds_of(tiny, config)
    model = learning.make_learner(config, tiny.manifest, feeds, device=CPU).model.train()
    batch = next(iter(feeds.train.training(1)))
    there = torch.stack([lengths > 0 for lengths in batch.lengths.values()])
    kept = torch.stack(list(model(batch.tokens, batch.lengths).present.values()))
    assert (kept <= there).all()
    assert (kept.sum(dim=0) == 1)[there.all(dim=0)].any()
    assert kept.any(dim=0)[there.any(dim=0)].all()


@pytest.mark.slow
def test_the_running_average_of_the_weights_is_what_is_judged_and_kept(
    random_config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    settings = {"train.epochs": 2, "batch.size": 15, "optimizer.average_epochs": 0.5}
    config = override(random_config, settings)
    feeds = feeds_of(tiny, config)
    learner = learning.make_learner(config, tiny.manifest, feeds, device=CPU)
    learner.model.train()
    seen: list[dict[str, torch.Tensor]] = []
    decay = math.exp(-1 / (0.5 * feeds.train.steps))
    for epoch in (1, 2):
        for step, batch in enumerate(feeds.train.training(epoch)):
            learning.train_step(learner, config, batch, epoch=epoch, step=step, feed=feeds.train)
            seen.append({name: x.clone() for name, x in learner.model.state_dict().items()})
    shares = torch.tensor([decay**age for age in reversed(range(len(seen)))])
    shares /= shares.sum()
    expected = {
        name: sum(share * state[name] for share, state in zip(shares, seen)) for name in seen[0]
    }
    run = train(config, tiny, tmp_path)
    kept = checkpoint.load(run.checkpoint(2))
    torch.testing.assert_close(kept.weights, expected)
    plain = train(override(config, {"optimizer.average_epochs": 0}), tiny, tmp_path / "plain")
    last = checkpoint.load(plain.checkpoint(2)).weights
    for name, raw in kept.training_state["weights"].items():
        assert torch.equal(raw, last[name])  # the average doesn't change how training goes
    learner.result.load_state_dict(kept.weights)
    found = validation.predict(learner.result, feeds.val, device=CPU)
    judged = evaluate_scores(found.scores, found.labels, found.observed)
    assert run.metrics()[2]["val/mAP"] == judged.mAP


def test_a_run_that_is_over_reports_again_and_trains_nothing(
    whole: Run, random_config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    again = train(random_config, tiny, tmp_path, resume=whole.checkpoint(3))
    assert [type(event) for event in again.events] == [Started, Ended]
    assert again.events[-1] == whole.events[-1]
    assert [report.epoch for report in again.reports] == [3]
    assert again.reports[0].is_last
    assert again.metrics()[3] == whole.metrics()[3]
    assert_same_checkpoint(again.checkpoint(3), whole.checkpoint(3))


def test_runs_repeat_by_seed(
    whole: Run, random_config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    same = train(random_config, tiny, tmp_path / "same", stop=2)
    assert same.metrics() == {epoch: whole.metrics()[epoch] for epoch in (1, 2)}
    assert_same_checkpoint(same.checkpoint(2), whole.checkpoint(2))
    seeded = override(random_config, {"train.seed": 1})
    other = train(seeded, tiny, tmp_path / "other", stop=1)
    assert other.metrics()[1]["train/loss"] != whole.metrics()[1]["train/loss"]


@pytest.mark.slow
def test_steps_are_told_but_not_all(
    tiny: Dataset, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_STEP_EVENTS", 0.0)
    run = train(override(tiny_config, {"train.epochs": 1}), tiny, tmp_path)
    told = [event for event in run.events if isinstance(event, Stepped)]
    assert [event.step for event in told] == [1, 2, 3, 4, 5, 6]
    mean = sum(event.loss for event in told) / 6
    assert mean == pytest.approx(run.metrics()[1]["train/loss"], rel=1e-5)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_STEP_EVENTS", 1e9)
    run = train(override(tiny_config, {"train.epochs": 1}), tiny, tmp_path)
    assert [type(event) for event in run.events] == [Started, Ended]


@pytest.mark.parametrize("clip_norm", [0.0, 0.01, 1e6])
def test_a_step_follows_the_schedule_and_clips(
    tiny: Dataset, tiny_config: Config, clip_norm: float
) -> None:
    config = override(tiny_config, {"optimizer.clip_norm": clip_norm})
    feeds = feeds_of(tiny, config)
    learner = learning.make_learner(config, tiny.manifest, feeds, device=CPU)
    batch = next(feeds.train.training(2))
    loop.train_step(learner, config, batch, epoch=2, step=4, feed=feeds.train)
    rate = lr_at(10, config.optimizer, steps_per_epoch=6, epochs=3)
    assert [group["lr"] for group in learner.optimizer.param_groups] == [rate, rate]
    gradients = [p.grad for p in learner.model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert norm == pytest.approx(0.01, rel=1e-3) if clip_norm == 0.01 else norm > 0.1


@pytest.mark.slow
def test_every_step_of_every_worker_draws_its_own_numbers(
    tiny: Dataset, tiny_config: Config
) -> None:
    learner = learning.make_learner(
        tiny_config, tiny.manifest, feeds_of(tiny, tiny_config), device=CPU
    )
    feed = feed_of(tiny, "train", tiny_config)
    batch = next(feed.training(1))

    def seed_of(seed: int, epoch: int, step: int, rank: int) -> int:
        config = override(tiny_config, {"train.seed": seed})
        learner.workers = replace(learner.workers, rank=rank)
        loop.train_step(learner, config, batch, epoch=epoch, step=step, feed=feed)
        return torch.initial_seed()

    draws = list(itertools.product((0, 1), (1, 2), (0, 1), (0, 1)))
    seeds = [seed_of(*draw) for draw in draws]
    assert len(set(seeds)) == len(draws)
    assert [seed_of(*draw) for draw in draws[::5]] == seeds[::5]


def advance(values: Sequence[float], config: Config) -> list[Progress]:
    """The progress of a run whose monitored metric takes these values."""
    progress, made = Progress(0, 0, {}, {}, []), []
    for epoch, value in enumerate(values, start=1):
        metrics = {config.train.monitor: value, "epoch": float(epoch)}
        progress = loop._advance(progress, epoch, metrics, config.train)
        made.append(progress)
    return made


@pytest.mark.parametrize(
    ("patience", "values", "over", "best"),
    [
        (0, [0.5, 0.4, 0.3, 0.2, 0.1], 5, 1),
        (1, [0.5, 0.6, 0.6], 3, 2),
        (2, [0.5, 0.4, 0.3], 3, 1),
        (2, [0.5, 0.4, 0.6, 0.5, 0.5], 5, 3),
        (9, [0.1, 0.2, 0.3, 0.4, 0.5], 5, 5),
        (1, [math.nan] * 5, 5, 5),
    ],
)
def test_patience(patience: int, values: list[float], over: int, best: int) -> None:
    config = override(
        Config(),
        {"train.epochs": 5, "train.patience": patience, "train.monitor": "val/R80"},
    )
    made = advance(values, config)
    assert [progress.is_over for progress in made] == [False] * (over - 1) + [True]
    assert made[-1].best_epoch == made[-1].best["epoch"] == best
    assert made[-1].reason == ("finished" if over == 5 else "early stop")


@pytest.mark.slow
def test_a_run_stops_early(tiny: Dataset, tiny_config: Config, tmp_path: Path) -> None:
    settings = {"train.epochs": 50, "train.patience": 2, "optimizer.lr": 1e-9, "batch.size": 45}
    run = train(override(tiny_config, settings), tiny, tmp_path)
    assert run.progress is not None
    last = run.progress.epoch
    assert last < 50
    assert last - run.progress.best_epoch == 2
    assert run.progress.reason == "early stop"
    assert run.events[-1] == Ended("early stop", last - 2, run.progress.best)
    again = train(override(tiny_config, settings), tiny, tmp_path, resume=run.checkpoint(last))
    assert [report.epoch for report in again.reports] == [last]


def test_a_run_diverges(tiny: Dataset, tiny_config: Config, tmp_path: Path) -> None:
    config = override(tiny_config, {"loss.temperature": 1e-40, "optimizer.lr": 0.5})
    message = r"the loss became nan in epoch 1: try a smaller optimizer.lr \(0.5\) or a larger "
    message += r"loss.temperature \(1e-40\); run `raymc data check .*` to see .* NaN"
    with pytest.raises(DivergedError, match=message) as caught:
        train(config, tiny, tmp_path)
    assert "\n" not in str(caught.value)


def test_values_too_large_to_square_are_named(
    tiny: Dataset, tiny_config: Config, tmp_path: Path
) -> None:
    splits = {split: [tiny_row(split, i) for i in range(9)] for split in ("train", "val")}
    splits["train"][4].tokens["audio"][0, 2] = 1e30
    path = f"{tmp_path}/large"
    write_dataset(path, splits, vocabulary=VOCABULARY, modalities=MODALITIES)
    message = r"epoch 1: row 4 of split train has 1e\+30 in modality audio, and .*: scale the feat"
    with pytest.raises(DivergedError, match=message) as caught:
        train(override(tiny_config, {"data.path": path}), open_dataset(path), tmp_path / "run")
    assert "optimizer.lr" not in str(caught.value)
    found = [str(finding) for finding in check_dataset(path)[0]]
    assert any("modality 'audio' has values beyond 1e+18" in finding for finding in found)


def test_a_run_diverges_in_its_last_step(
    tiny: Dataset, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_epoch(learner: learning.Learner, *_: Any, **__: Any) -> dict[str, float]:
        with torch.no_grad():
            learner.model.prototypes.fill_(math.nan)
        return {"train/loss": 1.0}

    monkeypatch.setattr(loop, "train_epoch", train_epoch)
    with pytest.raises(DivergedError, match=r"scores of the validation split became .* epoch 1"):
        train(tiny_config, tiny, tmp_path)


def test_a_checkpoint_of_another_dataset(
    whole: Run, random_config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    other = replace(tiny, manifest=replace(tiny.manifest, license="CC0-1.0"))
    with pytest.raises(CheckpointError, match=r"trained on another dataset than .*run.name=…"):
        train(random_config, other, tmp_path, resume=whole.checkpoint(2))


@pytest.mark.parametrize(
    "settings", [{"model.width": 32}, {"model.depth": 3}, {"model.fusion": "bottleneck"}], ids=str
)
def test_a_checkpoint_of_another_model(
    whole: Run, random_config: Config, tiny: Dataset, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = override(random_config, settings)
    with pytest.raises(CheckpointError, match=r"another model than this .*run.name=…") as caught:
        train(config, tiny, tmp_path, resume=whole.checkpoint(2))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_torn(
    whole: Run, random_config: Config, tiny: Dataset, tmp_path: Path
) -> None:
    torn = shutil.copytree(whole.checkpoint(2), tmp_path / "torn")
    (torn / checkpoint.TRAINING).write_bytes(b"")
    with pytest.raises(CheckpointError, match="differs from what was written"):
        train(random_config, tiny, tmp_path, resume=torn)


def bare(split: str, index: int, keep: str) -> Row:
    """A row that has nothing but what `keep` says."""
    row = tiny_row(split, index)
    tokens = dict(row.tokens) if keep == "tokens" else {}
    labels = list(row.labels) if keep == "labels" else []
    return replace(row, tokens=tokens, labels=labels, observed=None)


def odd_dataset(kind: str, folder: Path) -> Dataset:
    """Datasets whose training split lacks something altogether."""
    make = {
        "no labels": lambda i: bare("train", i, "tokens"),
        "no tokens": lambda i: bare("train", i, "labels"),
        "one label": lambda i: replace(tiny_row("train", i), labels=LABELS[:1] * (i == 5)),
        "nothing observed": lambda i: replace(tiny_row("train", i), labels=[], observed=[]),
        "every label": lambda i: replace(tiny_row("train", i), labels=LABELS),
    }[kind]
    vocabulary = VOCABULARY
    if kind == "nothing observed":
        vocabulary = replace(VOCABULARY, groups={"all": LABELS})
    write_dataset(
        str(folder),
        {
            "train": [make(i) for i in range(21)],
            "val": [replace(tiny_row("val", i), observed=None) for i in range(9)],
        },
        vocabulary=vocabulary,
        modalities=MODALITIES,
    )
    return open_dataset(str(folder))


ODD = ["no labels", "no tokens", "one label", "nothing observed", "every label"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """The odd datasets by name."""
    folder = tmp_path_factory.mktemp("odd")
    return {kind: odd_dataset(kind, folder / kind) for kind in ODD}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prototype_contrast", "asl", "supcon"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_datasets_have_finite_losses(
    odd: dict[str, Dataset], tiny_config: Config, tmp_path: Path, name: str, kind: str
) -> None:
    config = override(
        tiny_config, {"loss.name": name, "train.epochs": 1, "loss.balance": 0.5, "batch.size": 11}
    )
    run = train(config, odd[kind], tmp_path)
    metrics = run.metrics()[1]
    assert all(math.isfinite(value) for value in metrics.values())
    if kind == "nothing observed":
        assert metrics["train/loss"] == 0.0
    weights = checkpoint.load_weights(run.checkpoint(1))
    assert all(x.isfinite().all() for x in weights.values())


@pytest.mark.slow
@every_loss
def test_the_tiny_dataset_is_learnt_with_every_loss(
    tiny: Dataset, tiny_config: Config, tmp_path: Path, name: str
) -> None:
    settings = {"loss.name": name, "batch.size": 45, "loss.balance": 0.5}
    settings |= {"train.epochs": 4, "optimizer.lr": 1e-2}
    run = train(override(tiny_config, settings), tiny, tmp_path)
    losses = [metrics["train/loss"] for metrics in run.metrics().values()]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_validation_split_without_labels_keeps_the_latest_epoch(
    tiny_config: Config, tmp_path: Path
) -> None:
    write_dataset(
        str(tmp_path / "data"),
        {
            "train": [tiny_row("train", i) for i in range(9)],
            "val": [bare("val", i, "tokens") for i in range(9)],
        },
        vocabulary=VOCABULARY,
        modalities=MODALITIES,
    )
    run = train(tiny_config, open_dataset(str(tmp_path / "data")), tmp_path)
    assert run.progress is not None
    assert run.progress.best_epoch == 3
    assert math.isnan(run.progress.best["val/mAP"])
    assert run.progress.thresholds == [None] * len(LABELS)
    assert math.isfinite(run.progress.metrics["val/loss"])
    again = train(
        tiny_config, open_dataset(str(tmp_path / "data")), tmp_path, resume=run.checkpoint(2)
    )
    assert again.progress is not None
    assert again.progress.best_epoch == 3


def slow_scores(learner: learning.Learner, dataset: Dataset, split: str) -> np.ndarray:
    """Scores row by row: no batch, no padding, no order but that of the files."""
    model, scores = learner.model.eval(), []
    for shard in dataset.split(split):
        table = read_shard(dataset, shard)
        for at in range(len(table)):
            block = block_from_table(
                pa.Table.from_batches(table.slice(at, 1).to_batches()), dataset.manifest
            )
            tokens, lengths = {}, {}
            for modality in dataset.manifest.modalities:
                values = block.tokens[modality.name].row(0)
                lengths[modality.name] = torch.tensor([len(values)])
                if not len(values):
                    values = np.zeros((1, modality.dim), modality.dtype)
                tokens[modality.name] = torch.tensor(values)[None]
            with torch.no_grad():
                scores.append(model.scores(model(tokens, lengths).fused))
    return torch.cat(scores).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["prototype_contrast", "bce"])
def test_evaluation_is_that_of_single_rows(tiny: Dataset, tiny_config: Config, head: str) -> None:
    config = override(tiny_config, {"loss.name": head})
    learner = learning.make_learner(config, tiny.manifest, feeds_of(tiny, config), device=CPU)
    slow = {split: slow_scores(learner, tiny, split) for split in ("val", "test")}
    for split, size, pool in (("test", 1, 1), ("val", 5, 3), ("val", 64, 2)):
        expected, rows = slow[split], SPLIT_ROWS[split]
        learner.model.train()
        settings = {"batch.size": size, "batch.pool_batches": pool}
        feed = feed_of(tiny, split, override(config, settings))
        predictions = validation.predict(learner.model, feed, device=CPU)
        assert predictions.rows.tolist() == list(range(rows))
        np.testing.assert_allclose(predictions.scores, expected, rtol=0, atol=1e-5)
        truth = [tiny_row(split, i) for i in range(rows)]
        labels = VOCABULARY.encode([row.labels for row in truth])
        observed = VOCABULARY.encode_observed([row.observed for row in truth])
        np.testing.assert_array_equal(predictions.labels, labels)
        np.testing.assert_array_equal(predictions.observed, observed)


def test_validation_reports_the_metrics_of_all_rows(
    whole: Run, random_config: Config, tiny: Dataset
) -> None:
    learner = learning.make_learner(
        random_config, tiny.manifest, feeds_of(tiny, random_config), device=CPU
    )
    learner.model.load_state_dict(checkpoint.load_weights(whole.checkpoint(3)))
    feed = feed_of(tiny, "val", random_config)
    found = validation.predict(learner.model, feed, device=CPU)
    judged = (found.scores, found.labels, found.observed)
    reported = whole.metrics()[3]
    for name, value in evaluate_scores(*judged).to_dict().items():
        assert reported[f"val/{name}"] == value
    assert reported["val/loss"] == validation.split_loss(random_config, found)
    means = family_means(evaluate_scores(*judged).per_class_AP, VOCABULARY)
    assert {reported["val/mAP_math"], reported["val/mAP_literacy"]} == set(means.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["temperature", "isotonic", "none"])
def test_what_makes_labels_of_scores_is_fitted_to_the_best_epoch(
    tiny: Dataset, tiny_config: Config, tmp_path: Path, name: str
) -> None:
    settings = {
        "train.epochs": 4,
        "batch.size": 45,
        "train.calibration": name,
        "train.target_precision": 0.4,
        "train.threshold_confidence": 0.5,
        "optimizer.lr": 0.05,
    }
    config = override(tiny_config, settings)
    run = train(config, tiny, tmp_path)
    learner = learning.make_learner(config, tiny.manifest, feeds_of(tiny, config), device=CPU)
    fitted, best = [], -1.0
    for epoch in range(1, 5):
        progress = checkpoint.load_progress(run.checkpoint(epoch))
        if progress.metrics["val/mAP"] < best:
            assert (progress.thresholds, progress.calibration) == ([], None)
            continue
        best = progress.metrics["val/mAP"]
        fitted.append(epoch)
        learner.model.load_state_dict(checkpoint.load_weights(run.checkpoint(epoch)))
        found = validation.predict(learner.model, feed_of(tiny, "val", config), device=CPU)
        judged = (found.scores, found.labels, found.observed)
        thresholds = thresholds_at_precision(*judged, precision=0.4, confidence=0.5)
        assert [math.inf if t is None else t for t in progress.thresholds] == list(thresholds)
        calibration = fit_calibration(*judged, name=name)
        assert progress.calibration == (calibration.to_json() if calibration else None)
    assert 0 < len(fitted) < 4


def test_the_loss_of_a_split_is_the_mean_over_its_batches(tiny_config: Config) -> None:
    config = override(tiny_config, {"batch.size": 4, "loss.name": "bce"})
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(10, 5)).astype(np.float32)
    labels, observed = (generator.random((10, 5)) < share for share in (0.4, 0.7))
    entries = np.logaddexp(0.0, np.where(labels, -scores, scores).astype(np.float64))
    parts = [slice(0, 4), slice(4, 8), slice(8, 10)]
    means = [entries[part][observed[part]].mean() for part in parts]
    expected = (4 * means[0] + 4 * means[1] + 2 * means[2]) / 10
    predictions = validation.Predictions(scores, labels, observed, np.arange(10))
    assert validation.split_loss(config, predictions) == pytest.approx(expected, rel=1e-5)


def test_the_configuration_and_the_dataset_go_with_the_checkpoint(
    whole: Run, random_config: Config
) -> None:
    progress = checkpoint.load_progress(whole.checkpoint(2))
    assert progress.config == to_dict(random_config)
    assert progress.dataset["vocabulary"] == VOCABULARY.to_json()
    assert progress.dataset["modalities"] == [m.to_json() for m in MODALITIES]


@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", False), ("float32", False), ("bfloat16", True)]
)
def test_the_precision_on_a_cpu(tiny_config: Config, precision: str, expected: bool) -> None:
    config = override(tiny_config, {"train.precision": precision})
    assert learning.wants_bfloat16(config.train, CPU) == expected


@pytest.mark.slow
def test_bfloat16_trains_and_keeps_its_weights_in_float32(
    tiny: Dataset, tiny_config: Config, tmp_path: Path
) -> None:
    exact = train(override(tiny_config, {"train.epochs": 1}), tiny, tmp_path / "a")
    settings = {"train.epochs": 1, "train.precision": "bfloat16"}
    rough = train(override(tiny_config, settings), tiny, tmp_path / "b")
    losses = [run.metrics()[1]["train/loss"] for run in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    weights = checkpoint.load_weights(rough.checkpoint(1))
    assert {x.dtype for x in weights.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_promised_precision_holds_when_the_bundle_scores_val(
    tiny: Dataset, tiny_config: Config, tmp_path: Path, precision: str
) -> None:
    settings = {"train.epochs": 2, "train.precision": precision, "train.target_precision": 0.5}
    settings |= {"batch.size": 15, "optimizer.lr": 0.02}
    run = train(override(tiny_config, settings), tiny, tmp_path / "run")
    best = checkpoint.load_progress(run.checkpoint(2)).best_epoch
    save_bundle(run.checkpoint(best), tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    scored = score_split(bundle, tiny, "val", device="cpu")
    given = (scored.scores >= bundle.thresholds) & scored.observed
    there = np.isfinite(bundle.thresholds)
    assert there.any()
    assert (given[:, there].sum(axis=0) > 0).all()
    right = (given & scored.labels)[:, there].sum(axis=0)
    assert (right / given[:, there].sum(axis=0) >= 0.5).all()
    known = scored.scores[scored.observed]
    assert not np.isin(bundle.thresholds[there], known).any()
    judged = evaluate_scores(scored.scores, scored.labels, scored.observed)
    assert judged.mAP == pytest.approx(bundle.metrics["val/mAP"], abs=1e-9)
