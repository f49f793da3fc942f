"""`raymc submit --kuberay`: a run as a RayJob of Kubernetes, with a Ray cluster of its own.

KubeRay starts the cluster, runs the job, and deletes the cluster at the end. If the driver or the
head dies, KubeRay starts both anew (`backoffLimit`), and the same command resumes the run, because
its folder is on the volume that all clusters share. The cluster is the RayCluster of a definition
in `cluster/kuberay`. The sent files are in ConfigMaps, of which every pod makes the archive again.

Written for KubeRay 1.7. `kubectl` does all that asks Kubernetes for something.
"""

import base64
import copy
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raymc.errors import ConfigError, ResourceError
from raymc.runtime.packing import archived, size_text
from raymc.runtime.submit import Plan

PART_BYTES = 1_000_000  # of a ConfigMap, which may have 1 MiB with its other fields
LIMIT_BYTES = 8 * PART_BYTES
_LONGEST_NAME = 47  # characters; KubeRay appends five to it for the cluster
_CODE, _PARTS = "/etc/raymc", "/etc/raymc-parts"
_GROWS_TO = "RAYMC_CLUSTER_GROWS_TO"  # which tells a driver to wait for nodes that may come
_POLL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how long a job may run.

    Attributes:
        definition: Folder with a kustomization.yaml, or a file, that has one RayCluster.
        queue: Kueue's LocalQueue that admits the job; empty without Kueue.
        gpu_workers: GPU workers of a job that Kueue admits, which can't grow.
        hours: Time after which Kubernetes ends the job.
        retries: How often KubeRay starts the job anew after its driver or head is lost, or it
            fails.
        namespace: Namespace of the job and of all that it refers to.
    """

    definition: str
    queue: str = ""
    gpu_workers: int = 1
    hours: float = 24.0
    retries: int = 3
    namespace: str = "raymc"


def manifests(plan: Plan, placement: Placement) -> list[dict[str, Any]]:
    """Return the ConfigMaps and the RayJob that run a plan.

    Raises:
        ConfigError: the definition can't be read or has not exactly one RayCluster, or the files
            are too large for ConfigMaps.
        ResourceError: `kubectl` is not installed.
    """
    name = job_name(plan.name)
    below = {f"tree/{file}": path for file, path in plan.tree.files.items()}  # Ray drops one folder
    with archived(replace(plan.tree, files=below)) as (archive, size, code):
        if size > LIMIT_BYTES:
            raise ConfigError(
                f"{plan.tree.root} packs to {size_text(size)}, and --kuberay sends at most "
                f"{size_text(LIMIT_BYTES)}: make git ignore what the job does not need (--dry-run "
                "without --kuberay lists it), or submit to a running cluster"
            )
        file = f"{code.archive[:12]}.zip"
        content = archive.read_bytes()
    labels = {"app.kubernetes.io/managed-by": "raymc", "raymc/run": name}
    parts = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
    files: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"{name}-code-{number}",
                "namespace": placement.namespace,
                "labels": labels,
            },
            "binaryData": {f"part-{number}": base64.b64encode(part).decode()},
        }
        for number, part in enumerate(parts)
    ]
    environment = {**plan.env, **code.as_variable()}
    runtime = {"working_dir": f"file://{_CODE}/{file}", "env_vars": environment}
    cluster = _cluster(placement, [each["metadata"]["name"] for each in files], file)
    spec: dict[str, Any] = {
        "entrypoint": plan.entry_point,
        "entrypointNumCpus": plan.cpus,
        "submissionMode": "HTTPMode",
        "runtimeEnvYAML": yaml.safe_dump(runtime, sort_keys=True),
        "metadata": {"job_name": plan.name, "command": plan.command, **code.as_texts()},
        "backoffLimit": placement.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "activeDeadlineSeconds": round(placement.hours * 3600),
        "rayClusterSpec": cluster,
    }
    if plan.labels and _has_driver_nodes(cluster):  # a RayJob can't select a node by label
        spec["entrypointResources"] = json.dumps({"driver": 1})
    if placement.queue:
        labels = {**labels, "kueue.x-k8s.io/queue-name": placement.queue}
    head = {"name": name, "namespace": placement.namespace, "labels": labels}
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": head, "spec": spec}
    return [*files, job]


def job_name(name: str) -> str:
    """Return a run's name as Kubernetes takes it: lower case, no dots; unchanged where it fits."""
    made = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    made = made if made[:1].isalpha() else f"run-{made}"
    if made == name and len(made) <= _LONGEST_NAME:
        return made
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]  # so that a.b and a-b are two jobs
    return f"{made[: _LONGEST_NAME - 7].rstrip('-')}-{digest}"


def _cluster(placement: Placement, parts: list[str], file: str) -> dict[str, Any]:
    """Return the specification of a RayCluster whose pods have the sent files.

    Args:
        placement: Says which cluster.
        parts: Names of the ConfigMaps with the parts of the archive, in order.
        file: Name of the archive in each pod.
    """
    documents = _documents(placement.definition)
    found = [each for each in documents if each.get("kind") == "RayCluster"]
    if len(found) != 1:
        raise ConfigError(
            f"{placement.definition} has {len(found)} objects of kind RayCluster; name a "
            "definition that has one with --cluster"
        )
    if left := re.search(r"\b[\w-]*REPLACE-ME", json.dumps(found)):
        raise ConfigError(
            f"{placement.definition}: put your own value in place of {left[0]} "
            "(`python -m cluster.check` names the file and line)"
        )
    spec: dict[str, Any] = copy.deepcopy(found[0]["spec"])
    spec.pop("gcsFaultToleranceOptions", None)  # a lost head is replaced with all of its cluster
    for template in (group["template"]["spec"] for group in _groups(spec)):
        sources = [{"configMap": {"name": name}} for name in parts]
        template["volumes"] = [
            *template.get("volumes", []),
            {"name": "raymc-parts", "projected": {"sources": sources}},
            {"name": "raymc-code", "emptyDir": {"sizeLimit": "16Mi"}},
        ]
        container = template["containers"][0]
        mount = {"name": "raymc-code", "mountPath": _CODE}
        container["volumeMounts"] = [
            *container.get("volumeMounts", []),
            {**mount, "readOnly": True},
        ]
        few = {"cpu": "100m", "memory": "64Mi"}
        joined = {
            "name": "code",
            "image": container["image"],
            "command": ["sh", "-c", f"cat {_PARTS}/part-* > {_CODE}/{file}"],
            "resources": {"requests": few, "limits": few},
            "volumeMounts": [{"name": "raymc-parts", "mountPath": _PARTS, "readOnly": True}, mount],
        }
        if "securityContext" in container:
            joined["securityContext"] = container["securityContext"]
        template["initContainers"] = [*template.get("initContainers", []), joined]
    if placement.queue:
        _fix_size(spec, placement.gpu_workers)
    return spec


def _fix_size(spec: dict[str, Any], gpu_workers: int) -> None:
    """Give a cluster its final size, because Kueue admits a job as a whole."""
    spec["enableInTreeAutoscaling"] = False
    spec.pop("autoscalerOptions", None)
    workers = spec.get("workerGroupSpecs", [])
    gpus = [group for group in workers if "GPU" in group.get("resources", {})]
    kept = [group for group in workers if group not in gpus[1:]]
    for group in kept:
        number = gpu_workers if group in gpus else 1
        group.update(replicas=number, minReplicas=number, maxReplicas=number)
        group.pop("priority", None)
        group.pop("idleTimeoutSeconds", None)
        for container in group["template"]["spec"]["containers"]:
            known = container.get("env", [])
            container["env"] = [each for each in known if each["name"] != _GROWS_TO]
    spec["workerGroupSpecs"] = kept
    for group in _groups(spec):  # the flavours of cluster/kuberay/kueue.yaml go by this label
        pod = group["template"]["spec"]
        pod.pop("affinity", None)
        if group in gpus:  # on spot or on demand, as Kueue says
            group.get("labels", {}).pop("ray.io/market-type", None)
        else:
            pod["nodeSelector"] = {**pod.get("nodeSelector", {}), "raymc/market": "on-demand"}


def _groups(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]
    yield from spec.get("workerGroupSpecs", [])


def _has_driver_nodes(spec: dict[str, Any]) -> bool:
    return any("driver" in group.get("resources", {}) for group in _groups(spec))


def _documents(definition: str) -> list[dict[str, Any]]:
    path = Path(definition)
    if path.is_dir():
        text = _kubectl("kustomize", definition)
    else:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{definition} can't be read: {error}") from None
    try:
        return [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
    except yaml.YAMLError:
        raise ConfigError(f"{definition} is not valid YAML") from None


def start(documents: list[dict[str, Any]], report: Callable[[str], object]) -> str:
    """Apply a job's manifests; an ended job of the same name is replaced, which resumes its run.

    Returns:
        The job's name in Kubernetes.

    Raises:
        ResourceError: the job is running already, or Kubernetes refuses it.
    """
    job = next(each for each in documents if each["kind"] == "RayJob")
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    before = _status(name, namespace)
    if before is not None and not _is_over(before):
        raise ResourceError(
            f"a RayJob {name!r} is {_state(before)} already: end it with `kubectl -n {namespace} "
            f"delete rayjob {name}`, or submit under another --name"
        )
    if before is not None:
        _kubectl("--namespace", namespace, "delete", "rayjob", name, "--wait=true")
        report(f"{name} had ended ({_state(before)}): its run resumes")
    # On the server, because otherwise all of it would also be in an annotation of 256 KiB at most.
    given = ("--server-side", "--force-conflicts", "--filename=-")
    _kubectl("apply", *given, content=yaml.safe_dump_all(documents))
    return name


def follow(name: str, namespace: str, report: Callable[[str], object]) -> int:
    """Report each new state of a job to its end; return 0 if it succeeded, else 1.

    Raises:
        ResourceError: Kubernetes does not answer, or no longer knows the job.
    """
    last = ""
    while True:
        status = _status(name, namespace)
        if status is None:
            raise ResourceError(f"Kubernetes no longer knows the RayJob {name}")
        if (state := _state(status)) != last:
            report(f"{name}: {state}")
            last = state
        if _is_over(status):
            return 0 if status.get("jobStatus") == "SUCCEEDED" else 1
        time.sleep(_POLL_SECONDS)


def _status(name: str, namespace: str) -> dict[str, Any] | None:
    """Return a RayJob's status, or None if there is no such job."""
    given = ("--namespace", namespace, "get", "rayjob", name, "--ignore-not-found", "--output=json")
    text = _kubectl(*given)
    return json.loads(text).get("status", {}) if text.strip() else None


def _is_over(status: dict[str, Any]) -> bool:
    return status.get("jobDeploymentStatus") in ("Complete", "Failed")


def _state(status: dict[str, Any]) -> str:
    state = status.get("jobDeploymentStatus") or "waiting for KubeRay"
    tries = f", attempt {status['failed'] + 1}" if status.get("failed") else ""
    reason = f" ({status['reason']})" if status.get("reason") else ""
    return f"{state}{tries}{reason}"


def _kubectl(*arguments: str, content: str | None = None) -> str:
    try:
        done = subprocess.run(
            ["kubectl", *arguments], input=content, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ResourceError(
            "kubectl is not installed; --kuberay asks Kubernetes through it"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ResourceError(f"kubectl {arguments[0]}: {(lines or ['failed'])[-1]}")
    return done.stdout
