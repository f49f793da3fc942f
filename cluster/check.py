"""Says what is still to be done before a definition is applied: `python -m cluster.check PATH`.

PATH is a definition for `ray up` or a folder for `kubectl apply -k`. Placeholders that were left
are found offline, and values that no longer agree after one of them was changed. Where `kubectl`
reaches a cluster, it is asked for the storage class and secrets.
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

_GROWS_TO = "RAYMC_CLUSTER_GROWS_TO"
_REGION = re.compile(r"(?:--region |\.efs\.)([a-z]{2}(?:-[a-z]+)+-\d)\b")
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


def disagreements_of_ray_up(definition: dict[str, Any]) -> Iterator[str]:
    """Yield what does not agree in a definition for `ray up`, one line each."""
    types = [
        (each.get("max_workers", 0), each["resources"])
        for name, each in definition["available_node_types"].items()
        if name != definition["head_node_type"]
    ]
    commands = "\n".join(definition["worker_start_ray_commands"])
    yield from _growth_problem(types, next(iter(re.findall(rf"{_GROWS_TO}=(\S+?);", commands)), ""))
    most = sum(number for number, _ in types)
    if definition["max_workers"] < most:
        yield (
            f"max_workers is {definition['max_workers']}, and those of the node types add up to "
            f"{most}: raise the first, or lower the others"
        )
    region = definition["provider"].get("region", "")
    for other in sorted(set(_REGION.findall(json.dumps(definition))) - {region}):
        yield f"provider.region is {region}, and another line has {other}: use the same region"


def disagreements_of_cluster(spec: dict[str, Any]) -> Iterator[str]:
    """Yield what does not agree in the specification of a RayCluster, one line each."""
    groups = spec.get("workerGroupSpecs", [])
    types = [(each["maxReplicas"], each.get("resources", {})) for each in groups]
    variables = [
        variable
        for group in groups
        for container in group["template"]["spec"]["containers"]
        for variable in container.get("env", [])
    ]
    told = [each["value"] for each in variables if each["name"] == _GROWS_TO]
    yield from _growth_problem(types, told[0] if told else "")
    for group in groups:
        label = group.get("labels", {}).get("ray.io/accelerator-type")
        selected = group["template"]["spec"].get("nodeSelector", {}).get("raymc/accelerator")
        if label != selected:
            yield (
                f"group {group['groupName']} selects nodes with raymc/accelerator {selected}, and "
                f"its label ray.io/accelerator-type says {label}: use the same for both"
            )


def _growth_problem(types: list[tuple[int, dict[str, Any]]], told: str) -> Iterator[str]:
    """Say in a line if drivers are told to expect other resources than the nodes may have."""
    most: dict[str, float] = {}
    for number, resources in types:
        for name, amount in resources.items():
            most[name] = most.get(name, 0) + number * float(amount)
    pairs = {pair.partition("=")[0]: pair.partition("=")[2] for pair in told.split(",") if pair}
    right = {name: most.get(name, 0) for name in ("CPU", "GPU")}
    if {name: float(pairs.get(name, 0)) for name in right} != right:
        shown = ",".join(f"{name}={number:g}" for name, number in right.items() if number)
        yield f"{_GROWS_TO} is {told or 'missing'}, but worker nodes may have {shown}: write that"


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
    if path.is_file() and path.suffix == ".yaml":
        for document in yaml.safe_load_all(path.read_text()):
            if "available_node_types" in (document or {}):
                problems += disagreements_of_ray_up(document)
    if path.is_dir():
        try:
            built = subprocess.run(
                ["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=True
            )
            documents = list(yaml.safe_load_all(built.stdout))
            for cluster in (each for each in documents if each["kind"] == "RayCluster"):
                problems += disagreements_of_cluster(cluster["spec"])
            problems += problems_of_cluster(documents)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"Kubernetes was not asked: {getattr(error, 'stderr', '') or error}".strip())
    print("\n".join(problems) or f"{path}: nothing is left to fill in")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
