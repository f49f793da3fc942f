"""What a study holds of a trial, written through Optuna and read back."""

import math

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from raymc.search.trials import Epoch, Outcome, epochs_of, note_epoch, note_failure, outcome_of


def epoch(number: int, value: float) -> Epoch:
    return Epoch(number, {"val/mAP": value}, 2.5 * number, f"checkpoint-{number}")


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize")


def noted(study: optuna.Study, *values: float) -> FrozenTrial:
    """A running trial with these values of its epochs, as the study has it."""
    trial = study.ask()
    for number, value in enumerate(values, 1):
        note_epoch(trial, epoch(number, value), value)
    return study.trials[trial.number]


def test_a_trial_that_has_just_begun_has_come_to_nothing(study: optuna.Study) -> None:
    assert outcome_of(noted(study)) == Outcome({}, "", 0.0, "")


def test_the_best_epoch_counts_and_all_of_the_time(study: optuna.Study) -> None:
    found = noted(study, 0.25, 0.75, 0.5, 0.75)
    assert epochs_of(found) == [
        epoch(number, value) for number, value in enumerate((0.25, 0.75, 0.5, 0.75), 1)
    ]
    assert outcome_of(found) == Outcome({"val/mAP": 0.75, "epoch": 2}, "checkpoint-2", 10.0, "")


def test_an_epoch_whose_value_is_no_number_does_not_count(study: optuna.Study) -> None:
    found = noted(study, 0.25, math.nan)
    assert epochs_of(found) == [epoch(1, 0.25)]
    assert outcome_of(found).best == {"val/mAP": 0.25, "epoch": 1}


def test_an_epoch_counts_once_its_value_is_there(study: optuna.Study) -> None:
    trial = study.ask()
    trial.set_user_attr(*epoch(1, 0.5).attribute())  # and then the driver died
    assert epochs_of(study.trials[0]) == []


def test_a_failure_is_kept_with_its_time(study: optuna.Study) -> None:
    trial = study.ask()
    note_epoch(trial, epoch(1, 0.5), 0.5)
    note_failure(trial, "no luck", 4.0)
    study.tell(trial, state=TrialState.FAIL)
    assert outcome_of(study.trials[0]) == Outcome(
        {"val/mAP": 0.5, "epoch": 1}, "checkpoint-1", 4.0, "no luck"
    )
