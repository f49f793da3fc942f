"""The errors that raymc reports to its user, each in a single line.

RaymcError                 anything raymc itself reports
├── ConfigError            a key, value or file of the configuration
│   └── UnknownSettingError  a key that this version of raymc does not have
├── DataError              a dataset, shard, row or column
├── BundleError            a trained model that can't be used, or not with this dataset
├── CheckpointError        a checkpoint that is torn, foreign or of another run
├── ResourceError          hardware or a server that is needed and not available
├── ExtractionError        too many media files could not be read
├── PromotionError         a model that is worse than the one it would replace
└── TrainingError          training itself went wrong
    ├── DivergedError      the loss became NaN or infinite
    └── SweepError         no trial of a sweep succeeded

A message says what was found, where (file, row, column, key), what was expected and what to do.
The command line prints it without a traceback and exits with `exit_code`.
"""


class RaymcError(Exception):
    """Base of all errors that raymc reports to its user."""

    exit_code = 2


class ConfigError(RaymcError):
    """A configuration file, key or value that can't be used."""


class UnknownSettingError(ConfigError):
    """A key of the configuration that this version of raymc does not have."""


class DataError(RaymcError):
    """A dataset, shard, row or column that can't be used."""


class BundleError(RaymcError):
    """A bundle that can't be loaded or does not match the dataset."""


class CheckpointError(RaymcError):
    """A checkpoint that is torn, foreign or belongs to another run."""


class ResourceError(RaymcError):
    """Hardware or a service that is needed and not available."""


class ExtractionError(RaymcError):
    """Too many media files could not be read."""

    exit_code = 1


class PromotionError(RaymcError):
    """A model that is worse than the one it would replace."""

    exit_code = 1


class TrainingError(RaymcError):
    """Training failed for a reason other than its input."""

    exit_code = 1


class DivergedError(TrainingError):
    """The training loss became NaN or infinite."""


class SweepError(TrainingError):
    """A sweep in which no trial succeeded."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return str(error).partition("\n")[0].rstrip("\r") or type(error).__name__


def counted(number: int, what: str) -> str:
    """Return a number with its noun for a message, such as `1 clip` and `2,000 clips`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
