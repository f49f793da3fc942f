"""On Ray: Optuna's study of a sweep, its space and sampler, and Tune's scheduler.

The study's database is the one truth about a sweep.
"""

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
from ray.tune.schedulers import ASHAScheduler
from sqlalchemy.exc import SQLAlchemyError

from raymc.config import Config, Range, flatten
from raymc.data.storage import patience
from raymc.errors import ConfigError, first_line
from raymc.training.runs import Run
from raymc.training.worker import EPOCH

# Where the study keeps how many GPUs each worker of its trials had.
GPUS_ATTRIBUTE = "gpus_per_worker"
STUDY_FILE = "study.db"
# A sweep waits for a database that is started again.
_PATIENCE_SECONDS = 180.0
# Makes a function try again while the study's database is away.
patient = patience(StorageInternalError, seconds=_PATIENCE_SECONDS).wraps


def open_study(run: Run) -> optuna.Study:
    """Open the sweep's study, or make it with the configuration itself as its first trial.

    Raises:
        ConfigError: `search.storage` can't be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, address = run.config, _address(run)
    try:
        study = optuna.create_study(
            storage=_storage(address),
            study_name=run.name,
            direction="maximize",
            load_if_exists=True,
        )
    except (ImportError, ValueError, SQLAlchemyError, StorageInternalError) as error:
        line = first_line(error)
        raise ConfigError(f"search.storage: the study {address} can't be opened: {line}") from error
    study.sampler = make_sampler(config, known=len(study.trials))
    begin_with_default(study, config)
    return study


def begin_with_default(study: optuna.Study, config: Config) -> None:
    """Make the configuration itself the first trial of an empty study, where that is wanted."""
    defaults = _defaults(config)
    if config.search.try_default and not study.trials and defaults:
        study.enqueue_trial(defaults)


def read_study(run: Run) -> optuna.Study:
    """Open the study of a sweep to look at it.

    Raises:
        ConfigError: there is none, or `search.storage` can't be opened.
    """
    address = _address(run)
    if not run.config.search.storage and not (run.folder / STUDY_FILE).is_file():
        raise ConfigError(f"{run.folder} holds no sweep: it has no {STUDY_FILE}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.load_study(study_name=run.name, storage=_storage(address))
    except KeyError:
        raise ConfigError(f"the storage {address} holds no sweep {run.name!r}") from None
    except (ImportError, ValueError, SQLAlchemyError, StorageInternalError) as error:
        line = first_line(error)
        raise ConfigError(f"the study {address} can't be opened: {line}") from error


def distribution(values: Range, *, integer: bool) -> BaseDistribution:
    """Return Optuna's form of a range, over integers where the setting is one."""
    if values.choices:
        return CategoricalDistribution(values.choices)
    low, high = values.low, values.high
    assert low is not None
    assert high is not None
    if integer:
        return IntDistribution(int(low), int(high), log=values.log)
    return FloatDistribution(float(low), float(high), log=values.log)


def distributions(config: Config) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the space; settings that are integers stay so."""
    settings = flatten(config)
    return {
        path: distribution(values, integer=isinstance(settings.get(path), int))
        for path, values in config.search.space.items()
    }


def make_sampler(config: Config, *, known: int) -> optuna.samplers.BaseSampler:
    """Return the sampler, seeded so that a restarted sweep doesn't draw its first trials again."""
    seed = int(np.random.SeedSequence([config.train.seed, known]).generate_state(1)[0])
    if config.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=config.search.startup_trials, constant_liar=True
    )


def make_scheduler(config: Config) -> ASHAScheduler | None:
    """Return ASHA on our own epochs, or None if every trial may finish."""
    if config.search.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=config.train.monitor,
        mode="max",
        max_t=max(config.train.epochs, config.search.grace_epochs),
        grace_period=config.search.grace_epochs,
        reduction_factor=config.search.reduction_factor,
        stop_last_trials=False,
    )


def _address(run: Run) -> str:
    return run.config.search.storage or f"sqlite:///{run.folder / STUDY_FILE}"


def _storage(address: str) -> RDBStorage:
    """Return the database; a connection that broke while nobody used it is noticed and replaced."""
    return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})


def _defaults(config: Config) -> dict[str, Any]:
    """Return the configuration's own values of the space, or nothing if one lies outside it."""
    settings, space = flatten(config), distributions(config)
    inside = all(_holds(values, settings[path]) for path, values in space.items())
    return {path: settings[path] for path in space} if inside else {}


def _holds(values: BaseDistribution, value: Any) -> bool:
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    return values._contains(values.to_internal_repr(value))
