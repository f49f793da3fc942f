"""A run or a sweep as one value: its id, name, folder, storage, resources and dataset.

`Run` is made where a folder is opened, and handed on to training, search, tracking and report.
The folder keeps the settings in `config.json` and who the run is in `run.json`.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from raymc.config import Config, differences, from_dict, overridden, run_name, to_dict
from raymc.data.storage import write_text
from raymc.errors import ConfigError
from raymc.training.bundle import DESCRIPTION

CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
BUNDLE = "bundle"
TRIALS = "trials"  # of a sweep


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run or a sweep.

    Attributes:
        id: Made with the folder, unique, and kept when the folder is moved.
        name: For people; MLflow and Optuna know the run by it.
        folder: Where its settings, bundle and logs are, on this machine.
        storage: Where its checkpoints are: an absolute path, or an address such as s3://b/runs/a.
        config: All settings.
        dataset: Digest of the dataset it was last opened with; empty if none was recorded.
        resources: What each training worker takes of its node, by name, such as {"CPU": 1};
            empty until `equip` in `on_ray.py` has decided it.
    """

    id: str
    name: str
    folder: Path
    storage: str
    config: Config
    dataset: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpus(self) -> float:
        """GPUs of each training worker: a share of one, one, or none."""
        return self.resources.get("GPU", 0.0)

    @property
    def is_sweep(self) -> bool:
        """Whether this is a sweep that has started a trial."""
        return (self.folder / TRIALS).is_dir()


def open_run(config: Config, *, sweep: bool = False, dataset: str = "") -> Run:
    """Open a run to write to it; makes its folder if needed.

    Args:
        config: All settings.
        sweep: Whether it is a sweep.
        dataset: Digest of the dataset; empty keeps the one recorded.

    Raises:
        ConfigError: A run of that name exists whose settings lead to other results, or the
            folder can't be written.
    """
    name = run_name(config, sweep=sweep)
    folder = Path(config.run.folder).absolute() / name
    path = folder / CONFIG_FILE
    if path.exists():
        changed = differences(read_config(folder), config, with_space=sweep)
        if changed:
            raise ConfigError(
                f"run {name!r} exists with other settings ({'; '.join(changed[:3])}): "
                "choose another run.name"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(to_dict(config), indent=1))
        kept = _identify(folder, name, dataset)
    except OSError as error:
        raise ConfigError(f"run.folder: {folder} can't be written: {error.strerror}") from None
    return _run(folder, config, kept)


def read_run(folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run to read it.

    Args:
        folder: The run's.
        overrides: Settings such as data.path=FOLDER that replace the run's own.

    Raises:
        ConfigError: The folder holds no run.
    """
    folder = folder.absolute()
    config = read_config(folder)
    kept = _read_identity(folder)
    if not kept:  # a folder of raymc 0.1.0, which kept no id
        name = run_name(config, sweep=(folder / TRIALS).is_dir())
        kept = {"id": uuid4().hex, "name": name, "dataset": ""}
        with suppress(OSError):  # a folder that can only be read can still be reported on
            kept = _identify(folder, name, "")
    return _run(folder, overridden(config, overrides), kept)


def _run(folder: Path, config: Config, kept: Mapping[str, str]) -> Run:
    storage = config.run.storage.rstrip("/")
    if storage and "://" not in storage:
        storage = str(Path(storage).absolute())
    name, address = kept["name"], str(folder)
    if storage:
        address = f"{storage}/{name}"
    return Run(
        id=kept["id"],
        name=name,
        folder=folder,
        storage=address,
        config=config,
        dataset=kept["dataset"],
    )


def _read_identity(folder: Path) -> dict[str, str]:
    """Return the id, name and dataset kept in a folder; empty if there are none."""
    try:
        values: Any = json.loads((folder / RUN_FILE).read_text())
        return {key: str(values[key]) for key in ("id", "name", "dataset")}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _identify(folder: Path, name: str, dataset: str) -> dict[str, str]:
    """Return a folder's id, name and dataset, and keep them there."""
    known = _read_identity(folder)
    kept = {
        "id": known.get("id") or uuid4().hex,
        "name": name,
        "dataset": dataset or known.get("dataset", ""),
    }
    if kept != known:
        write_text(folder / RUN_FILE, json.dumps(kept, indent=1))
    return kept


def read_config(folder: Path) -> Config:
    """Return the settings in a run's folder.

    Raises:
        ConfigError: They are missing or can't be read.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError(f"{values!r} is not a configuration")
        return from_dict(values, source=str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is not a run of raymc: {path} can't be read") from error


def find_run(run: str, runs_folder: str) -> Path:
    """Return the folder of a run or sweep.

    Args:
        run: Its name or its folder.
        runs_folder: Folder of runs, the setting `run.folder`.

    Raises:
        ConfigError: There is no such run.
    """
    for folder in (Path(runs_folder, run), Path(run)):
        if (folder / CONFIG_FILE).exists():
            return folder.absolute()
    known = sorted(path.parent.name for path in Path(runs_folder).glob(f"*/{CONFIG_FILE}"))
    raise ConfigError(
        f"no run {run!r} in {runs_folder}, and {run} is not the folder of a run or bundle: "
        f"check the name (there are: {', '.join(known) or 'none'}), or name the folder of runs "
        "with run.folder=FOLDER"
    )


def find_bundle(run: str, runs_folder: str) -> Path:
    """Return the bundle of a run or sweep.

    Args:
        run: Its name, its folder, or the bundle's own folder.
        runs_folder: Folder of runs, the setting `run.folder`.

    Raises:
        ConfigError: There is no such run, or it has no bundle yet.
    """
    for folder in (Path(runs_folder, run), Path(run)):
        for place in (folder / BUNDLE, folder):
            if (place / DESCRIPTION).exists():
                return place
    find_run(run, runs_folder)
    raise ConfigError(f"run {run!r} has no bundle yet: run its command again to finish it")


def run_of(bundle: Path) -> Path | None:
    """Return the folder of the run that a bundle belongs to; None if it is in no run's folder."""
    folder = bundle.absolute().parent
    is_of_run = bundle.name == BUNDLE and (folder / CONFIG_FILE).exists()
    return folder if is_of_run else None
