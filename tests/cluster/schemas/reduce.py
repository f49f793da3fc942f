"""Makes the schemas beside this file from what their projects publish; README.md says where.

    python reduce.py CRDS KUEUE COMPUTE    # folders of KubeRay's and Kueue's CRDs, compute.v1.json

What is left is plain JSON Schema without prose, closed: a key that isn't named is an error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
KEPT = ("type", "required", "enum", "minimum", "maximum", "pattern", "minLength", "maxLength")
POD_TEMPLATE = {"type": "object", "required": ["spec"], "$comment": "checked as a Pod"}


def from_crd(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a CRD's schema, closed; pod templates are left to Kubernetes' own schemas."""
    if "containers" in schema.get("properties", {}).get("spec", {}).get("properties", {}):
        return POD_TEMPLATE
    made = {key: schema[key] for key in KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    if "items" in schema:
        made["items"] = from_crd(schema["items"])
    if "properties" in schema:
        made["properties"] = {key: from_crd(value) for key, value in schema["properties"].items()}
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif "additionalProperties" in schema:
        made["additionalProperties"] = from_crd(schema["additionalProperties"])
    return made


def crd(path: Path, version: str) -> dict[str, Any]:
    """Return the schema of one version of a CRD, without its status."""
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == version)
    schema["properties"].pop("status", None)
    return from_crd(schema)


def from_discovery(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of a discovery document, closed; what only Google writes is left out."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    made = {key: schema[key] for key in ("type", "enum") if key in schema}
    if schema.get("format") == "int64":  # a string in answers; both in questions
        made["type"] = ["string", "integer"]
    if "items" in schema:
        made["items"] = from_discovery(schema["items"])
    if "properties" in schema:
        properties = schema["properties"].items()
        asked = {key: value for key, value in properties if not _is_output(value)}
        made["properties"] = {key: from_discovery(value) for key, value in asked.items()}
        made["additionalProperties"] = False
    elif "additionalProperties" in schema:
        made["additionalProperties"] = from_discovery(schema["additionalProperties"])
    return made


def _is_output(schema: dict[str, Any]) -> bool:
    return "[Output Only]" in schema.get("description", "")


def instance(document: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a virtual machine as it is asked for, with all that it refers to."""
    made: dict[str, Any] = {"$ref": "#/$defs/Instance", "$defs": {}}
    waiting = ["Instance"]
    while waiting:
        name = waiting.pop()
        if name not in made["$defs"]:
            made["$defs"][name] = from_discovery(document["schemas"][name])
            waiting += _references(made["$defs"][name])
    return made


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for each in schema for name in _references(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
    return own + [name for value in schema.values() for name in _references(value)]


def write(name: str, schema: dict[str, Any]) -> None:
    """Write a schema beside this file."""
    (HERE / name).write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")


def skypilot() -> dict[str, Any]:
    """Return the schemas of a task, its resources and its storage; needs `pip install skypilot`."""
    from sky.utils import schemas  # pyright: ignore[reportMissingImports]

    return {
        "task": schemas.get_task_schema(),
        "resources": schemas.get_resources_schema(),
        "storage": schemas.get_storage_schema(),
    }


def main(crds: str, kueue: str, compute: str) -> None:
    """Make all of them."""
    for kind in ("raycluster", "rayjob"):
        write(f"{kind}.json", crd(Path(crds) / f"ray.io_{kind}s.yaml", "v1"))
    for kind in ("clusterqueue", "localqueue", "resourceflavor"):
        write(f"{kind}.json", crd(Path(kueue) / f"kueue.x-k8s.io_{kind}s.yaml", "v1beta2"))
    write("skypilot.json", skypilot())
    write("gce-instance.json", instance(json.loads(Path(compute).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
