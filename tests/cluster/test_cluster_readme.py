"""cluster/README.md: its commands are commands, and it explains all that has to be filled in."""

import re
import shlex
from functools import cache
from typing import Any

import botocore.session
import pytest
from botocore import xform_name
from commands import ROOT, in_markdown, parse
from kustomization import build, containers

from raymc.runtime.reach import SHARED_FOLDER, is_shared

CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text()
COMMANDS = in_markdown(README)
OF_AWS = [line for line in README.splitlines() if line.startswith("aws ")]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_commands_of_ray_and_raymc_are_right(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parse(words)


def test_there_are_commands() -> None:
    names = {(words[0], words[1]) for words in COMMANDS}
    assert names >= {("ray", "up"), ("ray", "job"), ("ray", "down"), ("ray", "dashboard")}
    assert len(OF_AWS) > 10


@cache
def model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def check_aws(line: str) -> None:
    """Have botocore's models judge a command of the AWS CLI: its service, operation, options."""
    _, service, operation, *rest = shlex.split(line)
    names = {xform_name(name, "-"): name for name in model(service).operation_names}
    shape = model(service).operation_model(names[operation]).input_shape
    options = {xform_name(name, "-"): name for name in shape.members}
    given = {word.removeprefix("--") for word in rest if word.startswith("--")}
    assert given <= set(options), line
    assert {options[each] for each in given} >= set(shape.required_members) - {"CreationToken"}, (
        line
    )


@pytest.mark.parametrize("line", OF_AWS)
def test_commands_of_aws_are_right(line: str) -> None:
    check_aws(line)


@pytest.mark.parametrize(
    "line",
    [
        "aws iam create-roles --role-name a --assume-role-policy-document b",
        "aws iam create-role --rolename a --assume-role-policy-document b",
        "aws iam create-role --role-name a",
    ],
)
def test_mistakes_in_commands_of_aws_are_found(line: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check_aws(line)


def test_all_that_is_to_be_filled_in_is_explained() -> None:
    files = [path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".json")]
    asked = {found for path in files for found in re.findall(r"\w+-REPLACE-ME", path.read_text())}
    assert {each for each in asked if each not in README} == set()
    assert len(asked) == 8


def test_all_share_one_folder() -> None:
    """What is mounted, what pages say and what `raymc submit` expects are the same path."""
    mounted = {
        mount["mountPath"]
        for container in containers(build(CLUSTER / "kuberay" / "base"))
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "raymc"
    }
    for name in ("aws.yaml", "gcp.yaml"):
        mounted |= set(re.findall(r"sudo mount .* (/\S+)$", (CLUSTER / name).read_text(), re.M))
    assert mounted == {SHARED_FOLDER}
    pages = [*ROOT.glob("*.md"), *CLUSTER.rglob("*.*ml"), *CLUSTER.glob("*.md")]
    pages += [ROOT / name for name in ("jobs/README.md", "jobs/configs/README.md")]
    named = "(?:data\\.path|run\\.folder|run\\.storage)[=: ]+(/[^\\s`'\"]+)"
    for page in [*pages, ROOT / "raymc" / "README.md"]:
        text = page.read_text()
        assert "/shared/" not in text, page
        assert all(is_shared(path, SHARED_FOLDER) for path in re.findall(named, text)), page


def test_files_that_are_named_are_there() -> None:
    named = re.findall(r"(?:file://)?\b(cluster/[\w./-]+\.(?:json|yaml))", README)
    named += [f"cluster/{each}" for each in re.findall(r"`((?:iam|kuberay)/[\w./-]+\w)`", README)]
    assert len(named) > 8
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_what_costs_are_reckoned_from_is_recorded() -> None:
    from raymc.tracking.records import GPUS_TAG, WORKERS_TAG

    recording = (ROOT / "raymc" / "tracking" / "recording.py").read_text()
    for name in ("cost/worker_seconds", GPUS_TAG, WORKERS_TAG):
        assert f"`{name}`" in README
    assert '"cost/worker_seconds"' in recording
    assert {"GPUS_TAG", "WORKERS_TAG"} <= set(re.findall(r"\w+", recording))
