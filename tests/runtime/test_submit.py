"""Jobs on a cluster: what is refused before anything is sent, and what a real head does with it.

One head runs for all tests of the file; each test submits from a working tree of its own.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from commands import ROOT
from drivers import RAYMC, interruptible, wait_until, write_config
from heads import BIN, Head, running_head

from raymc.addresses import has_password
from raymc.cli.main import main
from raymc.config import Config, override
from raymc.data.shards import Dataset
from raymc.errors import ConfigError
from raymc.runtime.provenance import VARIABLE
from raymc.runtime.reach import SHARED_FOLDER
from raymc.runtime.submit import Request, plan, required, sent
from raymc.tracking import list_runs
from raymc.training.runs import BUNDLE, RUN_FILE, open_run

SECRET, SENT = "unguessable-5f0c", "eu-middle-7"
TOKEN = "ghp_" + "aB3dE6gH9j" * 3 + "123456"  # in parts, so that this file may be sent


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def tree(
    tmp_path: Path, tiny_config: Config, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working tree to submit from, with a configuration that trains on the tiny dataset."""
    root = tmp_path / "working tree"
    root.mkdir()
    git(root, "init", "--quiet")
    config = override(tiny_config, {"run.folder": str(runs_folder)})
    write_config(config, root / "lesson plan.yaml")
    monkeypatch.chdir(root)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAYMC_SHARED_FOLDER", "/")  # every node is this machine
    return root


@pytest.fixture
def lesson(tree: Path) -> Request:
    return Request(config="lesson plan.yaml", name="lesson", command="train", shared="/")


# What is planned


def words(request: Request) -> list[str]:
    """The words that the shell makes of a plan's entry point."""
    return shlex.split(plan(request).entry_point)


def test_a_plan(lesson: Request, tree: Path) -> None:
    made = plan(replace(lesson, settings=("loss.margin=0.2",)))
    line = ["raymc", "train", "lesson plan.yaml", "loss.margin=0.2", "--name", "lesson"]
    assert made.name == "lesson"
    assert shlex.split(made.command) == line
    assert made.entry_point == f"exec {made.command}"
    assert list(made.tree.files) == ["lesson plan.yaml"]
    assert (made.cpus, made.labels, made.env) == (1.0, {"ray.io/market-type": "!spot"}, {})
    assert plan(replace(lesson, any_node=True)).labels == {}


def test_the_shell_expands_nothing(lesson: Request, tmp_path: Path) -> None:
    odd = "data.path=/$HOME/`touch x`/'$(touch y)\";touch z & * \\ ~"
    request = replace(lesson, settings=(odd, "run.folder=/a b"))
    assert words(request) == [
        *("exec", "raymc", "train", "lesson plan.yaml"),
        *(odd, "run.folder=/a b", "--name", "lesson"),
    ]
    line = plan(request).entry_point.replace("exec raymc", "printf '%s\\n'")
    shown = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[2] == odd
    assert not list(tmp_path.rglob("[xyz]"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train", "train 'lesson plan.yaml' seed --name lesson"),
        ("tune", "tune 'lesson plan.yaml' seed --name lesson"),
        ("data", "data make 'lesson plan.yaml' seed"),
        ("extract", "extract seed --config 'lesson plan.yaml'"),
    ],
)
def test_commands(lesson: Request, command: Any, expected: str) -> None:
    request = replace(lesson, command=command, settings=("train.seed=3",))
    assert plan(request).command == f"raymc {expected.replace('seed', 'train.seed=3')}"


def test_a_configuration_that_says_what_to_search_is_tuned(lesson: Request, tree: Path) -> None:
    assert words(replace(lesson, command=None))[2] == "tune"
    plain = tree / "plain.yaml"
    plain.write_text("data: {path: /data}\nrun: {folder: /runs}\nsearch: {gpus_per_trial: 0.5}\n")
    assert words(Request(config="plain.yaml", shared="/"))[2] == "train"
    choices = "search.space={loss.margin: {choices: [0.1, 0.2]}}"
    assert words(Request(config="plain.yaml", settings=(choices,), shared="/"))[2] == "tune"


def test_names(lesson: Request) -> None:
    assert plan(replace(lesson, name="", settings=("run.name=set",))).name == "set"
    made = plan(replace(lesson, name="")).name
    assert made.startswith("tiny-prototype_contrast-")
    assert plan(replace(lesson, name="", settings=("loss.margin=0.3",))).name != made
    assert plan(replace(lesson, name="", command="tune")).name.startswith("tiny-sweep-")
    assert plan(replace(lesson, name="", command="data")).name == "data-tiny"


def test_from_a_folder_below(lesson: Request, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tree / "a b"
    below.mkdir()
    (below / "code.py").touch()
    monkeypatch.chdir(below)
    made = plan(replace(lesson, config="../lesson plan.yaml"))
    assert made.command == "raymc train '../lesson plan.yaml' --name lesson"
    assert made.entry_point == f"cd 'a b' && exec {made.command}"
    assert list(made.tree.files) == ["a b/code.py", "lesson plan.yaml"]


def test_what_commands_left_in_the_tree_stays_here(lesson: Request, tree: Path) -> None:
    for name in ("data/digits/a", "runs/b", "mine/train/c", "code.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    made = plan(replace(lesson, settings=(f"data.path={tree}/mine",)))
    assert list(made.tree.files) == ["code.py", "lesson plan.yaml"]
    assert len(made.tree.left_out) == 3


# Variables


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "TOKENIZERS_PARALLELISM", "AWS_REGION"])
def test_what_may_be_sent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://mlflow:5000/@here")
    assert sent((name,)) == {name: "http://mlflow:5000/@here"}


@pytest.mark.parametrize(
    "name",
    [
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "db_pass", "HF_TOKEN"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_what_may_not_be_sent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError, match=f"^--env {name}: a secret"):
        sent((name,))


def test_passwords_in_addresses() -> None:
    assert has_password("sqlite and postgresql+psycopg2://me:pa:ss@db:5432/x")
    assert has_password("https://:ghp@github.com")
    for text in ("http://mlflow:5000", "s3://me@bucket/a:b", "http://h:1/a@b", "a:b@c"):
        assert not has_password(text)


def test_a_node_without_a_secret_ends_the_job() -> None:
    line = required(("LESSON_ONE", "LESSON_TWO")) + "echo began"
    run = {"shell": True, "capture_output": True, "text": True}
    has = {"PATH": "/usr/bin:/bin", "LESSON_ONE": "1"}
    done = subprocess.run(line, env=has, **run)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raymc: LESSON_TWO is not set on this node")
    done = subprocess.run(line, env={**has, "LESSON_TWO": "2"}, **run)
    assert (done.returncode, done.stdout) == (0, "began\n")


# What is refused before anything is sent


def outside(request: Request, tree: Path) -> Request:
    return replace(request, config=str((tree / request.config).rename(tree.parent / "c.yaml")))


def ignored(request: Request, tree: Path) -> Request:
    (tree / ".gitignore").write_text("*.yaml")
    return request


def named_like_a_setting(request: Request, tree: Path) -> Request:
    (tree / request.config).rename(tree / "a=b.yaml")
    return replace(request, config="a=b.yaml")


def with_a_secret_in_a_file(request: Request, tree: Path) -> Request:
    (tree / "notes.md").write_text(f"log in with {SECRET}\n")
    return replace(request, secrets=("LESSON_PASSWORD",))


def with_tokens_in_files(request: Request, tree: Path) -> Request:
    (tree / "b.py").write_text(f"\ntoken = '{TOKEN}'\n")
    (tree / "c.md").write_text(TOKEN)
    return request


def with_a_password_that_a_setting_replaces(request: Request, tree: Path) -> Request:
    with (tree / request.config).open("a") as file:
        file.write(f"tracking: {{uri: 'http://me:{SECRET}@mlflow'}}\n")
    return replace(request, settings=("tracking.uri=http://mlflow",))


def with_a_secret_in_a_setting(request: Request, tree: Path) -> Request:
    settings = (f"tracking.experiment={SECRET}",)
    return replace(request, secrets=("LESSON_PASSWORD",), settings=settings)


def with_a_secret_sent_under_another_name(request: Request, tree: Path) -> Request:
    return replace(request, secrets=("LESSON_PASSWORD",), env=("LESSON_COPY",))


def given(**changed: Any) -> Callable[[Request, Path], Request]:
    return lambda request, tree: replace(request, **changed)


def setting(text: str) -> Callable[[Request, Path], Request]:
    return given(settings=(text,))


REFUSED = [
    (given(config="none.yaml"), r"configuration none\.yaml can't be read: No such file"),
    (setting("loss.margn=1"), r"unknown setting 'loss\.margn': did you mean 'margin'"),
    (setting("loss.margin"), r"override 'loss\.margin': expected KEY=VALUE"),
    (
        given(command="tune", settings=("search.space={loss.margin: {low: 0, high: 9}}",)),
        r"search\.space: setting loss\.margin = 9",
    ),
    (outside, r"c\.yaml is outside the working tree that is packed, .*/working tree: move it"),
    (ignored, r"lesson plan\.yaml would not be packed: git ignores it"),
    (named_like_a_setting, r"configuration a=b\.yaml: a name with = would be read"),
    (given(name="two words"), r"'two words' can't be the name of a job: .* with --name"),
    (given(name="-x"), r"'-x' can't be the name of a job"),
    (setting("run.folder=runs"), r"run\.folder = 'runs': .*--set run\.folder=/runs$"),
    (setting("data.path=data/x"), r"data\.path = 'data/x': it would be in the job's own copy"),
    (
        setting("tracking.uri=http://me:word@mlflow:5000"),
        r"setting tracking\.uri has a password, .* name it with --secret",
    ),
    (given(env=("LESSON_UNSET",)), r"--env LESSON_UNSET: there is no such variable"),
    (given(env=("LESSON_PASSWORD",)), r"--env LESSON_PASSWORD: a secret .* --secret LESSON_PASS"),
    (given(env=("LESSON_DATABASE",)), r"--env LESSON_DATABASE: a secret that is sent"),
    (given(env=("LESSON_SIGN_IN",)), r"--env LESSON_SIGN_IN: a secret that is sent"),
    (given(allow=("gone",)), r"--allow gone: there is no such file"),
    (
        setting(f"tracking.experiment={TOKEN}"),
        r"arguments hold what looks like a secret \(GitHub T",
    ),
    (
        with_tokens_in_files,
        r"^b\.py, line 2, holds what looks like a secret \(GitHub Token\), and so do c\.md; .*"
        r"--allow b\.py$",
    ),
    (
        with_a_password_that_a_setting_replaces,
        r"lesson plan\.yaml, line \d+, holds what looks like a secret \(password in an address\); "
        r".* --allow 'lesson plan\.yaml'$",
    ),
    (given(env=("A=b",)), r"--env and --secret take names of variables, without values"),
    (given(secrets=("A; rm",)), r"--env and --secret take names of variables, without values"),
    (with_a_secret_in_a_file, r"value of LESSON_PASSWORD is in notes\.md and would be sent"),
    (with_a_secret_in_a_setting, r"value of LESSON_PASSWORD is in the job's arguments"),
    (with_a_secret_sent_under_another_name, r"of LESSON_PASSWORD is in LESSON_COPY"),
]


@pytest.mark.parametrize(("case", "message"), REFUSED)
def test_refused(
    lesson: Request,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: Callable[[Request, Path], Request],
    message: str,
) -> None:
    monkeypatch.setenv("LESSON_PASSWORD", SECRET)
    monkeypatch.setenv("LESSON_COPY", f"xx{SECRET}xx")
    monkeypatch.setenv("LESSON_SIGN_IN", TOKEN)
    monkeypatch.setenv("LESSON_DATABASE", "postgresql://me:word@db/study")
    with pytest.raises(ConfigError, match=message) as caught:
        plan(case(lesson, tree))
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert TOKEN not in str(caught.value)


# Paths that the cluster can't see. The dataset and runs are in the folder that nodes share.
AWAY = [
    ("data.path=/home/me/x", r"= '/home/me/x': .*share /mnt/raymc.*data\.path=/mnt/raymc/x, or"),
    ("data.path=/mnt/raymc/../home/x", r"the cluster's nodes share /mnt/raymc"),
    ("data.path=/mnt/raymcx", r"the cluster's nodes share /mnt/raymc"),
    ("data.path=~/x", r"= '/.*/x': the cluster's nodes share /mnt/raymc"),
    ("data.path=file:///mnt/raymc/x", r"look on its own disk .*--set data\.path=/mnt/raymc/x$"),
    ("data.path=memory://x", r"in its own memory"),
    ("run.folder=file:///home/me/runs", r"run\.folder = .*--set run\.folder=/mnt/raymc/runs$"),
    ("run.storage=/scratch/me", r"run\.storage = '/scratch/me': the cluster's nodes share"),
    ("tracking.uri=http://127.0.0.1:5000", r"on the cluster, 127\.0\.0\.1 is the node that the"),
    ("tracking.uri=http://localhost:5000", r"on the cluster, localhost is the node"),
    ("tracking.uri=sqlite:////home/me/x.db", r"tracking\.uri = .* do not see that file"),
    ("search.storage=sqlite:///study.db", r"search\.storage = .* do not see that file"),
    ("search.storage=postgresql://me@[::1]/x", r"on the cluster, ::1 is the node"),
]
MAKE = "data.make={name: npz, modalities: {a: a}, rates_hz: {a: 1}, file: %s}"
AWAY += [
    (MAKE % "../a.npz", r"data\.make\.file = .*outside the working tree.*--set data\.make=null$"),
    (MAKE % "big/a.npz", r"data\.make\.file = .*git ignores it, or it is not there"),
    (MAKE % "/home/me/a.npz", r"data\.make\.file = .*is on this machine"),
    (MAKE % "file:///mnt/raymc/a.npz", r"look on its own disk"),
    (
        "data.make={name: parquet, split_files: {train: sent/*.parquet, val: big/*.parquet}, "
        "columns: {a: a}}",
        r"data\.make\.split_files\.val = 'big/\*\.parquet' would not be sent",
    ),
]


@pytest.fixture
def on_a_cluster(lesson: Request, tree: Path) -> Request:
    """A job whose dataset and runs are in the folder that nodes share."""
    (tree / ".gitignore").write_text("big/\n")
    for name in ("sent/a.npz", "sent/a.parquet", "big/a.npz", "big/a.parquet", "a.csv"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    where = ("data.path=/mnt/raymc/data/x", "run.folder=/mnt/raymc/runs")
    return replace(lesson, settings=where, shared=SHARED_FOLDER)


@pytest.mark.parametrize(("setting", "message"), AWAY)
def test_paths_that_the_cluster_does_not_see(
    on_a_cluster: Request, setting: str, message: str
) -> None:
    settings = (*on_a_cluster.settings, setting)
    with pytest.raises(ConfigError, match=message) as caught:
        plan(replace(on_a_cluster, settings=settings))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_paths_that_the_cluster_sees(
    on_a_cluster: Request, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept(*settings: str, **changed: Any) -> None:
        assert plan(replace(on_a_cluster, **{"settings": settings, **changed}))

    here = on_a_cluster.settings
    accept(*here, MAKE % "sent/a.npz", "tracking.uri=http://mlflow:5000")
    accept(*here, MAKE % "/mnt/raymc/a.npz", "tracking.uri=sqlite:////mnt/raymc/runs/mlflow.db")
    accept(*here, MAKE % "s3://bucket/a.npz")
    accept("data.path=s3://bucket/x", "run.folder=/mnt/raymc/runs", "run.storage=gs://bucket/r")
    accept("data.path=/nfs/x", "run.folder=/nfs/runs", shared="/nfs")
    # of the file that makes the data only commands that make it are judged
    accept(*here, MAKE % "big/a.npz", "extract.source=a.csv", command="extract")
    with pytest.raises(ConfigError, match=r"extract\.source = 'b\.csv' would not be sent"):
        accept(*here, "extract.source=b.csv", command="extract")
    (tree / "below").mkdir()
    monkeypatch.chdir(tree / "below")
    accept(*here, MAKE % "../sent/a.npz", config="../lesson plan.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    with pytest.raises(ConfigError, match=r"^--env MLFLOW_TRACKING_URI = .*localhost is the node"):
        accept(*here, env=("MLFLOW_TRACKING_URI",), config="../lesson plan.yaml")


def test_a_file_that_looks_like_a_secret_is_sent_if_one_says_so(
    lesson: Request, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "below").mkdir()
    for name in ("below/token.md", "below/ca.pem"):
        (tree / name).write_text(TOKEN)
    (tree / "link").symlink_to("below/token.md")
    monkeypatch.chdir(tree / "below")
    request = replace(lesson, config="../lesson plan.yaml", allow=("token.md", "ca.pem"))
    assert {"below/token.md", "below/ca.pem", "link"} <= set(plan(request).tree.files)
    with pytest.raises(ConfigError, match=r"^token\.md, line 1, .* --allow token\.md$"):
        plan(replace(request, allow=("ca.pem",)))


def test_a_dry_run_sends_nothing(lesson: Request, tree: Path) -> None:
    (tree / ".gitignore").write_text("big/\n")
    for name, size in {"code.py": 4000, "a b.py": 3 << 20, ".env": 1, "big/data": 9}.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"#" * size)
    git(tree, "add", "code.py")
    git(tree, "-c", "user.name=me", "-c", "user.email=me", "commit", "--quiet", "-m", "a")
    nowhere = ["submit", lesson.config, "--dry-run", "--address", "http://127.0.0.1:1"]
    done = CliRunner().invoke(main, nowhere, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == ["   3.0 MiB  a b.py", "   3.9 KiB  code.py"]
    assert [line.split("  ")[-1] for line in lines[2:5]] == [
        *("lesson plan.yaml", ".gitignore", "in 4 files")
    ]
    assert lines[5:7] == [
        "  left out  .env (may hold secrets)",
        "  left out  big/ (git ignores it)",
    ]
    assert [line.split()[0] for line in lines[7:]] == ["packed", "sha256", "commit", "command"]
    assert lines[9].endswith("+")  # not all files are in the commit
    assert max(map(len, lines)) <= 80

    (tree / "token.md").write_text(TOKEN)
    refused = CliRunner().invoke(main, nowhere)
    assert (refused.exit_code, refused.stdout.splitlines()[:2]) == (2, lines[:2])
    assert refused.stderr.startswith("raymc: token.md, line 1, holds what looks like a secret")
    assert TOKEN not in refused.output
    assert "packed" in CliRunner().invoke(main, [*nowhere, "--allow", "token.md"]).stdout


# What a head does with it


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that asks for a token, on a node that knows a secret."""
    log = tmp_path_factory.mktemp("head") / "head.log"
    known = {"LESSON_PASSWORD": SECRET, "PATH": f"{BIN}:{os.environ['PATH']}"}
    with running_head(log, token="the-token-of-these-tests", environment=known) as head:
        yield head


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def raymc(head: Head, tree: Path) -> Run:
    """Run a command of raymc in the working tree; the head lets it in."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: x for name, x in os.environ.items() if not name.startswith("RAY_")}
        known = {**head.environment, "RAY_API_SERVER_ADDRESS": head.address, "COLUMNS": "150"}
        return subprocess.run(
            [RAYMC, *arguments],
            capture_output=True,
            text=True,
            timeout=900,
            env={**inherited, **known, **environment},
        )

    return run


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command prints."""
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("raymc: ")
    return line.removeprefix("raymc: ")


@pytest.mark.slow
def test_the_same_name_goes_on_where_it_stopped(
    head: Head, raymc: Run, tree: Path, tmp_path: Path, runs_folder: Path
) -> None:
    git(tree, "add", ".")
    git(tree, "-c", "user.name=me", "-c", "user.email=me", "commit", "--quiet", "-m", "a")
    commit = (tree / ".git" / (tree / ".git/HEAD").read_text().split()[1]).read_text().strip()
    submit = ["submit", "lesson plan.yaml", "--command", "train", "--name", "lesson"]
    submit += ["--set", "train.epochs=2000", "--address", head.address]
    begun = raymc(*submit, RAY_API_SERVER_ADDRESS="http://127.0.0.1:1")
    assert begun.returncode == 0, begun.stderr
    line = "raymc train 'lesson plan.yaml' train.epochs=2000 --name lesson"
    assert begun.stderr.splitlines()[-2] == f"submitted lesson: {line}"
    assert f"end it with `raymc stop lesson --address {head.address}`" in begun.stderr
    wait_until(lambda: len(list(runs_folder.glob("lesson/checkpoint_*"))) > 1)
    metadata = head.ask("jobs/lesson")["metadata"]
    assert (metadata["commit"], metadata["dirty"]) == (commit, "false")
    sent = {name: metadata[name] for name in ("commit", "dirty", "archive")}
    assert json.loads((runs_folder / "lesson" / RUN_FILE).read_text())["code"] == [sent]
    recorded = list_runs(f"sqlite:///{runs_folder}/mlflow.db")
    assert [run.commit for run in recorded if run.name == "lesson"] == [commit[:8]]
    (row,) = [line for line in raymc("jobs").stdout.splitlines() if line.startswith("lesson ")]
    assert commit[:8] in row.split()
    stopped = raymc("stop", "lesson")
    assert (stopped.returncode, stopped.stderr) == (0, "lesson has ended: STOPPED\n")

    again = ["raymc", "logs", "lesson", "--follow", "--address", head.address]
    for number, in_terminal, words in (
        (signal.SIGINT, True, [*submit, "--follow"]),
        (signal.SIGTERM, False, again[1:]),
    ):
        log = tmp_path / f"{number}-{in_terminal}.log"
        with interruptible(
            RAYMC, *words, log=log, in_terminal=in_terminal, environment=head.environment
        ) as process:
            wait_until(lambda: "\nresuming at epoch" in process.output(), process.process)
            process.interrupt(number)
            code, left = process.wait(), process.left()
        output = process.output()
        assert (code, left) == (128 + number, [])
        (line,) = [line for line in output.splitlines() if line.startswith("raymc: ")]
        what = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
        assert line == (
            f"raymc: {what}; lesson-2 continues to run: follow it with `{' '.join(again)}`, end it "
            f"with `raymc stop lesson --address {head.address}`"
        )
        assert "Traceback" not in output
        assert head.ask("jobs/lesson-2")["status"] == "RUNNING"
    head.ask("jobs/lesson-2/stop", {})


@pytest.mark.slow
def test_a_job_gets_the_tree_and_secrets_by_name(
    head: Head, raymc: Run, tree: Path, tmp_path: Path
) -> None:
    make = "{name: digits, train_clips: 40, val_clips: 10, test_clips: 10}"
    settings = f"data: {{path: '{tmp_path}/made here', make: {make}}}\n"
    (tree / "a b").mkdir()
    (tree / "a b" / "data.yaml").write_text(settings)
    given = ["--name", "clips", "--secret", "LESSON_PASSWORD", "--env", "LESSON_REGION"]
    done = raymc(
        *("submit", "a b/data.yaml", "--command", "data", "--follow", *given),
        **{"LESSON_PASSWORD": SECRET, "LESSON_REGION": SENT},
    )
    assert done.returncode == 0, done
    assert f"{tmp_path}/made here: 40 train, 10 val, 10 test\n" in done.stdout
    assert (tmp_path / "made here" / "dataset.json").exists()
    assert "\nclips: SUCCEEDED after " in done.stderr
    shown = json.dumps([head.ask("jobs/"), head.ask("jobs/clips/logs"), done.stdout, done.stderr])
    assert "LESSON_PASSWORD" in shown
    assert SECRET not in shown
    assert SECRET.encode() not in subprocess.check_output(["ps", "-eww", "-o", "args"])
    written = [file for file in head.folder.rglob("*") if file.is_file()]
    assert any("runtime_env" in file.name for file in written)
    assert not [file for file in written if SECRET.encode() in file.read_bytes()]
    assert SECRET not in everything_below(head.folder)
    told = head.ask("jobs/clips")
    assert set(told["runtime_env"]["env_vars"]) == {"LESSON_REGION", VARIABLE}
    assert told["runtime_env"]["env_vars"]["LESSON_REGION"] == SENT
    assert len(told["metadata"]["archive"]) == 64
    assert "commit" not in told["metadata"]
    assert "nothing is committed there: the job records only the digest" in done.stderr
    (log,) = head.folder.glob("session_2*/logs/runtime_env_agent.log")
    assert SENT in log.read_text()  # why a secret is never sent


def everything_below(folder: Path) -> str:
    """What all files in a folder hold."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode(errors="replace") for path in files)


@pytest.mark.slow
def test_a_file_of_jobs_is_submitted_with_ray_s_own_command(
    head: Head,
    tiny: Dataset,
    tiny_config: Config,
    tiny_bundle: Path,
    runs_folder: Path,
    tmp_path: Path,
) -> None:
    """It does what `raymc train` does, here to a run that has finished."""
    names = {"run.name": "job", "run.folder": str(runs_folder), "tracking.experiment": "job"}
    config = override(tiny_config, names)
    file = write_config(config, tmp_path / "config.yaml")
    run = open_run(override(config, {"train.epochs": 1}), dataset=tiny.manifest.digest())
    bundle = shutil.copytree(tiny_bundle, run.folder / BUNDLE)
    job = [sys.executable, ROOT / "jobs" / "train.py", file, "train.epochs=1"]
    done = subprocess.run(
        [BIN / "ray", "job", "submit", "--address", head.address, "--", *job],
        capture_output=True,
        text=True,
        env={**os.environ, **head.environment, "RAY_API_SERVER_ADDRESS": head.address},
        timeout=300,
    )
    assert done.returncode == 0, done
    assert f"run job is finished: its bundle is {bundle}\n" in done.stdout


@pytest.mark.slow
def test_jobs_are_listed_and_stopped(head: Head, raymc: Run) -> None:
    head.ask("jobs/", {"entrypoint": "echo began; exec sleep 600", "submission_id": "plain"})
    wait_until(lambda: head.ask("jobs/plain")["status"] == "RUNNING")
    table = [line.rstrip().split(maxsplit=6) for line in raymc("jobs").stdout.splitlines()]
    assert [column for column in table[0] if column != "commit"] == [
        *("name", "state", "started", "duration", "command")
    ]
    (row,) = [row for row in table if row[0] == "plain"]
    assert (row[1], row[-1]) == ("RUNNING", "echo began; exec sleep 600")
    assert raymc("stop", "plain").stderr == "plain has ended: STOPPED\n"
    assert raymc("stop", "plain").stderr == "plain had already ended: STOPPED\n"
    assert "\nbegan\n" in raymc("logs", "plain").stdout
    head.ask("jobs/", {"entrypoint": "sleep 1; echo 'no data'; exit 7", "submission_id": "bad"})
    followed = raymc("logs", "bad", "--follow")
    assert followed.returncode == 7
    assert followed.stdout.endswith("\nno data\n")
    assert followed.stderr.startswith("bad: FAILED after ")


@pytest.mark.slow
def test_who_is_not_let_in(raymc: Run) -> None:
    refused = {"RAY_AUTH_TOKEN": "another-token"}
    assert "refuses the token: set RAY_AUTH_MODE=token, and" in complaint(raymc("jobs", **refused))
    without = {"RAY_AUTH_MODE": "disabled"}
    assert "wants a token: set RAY_AUTH_MODE=token, and" in complaint(raymc("jobs", **without))
