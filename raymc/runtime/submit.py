"""What `raymc submit` sends: command, name, files and variables, all checked before it is sent.

Secrets are named, never sent, because Ray has no store for them. The `env_vars` of a job's runtime
environment appear in plain text in the answers of the jobs API, in the GCS and its Redis, in the
environment of every process of the job, and in `logs/runtime_env_agent.log` of every node, which
the dashboard serves; only the dashboard's own pages show `<redacted>`. So a secret is set on the
cluster's nodes (a Kubernetes secret in the pods' environment, an export before `ray start`, an
instance role), from where drivers and workers inherit it. The job has only its name, and ends at
once if the driver's node lacks it.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raymc.addresses import has_password, is_secret_name
from raymc.config import (
    EXAMPLE_FOLDER,
    Config,
    check_space,
    flatten,
    load,
    override,
    places,
    run_name,
)
from raymc.errors import ConfigError
from raymc.runtime.packing import Tree, find_text, list_tree, tree_root
from raymc.runtime.reach import SHARED_FOLDER, check_folder, check_input, check_server
from raymc.runtime.secrets import find_secrets, kind_of_secret

Command = Literal["train", "tune", "extract", "data"]
STAYING_NODE = {"ray.io/market-type": "!spot"}  # also matches nodes without the label
# Settings that a command needs in a folder that all nodes share; others of them, where given.
SHARED_PATHS: Mapping[Command, tuple[str, ...]] = {
    "train": ("data.path", "run.folder"),
    "tune": ("data.path", "run.folder"),
    "extract": ("data.path",),
    "data": ("data.path",),
}
_INPUTS: Mapping[Command, tuple[str, ...]] = {  # sections whose files a command reads
    "train": ("data.make.",),
    "tune": ("data.make.",),
    "extract": ("extract.",),
    "data": ("data.make.",),
}
_SERVERS = ("tracking.uri", "search.storage")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TELLING_LETTERS = 8  # shorter values occur in files by chance


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Attributes:
        config: YAML file inside the working tree.
        command: Command that runs it; None for `tune` if it has a search space, else `train`.
        name: Name of the job and its run; empty for one made from the settings.
        settings: Overrides, KEY=VALUE.
        env: Variables of our environment to send; no secrets.
        secrets: Variables that the cluster's nodes must have.
        allow: Files to send although they look like secrets, relative to our folder.
        cpus: CPUs of the driver.
        any_node: Whether the driver may run on a spot node, which can be taken away.
        shared: Folder that all nodes of the cluster share.
    """

    config: str
    command: Command | None = None
    name: str = ""
    settings: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    cpus: float = 1.0
    any_node: bool = False
    shared: str = SHARED_FOLDER


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send, checked.

    Attributes:
        name: Name of the job and its run.
        command: Command that it runs, as a user types it.
        entry_point: The same as a line for the shell, with what must come before it.
        env: Variables to send.
        tree: Files to send.
        cpus: CPUs of the driver.
        labels: Labels that the driver's node must have.
        allow: Names of files that are sent although they look like secrets.
    """

    name: str
    command: str
    entry_point: str
    env: Mapping[str, str]
    tree: Tree
    cpus: float
    labels: Mapping[str, str]
    allow: frozenset[str] = frozenset()


def plan(request: Request) -> Plan:
    """Check a request and work out what to send, without contacting the server.

    Raises:
        ConfigError: the configuration, its place, the name or a variable is wrong, or a secret
            would be sent.
        ResourceError: git is not installed.
    """
    planned = draft(request)
    refuse_secrets(planned)
    return planned


def draft(request: Request) -> Plan:
    """Do the same as `plan`, without looking for secrets inside files."""
    config = load(request.config, request.settings)
    space_given = config.search.space != Config().search.space
    command = request.command or ("tune" if space_given else "train")
    if command == "tune":
        check_space(config)
    name = _job_name(request, config, command)
    named = override(config, {"run.name": name})
    _check_settings(named, command, request.shared)
    here = Path.cwd().resolve()
    root = tree_root(here)
    allow = _allowed(request.allow, root, here)
    tree = list_tree(root, leave_out=_data_folders(request, config, {here, root}), allow=allow)
    file = _packed_config(request.config, tree, here)
    line = ["raymc", *_arguments(command, file, request.settings, name)]
    folder = here.relative_to(root).as_posix()
    for key, place in places(named).items():
        if key.startswith(_INPUTS[command]):
            check_input(key, place, request.shared, folder, tree.files)
    planned = Plan(
        name=name,
        command=shlex.join(line),
        entry_point=_entry_point(line, folder, request.secrets),
        env=_sent(request),
        tree=tree,
        allow=allow,
        cpus=request.cpus,
        labels={} if request.any_node else STAYING_NODE,
    )
    texts = {"the job's arguments": planned.entry_point}
    _refuse_values(request.secrets, {**texts, **planned.env}, tree)
    return planned


def refuse_secrets(planned: Plan) -> None:
    """Refuse a plan whose arguments or files hold what looks like a secret.

    Raises:
        ConfigError: one does; the message says where, and never what.
    """
    if kind := kind_of_secret(planned.entry_point):
        raise ConfigError(
            f"the job's arguments hold what looks like a secret ({kind}), which everyone could "
            "read: set it as a variable on the cluster's nodes, and name it with --secret"
        )
    tree = planned.tree
    allowed = {tree.files.get(name) for name in planned.allow}
    found = find_secrets({name: file for name, file in tree.files.items() if file not in allowed})
    if not found:
        return
    name, *others = (
        os.path.relpath(tree.root / name) for name in dict.fromkeys(x.file for x in found)
    )
    so_do = [*others[:3], f"{len(others) - 3} more files"] if len(others) > 3 else others
    more = f", and so do {', '.join(so_do)}" if others else ""
    raise ConfigError(
        f"{name}, line {found[0].line}, holds what looks like a secret ({found[0].kind}){more}; "
        "everyone who uses the cluster could read it: name a variable with --secret instead, make "
        f"git ignore the file, or, if it is no secret, add --allow {shlex.quote(name)}"
    )


def sent(names: Sequence[str]) -> dict[str, str]:
    """Return variables of our environment that are to be sent.

    Raises:
        ConfigError: one is not set, or is a secret.
    """
    _check_names(names)
    for name in names:
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(f"--env {name}: there is no such variable in your environment")
        if is_secret_name(name) or has_password(value) or kind_of_secret(value):
            raise ConfigError(
                f"--env {name}: a secret that is sent can be read by everyone in Ray's logs and "
                f"the job's details; set it on the cluster's nodes, and use --secret {name}"
            )
    return {name: os.environ[name] for name in names}


def required(names: Sequence[str]) -> str:
    """Return a shell command that ends a job whose node lacks a secret; empty without secrets.

    Raises:
        ConfigError: a name is not the name of a variable.
    """
    _check_names(names)
    complaint = "raymc: $name is not set on this node; it is listed as a --secret of this job"
    check = f'printenv "$name" > /dev/null || {{ echo "{complaint}" >&2; exit 2; }}'
    return f"for name in {' '.join(names)}; do {check}; done; " if names else ""


def _check_names(names: Sequence[str]) -> None:
    if not all(map(_VARIABLE.fullmatch, names)):
        raise ConfigError("--env and --secret take names of variables, without values")


def _refuse_values(names: Sequence[str], texts: Mapping[str, str], tree: Tree) -> None:
    """Refuse to send the value of a secret in a text or file, where we know the value."""
    for name in names:
        value = os.environ.get(name, "")
        if len(value) < _TELLING_LETTERS:
            continue
        place = next((place for place, text in texts.items() if value in text), None)
        if place or (place := find_text(tree, value)):
            raise ConfigError(
                f"the value of {name} is in {place} and would be sent with it: remove it there"
            )


def _job_name(request: Request, config: Config, command: Command) -> str:
    if request.name or config.run.name:
        name = request.name or config.run.name
    elif command in ("train", "tune"):
        name = run_name(config, sweep=command == "tune")
    else:
        name = f"{command}-{Path(config.data.path).name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't be the name of a job: choose one of letters, digits, dots, dashes "
            "and underscores with --name"
        )
    return name


def _check_settings(config: Config, command: Command, shared: str) -> None:
    """Refuse passwords, and places that not all nodes would reach."""
    settings = flatten(config)
    for key, value in settings.items():
        if has_password(str(value)):
            raise ConfigError(
                f"setting {key} has a password, which everyone could read in the job's "
                "arguments: write ${NAME} in its place, set that variable on the cluster's nodes, "
                "and name it with --secret NAME"
            )
    for key in SHARED_PATHS[command]:
        if not settings[key]:
            raise ConfigError(
                f"setting {key} is empty: name it with --set {key}={shared.rstrip('/')}/FOLDER"
            )
        check_folder(key, settings[key], shared)
    if command in ("train", "tune"):
        if settings["run.storage"]:
            check_folder("run.storage", settings["run.storage"], shared)
        for key in _SERVERS:
            check_server(f"setting {key}", settings[key], shared)


def _sent(request: Request) -> dict[str, str]:
    """Return the variables to send, of which none may name a server of this machine."""
    variables = sent(request.env)
    for name, value in variables.items():
        check_server(f"--env {name}", value, request.shared)
    return variables


def _data_folders(request: Request, config: Config, bases: Set[Path]) -> list[Path]:
    """Return the folders of data and runs that commands may have left on this machine."""
    configs = (config, load(request.config), Config())
    paths = {path for each in configs for path in (each.data.path, each.run.folder) if path}
    paths.add(EXAMPLE_FOLDER)
    return [base / path for base in bases for path in sorted(paths) if "://" not in path]


def _allowed(names: Sequence[str], root: Path, here: Path) -> frozenset[str]:
    """Return the names in the tree of files that may look like secrets."""
    for name in names:
        if not (here / name).is_file():
            raise ConfigError(f"--allow {name}: there is no such file")
    return frozenset(os.path.relpath(here / name, root) for name in names)


def _packed_config(given: str, tree: Tree, here: Path) -> str:
    """Return the configuration's path relative to `here`, provided that it is packed."""
    file = Path(given).absolute()
    file = file.parent.resolve() / file.name
    if not file.is_relative_to(tree.root):
        raise ConfigError(
            f"configuration {given} is outside the working tree that is packed, {tree.root}: move "
            "it there, or submit from the tree that it is in"
        )
    if file.relative_to(tree.root).as_posix() not in tree.files:
        raise ConfigError(
            f"configuration {given} would not be packed: git ignores it, or it is a link or in a "
            "folder of data or runs"
        )
    path = os.path.relpath(file, here)
    if "=" in path:
        raise ConfigError(f"configuration {path}: a name with = would be read as a setting")
    return path


def _arguments(command: Command, file: str, settings: Sequence[str], name: str) -> list[str]:
    match command:
        case "train" | "tune":
            return [command, file, *settings, "--name", name]
        case "data":
            return ["data", "make", file, *settings]
        case "extract":
            return ["extract", *settings, "--config", file]


def _entry_point(line: Sequence[str], folder: str, secrets: Sequence[str]) -> str:
    """Return the line for the shell of the driver's node, which expands nothing in it."""
    changed = "" if folder == "." else f"cd {shlex.quote(folder)} && "
    return f"{required(secrets)}{changed}exec {shlex.join(line)}"
