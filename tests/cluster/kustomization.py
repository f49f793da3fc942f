"""Builds the kustomizations of cluster/kuberay as kustomize does, as far as they use it.

Tests can't count on the program; a key that this file doesn't know is an error rather than left
out. Where there is a kubectl, test_kuberay.py compares the two.
"""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KEYS = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
CLUSTER_SCOPED = {"Namespace", "StorageClass"}
Document = dict[str, Any]


def build(folder: Path) -> list[Document]:
    """Return the documents that a folder's kustomization.yaml stands for."""
    plan = yaml.load((folder / "kustomization.yaml").read_text(), yaml.CSafeLoader)
    if unknown := set(plan) - KEYS:
        raise ValueError(
            f"{folder.name}: {sorted(unknown)} of kustomization.yaml aren't known here"
        )
    documents = [made for name in plan["resources"] for made in _resource(folder / name)]
    for document in documents:
        if "namespace" in plan and document["kind"] not in CLUSTER_SCOPED:
            document["metadata"]["namespace"] = plan["namespace"]
        for image in plan.get("images", []):
            _rename(document, image)
    for patch in plan.get("patches", []):
        (target,) = [each for each in documents if _is_target(each, patch["target"])]
        apply(target, yaml.load(patch["patch"], yaml.CSafeLoader))
    return documents


def _resource(path: Path) -> list[Document]:
    if path.is_dir():
        return build(path)
    # Unshared, because an anchor makes one object of all its uses, and patches change objects.
    return [_unshared(each) for each in _parsed(path)]


@cache
def _parsed(path: Path) -> tuple[Document, ...]:
    return tuple(yaml.load_all(path.read_text(), yaml.CSafeLoader))


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _rename(document: Document, image: dict[str, str]) -> None:
    for container in containers(document):
        if container["image"] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every container in a document, wherever it is."""
    if isinstance(value, list):
        for each in value:
            yield from containers(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in ("containers", "initContainers"):
                yield from each
            yield from containers(each)


def _is_target(document: Document, target: dict[str, str]) -> bool:
    group, _, version = document["apiVersion"].rpartition("/")
    actual = {"group": group, "version": version, "kind": document["kind"]}
    actual["name"] = document["metadata"]["name"]
    return all(actual[key] == value for key, value in target.items())


def apply(document: Document, operations: list[dict[str, Any]]) -> None:
    """Apply a JSON patch (RFC 6902: test, copy, add, replace, remove) to a document."""
    for operation in operations:
        parent, key = _locate(document, operation["path"])
        match operation["op"]:
            case "test":
                if parent[key] != operation["value"]:
                    raise ValueError(f"{operation['path']} is {parent[key]!r}: {operation}")
            case "replace":
                _ = parent[key]  # it must be there
                parent[key] = operation["value"]
            case "add":
                _insert(parent, key, operation["value"])
            case "copy":
                source, name = _locate(document, operation["from"])
                _insert(parent, key, copy.deepcopy(source[name]))
            case "remove":
                del parent[key]
            case other:
                raise ValueError(f"{other} isn't known here")


def _insert(parent: Any, key: Any, value: Any) -> None:
    if isinstance(parent, list):
        parent.insert(key, value)
    else:
        parent[key] = value


def _locate(document: Any, pointer: str) -> tuple[Any, Any]:
    """Return what holds the value that a JSON pointer points at, and under which key."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    parent = document
    for part in parts[:-1]:
        parent = parent[_key(parent, part)]
    return parent, _key(parent, parts[-1])


def _key(parent: Any, part: str) -> Any:
    if not isinstance(parent, list):
        return part
    return len(parent) if part == "-" else int(part)
