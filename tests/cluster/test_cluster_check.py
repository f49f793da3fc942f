"""What is left to do before a definition is applied; and the shared folder's owner."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT
from kustomization import build

from cluster.check import (
    disagreements_of_cluster,
    disagreements_of_ray_up,
    left_to_fill_in,
    main,
)

OVERLAY = "cluster/kuberay/overlays/spot-gpu"


def checked(monkeypatch: pytest.MonkeyPatch, path: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["check", str(path)])
    return main()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the definitions, to fill in."""
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", ["cluster/aws.yaml", "cluster/gcp.yaml", OVERLAY])
def test_placeholders_are_found_until_the_last_is_filled_in(
    copied: Path, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(copied / "none"))
    while found := list(left_to_fill_in(Path(path))):
        assert checked(monkeypatch, path) == 2
        assert set(found) <= set(capsys.readouterr().out.splitlines())
        file, line, name = found[0].split(", line ")[0], *found[0].split(", line ")[1].split(":", 1)
        lines = Path(file).read_text().splitlines()
        lines[int(line) - 1] = lines[int(line) - 1].replace(name.split()[-1], "mine")
        Path(file).write_text("\n".join(lines))
    assert checked(monkeypatch, path) == 0
    assert f"{path}: nothing is left to fill in" in capsys.readouterr().out


def test_no_placeholder_of_any_file_escapes_the_check() -> None:
    files = [
        path
        for folder in ("cluster", "jobs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".yaml", ".json", ".txt", ".in") or path.name == "Dockerfile"
    ]
    assert len(files) > 40
    for path in files:
        lines = path.read_text().splitlines()
        plain = [line.partition(" #")[0] for line in lines if line[:1] != "#"]
        marks = sum(line.count("REPLACE") for line in plain)
        assert len(list(left_to_fill_in(path))) == marks, path


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_values_of_ray_up_that_no_longer_agree(cloud: str) -> None:
    text = (ROOT / "cluster" / f"{cloud}.yaml").read_text()
    assert list(disagreements_of_ray_up(yaml.safe_load(text))) == []
    more = yaml.safe_load(text.replace("max_workers: 6", "max_workers: 7"))
    assert list(disagreements_of_ray_up(more)) == [
        "RAYMC_CLUSTER_GROWS_TO is CPU=112,GPU=10, but worker nodes may have CPU=120,GPU=11: "
        "write that",
        "max_workers is 14, and those of the node types add up to 15: raise the first, or lower "
        "the others",
    ]
    if cloud == "aws":
        moved = yaml.safe_load(text.replace("region: us-west-2", "region: eu-central-1"))
        assert list(disagreements_of_ray_up(moved)) == [
            "provider.region is eu-central-1, and another line has us-west-2: use the same region"
        ]


@pytest.mark.parametrize("overlay", ["base", "overlays/spot-gpu", "overlays/cpu-only"])
def test_values_of_a_cluster_that_no_longer_agree(overlay: str) -> None:
    documents = build(ROOT / "cluster" / "kuberay" / overlay)
    (spec,) = [each["spec"] for each in documents if each["kind"] == "RayCluster"]
    assert list(disagreements_of_cluster(spec)) == []
    spec["workerGroupSpecs"][-1]["maxReplicas"] += 1
    (line,) = disagreements_of_cluster(spec)
    assert line.startswith("RAYMC_CLUSTER_GROWS_TO is CPU=")
    spec["workerGroupSpecs"][-1]["maxReplicas"] -= 1
    spec["workerGroupSpecs"][-1]["labels"] = {"ray.io/accelerator-type": "T4"}
    (line,) = disagreements_of_cluster(spec)
    assert "its label ray.io/accelerator-type says T4: use the same for both" in line


# Answers `get KIND NAME` by files, and has built already: it is asked dozens of times.
KUBECTL = """#!/bin/sh
cd {folder} || exit 2
if [ "$1" = kustomize ]; then exec cat built.yaml; fi
until [ "$1" = get ]; do shift; done
if [ -f "answers/$2/$3" ]; then exec cat "answers/$2/$3"; fi
echo 'Error from server (NotFound)' >&2
exit 1
"""


def answering(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a `kubectl` first on PATH."""
    folder.mkdir()
    built = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / OVERLAY)], capture_output=True, text=True, check=True
    )
    (folder / "built.yaml").write_text(built.stdout)
    (folder / "kubectl").write_text(KUBECTL.format(folder=folder))
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def answer(folder: Path, found: dict[str, Any]) -> None:
    """Have the `kubectl` in a folder find objects by KIND/NAME, and no others."""
    shutil.rmtree(folder / "answers", ignore_errors=True)
    for name, content in found.items():
        file = folder / "answers" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_what_a_cluster_lacks_is_told_in_a_line_each(
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in copied.rglob("*.yaml"):
        file.write_text(file.read_text().replace("REPLACE-ME", "mine"))
    keys = {"redis": ["password"], "postgres": ["admin", "mlflow", "study"]}
    keys["mlflow-objects"] = ["access-key-id", "secret-access-key"]
    there = {f"secret/{name}": {"data": dict.fromkeys(each, "x")} for name, each in keys.items()}
    right = {**there, "storageclass/raymc-shared": {"provisioner": "efs.csi.aws.com"}}
    answering(tmp_path / "bin", monkeypatch)
    answer(tmp_path / "bin", right)
    assert checked(monkeypatch, OVERLAY) == 0, capsys.readouterr().out
    for driver in ("ebs.csi.aws.com", "pd.csi.storage.gke.io", "disk.csi.azure.com"):
        wrong = {"storageclass/raymc-shared": {"provisioner": driver}}
        answer(tmp_path / "bin", {**right, **wrong})
        capsys.readouterr()
        assert checked(monkeypatch, OVERLAY) == 2
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"storage class raymc-shared ({driver}) is not ReadWriteMany: ")
    lacking = {
        "secret/redis": {"data": {}},
        "secret/mlflow-objects": right["secret/mlflow-objects"],
    }
    answer(tmp_path / "bin", lacking)
    assert checked(monkeypatch, OVERLAY) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "there is no storage class raymc-shared",
        "there is no secret postgres",
        "secret redis has no password",
    ]


USER = 1000  # of Ray's pods, and of Ubuntu's machines


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as the owner of a file system")
@pytest.mark.parametrize("definition", ["aws.yaml", "gcp.yaml", "kuberay"])
def test_an_ordinary_user_may_write_to_a_new_file_system(definition: str, tmp_path: Path) -> None:
    """Runs the definitions' own commands as that user, on a folder that belongs to root."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o711)
    shared = tmp_path / "mnt"
    shared.mkdir(mode=0o755)
    asked = tmp_path / "asked"
    asked.touch()
    asked.chmod(0o666)
    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {asked}\n')
    sudo.chmod(0o755)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            user=USER,
            group=USER,
            extra_groups=(),
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )

    def here(text: str) -> str:
        return text.replace("/mnt/raymc", str(shared))

    if definition == "kuberay":
        folder = ROOT / "cluster" / "kuberay"
        cluster = yaml.safe_load((folder / "base" / "raycluster.yaml").read_text())
        pod = cluster["spec"]["headGroupSpec"]["template"]["spec"]
        check = [here(each) for each in pod["initContainers"][0]["args"]]
        refused = run("sh", "-c", *check)
        assert refused.returncode == 1
        assert "storage-owner.yaml" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        job = yaml.safe_load((folder / "storage-owner.yaml").read_text())
        (container,) = job["spec"]["template"]["spec"]["containers"]
        subprocess.run([here(each) for each in container["command"]], check=True)
        assert run("sh", "-c", *check).returncode == 0
    else:
        commands = yaml.safe_load((ROOT / "cluster" / definition).read_text())
        (own,) = [each for each in commands["initialization_commands"] if "chown" in each]
        assert run("touch", f"{shared}/x").returncode != 0
        assert run("bash", "-c", here(own)).returncode == 0
        subprocess.run(asked.read_text().splitlines(), check=True)
        asked.write_text("")
        assert run("bash", "-c", here(own)).returncode == 0
        assert asked.read_text() == ""  # the next node leaves it as it is
    assert run("mkdir", f"{shared}/runs").returncode == 0
