"""`raymc submit --kuberay`: what is written for Kubernetes, and what is done with an ended job."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from commands import ROOT
from kuberay_checks import ephemeral_problems
from manifest_checks import schema_problems
from ray._private.runtime_env.packaging import download_and_unpack_package

from raymc.cli.main import main
from raymc.runtime.kuberay import job_name

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
KUBERAY = "cluster/kuberay/overlays/spot-gpu"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree with the definitions filled in, and a file to run."""
    shutil.copytree(ROOT / "cluster" / "kuberay", tmp_path / "cluster" / "kuberay")
    for file in tmp_path.rglob("*.yaml"):
        file.write_text(file.read_text().replace("REPLACE-ME", "example"))
    where = "data: {path: /mnt/raymc/data/x}\nrun: {folder: /mnt/raymc/runs}\n"
    (tmp_path / "lesson plan.yaml").write_text(where)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submitted(*given: str) -> Any:
    line = ["submit", "lesson plan.yaml", "--kuberay", "--name", "Lesson.1", *given]
    return CliRunner().invoke(main, line)


def printed(*given: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    done = submitted("--dry-run", *given)
    assert done.exit_code == 0, done.output
    *files, job = yaml.load_all(done.stdout, yaml.CSafeLoader)
    return files, job


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["base", "overlays/spot-gpu", "overlays/cpu-only"])
@pytest.mark.parametrize("queue", ["", "gpus"])
def test_the_manifests_are_right(tree: Path, overlay: str, queue: str) -> None:
    given = ["--cluster", f"cluster/kuberay/{overlay}", "--hours", "1.5", "--retries", "2"]
    given += ["--queue", queue, "--gpu-workers", "3"] if queue else []
    files, job = printed(*given)
    assert [found for each in [*files, job] for found in schema_problems(each)] == []
    assert ephemeral_problems(job) == []
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (2, 5400)
    groups = {each["groupName"]: each for each in spec["rayClusterSpec"]["workerGroupSpecs"]}
    if queue:
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue
        sizes = {name: each["replicas"] for name, each in groups.items()}
        assert sizes == ({"cpu": 1} if "cpu" in overlay else {"cpu": 1, "gpu": 3})
        assert "GROWS_TO" not in str(job)
    else:
        assert set(groups) >= {"cpu"}


@pytest.mark.slow
def test_the_job_finds_its_files_and_resumes_by_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "noise").write_bytes(os.urandom(5000))  # so that the archive has several parts
    size = sum(len(base64.b64decode(*each["binaryData"].values())) for each in printed()[0])
    monkeypatch.setattr("raymc.runtime.kuberay.PART_BYTES", size // 3 + 1)
    files, job = printed()
    cluster = job["spec"]["rayClusterSpec"]
    runtime = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert [list(each["binaryData"]) for each in files] == [[f"part-{n}"] for n in range(3)]
    name = runtime["working_dir"].rpartition("/")[2]
    assert runtime["working_dir"] == f"file:///etc/raymc/{name}"
    pod = tree / "pod"
    (pod / "etc/raymc").mkdir(parents=True)
    (pod / "etc/raymc-parts").mkdir()
    for each in files:
        ((part, content),) = each["binaryData"].items()
        assert len(content) <= 1 << 20
        (pod / "etc/raymc-parts" / part).write_bytes(base64.b64decode(content))
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = group["template"]["spec"]
        (joins,) = [each for each in template["initContainers"] if each["name"] == "code"]
        (volume,) = [each for each in template["volumes"] if each["name"] == "raymc-parts"]
        named = [each["configMap"]["name"] for each in volume["projected"]["sources"]]
        assert named == [each["metadata"]["name"] for each in files]
        script = joins["command"][-1].replace("/etc/", f"{pod}/etc/")
        subprocess.run([*joins["command"][:-1], script], check=True)
    unpacked = download_and_unpack_package(f"file://{pod}/etc/raymc/{name}", str(pod))
    assert (Path(asyncio.run(unpacked)) / "lesson plan.yaml").is_file()  # as a node of Ray does
    line = "exec raymc train 'lesson plan.yaml' --name Lesson.1"
    assert job["spec"]["entrypoint"] == line
    assert job["spec"]["metadata"]["job_name"] == "Lesson.1"
    shutil.rmtree(pod)
    assert printed() == (files, job)


def test_names() -> None:
    assert job_name("lessons-2") == "lessons-2"
    made = [job_name(name) for name in ("a.b", "a-b", "a_b", "A-b", "1a", "x" * 80, "x" * 81)]
    assert len(set(made)) == len(made)
    assert all(len(name) <= 47 and name[0].isalpha() for name in made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--cluster", "lesson plan.yaml"], "has 0 objects of kind RayCluster"),
        (["--cluster", "nothing.yaml"], "nothing.yaml can't be read"),
        (["--cluster", "left"], "left: put your own value in place of REGISTRY-REPLACE-ME"),
        (["--set", "data.path=/home/me/x"], "the cluster's nodes share /mnt/raymc"),
    ],
)
def test_refused(tree: Path, given: list[str], message: str) -> None:
    shutil.copytree(ROOT / "cluster" / "kuberay" / "base", tree / "left")
    done = submitted("--dry-run", *given)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_too_many_files_are_refused(tree: Path) -> None:
    (tree / "noise").write_bytes(os.urandom(9 << 20))
    done = submitted("--dry-run")
    assert done.exit_code == 2
    assert "--kuberay sends at most 7.6 MiB" in done.stderr


# A stand-in for Kubernetes: it keeps what is applied in a folder, and tells the states it is given.
# Python starts sooner without its site packages.
KUBECTL = """#!{python} -SE
import json, pathlib, subprocess, sys
folder, words = pathlib.Path({folder!r}), sys.argv[1:]
with (folder / "asked").open("a") as asked:
    asked.write(" ".join(words) + "\\n")
if words[0] == "kustomize":
    sys.exit(subprocess.run([{real!r}, *words]).returncode)
states = folder / "states.json"
left = json.loads(states.read_text())
if "get" in words:
    if left and left[0] is not None:
        print(json.dumps({{"status": left[0]}}))
    states.write_text(json.dumps(left[1:] or left))
elif "apply" in words:
    (folder / "applied.yaml").write_text(sys.stdin.read())
"""


@pytest.fixture
def kubernetes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".git" / "kubernetes"  # where it is not sent
    folder.mkdir()
    program = KUBECTL.format(
        python=sys.executable, folder=str(folder), real=shutil.which("kubectl")
    )
    (folder / "kubectl").write_text(program)
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("raymc.runtime.kuberay._POLL_SECONDS", 0)
    return folder


def state(deployment: str, **more: Any) -> dict[str, Any]:
    return {"jobDeploymentStatus": deployment, **more}


@pytest.mark.slow
def test_a_job_is_applied_followed_and_resumed(kubernetes: Path) -> None:
    told = [None, {}, state("Running"), state("Retrying", failed=1), state("Running", failed=1)]
    told.append(state("Complete", jobStatus="SUCCEEDED", failed=1))
    (kubernetes / "states.json").write_text(json.dumps(told))
    done = submitted("--follow")
    assert done.exit_code == 0, done.output
    name = job_name("Lesson.1")
    assert done.stderr.splitlines()[1:] == [
        f"{name}: waiting for KubeRay",
        f"{name}: Running",
        f"{name}: Retrying, attempt 2",
        f"{name}: Running, attempt 2",
        f"{name}: Complete, attempt 2",
    ]
    applied = list(yaml.safe_load_all((kubernetes / "applied.yaml").read_text()))
    assert [each["kind"] for each in applied] == ["ConfigMap", "RayJob"]
    asked = (kubernetes / "asked").read_text()
    assert "delete" not in asked
    assert "apply --server-side --force-conflicts" in asked

    ended = state("Failed", jobStatus="FAILED", reason="DeadlineExceeded")
    (kubernetes / "states.json").write_text(json.dumps([ended, ended]))
    again = submitted("--follow")
    assert again.exit_code == 1
    assert f"{name} had ended (Failed (DeadlineExceeded)): its run resumes" in again.stderr
    assert f"delete rayjob {name} --wait=true" in (kubernetes / "asked").read_text()


@pytest.mark.slow
def test_a_job_that_runs_is_left_alone(kubernetes: Path) -> None:
    (kubernetes / "states.json").write_text(json.dumps([state("Running")]))
    done = submitted()
    assert done.exit_code == 2
    assert "is Running already: end it with `kubectl -n raymc delete rayjob" in done.stderr
    assert not (kubernetes / "applied.yaml").exists()
