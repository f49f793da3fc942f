"""cluster/iam: no more than is used, in words that AWS knows, for what aws.yaml starts."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import pytest
import yaml
from commands import ROOT

IAM = ROOT / "cluster" / "iam"
# Actions of S3 and IAM that aren't operations of theirs.
PERMISSIONS = {"s3:ListBucket", "iam:PassRole"}


@cache
def operations(service: str) -> frozenset[str]:
    model: Any = botocore.session.get_session().get_service_model(service)
    return frozenset(model.operation_names)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def problems(policy: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a policy, one line each."""
    if policy["Version"] != "2012-10-17":
        yield "an old language"
    for statement in policy["Statement"]:
        if unknown := set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}:
            yield f"{sorted(unknown)} isn't known"
        for action in as_list(statement["Action"]):
            service, _, name = action.partition(":")
            if action not in PERMISSIONS and name not in operations(service):
                yield f"{action} isn't an action"
            if "*" in as_list(statement.get("Resource")) and not name.startswith("Describe"):
                yield f"{action} on everything"
            if name in ("CreateTags", "TerminateInstances") and "Condition" not in statement:
                yield f"{action} on the machines of others"


@pytest.mark.parametrize("name", ["aws-head", "aws-worker"])
def test_policies_are_right(name: str) -> None:
    assert list(problems(json.loads((IAM / f"{name}.json").read_text()))) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ({"Action": "ec2:RunInstance", "Resource": "arn:aws:ec2:*:*:subnet/*"}, "isn't an action"),
        ({"Action": "ec2:*", "Resource": "*"}, "isn't an action"),
        ({"Action": "s3:GetObject", "Resource": "*"}, "s3:GetObject on everything"),
        ({"Action": "ec2:TerminateInstances", "Resource": "arn:*"}, "the machines of others"),
        ({"Action": "ec2:DescribeInstances", "Resources": "*"}, "['Resources'] isn't known"),
    ],
)
def test_mistakes_are_found(statement: dict[str, Any], found: str) -> None:
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]}
    assert found in "\n".join(problems(policy))


def test_the_head_may_start_what_the_definition_names() -> None:
    definition = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    policy = json.loads((IAM / "aws-head.json").read_text())
    statements = {each["Sid"]: each for each in policy["Statement"]}
    nodes = {name: kind["node_config"] for name, kind in definition["available_node_types"].items()}
    head = nodes.pop("head")
    allowed = statements["LaunchWorkers"]["Condition"]["StringEquals"]
    assert set(allowed["ec2:InstanceType"]) == {node["InstanceType"] for node in nodes.values()}
    assert allowed["aws:RequestTag/ray-cluster-name"] == definition["cluster_name"]
    roles = {node["IamInstanceProfile"]["Name"] for node in nodes.values()}
    assert roles == {statements["GiveWorkersTheirRole"]["Resource"].rpartition("/")[2]}
    assert head["IamInstanceProfile"]["Name"] not in roles
    families = [each.removesuffix("*") for each in statements["ResolveImages"]["Resource"]]
    for node in nodes.values():
        image = node["ImageId"].removeprefix("resolve:ssm:")
        assert any(
            family.endswith(image[: len(family.split("parameter")[1])]) for family in families
        )


def test_the_role_on_google_cloud_is_small() -> None:
    role = yaml.safe_load((IAM / "gcp-head.yaml").read_text())
    services = {permission.partition(".")[0] for permission in role["includedPermissions"]}
    assert services == {"compute"}
    assert not [each for each in role["includedPermissions"] if "IamPolicy" in each or "*" in each]
