"""Settings of a sweep, and the values that it may try."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from raymc.config.places import Address

Value = bool | int | float | str
_MOST_VALUES = 1000


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Range:
    """Values that a sweep may try: an interval (`low`, `high`, `log`) or a list (`choices`)."""

    low: int | float | None = Field(default=None, description="Lowest value, included.")
    high: int | float | None = Field(default=None, description="Highest value, included.")
    log: bool = Field(default=False, description="Draw on a logarithmic scale.")
    choices: tuple[Value, ...] = Field(
        default=(), description="List of values, in place of an interval."
    )

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either `choices` or `low` and `high`, not both")
        elif self.low is None or self.high is None:
            raise ValueError("give `low` and `high`, or `choices`")
        elif self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, not at {self.low}")
        return self

    def values(self, *, integer: bool) -> Sequence[Value]:
        """Return the values to check together with others: all, or the ends if there are many."""
        low, high = self.low, self.high
        if self.choices or low is None or high is None or not integer:
            return self.ends()
        first = int(low) + 1
        return [low, high, *range(first, min(int(high), first + _MOST_VALUES))]

    def ends(self) -> tuple[Value, ...]:
        """Return the values whose validity proves that of all others in the range."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return (self.low, self.high)


def default_space() -> dict[str, Range]:
    """Return the default space: margin × temperature × fusion depth."""
    return {
        "loss.margin": Range(low=0.0, high=0.3),
        "loss.temperature": Range(low=0.02, high=0.15, log=True),
        "model.fusion_depth": Range(low=0, high=4),
    }


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class SearchConfig:
    """The search for good settings: what to try, and on what resources."""

    trials: int = Field(
        default=16, ge=1, description="Trials of the sweep, including those before a restart."
    )
    hours: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="No trial starts later than this many hours after the first; those that run "
        "are finished. null: no limit.",
    )
    space: Mapping[str, Range] = Field(
        default_factory=default_space,
        description="Range of each setting by dotted path: `{low, high, log}` or `{choices}`.",
    )
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="Optuna sampler that proposes the next trial."
    )
    startup_trials: int = Field(
        default=5, ge=0, description="Random trials before TPE starts to model the results."
    )
    try_default: bool = Field(
        default=True, description="Start with a trial of the configured values."
    )
    scheduler: Literal["asha", "none"] = Field(
        default="asha", description="asha: stop weak trials early (ASHA). none: never."
    )
    grace_epochs: int = Field(default=3, ge=1, description="Epochs before ASHA may stop a trial.")
    reduction_factor: int = Field(
        default=3, ge=2, description="ASHA keeps one trial in this many at each rung."
    )
    concurrent: int = Field(
        default=0,
        ge=0,
        description="Trials that run at the same time; 0: as many as the resources allow.",
    )
    cpus_per_trial: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="CPUs of each worker."
    )
    gpus_per_trial: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs of each worker; with a fraction, several trials share a GPU.",
    )
    storage: Address = Field(
        default="",
        description="SQLAlchemy address of Optuna's study, in which `${NAME}` is a variable of the "
        "environment; empty: SQLite in the sweep's folder.",
    )
