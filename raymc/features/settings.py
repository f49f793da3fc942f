"""What an extraction can be told. Pure; imports nothing heavy, for every configuration has it."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

NONE = "none"


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ExtractConfig:
    """How media become features."""

    source: str = Field(
        default="",
        description="Folder, glob or table (CSV, JSON lines, Parquet) of videos, local or remote.",
    )
    split: str = Field(
        default="train", min_length=1, description="Split of media whose table names none."
    )
    fps: float = Field(default=1.0, gt=0, le=1000, description="Frames a second that are encoded.")
    window_seconds: float | None = Field(
        default=None, gt=0, description="Cut longer videos to clips of this length; null: don't."
    )
    stride_seconds: float | None = Field(
        default=None, gt=0, description="From one clip's start to the next; null: the window."
    )
    visual: str = Field(
        default="patches", description="Encoder of frames: patches, a model of a hub, or none."
    )
    audio: str = Field(
        default="logmel", description="Encoder of sound: logmel, a torchaudio bundle, or none."
    )
    text: str = Field(
        default=NONE, description="Encoder of the transcript: words, a model of a hub, or none."
    )
    transcript: str = Field(
        default="sidecar",
        description="Where the transcript comes from: sidecar (.vtt, .srt or .txt beside the "
        "video), or a torchaudio ASR bundle.",
    )
    text_interval_seconds: float = Field(
        default=5.0, gt=0, description="Seconds of speech that one token of text stands for."
    )
    weights: str = Field(
        default="", description="Folder of the encoders' weights; empty: from their hubs."
    )
    dtype: Literal["float16", "float32"] = Field(
        default="float16", description="Type that features are stored as."
    )
    shard_rows: int = Field(default=512, ge=1, description="Clips in a shard.")
    max_failures: float = Field(
        default=1.0, ge=0, le=1, description="Share of files that may fail before it is an error."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="Where encoders with weights compute."
    )
    license: str = Field(default="", description="The licence of the media, kept with the data.")
