"""cluster/Dockerfile, as far as it can be judged without building it; and the versions in it."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from commands import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.lock import divide

CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
TARGETS = ("cpu", "cuda")
BASE_IMAGE = re.compile(r"([\w./-]+):[\w.-]*\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}")


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: name and argument, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(name, argument.strip()) for name, _, argument in found]


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, those of the stages it is made from included."""
    made: dict[str, list[tuple[str, str]]] = {}
    current = made.setdefault("", [])
    for name, argument in instructions(text):
        if name == "FROM":
            source, _, stage = argument.partition(" AS ")
            current = made[stage] = list(made.get(source, []))
        else:
            current.append((name, argument))
    return made


def problems(text: str) -> Iterator[str]:
    """Yield what is wrong with a Dockerfile, one line each."""
    built = stages(text)
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.M))
    for source in re.findall(r"^FROM (\S+)", text, re.M):
        image = re.sub(r"\$\{(\w+)\}", lambda found: defaults.get(found[1], ""), source)
        if image not in built and not BASE_IMAGE.fullmatch(image):
            yield f"{image} isn't pinned"
    for target in TARGETS:
        yield from (f"{target}: {found}" for found in _stage(built.get(target, [])))
    for name, argument in instructions(text):
        if name == "ADD":
            yield f"ADD {argument} takes from anywhere"
        if name in ("ARG", "ENV") and re.search("PASSWORD|SECRET|TOKEN|_KEY", argument):
            yield f"{name} {argument} stays in the image"
        if name == "COPY":
            yield from _copy(argument.split()[:-1])


def _stage(made: list[tuple[str, str]]) -> Iterator[str]:
    users = [argument for name, argument in made if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]):
        yield "runs as root, or as a name that Kubernetes can't tell from root"
    commands = [each for name, argument in made for each in argument.split("&&")]
    installs = [each for each in commands if "pip install" in each]
    if not any(".[media]" in each and "--no-index" in each for each in installs):
        yield "raymc isn't installed, or what it is built with is looked up"
    for each in installs:
        locked = "--require-hashes" in each or "--no-deps" in each
        named = ".[media]" in each or "constraints.txt" in each or "requirements.txt" in each
        if not locked or not named:
            yield f"versions of the day: {each.strip()}"
    if not any(argument.split()[0] == "jobs" for name, argument in made if name == "COPY"):
        yield "the jobs are missing"


def _copy(sources: list[str]) -> Iterator[str]:
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        if not (ROOT / source).exists():
            yield f"{source} isn't in the repository"
        elif f"!{source}" not in ignored:
            yield f"{source} doesn't reach the build"


def test_dockerfile_is_right() -> None:
    assert list(problems(DOCKERFILE)) == []
    assert set(stages(DOCKERFILE)) == {"", "base", *TARGETS}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("bookworm@sha256:", "bookworm@sha512:", "isn't pinned"),
        ("python:3.12.15-slim-bookworm@", "python:latest@", "isn't pinned"),
        ("python:3.12.15-slim-bookworm@", "python@", "isn't pinned"),
        ("FROM base AS cuda", "FROM bass AS cuda", "bass isn't pinned"),
        ("USER 1000:1000", "USER root", "runs as root"),
        ("USER 1000:1000", "USER ray", "runs as root"),
        ("COPY raymc raymc", "COPY rymc raymc", "rymc isn't in the repository"),
        ("COPY raymc raymc", "COPY tests tests", "tests doesn't reach the build"),
        ("COPY raymc raymc", "ADD https://example.org/raymc.tar .", "takes from anywhere"),
        ("COPY jobs jobs", "", "the jobs are missing"),
        ("PYTHONUNBUFFERED=1", "MLFLOW_TRACKING_PASSWORD=x", "stays in the image"),
        ("--constraint cluster/constraints.txt", "", "versions of the day"),
        ("--require-hashes", "", "versions of the day"),
        ("--no-build-isolation --no-index", "", "what it is built with is looked up"),
    ],
)
def test_mistakes_are_found(old: str, new: str, found: str) -> None:
    assert old in DOCKERFILE
    assert found in "\n".join(problems(DOCKERFILE.replace(old, new)))


def constraints() -> dict[str, str]:
    lines = (CLUSTER / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_constraints_are_within_what_raymc_needs() -> None:
    needed = [Requirement(each) for each in requires("raymc") or []]
    ranges = {canonicalize_name(each.name): each.specifier for each in needed}
    for name, version in constraints().items():
        assert ranges[canonicalize_name(name)].contains(version), name


LOCKED = re.compile(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)


def locked(name: str) -> dict[str, str]:
    """Return the versions in a file of hashed packages, which has nothing but those."""
    text = (CLUSTER / name).read_text()
    left = LOCKED.sub("", text)
    assert all(line.startswith("#") for line in left.splitlines()), left
    return {canonicalize_name(each[1]): each[2] for each in LOCKED.finditer(text)}


def test_every_package_is_pinned_by_its_content() -> None:
    of_all, of_cuda = locked("requirements.txt"), locked("requirements-cuda.txt")
    assert not set(of_all) & set(of_cuda)
    assert {**of_all, **of_cuda}.items() >= constraints().items()
    asked = [each for each in requires("raymc") or [] if "extra" not in each or "media" in each]
    lines = (CLUSTER / "requirements.in").read_text().splitlines()
    asked += [line.partition("#")[0] for line in lines if not line.startswith("#")]
    for need in map(Requirement, asked):
        name = canonicalize_name(need.name)
        assert need.specifier.contains({**of_all, **of_cuda}[name]), need
    assert set(of_cuda) >= {"torch", "torchaudio"}
    assert not [name for name in of_all if name.startswith(("torch", "nvidia", "cuda"))]


def test_what_uv_locks_is_divided_whole() -> None:
    made = "".join((CLUSTER / f"requirements{end}.txt").read_text() for end in ("", "-cuda"))
    assert [len(part) for part in divide(made)] == [
        len((CLUSTER / f"requirements{end}.txt").read_text()) for end in ("", "-cuda")
    ]


def test_renovate_knows_every_file_that_pins_something() -> None:
    settings = json.loads((ROOT / ".github/renovate.json").read_text())
    assert "docker:pinDigests" in settings["extends"]
    patterns = [
        each
        for x in ("kubernetes", "dockerfile", "kustomize")
        for each in settings[x]["managerFilePatterns"]
    ]
    images = [
        path.relative_to(ROOT).as_posix()
        for path in CLUSTER.rglob("*")
        if path.suffix in (".yaml", "") and path.is_file()
        if re.search(r"^\s*(?:- )?image: \S+:\d|^ARG PYTHON_IMAGE=", path.read_text(), re.M)
    ]
    assert len(images) >= 5
    for path in images:
        assert any(re.search(pattern.strip("/"), path) for pattern in patterns), path


def test_images_of_others_are_pinned_by_tag_and_digest_and_alike_everywhere() -> None:
    files = [CLUSTER / "Dockerfile", *(CLUSTER / "kuberay").rglob("*.yaml")]
    line = re.compile(r"^\s*(?:- )?(?:image: |ARG \w*IMAGE=)\"?([^\s\"]+)", re.M)
    images = [each for path in files for each in line.findall(path.read_text())]
    found: dict[str, set[str]] = {}
    for image in images:
        if image not in {f"raymc-{target}" for target in TARGETS}:
            pinned = BASE_IMAGE.fullmatch(image)
            assert pinned, image
            found.setdefault(pinned[1], set()).add(image)
    assert {name: len(each) for name, each in found.items()} == {
        "python": 1,
        "redis": 1,
        "postgres": 1,
    }


def test_ray_is_of_one_version_everywhere() -> None:
    text = (CLUSTER / "kuberay" / "base" / "raycluster.yaml").read_text()
    assert yaml.safe_load(text)["spec"]["rayVersion"] == constraints()["ray"]


def test_every_image_there_is_of_ours_is_built() -> None:
    kustomization = yaml.safe_load((CLUSTER / "kuberay/base/kustomization.yaml").read_text())
    assert {each["name"] for each in kustomization["images"]} == {f"raymc-{t}" for t in TARGETS}
    readme = (CLUSTER / "README.md").read_text()
    for image in kustomization["images"]:
        target = image["name"].removeprefix("raymc-")
        command = f"--target {target} --tag {image['newName']}:{image['newTag']} ."
        assert command in readme


def test_the_build_sees_nothing_else() -> None:
    lines = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if not line.startswith("#")]
    assert patterns[0] == "*"
    named = [Path(each.removeprefix("!")) for each in patterns if each.startswith("!")]
    assert all((ROOT / path).exists() for path in named)
