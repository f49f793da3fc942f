"""Settings of a service; no section of a run's, but options of `raymc serve`, and arguments."""

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ServeConfig:
    """Where a service listens, what it takes, and what it works with."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Its port; 0: any that is free.")
    max_mb: float = Field(
        default=512.0, gt=0, allow_inf_nan=False, description="Refuse larger videos, in MiB."
    )
    max_minutes: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Refuse longer videos."
    )
    queue: int = Field(default=16, ge=0, description="Videos that may wait; more are refused.")
    replicas: int = Field(default=1, ge=1, description="Processes that label videos.")
    decoders: int = Field(
        default=2, ge=1, description="Videos that each of them decodes at a time."
    )
    videos: tuple[Annotated[str, BeforeValidator(_text)], ...] = Field(
        default=(),
        description="Folder or address below which clients may name videos, in place of sending "
        "them; may be repeated.",
    )
    window: float | None = Field(
        default=None, description="Seconds of a window; by default as in training."
    )
    stride: float | None = Field(
        default=None,
        description="Seconds from a window to the next; by default as in training, or half a "
        "window.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="Where to compute; auto takes a GPU if there is one."
    )

    @property
    def upload_bytes(self) -> int:
        """The largest video."""
        return int(self.max_mb * 2**20)

    @property
    def most_inside(self) -> int:
        """Videos that are worked on, or wait."""
        return self.replicas * self.decoders + self.queue
