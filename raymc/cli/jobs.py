"""The commands for jobs on a cluster: submit, jobs, logs, stop.

Imports only click at first, so that `raymc --help` answers at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from raymc.runtime import interruption
from raymc.runtime.reach import SHARED_FOLDER

if TYPE_CHECKING:
    from raymc.runtime.jobs import Client, Job
    from raymc.runtime.submit import Plan


_WIDE = 100  # columns of a terminal that has room for the commit beside the command
_VARIABLE, _HERE = "RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"
_address = click.option(
    "--address",
    envvar=_VARIABLE,
    default=_HERE,
    show_default=True,
    show_envvar=True,
    help="Address of the dashboard on the cluster's head.",
)


@click.command()
@click.argument("config")
@_address
@click.option("--follow", is_flag=True, help="Print the log, and exit with the job's exit code.")
@click.option("--name", default="", help="Name of the job; the same name again resumes its run.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as loss.margin=0.2.",
)
@click.option(
    "--command",
    type=click.Choice(["train", "tune", "extract", "data"]),
    help="Command that runs CONFIG; by default tune if it has a search.space, else train.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME",
    help="Send this variable of your environment; not for secrets.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="A variable that the cluster's nodes must have; only its name is sent.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="FILE",
    help="Send this file although its name or content looks like a secret.",
)
@click.option(
    "--cpus",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="CPUs for the driver.",
)
@click.option(
    "--shared",
    envvar="RAYMC_SHARED_FOLDER",
    default=SHARED_FOLDER,
    show_default=True,
    show_envvar=True,
    metavar="FOLDER",
    help="Folder that all nodes share, in which data and runs must be.",
)
@click.option("--any-node", is_flag=True, help="Allow the driver on a spot node.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="List what would be sent, the largest first, and what is left out; send nothing.",
)
@click.option(
    "--kuberay",
    is_flag=True,
    help="Run it as a RayJob of Kubernetes, on a Ray cluster of its own that ends with it; with "
    "--dry-run, print its manifests.",
)
@click.option(
    "--cluster",
    "definition",
    default="cluster/kuberay/overlays/spot-gpu",
    show_default=True,
    metavar="PATH",
    help="With --kuberay: folder of a kustomization, or file, with the RayCluster to start.",
)
@click.option("--queue", default="", metavar="NAME", help="With --kuberay: queue of Kueue.")
@click.option(
    "--gpu-workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="With --queue: GPU workers of the cluster, which has one size then.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    default=24.0,
    show_default=True,
    help="With --kuberay: time after which the job is ended.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="With --kuberay: how often a failed or lost driver is started anew.",
)
def submit(
    address: str,
    follow: bool,
    dry_run: bool,
    kuberay: bool,
    definition: str,
    queue: str,
    gpu_workers: int,
    hours: float,
    retries: int,
    **given: Any,
) -> None:
    """Run CONFIG as a job on a Ray cluster.

    Sends the files of your git working tree, without what git ignores, data and runs. Submit the
    same name again to resume its run. Ctrl-C while following leaves the job running.
    """
    from raymc.runtime.submit import Request, draft, refuse_secrets

    planned = draft(Request(**given))  # before the import of Ray, which takes seconds
    if kuberay:
        refuse_secrets(planned)
        placement = {"definition": definition, "queue": queue, "gpu_workers": gpu_workers}
        _submit_to_kubernetes(planned, dry_run, follow, **placement, hours=hours, retries=retries)
        return
    if dry_run:
        _list(planned)
    refuse_secrets(planned)
    if dry_run:
        _try_to_pack(planned)
        return

    from raymc.runtime.jobs import connect, send

    client = connect(address)
    job = send(planned, client, _tell)
    _tell(f"submitted {job.id}: {job.command}")
    if follow:
        _follow(client, job, address)
    _tell(_what_next(job, address))


@click.command()
@_address
def jobs(address: str) -> None:
    """List the jobs of a cluster, the newest first."""
    from raymc.runtime.jobs import connect, list_jobs
    from raymc.terminal import make_console

    console = make_console()
    console.print(_table(list_jobs(connect(address)), console.width))


@click.command()
@click.argument("name")
@_address
@click.option("--follow", is_flag=True, help="Print until the job ends; exit with its exit code.")
def logs(name: str, address: str, follow: bool) -> None:
    """Print the output of the job NAME."""
    from raymc.runtime.jobs import connect, find_job, read_log

    client = connect(address)
    job = find_job(client, name)
    if follow:
        _follow(client, job, address)
    click.echo(read_log(client, job), nl=False)


@click.command()
@click.argument("name")
@_address
def stop(name: str, address: str) -> None:
    """Stop the job NAME, and wait until it has ended."""
    from raymc.runtime.jobs import connect, find_job
    from raymc.runtime.jobs import stop as stop_job

    client = connect(address)
    job = find_job(client, name)
    ended = stop_job(client, job)
    _tell(f"{job.id} {'had already ended' if job.is_over else 'has ended'}: {ended.state}")


def _submit_to_kubernetes(
    planned: "Plan", dry_run: bool, follow_it: bool, **placement: Any
) -> None:
    """Print a plan's manifests, or apply them and follow the job to its end."""
    from raymc.runtime.kuberay import Placement, follow, manifests, start

    place = Placement(**placement)
    documents = manifests(planned, place)
    if dry_run:
        import yaml

        click.echo(yaml.safe_dump_all(documents, sort_keys=False), nl=False)
        return
    name = start(documents, _tell)
    what_next = f"see it with `kubectl -n {place.namespace} get rayjob {name}`"
    what_next += f", end it with `kubectl -n {place.namespace} delete rayjob {name}`"
    _tell(f"submitted {name}: {planned.command}")
    if follow_it:
        try:
            sys.exit(follow(name, place.namespace, _tell))
        except KeyboardInterrupt:
            _tell(interruption.told(f"{name} continues to run: {what_next}"))
            sys.exit(interruption.exit_code())
    _tell(what_next)


def _list(planned: "Plan") -> None:
    """Print the files that would be sent, the largest first, and what would be left out."""
    from raymc.runtime.packing import list_ignored, size_text
    from raymc.terminal import visible

    tree = planned.tree
    sizes = {name: path.stat().st_size for name, path in tree.files.items()}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        click.echo(f"{size_text(sizes[name]):>10}  {visible(name)}")
    click.echo(f"{size_text(sum(sizes.values())):>10}  in {len(sizes):,} files")
    ignored = (f"{name} (git ignores it)" for name in list_ignored(tree.root))
    for name in sorted([*tree.left_out, *ignored]):
        click.echo(f"  left out  {visible(name)}")


def _try_to_pack(planned: "Plan") -> None:
    """Print what the archive, the code and the command would be; refuse too large an archive."""
    from raymc.runtime.packing import LIMIT_BYTES, archived, size_text

    with archived(planned.tree) as (_, size, code):
        click.echo(f"    packed  {size_text(size)} of at most {size_text(LIMIT_BYTES)}")
        click.echo(f"    sha256  {code.archive}")
    click.echo(f"    commit  {code.short or 'none: nothing is committed'}")
    click.echo(f"   command  {planned.command}")


def _follow(client: "Client", job: "Job", address: str) -> None:
    """Print a job's log to its end, and exit with its exit code; Ctrl-C leaves the job running."""
    from raymc.runtime.jobs import exit_code, follow
    from raymc.search.trials import duration

    try:
        ended = follow(client, job, lambda text: click.echo(text, nl=False), _tell)
    except KeyboardInterrupt:
        _tell(interruption.told(f"{job.id} continues to run: {_what_next(job, address)}"))
        sys.exit(interruption.exit_code())
    if ended.exit_code is None and ended.message:
        _tell(ended.message)
    _tell(f"{job.id}: {ended.state} after {duration(ended.seconds)}")
    sys.exit(exit_code(ended))


def _what_next(job: "Job", address: str) -> str:
    where = "" if address == os.environ.get(_VARIABLE, _HERE) else f" --address {address}"
    follow, stop = f"raymc logs {job.name} --follow{where}", f"raymc stop {job.name}{where}"
    return f"follow it with `{follow}`, end it with `{stop}`"


def _table(jobs: Sequence["Job"], width: int) -> Any:
    from datetime import datetime

    from rich.table import Table

    from raymc.search.trials import duration
    from raymc.terminal import plain

    has_commit = width >= _WIDE and any(job.code.commit for job in jobs)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("name", "state", "started", "duration", *["commit"][:has_commit]):
        table.add_column(column, no_wrap=True)
    table.add_column("command", overflow="fold")
    for job in jobs:
        began = datetime.fromtimestamp(job.started).strftime("%Y-%m-%d %H:%M")
        cells = [job.id, job.state, began, duration(job.seconds), *[job.code.short][:has_commit]]
        table.add_row(*map(plain, [*cells, job.command]))
    return table


def _tell(line: str) -> None:
    """Print a line about a job to stderr, apart from the job's own output."""
    from raymc.terminal import visible

    click.echo(visible(line), err=True)


JOB_COMMANDS = (submit, jobs, logs, stop)
