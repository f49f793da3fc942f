"""Settings of each recipe that writes a dataset: what `raymc import` reads, digits and lessons.

The code of each is in the file of the same name in `raymc/formats/`. To add a format, add its
class here, list it in `IMPORTERS` and `MakeConfig`, and write `raymc/formats/NAME.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from raymc.config.places import LARGEST_SEED, Place

Level = Literal["frame", "video"]
Feature = Literal["rgb", "audio"]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ApproveConfig:
    """The APPROVE release, joined with features by video id."""

    name: Literal["approve"] = Field(default="approve", description="Format of the data.")
    folder: Place = Field(
        min_length=1,
        description="Folder with approve_label_data.json and the three *_urls.csv files.",
    )
    features: Place = Field(
        min_length=1,
        description="Dataset of features whose ids are those of the release, such as 41250.",
    )
    split_policy: Literal["most_held_out", "divide", "least_held_out", "drop"] = Field(
        default="most_held_out",
        description="What to do with a video listed in several splits. most_held_out: keep it in "
        "test, else in val. divide: the same, but draw val or test at random for a video in both. "
        "least_held_out: keep it in train, else in val. drop: leave it out.",
    )
    background: Literal["unlabelled", "all", "none"] = Field(
        default="unlabelled",
        description="Background videos to include: those without labels under any other id, all, "
        "or none.",
    )
    background_val_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of the background videos put in val."
    )
    background_test_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of the background videos put in test."
    )
    seed: int = Field(default=0, le=LARGEST_SEED, description="Seed of the random divisions above.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ArffConfig:
    """ARFF files with an XML file of labels, as Mulan has them."""

    name: Literal["arff"] = Field(default="arff", description="Format of the data.")
    train: Place = Field(min_length=1, description="Path of the ARFF file of training rows.")
    test: Place = Field(
        default="", description="Path of the ARFF file of test rows; empty: no test split."
    )
    val: Place = Field(
        default="",
        description="Path of the ARFF file of validation rows; empty: `val_share` of train.",
    )
    labels: Place = Field(min_length=1, description="Path of the XML file that names the labels.")
    modalities: Mapping[str, str] = Field(
        default_factory=dict,
        description="Per modality, a regular expression for the full names of its features. A "
        "feature goes to the first modality whose expression matches.",
    )
    rest: str = Field(
        default="features", min_length=1, description="Modality of all other features."
    )
    val_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of train held out for validation if there is no `val`.",
    )
    seed: int = Field(
        default=0, ge=0, le=LARGEST_SEED, description="Seed that decides which rows are held out."
    )
    standardise: bool = Field(
        default=True,
        description="Scale each feature to mean 0 and variance 1 over the training rows.",
    )
    missing: Literal["error", "mean"] = Field(
        default="error",
        description="How to treat a missing value ('?'): report an error, or use the mean of the "
        "training rows.",
    )
    license: str = Field(default="", description="Licence of the data, stored in the dataset.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class CoinConfig:
    """The COIN annotations, joined with features by video id."""

    name: Literal["coin"] = Field(default="coin", description="Format of the data.")
    annotations: Place = Field(min_length=1, description="Path of COIN.json.")
    features: Place = Field(
        min_length=1, description="Dataset of features whose ids are YouTube ids, as in COIN.json."
    )
    labels: Literal["class", "steps", "both"] = Field(
        default="class",
        description="class: the task of the video. steps: the steps that a clip shows. both: both.",
    )
    val_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of each class's training videos held out for val.",
    )
    seed: int = Field(
        default=0, le=LARGEST_SEED, description="Seed that decides which videos are held out."
    )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class DigitsConfig:
    """The embedded dataset of spoken and written digits, made from these settings alone."""

    name: Literal["digits"] = Field(default="digits", description="Format of the data.")
    train_clips: int = Field(default=1200, ge=1, description="Clips for training.")
    val_clips: int = Field(default=300, ge=1, description="Clips for validation.")
    test_clips: int = Field(default=300, ge=1, description="Clips for the final test.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of the clips.")
    clip_seconds: float = Field(
        default=5.0,
        ge=2,
        le=600,
        description="Mean length of a clip in seconds; lengths vary by ±20%.",
    )
    snr_db: float = Field(
        default=10.0,
        ge=-60,
        le=100,
        description="Signal-to-noise ratio, in dB, while a digit is heard.",
    )
    agreement: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Probability that a digit heard is the one on screen, when both occur.",
    )
    speech: Place = Field(
        default="",
        description="Folder of recordings named {digit}_{speaker}_{n}.wav; empty: synthetic keypad "
        "tones.",
    )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LessonsConfig:
    """Made-up lessons for small children, with APPROVE's classes and label sets."""

    name: Literal["lessons"] = Field(default="lessons", description="Format of the data.")
    size: Literal["tiny", "small", "approve"] = Field(
        default="small",
        description="How many, and how long: tiny (92 lessons of about 13 s), small (373 of about "
        "13 s), approve (1495, as many as APPROVE has in each split, of 20 to 90 s).",
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of the lessons.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Hdf5Config:
    """An HDF5 file, and what each of its datasets holds."""

    name: Literal["hdf5"] = Field(default="hdf5", description="Format of the data.")
    file: Place = Field(min_length=1, description="Path of the .h5 file.")
    modalities: Mapping[str, str] = Field(
        min_length=1,
        description="Dataset of each modality: [clips, tokens, dim]; or [tokens of all clips, dim] "
        "with `offsets`; or, with {id} in its path, [tokens, dim] of one clip.",
    )
    rates_hz: Mapping[str, float] = Field(description="Tokens per second of each modality.")
    offsets: Mapping[str, str] = Field(
        default_factory=dict,
        description="Dataset [clips + 1] of a modality: the tokens of clip i run from offsets[i] "
        "up to, not including, offsets[i + 1].",
    )
    labels: str = Field(default="y", description="Dataset [clips, classes] of 0 and 1.")
    classes: str = Field(default="classes", description="Dataset [classes] of label names.")
    split: str = Field(
        default="split",
        description="Dataset [clips] of splits: 0, 1, 2 or train, val, test.",
    )
    ids: str = Field(default="names", description="Dataset [clips] of unique ids.")
    group_separator: str = Field(
        default="",
        description="Labels are grouped by the part of their name before this separator; empty: no "
        "groups.",
    )
    license: str = Field(default="", description="Licence of the data, stored in the dataset.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class NpzConfig:
    """An .npz file of NumPy arrays, and what each array holds."""

    name: Literal["npz"] = Field(default="npz", description="Format of the data.")
    file: Place = Field(min_length=1, description="Path of the .npz file.")
    modalities: Mapping[str, str] = Field(
        min_length=1, description="Array [clips, tokens, dim] of each modality."
    )
    rates_hz: Mapping[str, float] = Field(description="Tokens per second of each modality.")
    labels: str = Field(default="y", description="Array [clips, classes] of 0 and 1.")
    classes: str = Field(default="classes", description="Array [classes] of label names.")
    split: str = Field(
        default="split",
        description="Array [clips] of splits: 0, 1, 2 or train, val, test.",
    )
    ids: str = Field(default="names", description="Array [clips] of unique ids.")
    group_separator: str = Field(
        default="",
        description="Labels are grouped by the part of their name before this separator; empty: no "
        "groups.",
    )
    license: str = Field(default="", description="Licence of the data, stored in the dataset.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ParquetConfig:
    """Parquet files of any tool, and what their columns hold."""

    name: Literal["parquet"] = Field(default="parquet", description="Format of the data.")
    files: Place = Field(
        default="",
        description="Files of all splits: a file, a folder or a pattern such as clips/*.parquet, "
        "local or at an address such as s3://bucket/clips. Set `split` too.",
    )
    split: str = Field(default="", description="Column with the split of each row, for `files`.")
    split_files: Mapping[str, Place] = Field(
        default_factory=dict, description="Files of each split, in place of `files` and `split`."
    )
    columns: Mapping[str, str] = Field(min_length=1, description="Column of each modality.")
    id: str = Field(default="id", description="Column of unique ids.")
    labels: str = Field(
        default="labels", description="Column of label names: a list or a string per row."
    )
    label_separator: str = Field(
        default="",
        description="Separator between the labels in a string; empty: the string is one label.",
    )
    rates_hz: Mapping[str, float] = Field(
        default_factory=dict,
        description="Tokens per second of each modality; not needed for columns that raymc wrote.",
    )
    dims: Mapping[str, int] = Field(
        default_factory=dict,
        description="Values per token of each modality; needed for columns of raw bytes.",
    )
    dtypes: Mapping[str, Literal["float16", "float32", "uint8"]] = Field(
        default_factory=dict, description="Type of the values; needed for columns of raw bytes."
    )
    keep: tuple[str, ...] = Field(
        default=(), description="Other columns to keep; they may hold text, numbers or booleans."
    )
    license: str = Field(default="", description="Licence of the data, stored in the dataset.")


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Youtube8mConfig:
    """YouTube-8M record files, and what to take from them."""

    name: Literal["youtube8m"] = Field(default="youtube8m", description="Format of the data.")
    train: Place = Field(
        default="", description="Record files: a path or address; the file name may contain *."
    )
    val: Place = Field(
        default="", description="Like `train`; YouTube-8M calls this split validate."
    )
    test: Place = Field(
        default="", description="Like `train`; YouTube-8M publishes no labels for it."
    )
    level: Level = Field(
        default="frame",
        description="frame: features of every second. video: their mean over the video.",
    )
    modalities: Mapping[str, Feature] = Field(
        default_factory=lambda: {"visual": "rgb", "audio": "audio"},
        min_length=1,
        description="Feature of each modality: rgb or audio.",
    )
    vocabulary: Place = Field(
        default="", description="Path of vocabulary.csv; empty: labels are named by number."
    )
    classes: int = Field(
        default=3862, ge=1, description="Number of labels if no vocabulary is given."
    )
    skip_damaged: bool = Field(
        default=False,
        description="Skip and count damaged records; if false, stop at the first one.",
    )
    license: str = Field(
        default="CC BY 4.0", description="Licence of the data, stored in the dataset."
    )


# The formats that `raymc import` reads, by name.
IMPORTERS: Mapping[str, type] = {
    "approve": ApproveConfig,
    "arff": ArffConfig,
    "coin": CoinConfig,
    "hdf5": Hdf5Config,
    "npz": NpzConfig,
    "parquet": ParquetConfig,
    "youtube8m": Youtube8mConfig,
}
# The embedded example and where it is made.
EXAMPLE, EXAMPLE_FOLDER = "digits", "data/digits"
# Everything that `data.make` may name.
MAKERS: Mapping[str, type] = {"digits": DigitsConfig, "lessons": LessonsConfig, **IMPORTERS}


def _maker(values: Any) -> Any:
    """Return the name of the recipe that a `data.make` section holds."""
    if isinstance(values, Mapping):
        return values.get("name")
    return getattr(values, "name", None)


MakeConfig = Annotated[
    Annotated[DigitsConfig, Tag("digits")]
    | Annotated[LessonsConfig, Tag("lessons")]
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
        + ", ".join(MAKERS),
    ),
]
