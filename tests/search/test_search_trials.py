"""What a study holds of a trial, written through Optuna and read back."""

import math
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from raymc.config import Config
from raymc.errors import SweepError, TrainingError
from raymc.search.trials import (
    Epoch,
    Trial,
    failure,
    note_epoch,
    note_failure,
    trial_of,
    trials_of,
    winner,
)

CONFIG = Config()


def epoch(number: int, value: float) -> Epoch:
    return Epoch(number, value, {"val/mAP": value}, 2.5 * number, f"checkpoint-{number}")


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize")


def noted(study: optuna.Study, *values: float) -> FrozenTrial:
    """A running trial with these values of its epochs, as the study has it."""
    trial = study.ask()
    for number, value in enumerate(values, 1):
        note_epoch(trial, epoch(number, value))
    return study.trials[trial.number]


def test_a_trial_that_has_just_begun(study: optuna.Study) -> None:
    begun = Trial(0, {}, "running", planned=CONFIG.train.epochs)
    assert trial_of(noted(study), CONFIG) == begun
    assert math.isnan(begun.score)
    assert not begun.is_over


def test_the_best_epoch_counts_and_all_of_the_time(study: optuna.Study) -> None:
    found = trial_of(noted(study, 0.25, 0.75, 0.5, 0.75), CONFIG)
    epochs = tuple(epoch(number, value) for number, value in enumerate((0.25, 0.75, 0.5, 0.75), 1))
    assert found == Trial(
        number=0,
        params={},
        state="running",
        planned=CONFIG.train.epochs,
        epoch=4,
        epochs=epochs,
        value=0.75,
        best={"val/mAP": 0.75, "epoch": 2},
        checkpoint="checkpoint-2",
        seconds=10.0,
    )
    assert found.score == 0.75


def test_an_epoch_without_a_number_does_not_count(study: optuna.Study) -> None:
    found = trial_of(noted(study, 0.25, math.nan), CONFIG)
    assert found.epochs == (epoch(1, 0.25),)
    ongoing = found.after(epoch(2, math.nan))
    assert (ongoing.epoch, ongoing.value, ongoing.best) == (2, 0.25, found.best)


def test_an_epoch_counts_once_its_value_is_there(study: optuna.Study) -> None:
    trial = study.ask()
    trial.set_user_attr(*epoch(1, 0.5).attribute())  # and then the driver died
    assert trial_of(study.trials[0], CONFIG).epochs == ()


def test_a_failure_is_kept_with_its_time(study: optuna.Study) -> None:
    trial = study.ask()
    note_epoch(trial, epoch(1, 0.5))
    note_failure(trial, "no luck", 4.0)
    study.tell(trial, state=OptunaState.FAIL)
    found = trial_of(study.trials[0], CONFIG)
    assert (found.state, found.message, found.seconds, found.value) == (
        "failed",
        "no luck",
        4.0,
        0.5,
    )
    assert (found.checkpoint, math.isnan(found.score), found.is_over) == (
        "checkpoint-1",
        True,
        True,
    )


def test_a_searched_number_of_epochs_is_what_a_trial_plans(study: optuna.Study) -> None:
    study.add_trial(
        create_trial(
            state=OptunaState.PRUNED,
            params={"train.epochs": 5},
            distributions={"train.epochs": IntDistribution(1, 9)},
            intermediate_values={1: 0.4},
            user_attrs=dict([epoch(1, 0.4).attribute()]),
        )
    )
    study.add_trial(create_trial(state=OptunaState.FAIL, user_attrs=failure("no luck", 0.5)))
    first, second = trials_of(study.trials, CONFIG)
    begun = Trial(0, {"train.epochs": 5}, planned=5)
    assert first == replace(begun.after(epoch(1, 0.4)), state="pruned")
    assert (second.state, second.epoch, second.planned) == ("failed", 0, CONFIG.train.epochs)


def test_the_winner_has_the_best_epoch_stopped_early_or_not() -> None:
    first, second, third = (Trial(n, {}).after(epoch(1, v)) for n, v in enumerate((0.5, 0.7, 0.9)))
    trials = [first, replace(second, state="pruned"), replace(third, state="failed")]
    assert winner(trials).number == 1
    assert winner([first, replace(second, value=0.5)]).number == 0


def test_a_sweep_without_a_winner_is_an_error_that_quotes_the_first_message() -> None:
    failed = [Trial(n, {}, "failed", message=text) for n, text in enumerate(("", "no luck", "bad"))]
    with pytest.raises(SweepError, match=r"^all 3 trials .* failed; the first: no luck$") as caught:
        winner(failed)
    assert caught.value.exit_code == 1
    assert isinstance(caught.value, TrainingError)  # so MLflow has the sweep as failed
    with pytest.raises(SweepError, match="the first: no trial was started"):
        winner([])
