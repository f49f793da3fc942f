"""What is wrong with a set of Kubernetes manifests: schemas, references, and what we hold to."""

import json
import re
from collections.abc import Callable, Iterator, Set
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from kustomization import Document, containers

KUBERNETES = "1.33"
SCHEMAS = Path(__file__).parent / "schemas"
OF_RAY = ("RayCluster", "RayJob")
OF_KUEUE = ("ClusterQueue", "LocalQueue", "ResourceFlavor")
# Our own images, which are built later, and those of others.
PINNED = re.compile(r"[\w.-]+/raymc:[\w.-]*\d[\w.-]*|[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}")
OURS = {kind: SCHEMAS / f"{kind.lower()}.json" for kind in OF_RAY + OF_KUEUE}
# What KubeRay puts on the pods of a cluster, beside its name.
RAY_GROUPS = ("headgroup", "cpu", "gpu", "gpu-spot")
RAY_NODE_TYPES = {"head", "worker", "redis-cleanup"}


def problems(documents: list[Document], secrets: Set[tuple[str, str]]) -> list[str]:
    """Return all that is wrong with documents that are applied together, one line each.

    Args:
        documents: the manifests.
        secrets: name and key of every secret value that people are told to make.
    """
    found = [problem for document in documents for problem in schema_problems(document)]
    if found:  # the checks below take right types for granted
        return found
    checks: list[Callable[[list[Document]], Iterator[str]]] = [
        _references,
        _addresses,
        _selectors,
        _network,
        _pods,
    ]
    found += [problem for check in checks for problem in check(documents)]
    return found + list(_secrets(documents, secrets))


def _name(document: Document) -> str:
    metadata = document.get("metadata", {})
    return f"{document['kind']} {metadata.get('name', metadata.get('generateName'))}"


def schema_problems(document: Document) -> Iterator[str]:
    """Yield what Kubernetes' own schemas, and KubeRay's with their pods as Pods, don't allow."""
    as_core = document
    if document["kind"] in OURS:
        for error in _validator(document["kind"]).iter_errors(document):
            yield f"{_name(document)}: {error.json_path}: {error.message}"
        as_core = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}
    pods = [{"apiVersion": "v1", "kind": "Pod", **each} for each in templates(document)]
    for each in [as_core, *(pods if document["kind"] in OURS else [])]:
        message = _kubernetes(json.dumps(each))
        if message:
            yield f"{_name(document)}: {each['kind']}: {message}"


@cache
def _kubernetes(document: str) -> str:
    """Return what Kubernetes' schema doesn't allow in a document; empty if it allows all."""
    try:
        kubernetes_validate.validate(json.loads(document), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error.message
    return ""


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(OURS[kind].read_text()))


def templates(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod template in a document."""
    if isinstance(value, list):
        for each in value:
            yield from templates(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in ("template", "submitterPodTemplate"):
                yield each
            else:
                yield from templates(each)


def _all(value: Any, key: str) -> Iterator[Any]:
    """Yield what stands under a key, wherever it is."""
    if isinstance(value, list):
        for each in value:
            yield from _all(each, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == key:
                yield each
            yield from _all(each, key)


def _named(documents: list[Document], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in documents if each["kind"] == kind}


def _secrets(documents: list[Document], secrets: Set[tuple[str, str]]) -> Iterator[str]:
    for document in documents:
        for reference in _all(document, "secretKeyRef"):
            if (reference["name"], reference["key"]) not in secrets:
                yield f"{_name(document)}: nobody makes {reference['key']} of {reference['name']}"
        if document["kind"] == "Secret":
            yield f"{_name(document)} stands in a manifest"
        for variables in _all(document, "env"):
            for each in variables:
                if re.search("PASSWORD|SECRET|TOKEN|ACCESS_KEY", each["name"]) and "value" in each:
                    yield f"{_name(document)}: {each['name']} stands in a manifest"
        for text in re.findall(r"://[^\s\"]*:[^\s\"/@]+@", json.dumps(document)):
            yield f"{_name(document)}: an address with a password: {text}"


def _references(documents: list[Document]) -> Iterator[str]:
    claims = _named(documents, "PersistentVolumeClaim")
    maps = _named(documents, "ConfigMap")
    for document in documents:
        for template in templates(document):
            spec = template["spec"]
            volumes = {each["name"] for each in spec.get("volumes", [])}
            made = _all(document.get("spec", {}).get("volumeClaimTemplates", []), "metadata")
            volumes |= {each["name"] for each in made}
            for container in containers(spec):
                for mount in container.get("volumeMounts", []):
                    if mount["name"] not in volumes:
                        yield f"{_name(document)}: there is no volume {mount['name']}"
            for volume in spec.get("volumes", []):
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                if claim and claim not in claims:
                    yield f"{_name(document)}: there is no claim {claim}"
                if "configMap" in volume and volume["configMap"]["name"] not in maps:
                    yield f"{_name(document)}: there is no {volume['configMap']['name']}"


def _addresses(documents: list[Document]) -> Iterator[str]:
    """Hosts with a port, as in `redis:6379`, are services of ours with that port."""
    services = {
        (each["metadata"]["name"], port["port"])
        for each in documents
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    for document in documents:
        values = [v for each in _all(document, "value") for v in [str(each)]]
        values += [str(v) for each in _all(document, "args") for v in each]
        values += [str(each) for each in _all(document, "redisAddress")]
        for host, port in re.findall(
            r"(?:^|[/@=])([a-z][a-z-]+):(\d{4})\b", "\n".join(values), re.M
        ):
            if (host, int(port)) not in services:
                yield f"{_name(document)}: there is no service at {host}:{port}"


def _pod_labels(documents: list[Document]) -> list[dict[str, str]]:
    """Return the labels of all pods there will be, KubeRay's included."""
    labels = [
        template["metadata"]["labels"]
        for each in documents
        if each["kind"] not in OURS
        for template in templates(each)
    ]
    ours = [
        template["metadata"]["labels"]
        for each in documents
        if each["kind"] in OURS
        for template in templates(each)
    ]
    return labels + [
        {**own, "ray.io/cluster": "raymc", "ray.io/group": group, "ray.io/node-type": kind}
        for own in ours
        for group in RAY_GROUPS
        for kind in RAY_NODE_TYPES
    ]


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    expressions = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def _selectors(documents: list[Document]) -> Iterator[str]:
    pods = _pod_labels(documents)
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            selectors = [{"matchLabels": spec["selector"]}]
        elif document["kind"] == "NetworkPolicy":
            peers = [peer for rule in spec.get("ingress", []) for peer in rule["from"]]
            peers += [peer for rule in spec.get("egress", []) for peer in rule["to"]]
            selectors = [
                peer["podSelector"]
                for peer in peers
                if "podSelector" in peer and "namespaceSelector" not in peer
            ]
            selectors.append(spec["podSelector"])
        else:
            selectors = [spec["selector"]] if isinstance(spec.get("selector"), dict) else []
        for selector in selectors:
            if not any(_selects(selector, labels) for labels in pods):
                yield f"{_name(document)}: no pod is selected by {json.dumps(selector)}"


def _network(documents: list[Document]) -> Iterator[str]:
    policies = [each["spec"] for each in documents if each["kind"] == "NetworkPolicy"]
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies:
        yield "there is no policy that lets nobody in and nothing out"
    for policy in policies:
        for rule in policy.get("ingress", []):
            if not rule.get("from"):
                yield "a network policy lets everybody in"
        for peer in (peer for rule in policy.get("ingress", []) for peer in rule["from"]):
            if peer.get("namespaceSelector") == {}:
                yield "a network policy lets pods of every namespace in"
        for rule in policy.get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
            if not rule.get("to") or (blocks and not rule.get("ports")):
                yield "a network policy lets everything out"
            for block in blocks:
                if _covers_metadata(block):
                    yield "a network policy lets pods reach the metadata endpoint of their node"
    for document in documents:
        kind = document.get("spec", {}).get("type")
        if document["kind"] == "Service" and kind not in (None, "ClusterIP"):
            yield f"{_name(document)} is open to others than this cluster"
        if document["kind"] == "Ingress":
            yield f"{_name(document)} opens the cluster"


def _covers_metadata(block: dict[str, Any]) -> bool:
    metadata = ip_address("169.254.169.254")
    excepted = [ip_network(each) for each in block.get("except", [])]
    return metadata in ip_network(block["cidr"]) and not any(metadata in e for e in excepted)


def _pods(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        for template in templates(document):
            spec = template["spec"]
            pod = spec.get("securityContext", {})
            if not (pod.get("runAsNonRoot") and pod.get("runAsUser") and pod.get("seccompProfile")):
                yield f"{_name(document)}: a pod may run as root"
            if spec.get("enableServiceLinks") is not False:
                yield f"{_name(document)}: services' addresses become settings, as MLFLOW_PORT"
            if {"name": "registry"} not in spec.get("imagePullSecrets", []):
                yield f"{_name(document)}: a private registry would refuse it"
            for container in (*spec.get("initContainers", []), *spec["containers"]):
                name = f"{_name(document)}: {container['name']}"
                yield from (f"{name}: {found}" for found in _container(container))
                drain = _drain_seconds(container)
                if drain >= spec.get("terminationGracePeriodSeconds", 30):
                    yield f"{name}: is killed before it has drained for {drain:g} s"


def _container(container: dict[str, Any]) -> Iterator[str]:
    locked = container.get("securityContext", {})
    if locked.get("allowPrivilegeEscalation") is not False:
        yield "may become root"
    if locked.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    asked = container.get("resources", {})
    for resource in ("cpu", "memory"):
        if not all(resource in asked.get(kind, {}) for kind in ("requests", "limits")):
            yield f"asks for no {resource}, or has no limit"
    if not PINNED.fullmatch(container["image"]):
        yield f"image {container['image']} isn't pinned"


def _drain_seconds(container: dict[str, Any]) -> float:
    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    is_ray = container["name"].startswith("ray-")
    default = 30.0 if is_ray else 0.0
    values = [each["value"] for each in container.get("env", []) if each["name"] == name]
    return float(values[0]) if values else default
