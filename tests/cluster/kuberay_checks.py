"""What is wrong with a RayCluster or a RayJob beyond its schema: KubeRay's own rules, and ours."""

import json
import re
from collections.abc import Iterator
from typing import Any

from packaging.version import Version

LABELS = {"ray.io/market-type": {"spot", "on-demand"}, "ray.io/accelerator-type": {"L4"}}


def cluster_problems(cluster: dict[str, Any]) -> list[str]:
    """Return what is wrong with a RayCluster that its schema allows, one line each."""
    spec = cluster["spec"]
    checks = (_switches(spec), _rules(spec), _groups(spec), _gpus(spec))
    return [found for check in checks for found in check]


def _all_groups(spec: dict[str, Any]) -> dict[str, Any]:
    workers = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"], **workers}


def _switches(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "Ray asks for no token"
    if not spec.get("enableInTreeAutoscaling"):
        yield "it doesn't scale"
    if spec.get("autoscalerOptions", {}).get("version") != "v2":
        yield "it doesn't scale by Ray's v2"
    kept = spec.get("gcsFaultToleranceOptions", {})
    embedded = kept.get("backend") == "rocksdb" and "redisAddress" not in kept
    if not embedded and "secretKeyRef" not in str(kept.get("redisPassword")):
        yield "a lost head loses the cluster, or Redis asks for no password"
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "the head does work"
    options = spec.get("autoscalerOptions", {}).get("securityContext", {})
    if options.get("capabilities") != {"drop": ["ALL"]}:
        yield "the autoscaler has capabilities, which its namespace refuses"
    mounts = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    if {"name": "ray-logs", "mountPath": "/tmp/ray"} not in mounts:
        yield "the autoscaler and the head don't share their logs"


def _rules(spec: dict[str, Any]) -> Iterator[str]:
    """What KubeRay's operator refuses though the schema allows it."""
    if Version(spec["rayVersion"]) < Version("2.56"):
        yield "priority needs Ray 2.56"
    for name, group in _all_groups(spec).items():
        both = {"num-cpus", "num-gpus", "memory", "resources"} & set(group["rayStartParams"])
        if both and group.get("resources"):
            yield f"{name}: resources stand in rayStartParams, too"
        if "labels" in group["rayStartParams"]:
            yield f"{name}: labels stand in rayStartParams"
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: the v2 autoscaler wants pods that aren't restarted"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 0):
            yield f"{name}: minReplicas is above maxReplicas"


def _groups(spec: dict[str, Any]) -> Iterator[str]:
    for name, group in _all_groups(spec).items():
        for key, value in group.get("labels", {}).items():
            if value not in LABELS.get(key, set()):
                yield f"{name} has the unknown label {key}: {value}"
        is_spot = _may_be_taken_away(group["template"]["spec"])
        if group["labels"].get("ray.io/market-type") != ("spot" if is_spot else "on-demand"):
            yield f"{name}: its label and where it may run don't agree"
        container = group["template"]["spec"]["containers"][0]
        if container["resources"]["requests"] != container["resources"]["limits"]:
            yield f"{name}: requests and limits differ, and Ray counts with limits"
        if group is not spec["headGroupSpec"] and group["minReplicas"] != 0:
            yield f"{name} never goes down to nothing"


def _may_be_taken_away(pod: dict[str, Any]) -> bool:
    node = pod.get("affinity", {}).get("nodeAffinity", {})
    terms = node.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    safe = {"on-demand", "reserved", "ON_DEMAND"}
    for term in terms.get("nodeSelectorTerms", [{"matchExpressions": []}]):
        asked = term["matchExpressions"]
        values = {value for each in asked for value in each.get("values", [])}
        absent = [each for each in asked if each["operator"] == "DoesNotExist"]
        if not (values and values <= safe) and len(absent) < 4:
            return True
    return False


def _gpus(spec: dict[str, Any]) -> Iterator[str]:
    for name, group in _all_groups(spec).items():
        pod = group["template"]["spec"]
        gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", "0")
        tolerated = [each["key"] for each in pod.get("tolerations", [])]
        if group.get("resources", {}).get("GPU", "0") != gpus:
            yield f"{name}: Ray and Kubernetes count different GPUs"
        if (gpus != "0") != ("nvidia.com/gpu" in tolerated):
            yield f"{name}: GPUs and the toleration of their taint don't go together"
        wanted = group.get("labels", {}).get("ray.io/accelerator-type")
        if pod["nodeSelector"].get("raymc/accelerator") != wanted:
            yield f"{name}: Ray's label and the pool that it may run in don't agree"
        if (gpus != "0") != ("cuda" in pod["containers"][0]["image"]):
            yield f"{name}: GPUs and the image don't go together"


def job_problems(job: dict[str, Any], clusters: set[str]) -> list[str]:
    """Return what is wrong with a RayJob that its schema allows, one line each."""
    return list(_job(job["spec"], job["metadata"], clusters))


def _job(spec: dict[str, Any], metadata: dict[str, str], clusters: set[str]) -> Iterator[str]:
    if spec["clusterSelector"].get("ray.io/cluster") not in clusters:
        yield f"there is no cluster {spec['clusterSelector']}"
    if metadata.get("namespace") != "raymc":
        yield "it isn't in the cluster's namespace"
    if spec.get("submissionMode") not in ("HTTPMode", "K8sJobMode"):
        yield f"submissionMode {spec.get('submissionMode')} doesn't go with a cluster there is"
    if spec.get("entrypointNumCpus", 0) < 1:
        yield "the driver would run on the head"
    if json.loads(spec.get("entrypointResources", "{}")).get("driver") != 1:
        yield "the driver may run on a node that goes away"
    if spec.get("backoffLimit"):
        yield "KubeRay can't try again on a cluster there is"
    if re.search(r"://[^\s]*:[^\s/@]+@", spec["entrypoint"]):
        yield "a password stands in the entry point"


def ephemeral_problems(job: dict[str, Any]) -> list[str]:
    """Return what KubeRay or Kueue would refuse in a RayJob with a cluster of its own."""
    return list(_ephemeral(job["metadata"], job["spec"]))


def _ephemeral(metadata: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    cluster = spec["rayClusterSpec"]
    if not re.fullmatch("[a-z]([-a-z0-9]{0,45}[a-z0-9])?", metadata["name"]):
        yield "the name is not one of DNS-1035, or too long"
    if "clusterSelector" in spec:
        yield "it has a cluster of its own and one that there is"
    if not (spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0):
        yield "the cluster stays"
    if spec["activeDeadlineSeconds"] < 1 or spec["backoffLimit"] < 0:
        yield "the deadline or the number of attempts is not one"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "Ray asks for no token"
    yield from _rules(cluster)
    yield from _gpus(cluster)
    for name, group in _all_groups(cluster).items():
        pod = group["template"]["spec"]
        volumes = {each["name"] for each in pod["volumes"]}
        mounts = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
        inits = {mount["name"] for each in pod["initContainers"] for mount in each["volumeMounts"]}
        if not ({"raymc", "raymc-code"} <= mounts and mounts | inits <= volumes):
            yield f"{name} doesn't have the shared folder or the code"
    if "kueue.x-k8s.io/queue-name" in metadata["labels"]:
        if cluster.get("enableInTreeAutoscaling") or "autoscalerOptions" in cluster:
            yield "Kueue refuses a cluster that grows"
        for name, group in _all_groups(cluster).items():
            pod = group["template"]["spec"]
            stays = pod["nodeSelector"].get("raymc/market") == "on-demand"
            if stays == ("GPU" in group.get("resources", {})) or "affinity" in pod:
                yield f"{name}: Kueue would put it on the wrong market"
        if len(cluster["workerGroupSpecs"]) > 7:  # a workload has at most eight sets of pods
            yield "Kueue refuses that many groups"
    else:
        yield from _groups(cluster)
