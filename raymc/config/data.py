"""Settings of the dataset, of batches and of feature extraction."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raymc.config.formats import MakeConfig
from raymc.config.places import LARGEST_SEED, Place

# The name that stands for no encoder, and the one for the best encoder that is installed.
NONE, AUTO = "none", "auto"


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class DataConfig:
    """The dataset: where it is, its splits, and how it is cached."""

    path: Place = Field(
        default="", description="Folder of the dataset: a local path, s3:// or gs://."
    )
    make: MakeConfig | None = Field(
        default=None,
        description="Recipe that writes the dataset to `path` if it is not there yet; null: none.",
    )
    modalities: tuple[str, ...] = Field(
        default=(), description="Modalities to use; empty: all in the dataset."
    )
    train: str = Field(default="train", description="Split to train on.")
    val: str = Field(default="val", description="Split that selects epochs, trials and thresholds.")
    test: str = Field(
        default="test", description="Split for the final test; nothing is selected on it."
    )
    cache: Literal["auto", "object_store", "off"] = Field(
        default="auto",
        description="object_store: keep the splits in Ray's object store, shared by all trials "
        "on a node. auto: do so if they fit in `cache_share` of it. off: stream them from storage.",
    )
    cache_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of the object store that the splits may use."
    )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class BatchConfig:
    """How rows are shuffled and made into batches."""

    size: int = Field(
        default=64, ge=1, description="Rows in a global batch, summed over all workers."
    )
    rows_per_pass: int = Field(
        default=0,
        ge=0,
        description="Rows that a worker embeds at a time if its share of a batch does not fit in "
        "memory; 0: all. The gradients are the same; each step costs one more forward pass.",
    )
    window_rows: int = Field(
        default=65536,
        ge=1,
        description="Rows shuffled together: whole shards, in shuffled order, up to this many. "
        "A dataset of at most this size is shuffled globally. Of a larger one, workers that stream "
        "read some of the shards each.",
    )
    window_mb: int = Field(
        default=1024,
        ge=1,
        description="The same limit in MiB of shards; the first one reached applies. A worker that "
        "streams holds up to three windows, or as many as a pool of batches spans.",
    )
    pool_batches: int = Field(
        default=2,
        ge=1,
        description="Most batches whose rows are sorted by length together, never more than an "
        "eighth of an epoch's. More of them save padding, and cost accuracy where labels go with "
        "length; 1: rows are not sorted.",
    )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ExtractConfig:
    """How videos become features."""

    source: Place = Field(
        default="",
        description="Folder, glob pattern or table (CSV, .xlsx, .ods, JSON Lines, Parquet) of "
        "videos, local or remote.",
    )
    videos: Place = Field(
        default="",
        description="Folder of the videos that a table names; empty: the table's.",
    )
    columns: Mapping[str, str] = Field(
        default_factory=dict,
        description="Heading of the table for each of path, id, labels, split, start_seconds, "
        "end_seconds, duration, sha256 and group (videos that stay in one split), where raymc does "
        "not recognise it. `labels` may be several headings with commas between them, one a label.",
    )
    label_separator: str = Field(
        default="",
        description="Separator between the labels in a cell; none: a cell is one label; empty: "
        "semicolons, bars and line breaks, or commas if there are none of these.",
    )
    encoding: str = Field(
        default="", description="Encoding of tables of text, such as windows-1252; empty: detected."
    )
    sheet: str = Field(
        default="", description="Sheet of a spreadsheet; empty: the first that names files."
    )
    unlabelled: bool = Field(default=False, description="Accept a table without labels.")
    split: str = Field(
        default="auto",
        min_length=1,
        description="Split of videos for which no table names one. auto: labelled videos are drawn "
        "into train, val and test, all clips of a video into one; videos without labels are train. "
        "none: train. Another name: that split.",
    )
    seed: int = Field(
        default=0, ge=0, le=LARGEST_SEED, description="Seed by which splits are drawn."
    )
    fps: float = Field(
        default=1.0, gt=0, le=1000, description="Frames encoded per second of video."
    )
    frames: Literal["all", "changed"] = Field(
        default="all",
        description="Frames that the visual encoder reads. changed: those that differ from the "
        "last one it read, as slides stay for long; the others repeat its token.",
    )
    window_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Split longer videos into clips of this many seconds; null: do not split.",
    )
    stride_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Seconds from the start of one clip to the next; null: `window_seconds`.",
    )
    visual: str = Field(
        default=AUTO,
        description="Encoder of frames: patches, efficientnet_lite0_grid, efficientnet_lite0, a "
        "Hugging Face model, or none. auto: efficientnet_lite0_grid if `raymc[pretrained]` is "
        "installed, else patches.",
    )
    audio: str = Field(
        default="logmel",
        description="Encoder of sound: logmel, moonshine (English speech), a torchaudio pipeline, "
        "or none.",
    )
    audio_rate_hz: float = Field(
        default=10.0,
        gt=0,
        le=1000,
        description="Tokens of sound per second; logmel needs a whole part of 40.",
    )
    text: str = Field(
        default=NONE,
        description="Encoder of what is said and of words on the screen: words, minilm, a Hugging "
        "Face model, or none. auto: minilm if `raymc[pretrained]` is installed, else words.",
    )
    transcript: str = Field(
        default="sidecar",
        description="Source of what is said. sidecar: a .vtt, .srt or .txt file beside the video. "
        "Or a recogniser of speech: moonshine (English), a torchaudio pipeline. Or none. The "
        "modality is `speech` for moonshine, else `text`.",
    )
    screen: str = Field(
        default=NONE,
        description="Reader of words on the screen, which become the modality `screen`: rapidocr, "
        "or none.",
    )
    language: str = Field(
        default="",
        description="Language of the sidecar files to read, such as en or de, where their names "
        "tell it (lesson.de.vtt); empty: any, files without a language and English ones first.",
    )
    text_interval_seconds: float = Field(
        default=5.0, gt=0, description="Seconds of speech per text token."
    )
    weights: Place = Field(
        default="", description="Folder of encoder weights; empty: download them."
    )
    dtype: Literal["float16", "float32"] = Field(
        default="float16", description="Type in which features are stored."
    )
    shard_rows: int = Field(default=512, ge=1, description="Clips per shard.")
    max_failures: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of files that may fail without the extraction failing.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="Where encoders with weights run."
    )
    license: str = Field(default="", description="Licence of the videos, stored in the dataset.")
