"""MLflow's pages on a finished sweep, as a browser shows them. Nothing but loopback is reached."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO

import pytest
from browser import chromium, needs_browser
from drivers import running, wait_until
from rich.console import Console
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from sockets import free_port

from raymc.cli.display import TrialsDisplay
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.search.trials import Epoch, TrialState, new_trial
from raymc.tracking import open_tracker
from raymc.tracking.recording import SweepRecorder
from raymc.training.runs import open_run

READ = """
const place = e => { const box = e.getBoundingClientRect(); return [Math.round(box.top), box.left] }
return [...document.querySelectorAll(arguments[0])]
    .map(e => [...place(e), e.textContent.trim()])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1])
    .map(([top, left, text]) => text)
"""
SPACE = {
    "loss.margin": {"low": 0.0, "high": 0.5},
    "loss.temperature": {"low": 0.03, "high": 0.3, "log": True},
    "model.fusion_depth": {"low": 0, "high": 2},
}
# margin, temperature, fusion depth; val/mAP of each epoch; how it ended
TRIALS: list[tuple[tuple[float, float, int], list[float], TrialState]] = [
    ((0.1, 0.1, 1), [0.5, 0.62, 0.61], "complete"),
    ((0.31, 0.07, 2), [0.6, 0.7, 0.75], "complete"),
    ((0.02, 0.2, 0), [0.31], "pruned"),
    ((0.45, 0.05, 2), [0.2], "failed"),
    ((0.2, 0.15, 1), [0.4, 0.45], "pruned"),
]
NAMES = [f"margin={m:g} τ={t:g} fusion={f}" for (m, t, f), _, _ in TRIALS]

pytestmark = [pytest.mark.slow, needs_browser]


def record_sweep(config: Config, dataset: Dataset) -> None:
    """Have raymc record a sweep that has run."""
    with open_tracker(config.tracking, config.run.folder) as tracker:
        display = TrialsDisplay(Console(file=StringIO()), len(TRIALS), metric="val/mAP")
        record = SweepRecorder(
            open_run(config, sweep=True), dataset.manifest, tracker, display.update
        )
        for number, (values, epochs, state) in enumerate(TRIALS):
            trial = new_trial(number, dict(zip(SPACE, values, strict=True)), config)
            record(trial)
            for epoch, value in enumerate(epochs, start=1):
                metrics = {"train/loss": 1 / epoch, "val/loss": 1.0, "val/mAP": value}
                trial = trial.after(Epoch(epoch, value, metrics | {"val/R80": value / 2}, 9.0, ""))
                record(trial)
            message = "the loss is nan at step 3" if state == "failed" else ""
            record(replace(trial, state=state, message=message))
        record.summarise()
        tracker.end_run(record.parent, "complete", metrics={"best/mAP": 0.75})
        assert tracker.close() == 0


@pytest.fixture(scope="module")
def address(
    tiny: Dataset, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address that `raymc ui` prints of a folder with a finished sweep."""
    folder = tmp_path_factory.mktemp("pages")
    settings = {"run.folder": str(folder / "runs"), "run.name": "margins", "search.space": SPACE}
    record_sweep(override(tiny_config, {**settings, "search.trials": len(TRIALS)}), tiny)
    log, place = folder / "ui.log", f"run.folder={folder}/runs"
    command = [sys.executable, "-m", "raymc", "ui", "--port", str(free_port()), place]
    with running(*command, log=log, environment={"MLFLOW_TRACKING_URI": ""}) as server:
        wait_until(lambda: "Ctrl-C" in log.read_text(), server)
        (printed,) = re.findall(r"Sweeps and runs: (http://127\.0\.0\.1:\S+) ", log.read_text())
        yield printed


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium as someone has it who was never on MLflow's pages."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


class Page:
    """What a person sees and does; every step waits until the page is so far."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self._wait = WebDriverWait(driver, 120, 0.1, ignored_exceptions=[WebDriverException])
        driver.get("about:blank")  # else another address of the same page loads nothing
        driver.get(address)

    def texts(self, css: str) -> list[str]:
        """What elements show, as one reads: line by line, from the left."""
        return self.driver.execute_script(READ, css)

    def until(self, css: str, expected: Callable[[list[str]], bool]) -> None:
        """Wait until elements show what is expected."""
        seen: list[str] = []

        def shown(_: object) -> bool:
            seen[:] = self.texts(css)
            return expected(seen)

        try:
            self._wait.until(shown)
        except TimeoutException:
            pytest.fail(f"{css} did not show what was expected, but {seen}")

    def click(self, css: str, text: str = "") -> None:
        """Click the first element of that kind with that text."""

        def clicked(_: object) -> bool:
            found = self.driver.find_elements(By.CSS_SELECTOR, css)
            fitting = [one for one in found if text in ("", one.text)]
            if fitting:
                fitting[0].click()
            return bool(fitting)

        self._wait.until(clicked, f"no {css} {text!r} to click")


ASSISTANT = "[data-component-id='mlflow.assistant.chat_panel.close']"
ROWS = ".ag-pinned-left-cols-container .ag-row"
RUN_NAMES = f"{ROWS} [col-id='attributes.`Run Name`'] a"


@pytest.fixture
def trial_list(driver: webdriver.Chrome, address: str) -> Page:
    """The page that `raymc ui` leads to, the sweep unfolded."""
    page = Page(driver, address)
    page.until(RUN_NAMES, lambda names: names == ["margins"])
    if page.texts(ASSISTANT):  # MLflow opens it for whoever is new, over half of the columns
        page.click(ASSISTANT)
    page.click(f"{ROWS} button[data-component-id*='runname']")
    page.until(RUN_NAMES, lambda names: len(names) == 1 + len(TRIALS))
    return page


def test_a_sweep_is_one_row_with_its_trials_below(trial_list: Page) -> None:
    first, *trials = trial_list.texts(RUN_NAMES)
    assert (first, sorted(trials)) == ("margins", sorted(NAMES))
    columns = ["best/mAP", "best/R80", *SPACE, "raymc.state", "raymc.trial", "Duration"]
    trial_list.until(".ag-header-viewport .ag-header-cell", lambda titles: titles == columns)
    cells = ".ag-center-cols-container [col-id='{}']"
    sweep, *states = trial_list.texts(cells.format("tags.`raymc.state`"))
    assert (sweep, sorted(states)) == ("complete", sorted(state for *_, state in TRIALS))
    sweep, *margins = trial_list.texts(cells.format("params.`loss.margin`"))
    assert (sweep, sorted(margins)) == ("-", sorted(f"{values[0]:g}" for values, *_ in TRIALS))


def test_the_best_trials_of_the_newest_sweep_are_a_view_away(trial_list: Page) -> None:
    trial_list.click("button", "Sweeps, with their trials")
    trial_list.click("[data-testid='saved-views-item-raymc-best']")
    ranking = sorted(range(len(TRIALS)), key=lambda number: -max(TRIALS[number][1]))
    trial_list.until(RUN_NAMES, lambda names: names == [NAMES[number] for number in ranking])


def test_the_trials_are_compared(trial_list: Page) -> None:
    for row in range(1, 1 + len(TRIALS)):
        trial_list.click(f"{ROWS}[row-index='{row}'] input.ag-checkbox-input")
        trial_list.until(f"{ROWS}.ag-row-selected", lambda rows, row=row: len(rows) == row)
    trial_list.click("button", "Compare")
    trial_list.until("h1,h2", lambda titles: "Comparing 5 Runs from 1 Experiment" in titles)
    # parallel coordinates: an axis for each setting and one for what counts, each over its values
    trial_list.until(".axis-title", lambda titles: titles == [*SPACE, "best/mAP"])
    columns = [*zip(*(values for values, *_ in TRIALS), strict=True)]
    columns.append(tuple(max(epochs) for _, epochs, _ in TRIALS))
    assert trial_list.texts(".axis-extent-top-text") == [f"{max(x):.5f}" for x in columns]
    assert trial_list.texts(".axis-extent-bottom-text") == [f"{min(x):.5f}" for x in columns]
    trial_list.click("button[role=tab]", "Contour Plot")
    trial_list.click("#zaxis-selector")
    trial_list.click("[role=option]", "best/mAP")
    for x, y in (("loss.margin", "loss.temperature"), ("loss.margin", "model.fusion_depth")):
        trial_list.click("#yaxis-selector")
        trial_list.click("[role=option]", y)
        trial_list.until(".xtitle,.ytitle", lambda axes, shown={x, y}: set(axes) == shown)
        trial_list.until(".contourlines path", lambda lines: len(lines) > 1)


def test_the_note_says_what_came_out(trial_list: Page) -> None:
    trial_list.click(RUN_NAMES, "margins")
    trial_list.until("strong", lambda bold: "Best: trial 1" in bold)
    trial_list.until("code", lambda code: "margin=0.31 τ=0.07 fusion=2" in code)
    trial_list.click("button", "Show more")
    titles = ["trial", "state", "val/mAP", "R80", "epochs", "time", "margin", "τ", "fusion"]
    trial_list.until("table:not([role]) th", lambda shown: shown[: len(titles)] == titles)
    cells = trial_list.texts("table:not([role]) td")
    first = ["1", "complete", "75.0 %", "37.5 %", "3", "9.0 s", "0.31", "0.07", "2"]
    assert cells[: len(first)] == first
    assert cells[4 * len(first)].strip() == "3"  # the failed one comes last
    trial_list.click("a", "Compare the trials")
    trial_list.driver.switch_to.window(trial_list.driver.window_handles[-1])
    trial_list.until(".axis-title", lambda titles: titles == [*SPACE, "best/mAP"])
    trial_list.until("h1,h2", lambda titles: "Comparing 4 Runs from 1 Experiment" in titles)
