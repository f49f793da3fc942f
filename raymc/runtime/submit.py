"""On Ray: what `raymc submit` sends, which command, name, files and variables.

Top layer. Whatever can be wrong is found before anything is sent.

Secrets are named, never sent: see raymc.runtime.variables.
"""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from raymc.config import Config, check_space, flatten, load, override, run_name
from raymc.errors import ConfigError, ResourceError
from raymc.runtime.jobs import COMMAND_KEY, NAME_KEY, Client, Job, explained, list_jobs, look
from raymc.runtime.packing import Tree, list_tree, size_text, tree_root, write_archive
from raymc.runtime.variables import holds_password, refuse_values, required, sent

Command = Literal["train", "tune", "extract", "data"]
STAYING_NODE = {"ray.io/market-type": "!spot"}  # holds for nodes without the label, too
SHARED_PATHS: Mapping[Command, tuple[str, ...]] = {
    "train": ("data.path", "run.folder"),
    "tune": ("data.path", "run.folder"),
    "extract": ("data.path",),
    "data": ("data.path",),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks for.

    Attributes:
        config: YAML file, inside the working tree.
        command: What runs it; None: `tune` if it says what to search, else `train`.
        name: Of the job and its run; empty derives one from the settings.
        settings: Overrides, KEY=VALUE.
        env: Variables of our environment that are sent along; no secrets.
        secrets: Variables that the cluster's nodes must have.
        cpus: What the driver takes of its node.
        any_node: Whether that may be one that is taken away at short notice.
    """

    config: str
    command: Command | None = None
    name: str = ""
    settings: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    cpus: float = 1.0
    any_node: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be sent, checked.

    Attributes:
        name: Of the job and its run.
        command: What it runs, as people type it.
        entry_point: The same as a line for the shell, with what has to precede it.
        env: Variables that are sent along.
        tree: The files.
        cpus: What the driver takes of its node.
        labels: What that node's labels must be.
    """

    name: str
    command: str
    entry_point: str
    env: Mapping[str, str]
    tree: Tree
    cpus: float
    labels: Mapping[str, str]


def plan(request: Request) -> Plan:
    """Check a request and work out what to send; asks no server.

    Raises:
        ConfigError: the configuration, its place, the name or a variable is wrong, or a secret
            would be sent.
        ResourceError: there is no git.
    """
    config = load(request.config, request.settings)
    space_given = config.search.space != Config().search.space
    command = request.command or ("tune" if space_given else "train")
    if command == "tune":
        check_space(config)
    name = _job_name(request, config, command)
    _check_settings(override(config, {"run.name": name}), command)
    here = Path.cwd().resolve()
    root = tree_root(here)
    tree = list_tree(root, leave_out=_data_folders(request, config, {here, root}))
    file = _packed_config(request.config, tree, here)
    line = ["raymc", *_arguments(command, file, request.settings, name)]
    folder = here.relative_to(root).as_posix()
    planned = Plan(
        name=name,
        command=shlex.join(line),
        entry_point=_entry_point(line, folder, request.secrets),
        env=sent(request.env),
        tree=tree,
        cpus=request.cpus,
        labels={} if request.any_node else STAYING_NODE,
    )
    texts = {"the job's arguments": planned.entry_point}
    refuse_values(request.secrets, {**texts, **planned.env}, tree)
    return planned


def send(plan: Plan, client: Client, tell: Callable[[str], object]) -> Job:
    """Pack the tree, upload it if the server doesn't have it yet, and start the job.

    Ray takes each submission id once: the name is the first attempt's, NAME-2 the next one's.

    Args:
        plan: What to send.
        client: Of the server that gets it.
        tell: Takes lines about what is packed and what isn't.

    Raises:
        ResourceError: a job of that name still runs, the tree is too large, or the server
            doesn't take the job.
    """
    _free_id(client, plan.name)
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.zip"
        size = size_text(write_archive(plan.tree, archive))
        if plan.tree.left_out:
            tell(f"not packed: {', '.join(plan.tree.left_out)}")
        tell(f"packed {plan.tree.root}: {len(plan.tree.files):,} files, {size}")
        with explained(client.get_address()):
            return look(client, _start(plan, client, archive))


def _start(plan: Plan, client: Client, archive: Path) -> str:
    """Submit a plan; returns the submission id."""
    for is_last in (False, False, True):
        try:
            return client.submit_job(
                entrypoint=plan.entry_point,
                submission_id=_free_id(client, plan.name),
                runtime_env={"working_dir": str(archive), "env_vars": dict(plan.env)},
                metadata={NAME_KEY: plan.name, COMMAND_KEY: plan.command},
                entrypoint_num_cpus=plan.cpus,
                entrypoint_label_selector=dict(plan.labels) or None,
            )
        except RuntimeError as error:  # someone else may have taken the id meanwhile
            if is_last or "already exists" not in str(error):
                raise
    raise AssertionError


def _free_id(client: Client, name: str) -> str:
    """Return the id of the next attempt at a name; refuses one that is under way."""
    jobs = list_jobs(client)
    running = next((job for job in jobs if name in (job.name, job.id) and not job.is_over), None)
    if running is not None:
        raise ResourceError(
            f"a job {name!r} is {running.state} already: `raymc logs {name} --follow` shows it, "
            f"`raymc stop {name}` ends it; or submit under another --name"
        )
    taken = {job.id for job in jobs}
    attempts = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(id for id in attempts if id not in taken)


def _job_name(request: Request, config: Config, command: Command) -> str:
    if request.name or config.run.name:
        name = request.name or config.run.name
    elif command in ("train", "tune"):
        name = run_name(config, sweep=command == "tune")
    else:
        name = f"{command}-{Path(config.data.path).name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't be a job's name: give one of letters, digits, dots, dashes and "
            "underscores with --name"
        )
    return name


def _check_settings(config: Config, command: Command) -> None:
    """Refuse passwords, and folders that only one node would see."""
    settings = flatten(config)
    for key, value in settings.items():
        if holds_password(str(value)):
            raise ConfigError(
                f"setting {key} holds a password, which everyone could read in the job's "
                "arguments: leave it out of the address, set it on the cluster's nodes (such as "
                "MLFLOW_TRACKING_PASSWORD or PGPASSWORD) and name it with --secret"
            )
    for key in SHARED_PATHS[command]:
        if "://" not in settings[key] and not Path(settings[key]).is_absolute():
            raise ConfigError(
                f"setting {key} = {settings[key]!r}: it would lie in the job's own copy of the "
                "tree, which Ray deletes; give a folder that all nodes share, such as "
                f"--set {key}=/shared/{settings[key]}"
            )


def _data_folders(request: Request, config: Config, bases: Set[Path]) -> list[Path]:
    """Return the folders of data and runs that commands may have left on this machine."""
    configs = (config, load(request.config), Config())
    paths = {path for each in configs for path in (each.data.path, each.run.folder)}
    return [base / path for base in bases for path in sorted(paths) if "://" not in path]


def _packed_config(given: str, tree: Tree, here: Path) -> str:
    """Return the configuration's path relative to `here`, which is in the tree as it is."""
    file = Path(given).absolute()
    file = file.parent.resolve() / file.name
    if not file.is_relative_to(tree.root):
        raise ConfigError(
            f"configuration {given} is outside of the tree that is packed, {tree.root}: move it "
            "there, or submit from the tree that it is in"
        )
    if file.relative_to(tree.root).as_posix() not in tree.files:
        raise ConfigError(
            f"configuration {given} would not be packed: git ignores it, or it is a link or in a "
            "folder of data or runs"
        )
    path = os.path.relpath(file, here)
    if "=" in path:
        raise ConfigError(f"configuration {path}: a name with = would be taken for a setting")
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
    """Return the line that the shell of the driver's node gets; nothing in it is expanded."""
    changed = "" if folder == "." else f"cd {shlex.quote(folder)} && "
    return f"{required(secrets)}{changed}exec {shlex.join(line)}"
