"""Accuracy of the losses and of what people would try first, each tuned with the same budget.

Top layer: every method of a dataset is a Ray task, which searches with Optuna on the validation
split, trains the best settings once a seed, and scores the test split once each. What a method
found stands in a folder of its own, so that an interrupted benchmark goes on.
"""

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import torch
from rich.console import Console

from jobs.bench.accuracy_table import Found, publish_accuracy
from jobs.bench.baselines import BASELINES, Matrix, parts_worth_trying, read_matrix
from raymc.config import Config, Range, from_dict, override, to_dict
from raymc.data.feed.on_ray import SharedData, SharedSplit, share_data, share_split
from raymc.errors import ConfigError, DivergedError
from raymc.evaluation.scored import ScoredSplit, load_scored, save_scored
from raymc.events import EpochEnded
from raymc.formats.prepare import prepare_dataset
from raymc.metrics.metrics import evaluate_scores
from raymc.runtime.connect import connect
from raymc.search.study import begin_with_default, distributions, make_sampler
from raymc.tracking.records import git_commit
from raymc.training import checkpoint, loop
from raymc.training.learner import make_model
from raymc.training.validation import Predictions, predict

CPU = torch.device("cpu")
# What of a loss is searched, beside the configuration's own space, which is all losses'. Three
# of them searched wider once: on GRID, emotions, scene and yeast no temperature above 0.15 won.
LOSS_SPACES: Mapping[str, Mapping[str, Range]] = {
    "prototype_contrast": {
        "loss.margin": Range(low=0.0, high=0.3),
        "loss.temperature": Range(low=0.03, high=0.15, log=True),
        "loss.clip_weight": Range(low=0.05, high=0.5, log=True),
        "loss.hard_clips": Range(choices=(0.25, 1.0)),
    },
    "prototype_margin": {
        "loss.margin": Range(low=0.1, high=1.5),
        "loss.temperature": Range(low=0.01, high=0.5, log=True),
    },
    "proxy_anchor": {
        "loss.margin": Range(low=0.0, high=0.3),
        "loss.temperature": Range(low=0.01, high=0.15, log=True),
    },
    "cosine_bce": {"loss.temperature": Range(low=0.02, high=0.15, log=True)},
    "bce": {},
    "focal": {"loss.gamma": Range(low=0.5, high=4.0)},
    "asl": {
        "loss.gamma_negative": Range(low=0.0, high=6.0),
        "loss.clip": Range(low=0.0, high=0.2),
    },
    "supcon": {"loss.temperature": Range(low=0.03, high=0.5, log=True)},
}
METHODS: tuple[str, ...] = (*LOSS_SPACES, *BASELINES)


@dataclass(frozen=True)
class Data:
    """A dataset that all tasks read."""

    shared: SharedData
    test: SharedSplit
    digest: str


def bench_accuracy(
    configs: Mapping[str, Config],
    console: Console,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 5,
    out: Path,
) -> None:
    """Compare methods on datasets; prints and writes a table and a picture, and logs to MLflow.

    Args:
        configs: By the dataset's name. `search.trials` settings of `search.space` are tried for
            each method, and its own constants beside them.
        console: Where the table goes.
        methods: Of `METHODS`.
        seeds: How often each method's best settings are trained and tested.
        out: Folder for what each method found, the table and the picture.

    Raises:
        ConfigError: there is no such method.
        DataError: a dataset can't be read.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ConfigError(f"unknown method {unknown[0]!r}; there are: {', '.join(METHODS)}")
    connect()
    run: Any = ray.remote(num_cpus=1, max_retries=2)(run_method)
    commit = (git_commit() or "unknown")[:10]
    asked = []
    for name, config in configs.items():
        dataset = prepare_dataset(config)
        shared = share_data(dataset, config.data)
        test = share_split(dataset, config.data.test, config.data)
        data = Data(shared, test, dataset.manifest.digest())
        for method in methods:
            folder = folder_of(out, name, method).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            task = run.remote(method, to_dict(config), data, str(folder), seeds, commit)
            asked.append((name, method, task))
    for name, method, task in asked:
        seconds = ray.get(task)
        console.print(f"{name}: {method} done in {seconds:.0f} s", style="dim")
    found = {
        name: [read_found(folder_of(out, name, method), method, seeds) for method in methods]
        for name in configs
    }
    publish_accuracy(found, configs, console, out)


def folder_of(out: Path, dataset: str, method: str) -> Path:
    """Return where what a method found on a dataset stands."""
    return out / dataset / method.replace(" ", "-")


def run_method(
    method: str, settings: dict[str, Any], data: Data, folder: str, seeds: int, commit: str
) -> float:
    """Tune a method and test it, as far as its folder doesn't hold that already; its seconds."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of scikit-learn, on fits that didn't converge
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, place = from_dict(settings), Path(folder)
    study = optuna.create_study(
        storage=f"sqlite:///{place / 'study.db'}",
        study_name=method,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=config.search.grace_epochs,
            reduction_factor=config.search.reduction_factor,
        ),
    )
    study.sampler = make_sampler(config, known=len(study.trials))
    tune_method(study, method, config, data)
    for seed in range(seeds):
        file = place / f"seed-{seed}.parquet"
        if not file.exists():
            started = time.perf_counter()
            scored = test_method(method, config, study.best_trial, data, seed)
            told = {
                "params": study.best_params,
                "val": study.best_value,
                "seconds": time.perf_counter() - started,
                "tested": f"{date.today()} {commit}",
            }
            file.with_suffix(".json").write_text(json.dumps(told, indent=1))
            save_scored(scored, file)  # last: where it stands the seed is done
    return time.perf_counter() - began


def tune_method(study: optuna.Study, method: str, config: Config, data: Data) -> None:
    """Try what is left of `search.trials` settings; of trials that were cut off none counts.

    As in a sweep, a loss starts with the configuration as it is.
    """
    if method in BASELINES:
        objective = _scoring(method, config, data)
    else:
        searched = searched_by(method, config)
        begin_with_default(study, searched)
        objective = _training(searched, data)
    done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    study.optimize(objective, n_trials=max(0, config.search.trials - done), catch=(DivergedError,))


def _scoring(method: str, config: Config, data: Data) -> Callable[[optuna.Trial], float]:
    """Return what judges a trial of one of `BASELINES`."""
    metric = config.train.monitor.removeprefix("val/")
    parts = parts_worth_trying(data.shared.train.feed(config))

    def objective(trial: optuna.Trial) -> float:
        params = BASELINES[method].suggest(trial)
        params = {**params, "parts": trial.suggest_categorical("parts", parts)}
        scores, truth = score_baseline(method, params, data, 0, "val")
        return evaluate_scores(scores, truth.labels, truth.observed).to_dict()[metric]

    return objective


def _training(config: Config, data: Data) -> Callable[[optuna.Trial], float]:
    """Return what judges a trial of a loss: its best epoch."""

    def objective(trial: optuna.Trial) -> float:
        best = -np.inf

        def report(event: EpochEnded, _: Path | None) -> None:
            nonlocal best
            value = event.metrics[config.train.monitor]
            best = max(best, value)
            trial.report(value, event.epoch)
            if config.search.scheduler == "asha" and trial.should_prune():
                raise optuna.TrialPruned

        fit_here(with_params(config, suggest(trial, config)), data, report)
        return best

    return objective


def searched_by(method: str, config: Config) -> Config:
    """Return the configuration with a loss, whose own constants are searched too."""
    space = {**config.search.space, **LOSS_SPACES[method]}
    values = {path: asdict(values) for path, values in space.items()}
    return override(config, {"loss.name": method, "search.space": values})


def suggest(trial: optuna.Trial, config: Config) -> dict[str, Any]:
    """Return a trial's settings by dotted path."""
    return {path: trial._suggest(path, values) for path, values in distributions(config).items()}


def with_params(config: Config, params: Mapping[str, Any], seed: int = 0) -> Config:
    """Return the configuration of one training."""
    return override(config, {"train.seed": seed, **params})


def fit_here(config: Config, data: Data, report: loop.Report) -> None:
    """Train in this process."""
    loop.fit(
        config,
        data.shared.manifest,
        data.shared.feeds(config),
        device=CPU,
        emit=lambda event: None,
        report=report,
    )


def test_method(
    method: str, config: Config, best: optuna.trial.FrozenTrial, data: Data, seed: int
) -> ScoredSplit:
    """Train the best settings anew and score the test split once."""
    if method in BASELINES:
        scores, truth = score_baseline(method, best.params, data, seed, "test")
        return _scored(scores, truth.labels, truth.observed, data)
    weights: dict[str, torch.Tensor] = {}

    def report(event: EpochEnded, folder: Path | None) -> None:
        if event.is_best and folder is not None:
            weights.update(checkpoint.load_weights(folder))

    trained = with_params(searched_by(method, config), best.params, seed)
    fit_here(trained, data, report)
    model = make_model(trained, data.shared.manifest)
    model.load_state_dict(weights)
    found: Predictions = predict(model, data.test.feed(trained), device=CPU)
    return _scored(found.scores, found.labels, found.observed, data)


def score_baseline(
    method: str, params: Mapping[str, Any], data: Data, seed: int, split: str
) -> tuple[np.ndarray, Matrix]:
    """Fit one of `BASELINES` on the training split; its scores of another, and that split."""
    config = Config()
    judged = data.test if split == "test" else data.shared.val
    train = read_matrix(data.shared.train.feed(config), params["parts"])
    other = read_matrix(judged.feed(config), params["parts"])
    return BASELINES[method].score(params, seed, train, other.features), other


def read_found(folder: Path, method: str, seeds: int) -> Found:
    """Read what `run_method` left."""
    told = [json.loads((folder / f"seed-{seed}.json").read_text()) for seed in range(seeds)]
    return Found(
        method=method,
        params=told[0]["params"],
        val_metric=told[0]["val"],
        seconds=tuple(one["seconds"] for one in told),
        tested=tuple(one["tested"] for one in told),
        scored=tuple(load_scored(folder / f"seed-{seed}.parquet") for seed in range(seeds)),
    )


def _scored(
    scores: np.ndarray, labels: np.ndarray, observed: np.ndarray, data: Data
) -> ScoredSplit:
    return ScoredSplit(
        ids=tuple(str(row) for row in range(len(scores))),
        scores=scores.astype(np.float32),
        labels=labels,
        observed=observed,
        vocabulary=data.shared.manifest.vocabulary,
        split=data.test.split,
        dataset_digest=data.digest,
    )
