"""A sweep's study in Optuna, its search space and its sampler.

The study's database is the only state of a sweep that a restart needs.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from raymc.addresses import limit_connecting, redacted, resolved, with_password
from raymc.config import Config, Range, flatten
from raymc.data.storage import patience
from raymc.errors import ConfigError, first_line
from raymc.search.trials import Trial, trials_of
from raymc.training.runs import STUDY_FILE, TRIALS, Run

# The study's attribute with the number of GPUs of each worker.
GPUS_ATTRIBUTE = "gpus_per_worker"
# How long a sweep waits for a database that is restarted.
_PATIENCE_SECONDS = 180.0
# Wraps a function so that it is retried while the study's database is unreachable.
patient = patience(StorageInternalError, seconds=_PATIENCE_SECONDS).wraps


def open_study(run: Run) -> optuna.Study:
    """Open the sweep's study, or make one whose first trial is the configuration itself.

    Raises:
        ConfigError: `search.storage` can't be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, address = run.config, _address(run)
    try:
        storage = _storage(address)
        study = optuna.create_study(
            storage=storage,
            study_name=_study_name(run, storage),
            direction="maximize",
            load_if_exists=True,
        )
    except (ImportError, ValueError, SQLAlchemyError, StorageInternalError) as error:
        line = redacted(first_line(error))
        raise ConfigError(f"search.storage: the study {address} can't be opened: {line}") from error
    study.sampler = make_sampler(config, known=len(study.trials))
    begin_with_default(study, config)
    return study


def begin_with_default(study: optuna.Study, config: Config) -> None:
    """Make the configuration the first trial of an empty study, if it lies inside the space.

    `search.try_default` may switch that off.
    """
    settings, space = flatten(config), distributions(config)
    if config.search.try_default and space and not study.trials and not outside_space(config):
        study.enqueue_trial({path: settings[path] for path in space})


def outside_space(config: Config) -> dict[str, Any]:
    """Return the settings, by dotted path, that lie outside the space they are searched in."""
    settings = flatten(config)
    space = distributions(config)
    return {path: settings[path] for path in space if not _holds(space[path], settings[path])}


def read_study(run: Run) -> optuna.Study:
    """Open the study of a sweep to read it.

    Raises:
        ConfigError: There is none, or `search.storage` can't be opened.
    """
    address = _address(run)
    if not run.config.search.storage and not (run.folder / STUDY_FILE).is_file():
        raise ConfigError(
            f"{run.folder} is not the folder of a sweep: it has no {STUDY_FILE}; raymc tune makes "
            "sweeps, and raymc evaluate measures a run"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = _storage(address)
        return optuna.load_study(study_name=_study_name(run, storage), storage=storage)
    except KeyError:
        raise ConfigError(
            f"the storage {address} has no study {run.id} of sweep {run.name!r}"
        ) from None
    except (ImportError, ValueError, SQLAlchemyError, StorageInternalError) as error:
        line = redacted(first_line(error))
        raise ConfigError(f"the study {address} can't be opened: {line}") from error


def trials_in(study: optuna.Study, run: Run) -> list[Trial]:
    """Return the trials of a sweep's study, in the order of their numbers.

    Their checkpoints are those in the sweep's folder: the study has paths of where the folder was
    when they were written, and if it was moved, another sweep may be there now.
    """
    trials = []
    for trial in trials_of(study.get_trials(deepcopy=False), run.config):
        _, is_inside, place = trial.checkpoint.rpartition(f"/{TRIALS}/")
        here = str(run.folder / TRIALS / place) if is_inside else trial.checkpoint
        trials.append(replace(trial, checkpoint=here))
    return trials


def distribution(values: Range, *, integer: bool) -> BaseDistribution:
    """Return a range as Optuna's distribution, over integers if the setting is one."""
    if values.choices:
        return CategoricalDistribution(values.choices)
    low, high = values.low, values.high
    assert low is not None
    assert high is not None
    if integer:
        return IntDistribution(int(low), int(high), log=values.log)
    return FloatDistribution(float(low), float(high), log=values.log)


def distributions(config: Config) -> dict[str, BaseDistribution]:
    """Return the search space as Optuna's distributions; integer settings stay integers."""
    settings = flatten(config)
    return {
        path: distribution(values, integer=isinstance(settings.get(path), int))
        for path, values in config.search.space.items()
    }


def make_sampler(config: Config, *, known: int) -> optuna.samplers.BaseSampler:
    """Return the sampler, seeded so that a restarted sweep doesn't repeat its first draws."""
    seed = int(np.random.SeedSequence([config.train.seed, known]).generate_state(1)[0])
    if config.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=config.search.startup_trials,
        constant_liar=True,  # so that concurrent trials aren't drawn close to each other
    )


def _address(run: Run) -> str:
    return resolved(run.config.search.storage) or f"sqlite:///{run.folder / STUDY_FILE}"


def _study_name(run: Run, storage: RDBStorage) -> str:
    """Return the sweep's id or, in the sweep's own database, the name of the study that is there.

    That database has only one study, which raymc 0.1.0 called by the sweep's name.
    """
    known = [] if run.config.search.storage else optuna.get_all_study_names(storage)
    return known[0] if known else run.id


def _storage(address: str) -> RDBStorage:
    """Return the database; connections are tested before use and replaced if they broke."""
    limit_connecting()
    return RDBStorage(with_password(address), engine_kwargs={"pool_pre_ping": True})


def _holds(values: BaseDistribution, value: Any) -> bool:
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    return values._contains(values.to_internal_repr(value))
