"""Tables of trials, and what the screen shows."""

import re
from dataclasses import replace

import pytest
from example_trials import TRIALS, screen

from raymc.cli.tables import failure_lines, trials_table
from raymc.search.trials import Trial, duration


def test_the_table_ranks_trials_and_shows_what_differs() -> None:
    rows = [line.split() for line in screen(trials_table(TRIALS, "val/R80"))]
    assert rows == [
        ["trial", "state", "val/R80", "epoch", "time", "margin", "τ"],
        ["4", "complete", "0.6300", "7/20", "30.0", "s", "0.2", "0.2"],
        ["0", "complete", "0.6100", "7/20", "30.0", "s", "0.1", "0.05123"],
        ["1", "pruned", "0.3000", "7/20", "30.0", "s", "0.2", "0.1"],
        ["3", "complete", "7/20", "30.0", "s", "0.3", "0.1"],
        ["5", "running", "7/20", "30.0", "s", "0.4", "0.2"],
        ["2", "failed", "0.9900", "7/20", "30.0", "s", "0.3", "0.1"],
    ]


def test_the_best_row_is_highlighted() -> None:
    table = trials_table(TRIALS)
    assert [row.style for row in table.rows][:3] == ["bold green", "green", "dim"]
    assert trials_table(TRIALS[2:4]).rows[0].style == "green"


def test_further_metrics_get_columns() -> None:
    first, second = replace(TRIALS[0], best={"val/R80": 0.25}), TRIALS[1]
    rows = [line.split() for line in screen(trials_table([first, second]))]
    assert rows[0][:4] == ["trial", "state", "val/mAP", "R80"]
    assert rows[1][:4] == ["0", "complete", "0.6100", "0.2500"]
    assert rows[2][:4] == ["1", "pruned", "0.3000", "7/20"]


def test_names_that_would_clash_stay_long_and_text_counts_as_number() -> None:
    first = replace(TRIALS[0], params={"model.dim": 8, "text.dim": 4, "lr": 0.1, "flag": True})
    second = replace(TRIALS[0], params={"model.dim": 9, "text.dim": 5, "lr": "0.10", "flag": False})
    header, row, _ = screen(trials_table([first, second]))
    assert header.split()[-3:] == ["model.dim", "text.dim", "flag"]
    assert row.split()[-3:] == ["8", "4", "True"]


def test_one_trial_shows_all_its_params() -> None:
    header, _ = screen(trials_table(TRIALS[:1]))
    assert header.split()[-3:] == ["margin", "τ", "name"]


def test_a_narrow_table_loses_nothing() -> None:
    long = [replace(one, params={**one.params, "fusion": f"{one.number}neck"}) for one in TRIALS]
    lines = screen(trials_table(long, width=60), width=60)
    assert max(map(len, lines)) <= 60
    assert "params" in lines[0]
    text = re.sub(r"\s+", " ", " ".join(line[38:] for line in lines[1:]))
    for one in long:
        assert f"fusion={one.number}neck" in text
    assert "τ=0.05123" in text


def test_no_trials_give_an_empty_table() -> None:
    assert screen(trials_table([])) == ["trial  state  val/mAP  epoch  time"]


def test_each_reason_of_failure_is_told_once() -> None:
    def failed(number: int, message: str) -> Trial:
        return replace(TRIALS[2], number=number, message=message)

    assert failure_lines(TRIALS) == []
    several = [failed(7, "no [/luck]"), TRIALS[0], failed(8, "nan"), failed(9, "no [/luck]")]
    told = ["trials 7, 9 failed: no [/luck]", "trial 8 failed: nan"]
    assert failure_lines(several) == told
    more = [*several, failed(10, "a"), failed(11, "b"), failed(12, "c")]
    assert failure_lines(more) == [*told, "trial 10 failed: a", "… and 2 more reasons"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (-1.0, "0.0 s"), (59.94, "59.9 s"), (60.0, "1:00"), (3599.6, "1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
