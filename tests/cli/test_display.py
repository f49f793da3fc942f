"""The displays, driven as a run drives them, and what the screen shows."""

import re
import threading
import time
from dataclasses import replace
from io import StringIO

import pytest
from example_trials import TRIALS, screen, trial
from rich.console import Console

from raymc.cli.display import TrainDisplay, TrialsDisplay
from raymc.events import Ended, EpochEnded, Started, Stepped, Warned

STARTED = Started(epochs=12, steps_per_epoch=40, rows=1234, parameters=56789)


def terminal(width: int = 100) -> Console:
    environment = {"TERM": "xterm"}
    return Console(file=StringIO(), force_terminal=True, width=width, _environ=environment)


def pipe(width: int = 80) -> Console:
    return Console(file=StringIO(), force_terminal=False, width=width, _environ={})


def written(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def words(console: Console) -> str:
    """What was written, without control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(console))


def ended(epoch: int, value: float, *, is_best: bool) -> EpochEnded:
    metrics = {"val/mAP": value, "train/loss": 2.0 / epoch, "train/samples_per_second": 1812.4}
    return EpochEnded(epoch=epoch, metrics=metrics, is_best=is_best, seconds=3.21)


def test_a_pipe_gets_a_line_per_event_and_no_control_codes() -> None:
    console = pipe(width=40)
    with TrainDisplay(console) as display:
        display.handle(STARTED)
        display.handle(Stepped(epoch=1, step=20, loss=1.0, samples_per_second=99.0))
        display.handle(ended(1, 0.4, is_best=True))
        display.handle(ended(2, 0.3, is_best=False))
        display.handle(Ended(reason="early stop", best_epoch=1, best={"val/mAP": 0.4}))
    assert written(console).splitlines() == [
        "training 12 epochs of 40 steps: 1,234 rows, 56,789 parameters",
        "epoch  1/12  train/loss 2.0000  val/mAP 0.4000 (best)  1,812 samples/s  3.2 s",
        "epoch  2/12  train/loss 1.0000  val/mAP 0.3000  1,812 samples/s  3.2 s",
        "early stop, best was epoch 1  val/mAP 0.4000",
    ]


def test_more_trials_and_epochs_than_are_asked_for() -> None:
    console = pipe(width=200)
    trials, run = TrialsDisplay(console, trials=2), TrainDisplay(console)
    for number in range(3):
        trials.update(replace(TRIALS[0], number=number, state="complete"))
    run.handle(replace(STARTED, first_epoch=13))
    assert [line[:12] for line in written(console).splitlines()[:3]] == [
        "1/2 ended: t",
        "2/2 ended: t",
        "3/3 ended: t",
    ]
    assert "all 12 epochs were trained before: 1,234 rows" in written(console)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    console = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with TrainDisplay(console) as display:
        display.handle(replace(STARTED, first_epoch=5))
    line = "resuming at epoch 5 of 12 epochs of 40 steps: 1,234 rows, 56,789 parameters\n"
    assert written(console) == line


def test_a_run_resumed_within_an_epoch_with_several_workers() -> None:
    console = pipe()
    display = TrainDisplay(console)
    display.handle(Warned("checkpoint a is torn"))
    display.handle(replace(STARTED, first_step=17, workers=2))
    assert written(console).splitlines() == [
        "warning: checkpoint a is torn",
        "resuming at epoch 1 after step 17 of 12 epochs of 40 steps: 1,234 rows, "
        "56,789 parameters, 2 workers",
    ]


def test_another_metric_can_decide() -> None:
    console = pipe()
    display = TrainDisplay(console, metric="val/LRAP")
    display.handle(EpochEnded(1, {"val/mAP": 0.1, "val/LRAP": 0.2}, is_best=True, seconds=1.0))
    assert written(console) == "epoch 1/1  val/mAP 0.1000  val/LRAP 0.2000 (best)  1.0 s\n"


@pytest.mark.parametrize("width", [60, 100])
def test_the_live_part_shows_progress_speed_best_and_time_left(width: int) -> None:
    now = [0.0]
    display = TrainDisplay(terminal(width), clock=lambda: now[0])
    display.handle(STARTED)
    now[0] = 30.0
    display.handle(ended(1, 0.4, is_best=True))
    now[0] = 60.0
    display.handle(ended(2, 0.3, is_best=False))
    now[0] = 75.0
    display.handle(Stepped(epoch=3, step=20, loss=0.7512345, samples_per_second=1812.4))
    epochs, steps, status = screen(display, width)
    assert re.fullmatch(r"epoch ━+[╸╺]? +2/12 4:45 left", epochs)
    assert re.fullmatch(r"step  ━+[╸╺]? +20/40 1,812 samples/s", steps)
    assert status == "loss 0.7512  best val/mAP 0.4000 (epoch 1)"
    assert max(len(epochs), len(steps)) <= width


def test_time_left_counts_from_where_the_run_was_resumed() -> None:
    now = [0.0]
    display = TrainDisplay(terminal(), clock=lambda: now[0])
    display.handle(replace(STARTED, first_epoch=11))
    assert "left" not in screen(display)[0]
    now[0] = 10.0
    display.handle(ended(11, 0.4, is_best=True))
    assert screen(display)[0].endswith("11/12 10.0 s left")


def test_a_terminal_keeps_the_epochs_and_drops_the_bars() -> None:
    console = terminal(60)
    with TrainDisplay(console) as display:
        display.handle(STARTED)
        display.handle(Stepped(epoch=1, step=20, loss=1.0, samples_per_second=99.0))
        display.handle(ended(1, 0.4, is_best=True))
        time.sleep(0.3)
        display.handle(Ended(reason="finished", best_epoch=1))
    text = words(console)
    assert "━" in text
    assert re.search(r"epoch  1/12 .* 0\.4000 \(best\)\s+1,812\s+samples/s  3\.2 s\n", text)
    assert "finished, best was epoch 1" in text
    assert written(console).endswith("\x1b[?25h\r\x1b[1A\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K")


def test_a_pipe_gets_a_line_when_a_trial_ends() -> None:
    console = pipe(width=40)
    with TrialsDisplay(console, trials=8) as display:
        display.update(replace(TRIALS[0], state="running", value=0.2))
        for one in (TRIALS[0], TRIALS[0], TRIALS[2], TRIALS[4]):
            display.update(one)
    assert written(console).splitlines() == [
        "1/8 ended: trial 0 complete  val/mAP 0.6100  epoch 7/20  30.0 s  "
        "margin=0.1  temperature=0.05123  name=contrast  best 0.6100 (trial 0)",
        "2/8 ended: trial 2 failed  val/mAP 0.9900  epoch 7/20  30.0 s  "
        "margin=0.3  temperature=0.1  name=contrast  best 0.6100 (trial 0)",
        "3/8 ended: trial 4 complete  val/mAP 0.6300  epoch 7/20  30.0 s  "
        "margin=0.2  temperature=0.2  name=contrast  best 0.6300 (trial 4)",
    ]


@pytest.mark.parametrize("width", [60, 100])
def test_the_live_sweep_shows_counts_best_time_left_and_running_trials_first(width: int) -> None:
    display = TrialsDisplay(terminal(width), trials=9)
    assert screen(display, width)[0] == "9 trials: none started"
    for one in TRIALS:
        display.update(one)
    lines = screen(display, width)
    assert lines[0] == "9 trials: 1 running, 3 complete, 1 pruned, 1 failed"
    # five ended in 30 s each; four to go, of which the one that runs is through: 3 * 30 s
    assert lines[1] == "best 0.6300 (trial 4)  about 1:30 left"
    assert [line.split()[0] for line in lines[2:]] == ["trial", "5", "4", "0", "1", "3", "2"]
    assert "margin=0.4" in lines[3]
    assert max(map(len, lines)) <= width


def test_the_live_sweep_keeps_to_the_ten_best() -> None:
    display = TrialsDisplay(terminal(), trials=50)
    for number in range(30):
        display.update(trial(number, "complete", number / 100))
    assert [line.split()[0] for line in screen(display)[3:]] == [str(n) for n in range(29, 19, -1)]


def test_a_terminal_drops_the_live_table_at_the_end() -> None:
    console = terminal(60)
    with TrialsDisplay(console, trials=9) as display:
        display.update(TRIALS[4])
        time.sleep(0.3)
    assert "9 trials: 1 complete" in words(console)
    assert written(console).endswith("\x1b[1A\x1b[2K")
    assert display.trials == [TRIALS[4]]


@pytest.mark.slow
def test_many_threads_may_update_at_once() -> None:
    console = terminal()

    def work(first: int) -> None:
        for number in range(first, first + 50):
            sweep.update(trial(number, "complete", number / 1000))
            train.handle(Stepped(epoch=1, step=number % 40, loss=1.0, samples_per_second=1.0))
            train.handle(ended(1, 0.1, is_best=False))

    with TrainDisplay(console) as train, TrialsDisplay(pipe(), trials=200) as sweep:
        train.handle(STARTED)
        threads = [threading.Thread(target=work, args=(50 * part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()
    assert [one.number for one in sweep.trials] == list(range(200))
    assert words(console).count("val/mAP 0.1000") == 200
