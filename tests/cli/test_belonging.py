"""A stored result is used again only for what it was computed from; names identify nothing.

Paths: run folder, MLflow run, study, spool, registry, report, scores. Changed one at a time: the
data, the settings, the raymc, the owner. `tests/training/test_runs.py` has the cases of the folder
alone.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner
from drivers import write_config
from example_dataset import contents
from finished_runs import finished_run, write_description
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from optuna.trial import create_trial
from tiny import MODALITIES, SHARD_ROWS, VOCABULARY, tiny_row

from raymc.cli import runs as commands
from raymc.cli.main import main
from raymc.config import Config, override, to_dict
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, open_dataset, write_dataset
from raymc.errors import DataError, ResourceError
from raymc.evaluation.neighbours import training_clips
from raymc.search.study import distributions, open_study, read_study, trials_in
from raymc.search.trials import Epoch, note_epoch
from raymc.tracking import find_recorded, list_runs, open_tracker
from raymc.tracking.models import log_bundle
from raymc.tracking.recording import RunRecorder, SweepRecorder
from raymc.tracking.records import KEY_TAG, PARENT_TAG
from raymc.tracking.writer import Record, Spool
from raymc.training import runs
from raymc.training.bundle import DESCRIPTION, load_bundle
from raymc.training.runs import (
    ATTEMPTS_FILE,
    BUNDLE,
    CONFIG_FILE,
    RUN_FILE,
    STUDY_FILE,
    TRIALS,
    Run,
    open_run,
    read_run,
)

SPLITS = {"train": 8, "val": 8, "test": 8}


@pytest.fixture
def config(
    tiny_config: Config, tmp_path: Path, runs_folder: Path, request: pytest.FixtureRequest
) -> Config:
    """A run in a folder of its own, in an MLflow that everybody shares."""
    shared = {"uri": f"sqlite:///{runs_folder / 'mlflow.db'}", "experiment": request.node.name}
    run = {"folder": str(tmp_path / "runs"), "name": "base"}
    settings = {f"tracking.{key}": value for key, value in shared.items()}
    return override(tiny_config, settings | {f"run.{key}": run[key] for key in run})


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A dataset that a test may move and replace."""
    write(tmp_path / "data", shift=0)
    return str(tmp_path / "data")


def write(path: Path, *, shift: int) -> None:
    write_dataset(
        str(path),
        {split: [tiny_row(split, i + shift) for i in range(n)] for split, n in SPLITS.items()},
        vocabulary=VOCABULARY,
        modalities=MODALITIES,
        shard_rows=SHARD_ROWS,
    )


def record(run: Run, dataset: Dataset, *, epochs: int = 1, value: float = 0.5) -> str:
    """Train in name only; returns MLflow's id of the run."""
    (run.folder / ATTEMPTS_FILE).touch()
    tracking = run.config.tracking
    with open_tracker(tracking, run.config.run.folder, folder=run.folder) as tracker:
        key = RunRecorder(run, dataset.manifest, tracker).key
        for epoch in range(1, epochs + 1):
            tracker.log_epoch(key, epoch, {"val/mAP": value}, is_best=True)
        tracker.end_run(key, "complete")
        return tracker.run_id(key)


def in_mlflow(config: Config) -> dict[str, MlflowRun]:
    """All runs of the experiment by MLflow's id."""
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


def raymc(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.mark.slow
def test_every_run_of_a_name_has_its_own_record(
    config: Config, tiny: Dataset, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Other settings in a folder made again, other folders, other people's: five runs, no two."""
    changes: list[dict[str, Any]] = [
        {},
        {"optimizer.lr": 1e-5},  # after the folder was removed
        {"run.name": "exp1/base"},
        {"run.name": "exp2/base"},
        {"run.folder": str(tmp_path / "colleague")},
    ]
    ids: list[str] = []
    for number, change in enumerate(changes):
        changed = override(config, change)
        if number == 1:
            shutil.rmtree(Path(config.run.folder) / "base")
        run = open_run(changed, dataset=tiny.manifest.digest())
        ids.append(record(run, tiny, value=number / 10))
        assert record(open_run(changed), tiny, epochs=2, value=number / 10) == ids[-1]  # resumed
    model = log_bundle(tiny_bundle, ids[1], uri=config.tracking.uri, register_as="", alias="")
    found = in_mlflow(config)
    assert sorted(found) == sorted(set(ids))
    assert [found[each].data.metrics["best/mAP"] for each in ids] == [0.0, 0.1, 0.2, 0.3, 0.4]
    rates = [found[each].data.params["optimizer.lr"] for each in ids]
    assert rates == ["0.001", "1e-05", "0.001", "0.001", "0.001"]
    outputs = {each: found[each].outputs for each in ids}
    logged = {each for each, one in outputs.items() if one is not None and one.model_outputs}
    assert logged == {ids[1]}
    assert model.startswith("models:/m-")

    where = [
        f"tracking.uri={config.tracking.uri}",
        "tracking.experiment=" + config.tracking.experiment,
    ]
    code, text = raymc("runs", "base", *where)
    newest = find_recorded(list_runs(config.tracking.uri, config.tracking.experiment), "base")[0]
    assert (code, newest.run_id) == (0, ids[4])
    assert text.startswith(f"3 runs are meant by base; this is the newest, {newest.short_id} (the ")


def try_one(run: Run, *, value: float) -> optuna.Study:
    """Run the sweep's next trial in name only."""
    (run.folder / TRIALS).mkdir(exist_ok=True)
    study = open_study(run)
    trial = study.ask(distributions(run.config))
    checkpoint = str(run.folder / TRIALS / f"trial-{trial.number:04d}" / "best")
    note_epoch(trial, Epoch(1, value, {"val/mAP": value, "val/R80": value}, 1.0, checkpoint))
    study.tell(trial, value)
    return study


def show_all(run: Run, dataset: Dataset) -> str:
    """Record what the study has, as a sweep does; returns MLflow's id of the sweep."""
    tracking = run.config.tracking
    with open_tracker(tracking, run.config.run.folder, folder=run.folder) as tracker:
        recorder = SweepRecorder(run, dataset.manifest, tracker, lambda trial: None)
        for trial in trials_in(read_study(run), run):
            recorder(trial)
        return tracker.run_id(recorder.parent)


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [False, True])
def test_sweeps_of_one_name_have_a_study_each(
    config: Config, tiny: Dataset, tmp_path: Path, is_shared: bool
) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}" if is_shared else ""
    mine = override(config, {"search.storage": storage, "search.try_default": False})
    yours = override(mine, {"run.folder": str(tmp_path / "colleague")})
    digest = tiny.manifest.digest()
    for number, each in enumerate((mine, yours)):
        run = open_run(each, sweep=True, dataset=digest)
        assert open_study(run).trials == []
        try_one(run, value=0.1 + number)
    for number, each in enumerate((mine, yours)):
        again = open_run(each, sweep=True, dataset=digest)
        assert try_one(again, value=0.2 + number).best_value == 0.2 + number
        assert [one.value for one in read_study(again).trials] == [0.1 + number, 0.2 + number]
        show_all(again, tiny)
    sweeps = list_runs(config.tracking.uri, config.tracking.experiment)
    assert [(one.name, one.kind, one.trials) for one in sweeps] == [("base", "sweep", 2)] * 2
    assert sorted(one.value or 0 for one in sweeps) == [0.2, 1.2]

    # Without its folder a sweep is gone from `raymc`'s sight: one made again shares nothing.
    shutil.rmtree(Path(mine.run.folder) / "base")
    assert open_study(open_run(mine, sweep=True, dataset=digest)).trials == []


@pytest.mark.slow
def test_a_moved_sweep_leaves_its_place_to_another(config: Config) -> None:
    """The study has absolute paths, which are the other sweep's by then."""
    run = open_run(config, sweep=True)
    try_one(run, value=0.5)
    moved = read_run(run.folder.rename(run.folder.with_name("moved")))
    try_one(open_run(config, sweep=True), value=0.1)
    (trial,) = trials_in(read_study(moved), moved)
    assert (trial.value, trial.checkpoint) == (0.5, str(moved.folder / "trials/trial-0000/best"))


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_sweep_of_0_1_0_is_resumed_into_the_same_records(
    config: Config,
    tiny: Dataset,
    tmp_path: Path,
    is_shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What raymc 0.1.0 left: no run.json, and the name as key of study, MLflow runs and spool."""
    monkeypatch.setattr(runs, "RESULTS", 1)  # as if training had not changed since
    folder = Path(config.run.folder) / "base"
    (folder / TRIALS).mkdir(parents=True)
    storage = f"sqlite:///{tmp_path / 'studies.db'}" if is_shared else ""
    config = override(config, {"search.storage": storage})
    (folder / CONFIG_FILE).write_text(json.dumps(to_dict(config)))
    study = optuna.create_study(
        storage=storage or f"sqlite:///{folder / STUDY_FILE}",
        study_name="base",
        direction="maximize",
    )
    space = distributions(config)
    study.add_trial(create_trial(params={"loss.margin": 0.2}, distributions=space, value=0.4))
    with open_tracker(config.tracking, config.run.folder) as tracker:
        parent = tracker.start_run("base", key="base", params={}, tags={})
        tracker.start_run("a", key="base/0", parent=parent, params={}, tags={"raymc.trial": "0"})
        before = tracker.run_id(parent)
    spool = Spool(folder)
    spool.add(Record("note", "set_note", {"run": "base", "markdown": "spooled", "compare": []}))
    spool.close(keep=True)

    assert raymc("replay", folder) == (0, "base: MLflow has 1 records\n")
    run = open_run(config, sweep=True, dataset=tiny.manifest.digest())
    assert [one.value for one in read_study(run).trials] == [0.4]
    try_one(run, value=0.5)
    assert show_all(open_run(config, sweep=True), tiny) == before
    found = in_mlflow(config)
    assert sorted(one.data.tags[KEY_TAG] for one in found.values()) == ["base", "base/0", "base/1"]
    assert {one.data.tags.get(PARENT_TAG) for one in found.values()} == {None, before}
    assert json.loads((folder / RUN_FILE).read_text())["id"] == "base"


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_replaced_dataset_is_refused_before_anything_is_done(
    command: str, config: Config, data: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    config = override(config, {"data.path": data})
    digest = open_dataset(data).manifest.digest()
    run = open_run(config, sweep=command == "tune", dataset=digest)
    (run.folder / (TRIALS if command == "tune" else ATTEMPTS_FILE)).mkdir()
    file = write_config(config, tmp_path / "mine.yaml")
    shutil.move(data, tmp_path / "moved")
    write(Path(data), shift=1)
    for is_finished in (False, True):
        if is_finished:
            shutil.copytree(tiny_bundle, run.folder / BUNDLE)
        kept = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
        code, line = raymc(command, file)
        now = open_dataset(data).manifest.digest()
        assert (code, line) == (
            2,
            f"raymc: run 'base' was trained on another dataset (digest {digest[:12]}) than "
            f"{data} holds now (digest {now[:12]}): choose another --name to start anew\n",
        )
        assert kept == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    if command == "train":  # the same data elsewhere, of which little is read
        for split in ("val", "test"):
            for shard in (tmp_path / "moved" / split).iterdir():
                shard.write_bytes(b"")
        code, line = raymc(command, file, f"data.path={tmp_path / 'moved'}")
        assert (code, line) == (0, f"run base is finished: its bundle is {run.folder / BUNDLE}\n")


def test_a_shard_that_was_changed_in_place_is_refused(
    data: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Its dataset's digest is the same: it is that of `dataset.json`."""
    run = finished_run(tmp_path / "runs", "base", tiny_bundle, data__path=data)
    digest = open_dataset(data).manifest.digest()
    description = json.loads((run / BUNDLE / DESCRIPTION).read_text())
    write_description(run / BUNDLE, {**description, "dataset_digest": digest})
    write(tmp_path / "other", shift=1)
    for shard in Path(data).glob("*/*.parquet"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 3] ^= 1
        shard.write_bytes(content)
    words = {
        "train": ["evaluate", run / BUNDLE, data, "--split", "train"],
        "test": ["predict", run / BUNDLE, data, "--out", tmp_path / "out.csv"],
        "val": ["add-class", run / BUNDLE, "new", tmp_path / "other", "--out", tmp_path / "new"],
        "train ": ["review", run, "--out", tmp_path / "out.csv", "--no-curves"],
    }
    for split, command in words.items():
        code, text = raymc(*command)
        refusal = text.splitlines()[-1]
        assert (code, refusal.startswith(f"raymc: {data}/{split.strip()}/")) == (2, True), text
        assert "is not the file that was written" in refusal
    with pytest.raises(DataError, match=r"/train/.* is not the file that was written"):
        training_clips(load_bundle(run / BUNDLE))
    assert not {"scores", "neighbours", "review"} & {path.name for path in run.iterdir()}
    assert not list(tmp_path.glob("out*")) + list(tmp_path.glob("new*"))


@pytest.mark.parametrize("command", ["train", "tune"])
def test_clips_in_two_splits_are_told_before_training(
    command: str, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {split: [tiny_row(split, i) for i in range(n)] for split, n in SPLITS.items()}
    rows["test"][2] = replace(rows["test"][2], id=rows["train"][5].id)
    path = str(tmp_path / "shared")
    write_dataset(path, rows, vocabulary=VOCABULARY, modalities=MODALITIES, shard_rows=SHARD_ROWS)
    wants_ray = {"data.path": path, "data.cache": "object_store"}
    file = write_config(override(config, wants_ray), tmp_path / "mine.yaml")

    def not_now(*_: object) -> None:
        raise ResourceError("no Ray here")

    monkeypatch.setattr(commands, "_start_ray", not_now)
    code, lines = raymc(command, file)
    rows_line, labels, rare, leak, refusal = lines.splitlines()
    assert code == 2
    assert rows_line == f"{path}: 8 train, 8 val, 8 test; visual, audio"
    assert labels.startswith("5 labels, clips of train: ")
    assert rare.startswith("rare, so expect little of them: ")
    assert leak == (
        f"leak: 1 id is in more than one split, such as {rows['train'][5].id!r} in train and test; "
        "scores on them are too high"
    )
    assert refusal == "raymc: no Ray here"
    code, found = raymc("data", "check", path)
    assert code == 1  # an id that is used twice is a fault
    assert f"warning: {leak}" in found.splitlines()


def test_splits_are_drawn_where_there_are_none(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_now(*_: object) -> None:
        raise ResourceError("no Ray here")

    monkeypatch.setattr(commands, "_start_ray", not_now)
    path = str(tmp_path / "whole")
    rows = {"train": [tiny_row("train", i) for i in range(20)]}
    write_dataset(path, rows, vocabulary=VOCABULARY, modalities=MODALITIES, shard_rows=SHARD_ROWS)
    wants_ray = {"data.path": path, "data.cache": "object_store"}
    file = write_config(override(config, wants_ray), tmp_path / "mine.yaml")
    code, lines = raymc("train", file)
    assert code == 2
    assert lines.splitlines()[0] == (
        f"{path}: 13 train, 3 val, 4 test; it had one split, so these were drawn by video (seed 0)"
    )
    assert "were drawn" not in raymc("train", file)[1]


def test_without_labels_nothing_is_begun(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_start_ray", None)
    bare = [replace(tiny_row("train", i), labels=[], observed=None) for i in range(6)]
    rows = {"none": {"train": bare}, "half": {"train": [tiny_row("train", 0)], "val": bare}}
    names = {"none": Vocabulary(()), "half": VOCABULARY}
    told = {
        "none": "has no labels, so there is nothing",
        "half": "has no labelled rows, so nothing",
    }
    for name, splits in rows.items():
        path = tmp_path / name
        write_dataset(str(path), splits, vocabulary=names[name], modalities=MODALITIES)
        before = contents(path)
        file = write_config(override(config, {"data.path": str(path)}), tmp_path / "mine.yaml")
        for command in ("train", "tune"):
            code, line = raymc(command, file)
            assert (code, line.count("\n")) == (2, 1), line
            assert told[name] in line
        assert contents(path) == before
    assert not Path(config.run.folder).exists()


def test_results_stay_the_same_or_get_another_number(tiny_bundle: Path) -> None:
    """Where this fails, training computes something else: raise `RESULTS` and note it there."""
    metrics = load_bundle(tiny_bundle).metrics
    found = (runs.RESULTS, metrics["train/loss"], metrics["val/loss"])
    assert found == pytest.approx((7, 3.51420, 3.60310), abs=1e-3)
