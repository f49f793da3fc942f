"""Settings of training, of MLflow, and of where a run is stored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, PositiveFloat
from pydantic.dataclasses import dataclass

from raymc.config.places import LARGEST_SEED, Address, Name, Place

CalibrationName = Literal["temperature", "isotonic", "none"]


def _workers(value: Any) -> int | tuple[int, int]:
    """Check a number of workers, or a pair of the fewest and the most."""
    numbers = value if isinstance(value, list | tuple) else (value,)
    if any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError(f"{value!r}: expected a number ≥ 1, or a pair such as [1, 8]")
    if len(numbers) == 1 and not isinstance(value, list | tuple):
        return numbers[0]
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError(f"{value!r}: expected the fewest and the most workers, such as [1, 8]")
    return (numbers[0], numbers[1])


Workers = Annotated[int | tuple[int, int], PlainValidator(_workers)]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class TrainConfig:
    """How long a run trains, on which hardware, and how its best epoch is chosen."""

    epochs: int = Field(default=20, ge=1, description="Passes over the training split.")
    patience: int = Field(
        default=0,
        ge=0,
        description="Epochs without a better `monitor` before training stops; 0: never.",
    )
    monitor: Literal["val/mAP", "val/micro_AP", "val/R80", "val/LRAP"] = Field(
        default="val/mAP", description="Metric that selects the best epoch and the best trial."
    )
    target_precision: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Precision that the threshold of each class must reach on val.",
    )
    threshold_confidence: float = Field(
        default=0.7,
        ge=0,
        lt=1,
        description="Share of bootstrap resamples of val in which a threshold must reach "
        "`target_precision`; 0: only val itself counts. A class without such a threshold is "
        "never predicted.",
    )
    calibration: CalibrationName = Field(
        default="temperature",
        description="How scores become probabilities, fitted on val. temperature: one temperature, "
        "and a bias per class. isotonic: an increasing curve per class. none: not at all.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=LARGEST_SEED,
        description="Seed of initialisation, order of rows and dropout.",
    )
    workers: Workers = Field(
        default=1,
        description="Training workers that share each batch: a number, or a pair such as [1, 8] "
        "within which the group grows and shrinks with the cluster.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="Where workers run; auto uses GPUs if the cluster has any."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of the model; auto is bfloat16 on devices that support it, else "
        "float32.",
    )
    compile: Literal["auto", True, False] = Field(
        default="auto",
        description="Compile training steps with torch.compile, which takes about a minute; auto "
        "does on GPUs for runs of at least 5,000 steps, if Triton and a C compiler are there.",
    )
    max_failures: int = Field(
        default=2,
        ge=0,
        description="How often a run resumes from its last checkpoint after a crash.",
    )
    checkpoint_steps: int = Field(
        default=0,
        ge=0,
        description="Steps between checkpoints within an epoch, and so the most that a crash can "
        "lose; 0: checkpoints only after each epoch and before a node is preempted.",
    )
    worker_resources: Mapping[str, PositiveFloat] = Field(
        default_factory=dict,
        description="Custom resources that each worker reserves besides CPUs and GPUs, such as "
        "{accelerator_type:L4: 0.001} for a node with an L4.",
    )

    @property
    def fewest_workers(self) -> int:
        """The number of workers that a run needs to start."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """The number of workers that a run uses if the cluster has room."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class TrackingConfig:
    """Where MLflow records runs and models."""

    uri: Address = Field(
        default="",
        description="Tracking address, in which `${NAME}` is a variable of the environment; empty: "
        "MLFLOW_TRACKING_URI, else SQLite in `run.folder`.",
    )
    experiment: str = Field(default="raymc", min_length=1, description="MLflow experiment.")
    register_as: str = Field(
        default="",
        description="Registered model that gets the best bundle as a new version; empty: none.",
    )
    alias: str = Field(default="champion", description="Alias set on that version.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class RunConfig:
    """The name of a run and where it is stored."""

    name: Name = Field(default="", description="Name of the run; empty: derived from the settings.")
    folder: Place = Field(
        default="runs", description="Folder of runs, with their checkpoints, studies and logs."
    )
    storage: Place = Field(
        default="",
        description="Another place for the checkpoints of a run: a folder that all nodes share, or "
        "an address such as s3://bucket/runs. Those of a sweep stay in `folder`.",
    )
