"""Settings of training, tracking and the place of a run."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PlainValidator,
    PositiveFloat,
)
from pydantic.dataclasses import dataclass

CalibrationName = Literal["temperature", "isotonic", "none"]


def _workers(value: Any) -> int | tuple[int, int]:
    """Check a number of workers, or the fewest and the most of them."""
    numbers = value if isinstance(value, list | tuple) else (value,)
    if any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError(f"{value!r} is no number ≥ 1, and no two such as [1, 8]")
    if len(numbers) == 1 and not isinstance(value, list | tuple):
        return numbers[0]
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError(f"{value!r}: expected the fewest and the most workers, such as [1, 8]")
    return (numbers[0], numbers[1])


Workers = Annotated[int | tuple[int, int], PlainValidator(_workers)]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class TrainConfig:
    """How long and on what a run trains."""

    epochs: int = Field(default=20, ge=1, description="Passes over the training split.")
    patience: int = Field(
        default=0, ge=0, description="Epochs without a better `monitor` before stopping; 0: never."
    )
    monitor: Literal["val/mAP", "val/micro_AP", "val/R80", "val/LRAP"] = Field(
        default="val/mAP", description="Metric that picks the best epoch and the best trial."
    )
    target_precision: float = Field(
        default=0.8, gt=0, le=1, description="Precision that each class's threshold aims at."
    )
    threshold_confidence: float = Field(
        default=0.7,
        ge=0,
        lt=1,
        description="Share of bootstrap resamples of val in which a threshold must reach it; 0: "
        "val itself is enough. Classes that no threshold is sure enough for get no label.",
    )
    calibration: CalibrationName = Field(
        default="temperature",
        description="How scores become probabilities, fitted on val: one temperature and a bias "
        "a class, a rising curve a class, or not at all.",
    )
    seed: int = Field(default=0, ge=0, description="Of initialisation, order and dropout.")
    workers: Workers = Field(
        default=1,
        description="Training workers that share each batch: a number, or the fewest and the most, "
        "such as [1, 8], between which the group grows and shrinks with the cluster.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="Where workers compute; auto takes GPUs if the cluster has any."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto is bfloat16 on devices that have it, else float32."
    )
    compile: bool = Field(default=False, description="Compile the model with torch.compile.")
    max_failures: int = Field(
        default=2, ge=0, description="Times a run goes on from its last checkpoint after a crash."
    )
    checkpoint_steps: int = Field(
        default=0,
        ge=0,
        description="Steps between checkpoints within an epoch, which a crash can't cost more "
        "than; 0: they are taken at the ends of epochs alone, and before a node goes.",
    )
    worker_resources: Mapping[str, PositiveFloat] = Field(
        default_factory=dict,
        description="What each worker takes of its node besides CPUs and GPUs: the cluster's own "
        "resources, such as {accelerator_type:L4: 0.001} for one with an L4.",
    )

    @property
    def fewest_workers(self) -> int:
        """Workers that a run can't do without."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that a run takes where it can get them."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class TrackingConfig:
    """Where MLflow keeps the runs."""

    uri: str = Field(
        default="",
        description="Tracking address; empty is MLFLOW_TRACKING_URI, or sqlite in `run.folder`.",
    )
    experiment: str = Field(default="raymc", min_length=1, description="MLflow experiment.")
    register_as: str = Field(
        default="",
        description="Registered model that the winner becomes a version of; empty: none.",
    )
    alias: str = Field(default="champion", description="Alias that points at that version.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class RunConfig:
    """Where a run lives."""

    name: str = Field(
        default="", description="Name of the run; empty derives one from the settings."
    )
    folder: str = Field(
        default="runs", description="Where runs keep checkpoints, studies and logs."
    )
    storage: str = Field(
        default="",
        description="Where a run's checkpoints go instead: a folder that all nodes see, or an "
        "address such as s3://bucket/runs. A sweep's stay in `folder`.",
    )
