"""The search space: dotted configuration paths and the values that a sweep may try."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Range:
    """Values of one setting: an interval (`low`, `high`, `log`) or a list (`choices`)."""

    low: int | float | None = Field(default=None, description="Lowest value, included.")
    high: int | float | None = Field(default=None, description="Highest value, included.")
    log: bool = Field(default=False, description="Draw on a logarithmic scale.")
    choices: tuple[Value, ...] = Field(default=(), description="The values, instead of a range.")

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

    def ends(self) -> tuple[Value, ...]:
        """Return the values that must be valid for every value of the range to be valid."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return (self.low, self.high)


def default_space() -> dict[str, Range]:
    """Return the default space: margin × temperature × fusion depth."""
    return {
        "loss.margin": Range(low=0.0, high=0.5),
        "loss.temperature": Range(low=0.02, high=0.5, log=True),
        "model.fusion_depth": Range(low=0, high=4),
    }


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class SearchConfig:
    """How settings are searched."""

    trials: int = Field(default=16, ge=1, description="Trials of the sweep, restarts included.")
    space: Mapping[str, Range] = Field(
        default_factory=default_space,
        description="Dotted path of a setting to its range: `{low, high, log}` or `{choices}`.",
    )
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="Optuna's sampler of the next trial."
    )
    startup_trials: int = Field(
        default=5, ge=0, description="Random trials before TPE starts to model the results."
    )
    try_default: bool = Field(
        default=True, description="Make the first trial the configuration's own values."
    )
    scheduler: Literal["asha", "none"] = Field(
        default="asha", description="Stop weak trials early (ASHA, on our epochs), or never."
    )
    grace_epochs: int = Field(
        default=3, ge=1, description="Epochs that every trial gets before ASHA may stop it."
    )
    reduction_factor: int = Field(
        default=3, ge=2, description="ASHA keeps one trial in this many at each rung."
    )
    concurrent: int = Field(
        default=0, ge=0, description="Trials at a time; 0 is as many as the resources allow."
    )
    cpus_per_trial: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="CPUs of each trial's worker."
    )
    gpus_per_trial: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs of each worker; a fraction packs trials on one.",
    )
    storage: str = Field(
        default="",
        description="Address of Optuna's study (SQLAlchemy); empty: sqlite in the sweep's folder.",
    )
