"""Settings of each format that `raymc import` reads, and of the embedded dataset."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

Level = Literal["frame", "video"]
Feature = Literal["rgb", "audio"]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ApproveConfig:
    """Where the release and the features are, and what to do where the release is unclear."""

    name: Literal["approve"] = Field(default="approve", description="The kind of dataset.")
    folder: str = Field(
        min_length=1,
        description="Folder of the release: approve_label_data.json and three *_urls.csv.",
    )
    features: str = Field(
        min_length=1, description="Dataset of features; its ids are the release's, e.g. 41250."
    )
    split_policy: Literal["most_held_out", "divide", "least_held_out", "drop"] = Field(
        default="most_held_out",
        description="A video of several splits: most_held_out keeps it in test, else in val; "
        "divide draws val or test for one of both; least_held_out keeps it in train, else in "
        "val; drop leaves it out.",
    )
    background: Literal["unlabelled", "all", "none"] = Field(
        default="unlabelled",
        description="Background videos: those without labels under another id, all, or none.",
    )
    background_val_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of the background videos that go to val."
    )
    background_test_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of the background videos that go to test."
    )
    seed: int = Field(default=0, description="Which videos are drawn where a list is divided.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ArffConfig:
    """Which files there are, and which features make which modality."""

    name: Literal["arff"] = Field(default="arff", description="The kind of dataset.")
    train: str = Field(min_length=1, description="Path of the ARFF file of training rows.")
    test: str = Field(default="", description="Path of that of test rows; empty: none.")
    val: str = Field(
        default="", description="Path of that of validation rows; empty: `val_share` of train."
    )
    labels: str = Field(min_length=1, description="Path of the XML file that names the labels.")
    modalities: Mapping[str, str] = Field(
        default_factory=dict,
        description="Features of each modality: a regular expression that matches their whole "
        "names. The first that matches takes a feature.",
    )
    rest: str = Field(
        default="features", min_length=1, description="Modality of the features that are left."
    )
    val_share: float = Field(
        default=0.2, ge=0, lt=1, description="Share of train held out where there is no `val`."
    )
    seed: int = Field(default=0, ge=0, description="Another seed holds other rows out.")
    standardise: bool = Field(
        default=True,
        description="Bring each feature to mean 0 and variance 1 of the training rows.",
    )
    missing: Literal["error", "mean"] = Field(
        default="error",
        description="What a feature that is '?' becomes: an error, or the training rows' mean.",
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class CoinConfig:
    """Where the annotations and the features are, and what becomes a label."""

    name: Literal["coin"] = Field(default="coin", description="The kind of dataset.")
    annotations: str = Field(min_length=1, description="Path of COIN.json.")
    features: str = Field(
        min_length=1, description="Dataset of features; its ids are YouTube's, as in COIN.json."
    )
    labels: Literal["class", "steps", "both"] = Field(
        default="class",
        description="class: the task of the video; steps: the steps that a clip shows; both.",
    )
    val_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of each class's training videos held out."
    )
    seed: int = Field(default=0, description="Which videos are held out.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class DigitsConfig:
    """What the embedded dataset looks like; each clip is a pure function of it."""

    name: Literal["digits"] = Field(default="digits", description="The kind of dataset.")
    train_clips: int = Field(default=1200, ge=1, description="Clips for training.")
    val_clips: int = Field(default=300, ge=1, description="Clips for validation.")
    test_clips: int = Field(default=300, ge=1, description="Clips for the final test.")
    seed: int = Field(default=0, ge=0, description="Another seed gives other clips.")
    clip_seconds: float = Field(
        default=5.0, ge=2, le=600, description="Mean length; clips differ by up to a fifth of it."
    )
    snr_db: float = Field(
        default=10.0,
        ge=-60,
        le=100,
        description="Power of a digit's sound while it lasts, over that of the noise.",
    )
    agreement: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="How often the digit heard is the one on screen, when there are both.",
    )
    speech: str = Field(
        default="",
        description="Folder of {digit}_{speaker}_{n}.wav; empty for synthetic keypad tones.",
    )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Hdf5Config:
    """Which datasets of the file mean what; each is named by its path, e.g. `features/audio`."""

    name: Literal["hdf5"] = Field(default="hdf5", description="The kind of dataset.")
    file: str = Field(min_length=1, description="Path of the .h5 file.")
    modalities: Mapping[str, str] = Field(
        min_length=1,
        description="Dataset of each modality, by its name: [clips, tokens, dim]; [tokens of all "
        "clips, dim] with `offsets`; or, with {id} in its path, [tokens, dim] of each clip.",
    )
    rates_hz: Mapping[str, float] = Field(description="Tokens a second of each modality.")
    offsets: Mapping[str, str] = Field(
        default_factory=dict,
        description="Dataset [clips + 1] of a modality: clip i has the tokens offsets[i] to "
        "offsets[i + 1].",
    )
    labels: str = Field(default="y", description="Dataset [clips, classes] of 0 and 1.")
    classes: str = Field(default="classes", description="Dataset [classes] of label names.")
    split: str = Field(
        default="split",
        description="Dataset [clips] of 0, 1, 2 for train, val, test, or of these names.",
    )
    ids: str = Field(default="names", description="Dataset [clips] of ids, each used once.")
    group_separator: str = Field(
        default="",
        description="Labels are grouped by what stands before it in their names; empty: no groups.",
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class NpzConfig:
    """Which arrays of the file mean what."""

    name: Literal["npz"] = Field(default="npz", description="The kind of dataset.")
    file: str = Field(min_length=1, description="Path of the .npz file.")
    modalities: Mapping[str, str] = Field(
        min_length=1, description="Array [clips, tokens, dim] of each modality, by its name."
    )
    rates_hz: Mapping[str, float] = Field(description="Tokens a second of each modality.")
    labels: str = Field(default="y", description="Array [clips, classes] of 0 and 1.")
    classes: str = Field(default="classes", description="Array [classes] of label names.")
    split: str = Field(
        default="split",
        description="Array [clips] of 0, 1, 2 for train, val, test, or of these names.",
    )
    ids: str = Field(default="names", description="Array [clips] of ids, each used once.")
    group_separator: str = Field(
        default="",
        description="Labels are grouped by what stands before it in their names; empty: no groups.",
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ParquetConfig:
    """Which files there are, and which of their columns mean what."""

    name: Literal["parquet"] = Field(default="parquet", description="The kind of dataset.")
    files: str = Field(
        default="",
        description="Files of all splits, which `split` tells apart: a file, folder, or pattern "
        "such as clips/*.parquet; a path, or an address such as s3://bucket/clips.",
    )
    split: str = Field(default="", description="Column of the split of each row, with `files`.")
    split_files: Mapping[str, str] = Field(
        default_factory=dict, description="Files of each split, instead of `files` and `split`."
    )
    columns: Mapping[str, str] = Field(
        min_length=1, description="Column of each modality, by its name."
    )
    id: str = Field(default="id", description="Column of ids, each used once.")
    labels: str = Field(
        default="labels", description="Column of label names: lists of them, or one string."
    )
    label_separator: str = Field(
        default="",
        description="What stands between the labels in a string; empty: it is one label.",
    )
    rates_hz: Mapping[str, float] = Field(
        default_factory=dict,
        description="Tokens a second of each modality; not needed where raymc wrote the column.",
    )
    dims: Mapping[str, int] = Field(
        default_factory=dict, description="Values a token of a modality; needed of raw bytes."
    )
    dtypes: Mapping[str, Literal["float16", "float32", "uint8"]] = Field(
        default_factory=dict, description="Type of the values; needed of raw bytes."
    )
    keep: tuple[str, ...] = Field(
        default=(), description="Further columns to keep: text, numbers, or true and false."
    )
    license: str = Field(default="", description="The licence of the data, kept with it.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Youtube8mConfig:
    """Which record files make which split, and what is taken from them."""

    name: Literal["youtube8m"] = Field(default="youtube8m", description="The kind of dataset.")
    train: str = Field(
        default="", description="Record files: a path or address, with * in the file's name."
    )
    val: str = Field(default="", description="As `train`; YouTube-8M calls this split validate.")
    test: str = Field(default="", description="As `train`; YouTube-8M gives it no labels.")
    level: Level = Field(
        default="frame", description="Features of every second, or one mean of each whole video."
    )
    modalities: Mapping[str, Feature] = Field(
        default_factory=lambda: {"visual": "rgb", "audio": "audio"},
        min_length=1,
        description="Feature of each modality, rgb or audio, by the modality's name.",
    )
    vocabulary: str = Field(
        default="", description="Path of vocabulary.csv; empty: labels are named by their number."
    )
    classes: int = Field(default=3862, ge=1, description="Labels, where no vocabulary is given.")
    skip_damaged: bool = Field(
        default=False, description="Leave damaged records out and count them; else stop at one."
    )
    license: str = Field(default="CC BY 4.0", description="The licence of the data, kept with it.")
