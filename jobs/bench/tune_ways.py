"""The same trials run in three ways: raymc's sweep, Optuna alone, and Ray as documented.

Trials have the same settings, rows, batches and random numbers in every way, so they reach the same
values. Each trial computes on one thread. Optuna's trials and Ray's are a bare loop over rows in
memory, without checkpoints or records.
"""

import io
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import ray.train
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console

from jobs.bench.train_ways import feed_from_files
from raymc.cli.runs import run_tune
from raymc.config import Config, from_dict, override, to_dict
from raymc.data.feed.feed import Feeds
from raymc.data.shards import Dataset, count_classes, open_dataset, token_means
from raymc.metrics.metrics import evaluate_scores
from raymc.runtime.connect import connect
from raymc.search.study import distributions, open_study
from raymc.training.learner import make_learner, train_step
from raymc.training.runs import open_run
from raymc.training.validation import predict

CPU = torch.device("cpu")
EpochValue = Callable[[int, float], None]


@dataclass(frozen=True)
class Task:
    """Trials to run.

    Attributes:
        config: All settings; what a way writes lies below `run.folder`, named `run.name`.
        trials: The settings of each trial, by dotted path.
        at_a_time: How many run at a time.
    """

    config: Config
    trials: tuple[Mapping[str, Any], ...]
    at_a_time: int

    @property
    def folder(self) -> Path:
        """A folder that only this task's way writes to."""
        folder = Path(self.config.run.folder) / "ways" / self.config.run.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Span:
    """A trial that ran: its settings, when it began and ended by the clock, and its best value."""

    params: Mapping[str, Any]
    began: float
    ended: float
    best: float


def run_raymc(task: Task) -> list[Span]:
    """Do what `raymc tune` does."""
    config = task.config
    study = open_study(open_run(config, sweep=True))
    for params in task.trials:
        study.enqueue_trial(dict(params))
    run_tune(config, Console(file=io.StringIO()))
    return [_span(trial) for trial in study.trials]


def run_optuna(task: Task) -> list[Span]:
    """Ask, train and tell: in this process, or in several that share a journal."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if task.at_a_time == 1:
        study = optuna.create_study(direction="maximize")
        _enqueue(study, task)
        return _ask_and_tell(study, task, len(task.trials))
    _enqueue(_shared_study(task), task)
    count, shares = task.at_a_time, range(task.at_a_time)
    trials = [len(task.trials[share::count]) for share in shares]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [span for some in pool.map(_take_part, [task] * count, trials) for span in some]


def run_documented(task: Task) -> list[Span]:
    """Follow "Hyperparameter Tuning with Ray Tune" in Ray Train's documentation.

    Every trial is a Tune function that starts a `TorchTrainer` of one worker.
    """
    connect(task.folder / "ray.log")
    starter = tune.with_parameters(_start_trainer, task=task)
    results = tune.Tuner(
        tune.with_resources(starter, {"cpu": 0.01}),
        param_space={"number": tune.grid_search(list(range(len(task.trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=task.at_a_time),
        run_config=tune.RunConfig(name="tune", storage_path=str(task.folder), verbose=0),
    ).fit()
    for error in results.errors:
        raise error
    files = [_span_file(task, number) for number in range(len(task.trials))]
    return [Span(**json.loads(file.read_text())) for file in files]


WAYS: Mapping[str, Callable[[Task], list[Span]]] = {
    "raymc": run_raymc,
    "optuna": run_optuna,
    "documented": run_documented,
}


def train_bare(config: Config, dataset: Dataset, feeds: Feeds, *, tell: EpochValue) -> float:
    """Train in the fewest lines, on one thread; returns the best epoch's mAP."""
    torch.set_num_threads(1)
    learner, best = make_learner(config, dataset.manifest, feeds, device=CPU), 0.0
    for epoch in range(1, config.train.epochs + 1):
        learner.model.train()
        for step, batch in enumerate(feeds.train.training(epoch)):
            train_step(learner, config, batch, epoch=epoch, step=step, feed=feeds.train)
        found = predict(learner.result, feeds.val, device=CPU)
        value = evaluate_scores(found.scores, found.labels, found.observed).mAP
        best = max(best, value)
        tell(epoch, value)
    return best


def feeds_in_memory(config: Config, dataset: Dataset) -> Feeds:
    """Return feeds that read their rows from files once."""
    return Feeds(
        train=feed_from_files(dataset, config.data.train, config),
        val=feed_from_files(dataset, config.data.val, config),
        class_counts=count_classes(dataset, config.data.train),
        means=token_means(dataset, config.data.train),
    )


def _shared_study(task: Task) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(task.folder / "journal.log")))
    return optuna.create_study(
        storage=storage, study_name="bare", direction="maximize", load_if_exists=True
    )


def _enqueue(study: optuna.Study, task: Task) -> None:
    for params in task.trials:
        study.enqueue_trial(dict(params))


def _take_part(task: Task, trials: int) -> list[Span]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return _ask_and_tell(_shared_study(task), task, trials)


def _ask_and_tell(study: optuna.Study, task: Task, trials: int) -> list[Span]:
    dataset = open_dataset(task.config.data.path)
    feeds, space, numbers = feeds_in_memory(task.config, dataset), distributions(task.config), []
    for _ in range(trials):
        trial = study.ask(space)
        config = override(task.config, trial.params)
        study.tell(trial, train_bare(config, dataset, feeds, tell=_reporter(trial)))
        numbers.append(trial.number)
    return [_span(study.trials[number]) for number in numbers]


def _reporter(trial: optuna.Trial) -> EpochValue:
    """Optuna's pruners would need each epoch."""
    return lambda epoch, value: trial.report(value, epoch)


def _span(trial: FrozenTrial) -> Span:
    assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED), trial
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    began, ended = trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()
    return Span(trial.params, began, ended, max(trial.intermediate_values.values()))


def _start_trainer(settings: dict[str, Any], *, task: Task) -> None:
    number, began = settings["number"], time.time()
    params = dict(task.trials[number])
    result = TorchTrainer(
        _train_in_worker,
        train_loop_config={"config": to_dict(task.config), "params": params},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"trial-{tune.get_context().get_trial_id()}",
            storage_path=str(task.folder),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()
    assert result.return_value is not None
    span = Span(params, began, time.time(), result.return_value)
    _span_file(task, number).write_text(json.dumps(asdict(span)))


def _train_in_worker(settings: dict[str, Any]) -> float:
    config = override(from_dict(settings["config"]), settings["params"])
    dataset = open_dataset(config.data.path)
    feeds = feeds_in_memory(config, dataset)
    return train_bare(
        config,
        dataset,
        feeds,
        tell=lambda epoch, value: ray.train.report({config.train.monitor: value, "epoch": epoch}),
    )


def _span_file(task: Task, number: int) -> Path:
    return task.folder / f"trial-{number}.json"
