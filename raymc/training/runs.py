"""The folder of a run or a sweep, and whom it belongs to. Pure."""

import json
from pathlib import Path

from raymc.config import Config, differences, from_dict, run_name, to_dict
from raymc.data.storage import whole_file
from raymc.errors import ConfigError
from raymc.training.bundle import DESCRIPTION

CONFIG_FILE = "config.json"
BUNDLE = "bundle"
TRIALS = "trials"  # of a sweep


def open_run(config: Config, *, sweep: bool = False) -> Path:
    """Return the run's folder, made if need be and marked with its configuration.

    Raises:
        ConfigError: a run of that name exists whose settings lead to other results, or the
            folder can't be written.
    """
    folder = Path(config.run.folder).absolute() / run_name(config, sweep=sweep)
    path = folder / CONFIG_FILE
    if path.exists():
        changed = differences(read_config(folder), config, with_space=sweep)
        if changed:
            raise ConfigError(
                f"run {folder.name!r} exists with other settings ({'; '.join(changed[:3])}): "
                f"choose another run.name, or delete {folder}"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(to_dict(config), indent=1))
    except OSError as error:
        raise ConfigError(f"run.folder: {folder} can't be written: {error.strerror}") from None
    return folder


def read_config(folder: Path) -> Config:
    """Return the configuration a run's folder is marked with.

    Raises:
        ConfigError: there is none, or it can't be read.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError(f"{values!r} is no configuration")
        return from_dict(values, source=str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no run of raymc: {path} can't be read") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, in place of one that may be there."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def storage_of(config: Config) -> str:
    """Return where runs' folders of checkpoints are: an absolute path, or an address."""
    storage = (config.run.storage or config.run.folder).rstrip("/")
    return storage if "://" in storage else str(Path(storage).absolute())


def find_run(run: str, runs_folder: str) -> Path:
    """Return the folder of a run or sweep.

    Args:
        run: its name, or its folder.
        runs_folder: where runs of a name lie, the setting `run.folder`.

    Raises:
        ConfigError: there is no such run.
    """
    for folder in (Path(runs_folder, run), Path(run)):
        if (folder / CONFIG_FILE).exists():
            return folder.absolute()
    raise ConfigError(
        f"no run {run!r} in {runs_folder}, and no folder of a run or bundle at {run}: "
        "correct the name, or name the folder of runs with run.folder=FOLDER"
    )


def find_bundle(run: str, runs_folder: str) -> Path:
    """Return the bundle of a run or sweep.

    Args:
        run: its name, its folder, or the bundle's own folder.
        runs_folder: where runs of a name lie, the setting `run.folder`.

    Raises:
        ConfigError: there is no such run, or it has no bundle yet.
    """
    for folder in (Path(runs_folder, run), Path(run)):
        for place in (folder / BUNDLE, folder):
            if (place / DESCRIPTION).exists():
                return place
    find_run(run, runs_folder)
    raise ConfigError(
        f"run {run!r} has no bundle: it has not ended; the command that began it goes on"
    )


def run_of(bundle: Path) -> Path | None:
    """Return the folder of the run that a bundle belongs to; None where it lies elsewhere."""
    folder = bundle.absolute().parent
    is_of_run = bundle.name == BUNDLE and (folder / CONFIG_FILE).exists()
    return folder if is_of_run else None
