"""Says what is still to be done before a definition is applied: `python -m cluster.check PATH`.

PATH is a definition for `ray up` or a folder for `kubectl apply -k`. Placeholders that were left
are found offline. Where `kubectl` reaches a cluster, it is asked for the storage class and secrets.
"""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_LEFT = re.compile(r"\b[\w-]*REPLACE-ME\b")
# Drivers whose volumes one node alone can write to, and those that many can.
_ONE_NODE = re.compile(
    r"(ebs|disk)\.csi\.|pd\.csi\.|/aws-ebs|/gce-pd|/azure-disk|\.rbd\.|local-path|hostpath"
    r"|no-provisioner"
)
_MANY_NODES = re.compile(r"(efs|filestore|file)\.csi|lustre|fsx|cephfs|nfs|weka|/azure-file")
_CLAIM, _NAMESPACE = "PersistentVolumeClaim", "raymc"


def left_to_fill_in(path: Path) -> Iterator[str]:
    """Yield each placeholder in a definition and the files that it names, one line each."""
    for file in _files(path):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for name in _LEFT.findall(line.partition(" #")[0] if line[:1] != "#" else ""):
                yield f"{file}, line {number}: put your own value in place of {name}"


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    plan = path / "kustomization.yaml"
    yield plan
    given = yaml.safe_load(plan.read_text())
    for name in (*given.get("resources", []), *given.get("components", [])):
        yield from _files((path / name).resolve().relative_to(Path.cwd()))


def class_problem(found: dict[str, Any] | None, name: str) -> str:
    """Return why a storage class can't hold the shared volume, in a line; empty if it can.

    Args:
        found: The class as Kubernetes describes it; None if there is none.
        name: Its name.
    """
    if found is None:
        return (
            f"there is no storage class {name}: apply one of cluster/kuberay/overlays/storage-*, "
            "or the claim and all Ray pods stay pending"
        )
    driver = found["provisioner"]
    if _MANY_NODES.search(driver) or not _ONE_NODE.search(driver):
        return ""
    return (
        f"storage class {name} ({driver}) is not ReadWriteMany: one node alone can write to its "
        "volumes, and Ray pods on others would stay pending; apply one of "
        "cluster/kuberay/overlays/storage-*"
    )


def problems_of_cluster(documents: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what a Kubernetes cluster lacks for manifests, one line each.

    Raises:
        OSError: `kubectl` is not installed, or reaches no cluster.
    """
    for claim in (each["spec"] for each in documents if each["kind"] == _CLAIM):
        name = claim["storageClassName"]
        if problem := class_problem(_get("storageclass", name), name):
            yield problem
    wanted: dict[str, set[str]] = {}
    for reference in _references(documents):
        if not reference.get("optional"):
            wanted.setdefault(reference["name"], set()).add(reference["key"])
    for name, keys in sorted(wanted.items()):
        secret = _get("secret", name)
        if secret is None:
            yield f"there is no secret {name}: cluster/README.md has the command that makes it"
        elif missing := keys - set(secret.get("data", {})):
            yield f"secret {name} has no {', '.join(sorted(missing))}"


def _references(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "secretKeyRef":
                yield each
            else:
                yield from _references(each)


def _get(kind: str, name: str) -> dict[str, Any] | None:
    command = ["kubectl", "--namespace", _NAMESPACE, "--request-timeout=10s", "get", kind, name]
    done = subprocess.run([*command, "--output=json"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if "(NotFound)" in done.stderr:
        return None
    raise OSError((done.stderr.strip().splitlines() or ["kubectl failed"])[-1])


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = ArgumentParser(
        prog="python -m cluster.check",
        description="Say what is still to be done before a definition is applied.",
    )
    parser.add_argument("path", type=Path, help="a file for `ray up`, or a folder for `kubectl`")
    return parser


def main() -> int:
    """Print what is left to do; return 2 if there is anything."""
    path: Path = make_parser().parse_args().path
    if not path.exists():
        print(f"{path}: there is no such file or folder")
        return 2
    problems = list(left_to_fill_in(path))
    if path.is_dir():
        try:
            built = subprocess.run(
                ["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=True
            )
            problems += problems_of_cluster(list(yaml.safe_load_all(built.stdout)))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"Kubernetes was not asked: {getattr(error, 'stderr', '') or error}".strip())
    print("\n".join(problems) or f"{path}: nothing is left to fill in")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
