"""Ways of doing the same thing, timed in turns, and the page and the JSON of what they took.

`Measurement` is the one record of all benchmarks, `table` and `publish` the one way to write it.
Only ratios within one run mean anything: machines differ, and so does the load on one machine.
"""

import json
import math
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markdown import Markdown

from raymc.runtime.provenance import current_code
from raymc.tracking.notes import markdown_table

PACKAGES = (
    *("raymc", "ray", "torch", "torchaudio", "pyarrow", "numpy", "av", "optuna", "lightning"),
    *("transformers", "accelerate", "datasets", "mosaicml-streaming", "webdataset", "litdata"),
)
Result = TypeVar("Result")


@dataclass
class Measurement:
    """What one way of doing something took.

    Attributes:
        name: The way.
        case: What it was done on, such as sizes, a dataset or a number of workers.
        figures: Values by name, such as `seconds`, one for each round.
        note: Why figures are missing.
    """

    name: str
    case: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, list[Any]] = field(default_factory=dict)
    note: str = ""

    def __getitem__(self, figure: str) -> list[Any]:
        """Return a figure's values, round by round; none if it was not measured."""
        return self.figures.get(figure, [])

    def add(self, **values: object) -> None:
        """Append a round's values."""
        for name, value in values.items():
            self.figures.setdefault(name, []).append(value)

    def median(self, figure: str) -> float:
        """Return a figure's median; NaN if it was not measured."""
        return median(self[figure])

    def spread(self, figure: str) -> tuple[float, float]:
        """Return a figure's least and largest value; NaN if it was not measured."""
        return min(self[figure], default=math.nan), max(self[figure], default=math.nan)


Columns = Mapping[str, Callable[[Measurement], str]]
NAME: Columns = {"": lambda m: m.name}


def take_turns(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, warm: bool = True
) -> list[Measurement]:
    """Time each way once a round, A B A B …, after an untimed first call of each if `warm`."""
    for way in ways.values() if warm else ():
        way()
    found = {name: Measurement(name) for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            found[name].add(seconds=time.perf_counter() - began)
    return list(found.values())


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process that ends with it.

    Raises:
        RuntimeError: The function did, or the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def median(values: Iterable[float]) -> float:
    """Return the median of some values; NaN of none."""
    values = list(values)
    return statistics.median(values) if values else math.nan


def ratios(values: Iterable[float], others: Iterable[float]) -> list[float]:
    """Return one way's values over another's, round by round."""
    return [value / other for value, other in zip(values, others)]


def shown(form: str, *values: float) -> str:
    """Return values as text; nothing if one of them is NaN."""
    return "" if any(map(math.isnan, values)) else form.format(*values)


def with_spread(values: Sequence[float], form: str) -> str:
    """Return the median of some values and, in brackets, the least and the largest."""
    least, most = min(values, default=math.nan), max(values, default=math.nan)
    return shown(f"{form} ({form} to {form})", median(values), least, most)


def plus_minus(values: Sequence[float]) -> str:
    """Return the mean of some values and their standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def table(columns: Columns, measurements: Iterable[Measurement]) -> str:
    """Return a Markdown table with a row for each measurement; its note is in the first gap."""
    rows = []
    for measurement in measurements:
        cells = [cell(measurement) for cell in columns.values()]
        if measurement.note and "" in cells:
            cells[cells.index("")] = measurement.note
        rows.append(cells)
    return markdown_table(list(columns), rows)


def machine() -> dict[str, str]:
    """Return where, when and how figures were taken: processor, versions, commit, command."""
    from raymc.tracking.records import command_line  # takes seconds to import

    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        "commit": current_code().commit or "unknown",
        "command": re.sub(r"^bench ", "python -m jobs.bench ", command_line()),
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
    }


def machine_line(found: Mapping[str, str] | None = None) -> str:
    """Return what `machine` finds, or has found, as one line."""
    return ", ".join(f"{name} {value}" for name, value in (found or machine()).items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def publish(
    title: str, text: str, measurements: Sequence[Measurement], console: Console, out: Path | None
) -> None:
    """Print a benchmark's page; write it and, as JSON, all figures if a folder is given.

    Args:
        title: Of the page; the files are named after it.
        text: The page, without title and machine.
        measurements: All figures of all rounds.
        console: Where the page is printed.
        out: Folder for the two files.
    """
    found = machine()
    page = f"## {title}\n\n{text}\n{machine_line(found)}\n"
    console.print(Markdown(page) if console.is_terminal else page, highlight=False, soft_wrap=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = title.lower().replace(" ", "-")
        (out / f"{stem}.md").write_text(page)
        values = {"machine": found, "measurements": [asdict(one) for one in measurements]}
        (out / f"{stem}.json").write_text(json.dumps(_without_nan(values), indent=1))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
