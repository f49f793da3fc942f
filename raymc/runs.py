"""The folder of a run or a sweep, and whom it belongs to. Pure."""

import json
from pathlib import Path

from raymc.config import Config, differences, from_dict, run_name, to_dict
from raymc.errors import ConfigError

CONFIG_FILE = "config.json"


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
        partial = path.with_name(CONFIG_FILE + ".partial")
        partial.write_text(json.dumps(to_dict(config), indent=1))
        partial.replace(path)
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
