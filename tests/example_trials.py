"""Trials of every state, and how a terminal shows what is drawn of them."""

import math
from io import StringIO

from rich.console import Console

from raymc.search.trials import Trial, TrialState


def screen(display: object, width: int = 100) -> list[str]:
    """A renderable as a terminal of that width shows it."""
    console = Console(file=StringIO(), width=width, record=True, _environ={})
    console.print(display)
    return [line.rstrip() for line in console.export_text().splitlines()]


def trial(number: int, state: TrialState, value: float | None, **params: object) -> Trial:
    return Trial(
        number=number,
        params={f"loss.{name}": chosen for name, chosen in params.items()},
        state=state,
        planned=20,
        epoch=7,
        value=value,
        seconds=30.0,
    )


TRIALS = [
    trial(0, "complete", 0.61, margin=0.1, temperature=0.0512345, name="contrast"),
    trial(1, "pruned", 0.3, margin=0.2, temperature=0.1, name="contrast"),
    trial(2, "failed", 0.99, margin=0.3, temperature=0.1, name="contrast"),
    trial(3, "complete", math.nan, margin=0.3, temperature=0.1, name="contrast"),
    trial(4, "complete", 0.63, margin=0.2, temperature=0.2, name="contrast"),
    trial(5, "running", None, margin=0.4, temperature=0.2, name="contrast"),
]
