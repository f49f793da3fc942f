"""A run or a sweep as one value: its id, name, folder, storage, resources and dataset.

`Run` is made where a folder is opened, and handed on to training, search, tracking and report.
The folder keeps the settings in `config.json` and who the run is in `run.json`. A folder without
`run.json` is of raymc 0.1.0, which knew runs by their names; there the name stays the id.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import raymc
from raymc.config import (
    SHORTEST_ID,
    Config,
    differences,
    from_dict,
    overridden,
    run_name,
    to_dict,
)
from raymc.data.shards import Dataset, open_dataset
from raymc.data.shards.manifest import MANIFEST_FILE
from raymc.data.storage import write_text
from raymc.errors import ConfigError, DataError
from raymc.runtime.provenance import current_code
from raymc.training.bundle import DESCRIPTION, Bundle
from raymc.training.checkpoint import PROGRESS

CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
BUNDLE = "bundle"
ATTEMPTS_FILE = "attempts.json"  # of a single run, from its first step on
TRIALS = "trials"  # of a sweep, from its first trial on
STUDY_FILE = "study.db"  # of a sweep, unless search.storage is set
# There while its command has not come to its end, or MLflow lacks something; says which.
UNFINISHED_FILE = "unfinished"
_UNRECORDED = "MLflow lacks records"
# Raise this when a change of the code makes the same settings and data train to other numbers. A
# run that was begun under another number is not resumed.
RESULTS = 7


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run or a sweep.

    Attributes:
        id: Made with the folder, unique, and kept when the folder is moved. MLflow, Optuna and
            the storage of checkpoints know the run by it.
        name: For people.
        folder: Where its settings, bundle and logs are, on this machine.
        storage: Where its checkpoints are: an absolute path, or an address such as s3://b/runs/ID.
        config: All settings.
        dataset: Digest of the dataset it was opened with; empty if none was recorded.
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

    @property
    def is_finished(self) -> bool:
        """Whether it has a bundle, and the command that made the bundle came to its end."""
        return (self.folder / BUNDLE).exists() and not (self.folder / UNFINISHED_FILE).exists()

    @property
    def lacks_records(self) -> bool:
        """Whether its command came to its end, but MLflow lacks records of it."""
        file = self.folder / UNFINISHED_FILE
        return file.exists() and file.read_text() == _UNRECORDED

    def begin(self) -> None:
        """Note that a command has begun to train."""
        (self.folder / UNFINISHED_FILE).write_text("")

    def end(self, *, is_recorded: bool = True) -> None:
        """Note that the command has come to its end, and whether MLflow has all of the run."""
        file = self.folder / UNFINISHED_FILE
        if is_recorded:
            file.unlink(missing_ok=True)
        else:
            file.write_text(_UNRECORDED)


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """What `run.json` holds.

    Attributes:
        id: The run's.
        name: The run's.
        dataset: Digest of its dataset; empty if it isn't known.
        folder: Where the run was last opened to write to it; empty if that isn't known.
        sweep: Whether it is a sweep; None if that isn't known.
        results: `RESULTS` of the raymc that began the run.
        raymc: Version of that raymc.
        code: The code that trained it, in the order of first use, as texts by name; see
            `Code.as_texts`.
    """

    id: str
    name: str
    dataset: str = ""
    folder: str = ""
    sweep: bool | None = None
    results: int = 1
    raymc: str = "0.1.0"
    code: Sequence[Mapping[str, str]] = ()


def open_run(config: Config, *, sweep: bool = False, dataset: str = "") -> Run:
    """Open a run to write to it; makes its folder if needed.

    Args:
        config: All settings.
        sweep: Whether it is a sweep.
        dataset: Digest of the dataset; empty keeps the one recorded.

    Raises:
        ConfigError: A run of that name exists, and resuming it would mix results: of other
            settings, another dataset, a raymc that trains differently, or another folder's run.
            Or the folder can't be written.
    """
    folder = Path(config.run.folder).absolute() / run_name(config, sweep=sweep)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            identity = _identify(folder, config, sweep=sweep, dataset=dataset)
            # First who it is, because a folder with settings alone is of 0.1.0.
            write_text(folder / RUN_FILE, json.dumps(asdict(identity), indent=1))
            write_text(folder / CONFIG_FILE, json.dumps(to_dict(config), indent=1))
    except OSError as error:
        raise ConfigError(f"run.folder: {folder} can't be written: {error.strerror}") from None
    return _run(folder, config, identity)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let commands that open one new run at the same moment agree on its id."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _identify(folder: Path, config: Config, *, sweep: bool, dataset: str) -> _Identity:
    """Return who the run in a folder is, or a new one's identity.

    Raises:
        ConfigError: The run there is another one, as `open_run` says.
    """
    name, path = run_name(config, sweep=sweep), folder / CONFIG_FILE
    known = _read_identity(folder) if path.exists() else None
    is_trained = any((folder / trace).exists() for trace in (BUNDLE, ATTEMPTS_FILE, TRIALS))
    problem = f"{folder} holds a run whose {CONFIG_FILE} is missing" if is_trained else ""
    if known is not None:
        problem = _other_settings(folder, known, config, sweep=sweep, dataset=dataset)
        other = _other_origin(folder, known, config, sweep=sweep, dataset=dataset)
        if is_trained:
            problem = problem or other
        elif other:
            known = None  # nothing is trained that could be mixed, so this becomes a new run
    if problem:
        raise ConfigError(f"{problem}: choose another --name to start anew")
    begun = known or _Identity(id=uuid4().hex, name=name, results=RESULTS, raymc=raymc.__version__)
    is_finished = not sweep and (folder / BUNDLE).exists()
    code = list(begun.code)
    if not is_finished and (now := current_code().as_texts()) and now not in code:
        code.append(now)
    return replace(
        begun,
        name=name,
        dataset=dataset or begun.dataset,
        folder=str(folder),
        sweep=sweep,
        code=code,
    )


def read_run(folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run to read it.

    Args:
        folder: The run's.
        overrides: Settings such as data.path=FOLDER that replace the run's own.

    Raises:
        ConfigError: The folder holds no run.
    """
    folder = folder.absolute()
    config = overridden(read_config(folder), overrides)
    return _run(folder, config, _read_identity(folder))


def original_of(folder: Path) -> Path | None:
    """Return the folder that a run's folder is a copy of, or None.

    A folder that was moved is no copy: nothing of the same id is left where it was.

    Raises:
        ConfigError: The folder holds no run.
    """
    identity = _read_identity(folder)
    original = Path(identity.folder)
    if not identity.folder or not (original / CONFIG_FILE).exists() or original.samefile(folder):
        return None
    return original if _read_identity(original).id == identity.id else None


def _other_settings(
    folder: Path, known: _Identity, config: Config, *, sweep: bool, dataset: str
) -> str:
    """Return which settings differ from those of the run in a folder; empty if none do.

    A dataset of the same content may lie elsewhere.
    """
    changed = differences(read_config(folder), config, with_space=sweep)
    if dataset and dataset == known.dataset:
        changed = [one for one in changed if not one.startswith("data.path: ")]
    if not changed or known.sweep not in (None, sweep):
        return ""
    return f"run {known.name!r} exists with other settings ({'; '.join(changed[:3])})"


def _other_origin(
    folder: Path, known: _Identity, config: Config, *, sweep: bool, dataset: str
) -> str:
    """Return why results would not belong to the run in a folder; empty if they do."""
    name, kinds = f"run {known.name!r}", ("a single run", "a sweep")
    if original := original_of(folder):
        return f"{folder} is a copy of {original} and has the same id"
    if known.sweep not in (None, sweep):
        return f"{name} exists and is {kinds[not sweep]}, not {kinds[sweep]}"
    if dataset and known.dataset not in ("", dataset):
        return _other_dataset(known.name, known.dataset, config.data.path, dataset)
    is_finished = not sweep and (folder / BUNDLE).exists()
    if known.results != RESULTS and not is_finished:
        return (
            f"{name} was begun by another raymc ({known.raymc}), which trains to other results "
            f"than this one ({raymc.__version__})"
        )
    return ""


def _other_dataset(name: str, trained_on: str, path: str, digest: str) -> str:
    return (
        f"run {name!r} was trained on another dataset (digest {trained_on[:12]}) than "
        f"{path} holds now (digest {digest[:12]})"
    )


def dataset_of(run: Run) -> Dataset:
    """Return the dataset that a run was trained on.

    Raises:
        ConfigError: Its path holds another one now.
        DataError: It can't be read.
    """
    advice = "name the folder it was moved to with data.path=FOLDER"
    return _same_dataset(run.config.data.path, run.name, run.dataset, advice)


def own_dataset(bundle: Bundle, path: str = "") -> Dataset:
    """Return the dataset that a bundle was trained on: at a path, or where its run says it is.

    Raises:
        ConfigError: Another one is there now, or the bundle is in no run's folder and none is
            where its own settings say.
        DataError: It can't be read.
    """
    home = run_of(bundle.folder)
    path = path or (bundle.config if home is None else read_config(home)).data.path
    advice = "name the dataset that is meant"
    try:
        if not path:  # which would be this folder
            raise DataError("the settings of the bundle name no dataset")
        return _same_dataset(path, name_of(bundle.folder), bundle.dataset_digest, advice)
    except DataError as error:
        if home is not None:
            raise
        raise ConfigError(
            f"the bundle {bundle.folder} is in no run's folder, and its dataset can't be read from "
            f"{path!r}: name a dataset"
        ) from error


def _same_dataset(path: str, run: str, trained_on: str, advice: str) -> Dataset:
    """Open a dataset, whose digest is known unless it is empty; another one is an error."""
    dataset = open_dataset(path)
    digest = dataset.manifest.digest()
    if trained_on not in ("", digest):
        raise ConfigError(f"{_other_dataset(run, trained_on, path, digest)}: {advice}")
    return dataset


def _run(folder: Path, config: Config, identity: _Identity) -> Run:
    storage = config.run.storage.rstrip("/")
    if storage and "://" not in storage:
        storage = str(Path(storage).absolute())
    return Run(
        id=identity.id,
        name=identity.name,
        folder=folder,
        storage=f"{storage}/{identity.id}" if storage else str(folder),
        config=config,
        dataset=identity.dataset,
    )


def _read_identity(folder: Path) -> _Identity:
    """Return who the run in a folder is.

    Raises:
        ConfigError: The folder holds no run, or its `run.json` is damaged.
    """
    path = folder / RUN_FILE
    try:
        values: Any = json.loads(path.read_text())
        known = {one.name for one in fields(_Identity)}
        return _Identity(**{key: values[key] for key in values if key in known})
    except FileNotFoundError:
        return _identity_of_0_1_0(folder)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{path} can't be read, so it isn't known which run {folder} is: restore the file"
        ) from error


def _identity_of_0_1_0(folder: Path) -> _Identity:
    """Return who a run of raymc 0.1.0 is: its records in MLflow and its study go by its name.

    What it was trained on is in its bundle or its checkpoints.
    """
    is_sweep = (folder / TRIALS).is_dir() or (folder / STUDY_FILE).exists()
    name = run_name(read_config(folder), sweep=is_sweep)
    dataset = ""
    # Damaged files are dealt with where they are used.
    with suppress(OSError, ValueError, LookupError, TypeError):
        if (folder / BUNDLE / DESCRIPTION).exists():
            dataset = json.loads((folder / BUNDLE / DESCRIPTION).read_text())["dataset_digest"]
        elif progress := next(folder.rglob(PROGRESS), None):
            dataset = json.loads(progress.read_text())["dataset"]["digest"]
    return _Identity(
        id=name,
        name=name,
        dataset=str(dataset),
        folder=str(folder.absolute().parent / Path(name).name),  # unless renamed, or a copy
        sweep=True if is_sweep else None,
    )


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
        run: Its name, its folder, or the beginning of its id.
        runs_folder: Folder of runs, the setting `run.folder`.

    Raises:
        ConfigError: There is no such run.
    """
    for folder in _candidates(run, runs_folder):
        if (folder / CONFIG_FILE).exists():
            return folder.absolute()
    known = sorted(str(folder.relative_to(runs_folder)) for folder in _run_folders(runs_folder))
    there_are = f"(there are: {', '.join(known) or 'none'}), or name the folder of runs"
    if Path(run, MANIFEST_FILE).exists():
        problem = f"{run} is a dataset; name a run, or the bundle of one, in its place {there_are}"
    else:
        problem = f"no run {run!r} in {runs_folder}, and {run} is not the folder of a run or bundle"
        problem += f": check the name {there_are}"
    raise ConfigError(f"{problem} with run.folder=FOLDER")


def find_bundle(run: str, runs_folder: str) -> Path:
    """Return the bundle of a run or sweep.

    Args:
        run: Its name, its folder, the beginning of its id, or the bundle's own folder.
        runs_folder: Folder of runs, the setting `run.folder`.

    Raises:
        ConfigError: There is no such run, or it has no bundle yet.
    """
    for folder in _candidates(run, runs_folder):
        for place in (folder / BUNDLE, folder):
            if (place / DESCRIPTION).exists():
                return place
    find_run(run, runs_folder)
    raise ConfigError(f"run {run!r} has no bundle yet: run its command again to finish it")


def _candidates(run: str, runs_folder: str) -> Iterator[Path]:
    """Yield the folders that may be meant: those named so, then the one whose id begins so."""
    yield Path(runs_folder, run)
    yield Path(run)
    if len(run) < SHORTEST_ID:
        return
    found = []
    for folder in _run_folders(runs_folder):
        with suppress(ConfigError):  # a damaged folder among others
            identity = _read_identity(folder)
            if identity.id != identity.name and identity.id.startswith(run):
                found.append(folder)
    if len(found) > 1:
        folders = ", ".join(map(str, found))
        raise ConfigError(
            f"several runs have an id that begins with {run!r}: name one of {folders}"
        )
    yield from found


def _run_folders(runs_folder: str) -> Iterator[Path]:
    """Yield the folders of runs; a name such as `a/b` puts one a level deeper."""
    for pattern in (f"*/{CONFIG_FILE}", f"*/*/{CONFIG_FILE}"):
        yield from (path.parent for path in sorted(Path(runs_folder).glob(pattern)))


def run_of(bundle: Path) -> Path | None:
    """Return the folder of the run that a bundle belongs to; None if it is in no run's folder."""
    folder = bundle.absolute().parent
    is_of_run = bundle.name == BUNDLE and (folder / CONFIG_FILE).exists()
    return folder if is_of_run else None


def name_of(bundle: Path) -> str:
    """Return the name of a bundle's run, or of the bundle if it belongs to none."""
    return (run_of(bundle) or bundle.absolute()).name
