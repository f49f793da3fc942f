"""Settings of the dataset, of batches and of extraction."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
)
from pydantic.dataclasses import dataclass

from raymc.config.formats import (
    ApproveConfig,
    ArffConfig,
    CoinConfig,
    DigitsConfig,
    Hdf5Config,
    NpzConfig,
    ParquetConfig,
    Youtube8mConfig,
)


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class BatchConfig:
    """How rows become batches."""

    size: int = Field(default=64, ge=1, description="Rows of a global batch, over all workers.")
    rows_per_pass: int = Field(
        default=0,
        ge=0,
        description="Rows that a worker embeds at a time, where its share of a batch is more than "
        "its memory takes; 0: all. Each step takes one more forward pass, and ends the same.",
    )
    window_rows: int = Field(
        default=65536,
        ge=1,
        description="Rows shuffled together: whole shards, in shuffled order, up to this many. "
        "A dataset no larger than this is shuffled globally.",
    )
    window_mb: int = Field(
        default=1024,
        ge=1,
        description="Like `window_rows`, in MiB of shards; whichever is reached first. A worker "
        "that streams holds up to three windows, or those that a pool of batches spans.",
    )
    pool_batches: int = Field(
        default=16,
        ge=1,
        description="Batches whose rows are sorted by length together, to save padding; "
        "1 keeps the shuffled order as it is.",
    )


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


IMPORTERS: Mapping[str, type] = {
    "approve": ApproveConfig,
    "arff": ArffConfig,
    "coin": CoinConfig,
    "hdf5": Hdf5Config,
    "npz": NpzConfig,
    "parquet": ParquetConfig,
    "youtube8m": Youtube8mConfig,
}
_MAKERS: Mapping[str, type] = {"digits": DigitsConfig, **IMPORTERS}


def _maker(values: Any) -> Any:
    """Return which recipe a `data.make` section is of: digits, unless its `name` says."""
    if isinstance(values, Mapping):
        return values.get("name", "digits")
    return getattr(values, "name", None)


MakeConfig = Annotated[
    Annotated[DigitsConfig, Tag("digits")]
    | Annotated[ApproveConfig, Tag("approve")]
    | Annotated[ArffConfig, Tag("arff")]
    | Annotated[CoinConfig, Tag("coin")]
    | Annotated[Hdf5Config, Tag("hdf5")]
    | Annotated[NpzConfig, Tag("npz")]
    | Annotated[ParquetConfig, Tag("parquet")]
    | Annotated[Youtube8mConfig, Tag("youtube8m")],
    Discriminator(
        _maker,
        custom_error_type="maker",
        custom_error_message="expected null, or a section whose name is one of "
        + ", ".join(_MAKERS),
    ),
]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class DataConfig:
    """Where the dataset is, and how it is fed."""

    path: str = Field(
        default="data/digits", description="Folder of shards: a local path, s3:// or gs://."
    )
    make: MakeConfig | None = Field(
        default_factory=DigitsConfig,
        description="Recipe that writes the dataset to `path` if it isn't there yet; null: none.",
    )
    modalities: tuple[str, ...] = Field(
        default=(), description="Modalities to use; empty is all that the dataset has."
    )
    train: str = Field(default="train", description="Split to train on.")
    val: str = Field(default="val", description="Split to choose epochs, trials and thresholds on.")
    test: str = Field(default="test", description="Split that nothing is chosen on.")
    cache: Literal["auto", "object_store", "off"] = Field(
        default="auto",
        description="Keep the splits in Ray's object store, shared by all trials of a node; "
        "auto does where they fit in `cache_share` of it.",
    )
    cache_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of the object store that splits may take."
    )
