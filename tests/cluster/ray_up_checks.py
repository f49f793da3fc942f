"""What is wrong with a definition for `ray up`: Ray's own checks, and what they leave out."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import click
import jsonschema
import ray.autoscaler
from botocore.validate import ParamValidator
from commands import ROOT, parse
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

SCHEMAS = Path(__file__).parent / "schemas"
LABELS = {"ray.io/market-type": {"spot", "on-demand"}, "ray.io/accelerator-type": {"L4"}}
Config = dict[str, Any]


def problems(config: Config) -> list[str]:
    """Return all that is wrong, one line each."""
    try:
        validate_config(prepare_config(config))
    except (jsonschema.ValidationError, ValueError, KeyError, TypeError) as error:
        return [f"Ray: {str(error).splitlines()[0]}"]
    checks: list[Callable[[Config], Iterator[str]]] = [
        _provider,
        _work,
        _labels,
        _private,
        _start_commands,
        _mounts,
        {"aws": _aws, "gcp": _gcp}[config["provider"]["type"]],
    ]
    return [found for check in checks for found in check(config)]


def _types(config: Config) -> dict[str, Config]:
    return config["available_node_types"]


def is_spot(node: Config) -> bool:
    """Say whether a node_config asks for a spot machine."""
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node.get("scheduling", {}).get("provisioningModel") == "SPOT"


def _provider(config: Config) -> Iterator[str]:
    """Ray's schema names the keys of the provider, but lets others pass."""
    folder = Path(ray.autoscaler.__file__).parent
    schema = json.loads((folder / "ray-schema.json").read_text())
    for key in set(config["provider"]) - set(schema["properties"]["provider"]["properties"]):
        yield f"provider.{key} isn't known"


def _work(config: Config) -> Iterator[str]:
    if _types(config)[config["head_node_type"]]["resources"] != {"CPU": 0}:
        yield "the head does work"
    if not 0 < config["idle_timeout_minutes"] <= 30:
        yield "idle nodes stay"
    workers = {k: v for k, v in _types(config).items() if k != config["head_node_type"]}
    for name, kind in workers.items():
        if kind["min_workers"] != 0:
            yield f"{name} never goes down to nothing"
    if config["max_workers"] != sum(kind["max_workers"] for kind in workers.values()):
        yield "max_workers isn't the sum of the types'"
    gpus = [kind for kind in workers.values() if "GPU" in kind["resources"]]
    ranks = {is_spot(kind["node_config"]): kind["priority"] for kind in gpus}
    if not ranks.get(True, 0) > ranks.get(False, 0):
        yield "GPUs on spot don't come first"


def _labels(config: Config) -> Iterator[str]:
    for name, kind in _types(config).items():
        for key, value in kind["labels"].items():
            if value not in LABELS.get(key, set()):
                yield f"{name} has the unknown label {key}: {value}"
        market = "spot" if is_spot(kind["node_config"]) else "on-demand"
        if kind["labels"].get("ray.io/market-type") != market:
            yield f"{name} is {market}, and not labelled so"
        if ("GPU" in kind["resources"]) != ("ray.io/accelerator-type" in kind["labels"]):
            yield f"{name}: GPUs and their label don't go together"


def _private(config: Config) -> Iterator[str]:
    if config["provider"].get("use_internal_ips") is not True:
        yield "nodes have public addresses"
    if config["provider"].get("cache_stopped_nodes") is not False:
        yield "nodes are stopped rather than ended"
    auth = config["auth"]
    if not (auth.get("ssh_proxy_use_node_id") and "%h" in auth.get("ssh_proxy_command", "")):
        yield "SSH doesn't go through the cloud's tunnel"
    place = config["provider"].get("availability_zone", config["provider"]["region"])
    if place not in auth.get("ssh_proxy_command", ""):
        yield "the tunnel goes elsewhere"


def _start_commands(config: Config) -> Iterator[str]:
    for role in ("head", "worker"):
        for line in config[f"{role}_start_ray_commands"]:
            command = line.rpartition(";")[2].strip()
            try:
                parse([os.path.expanduser(word) for word in shlex.split(command)])
            except click.ClickException as error:
                yield f"{role}: {command}: {error.format_message()}"
            if " start " in command and "RAY_AUTH_MODE=token" not in line:
                yield f"{role}: starts without a token"
    if "--dashboard-host=127.0.0.1" not in config["head_start_ray_commands"][-1]:
        yield "the dashboard isn't on loopback alone"


def _mounts(config: Config) -> Iterator[str]:
    for local in config["file_mounts"].values():
        if local != "~/.ray/auth_token" and not (ROOT / local).exists():
            yield f"{local} isn't in the repository"


class _Recorder:
    """In place of EC2: keeps what it is asked for."""

    def create_instances(self, **asked: Any) -> list[Any]:
        self.asked = asked
        return []


@cache
def ec2() -> Any:
    """EC2's own model of its requests."""
    return botocore.session.get_session().get_service_model("ec2")


def run_instances(config: Config, node: Config) -> Config:
    """Return what Ray asks of EC2 for a node of a type."""
    provider = AWSNodeProvider.__new__(AWSNodeProvider)
    provider.provider_config, provider.cluster_name = config["provider"], config["cluster_name"]
    recorder: Any = _Recorder()
    provider.ec2_fail_fast = recorder
    provider._create_node(node, {"ray-node-type": "worker"}, 1)
    return recorder.asked


def _aws(config: Config) -> Iterator[str]:
    for name, kind in _types(config).items():
        node = kind["node_config"]
        if not node.get("SecurityGroupIds"):
            yield f"{name}: Ray would make a security group, open to the world"
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}: IMDSv1 is allowed"
        if not re.fullmatch(r"resolve:ssm:/aws/service/[\w./-]+/ami-id", node.get("ImageId", "")):
            yield f"{name}: the image isn't named by family"
        for disk in node["BlockDeviceMappings"]:
            if not (disk["Ebs"].get("Encrypted") and disk["Ebs"].get("DeleteOnTermination")):
                yield f"{name}: a disk is left behind or readable"
        asked = run_instances(config, {"SubnetIds": ["-"], **node})
        shape = ec2().operation_model("RunInstances").input_shape
        report = ParamValidator().validate(asked, shape)
        if report.has_errors():
            yield f"{name}: EC2: {report.generate_report()}"
        yield from (f"{name}: EC2: {found}" for found in _not_in_enum(asked, shape))


def _not_in_enum(value: Any, shape: Any) -> Iterator[str]:
    """Yield the words that EC2 doesn't know, which botocore's validator lets pass."""
    if shape.type_name == "structure":
        for key, member in shape.members.items():
            if key in value:
                yield from _not_in_enum(value[key], member)
    elif shape.type_name == "list":
        for each in value:
            yield from _not_in_enum(each, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{shape.name} {value} isn't known"


def _gcp(config: Config) -> Iterator[str]:
    schema = json.loads((SCHEMAS / "gce-instance.json").read_text())
    for name, kind in _types(config).items():
        node = kind["node_config"]
        for error in jsonschema.Draft202012Validator(schema).iter_errors(node):
            yield f"{name}: Compute Engine: {error.json_path}: {error.message}"
        for interface in node.get("networkInterfaces", [{"accessConfigs": "Ray's own"}]):
            if "accessConfigs" in interface:
                yield f"{name}: has a public address"
        if not str(node.get("serviceAccounts", "")).count("@"):
            yield f"{name}: runs as the project's default account"
        for disk in node["disks"]:
            if "/images/family/" not in disk["initializeParams"].get("sourceImage", ""):
                yield f"{name}: the image isn't named by family"
            if disk.get("autoDelete") is not True:
                yield f"{name}: a disk is left behind"
