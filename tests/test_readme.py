"""The pages say what is true: settings, commands, links, files, and the tree of the code."""

import re

import click
import pytest
from commands import ROOT, in_markdown, parse

from jobs.bench.__main__ import bench
from raymc.cli.main import main
from raymc.config import config_reference

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in (".", "raymc", "jobs", "jobs/configs", "cluster")
    for path in sorted((ROOT / folder).glob("*.md"))
}
README, GUIDE = PAGES["README.md"], PAGES["raymc/README.md"]
TREE = README.split("## The code")[1].split("```")[1]


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in words}


def test_there_are_pages() -> None:
    expected = {"README.md", "raymc/README.md", "jobs/README.md", "jobs/configs/README.md"}
    assert PAGES.keys() >= expected | {"jobs/RESULTS.md", "cluster/README.md", "CHANGELOG.md"}


def test_the_reference_is_what_the_settings_say() -> None:
    match = re.search(
        r"<!-- reference -->\n(.*)<!-- /reference -->", PAGES["jobs/configs/README.md"], re.DOTALL
    )
    assert match is not None
    problem = "put what `raymc config --reference` prints into jobs/configs/README.md"
    assert match[1].strip() == config_reference().strip(), problem


def test_ci_runs_the_test_command() -> None:
    command = next(line for line in README.splitlines() if line.endswith("/pytest"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) <= 150
    assert README.count("![") == 1


def test_the_tree_names_every_room_and_files_that_exist() -> None:
    described: dict[str, str] = {}
    for line in TREE.split("jobs/ ")[0].splitlines()[2:]:
        found = re.match(r"  (\w+)/  ", line)
        room = found[1] if found else list(described)[-1]
        described[room] = described.get(room, "") + line
    rooms = {path.parent.name for path in (ROOT / "raymc").glob("*/__init__.py")}
    assert described.keys() == rooms
    path = ["config", "data", "model", "training", "search"]
    assert list(described)[: len(path)] == path
    files = [
        f"{room}/{name}"
        for room, text in described.items()
        for name in re.findall(r"(?:\w+/)*\w+\.py", text)
        if name not in ("addresses.py", "api.py", "errors.py", "events.py", "terminal.py")
    ]
    assert 8 <= len(files) <= 12
    assert [name for name in files if not (ROOT / "raymc" / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[page])):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str) -> None:
    for words in in_markdown(PAGES[page]):
        if words[0] == "raymc" and words[-1] != "--help":
            parse(words)


# The changelog names commands of the past.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_commands_within_sentences_exist(page: str) -> None:
    for text in re.findall(r"`raymc ([^`]+)`", without_code(PAGES[page])):
        command: click.Command = main
        words = text.replace("FORMAT", "npz").split()
        while isinstance(command, click.Group) and words and re.match(r"[a-z]", words[0]):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, text
            command = found
        options = {"--help"}.union(*(each.opts for each in command.params))
        assert {word for word in words if word.startswith("--")} <= options, text


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_run_exist(page: str) -> None:
    for name in re.findall(r"python -m jobs\.bench ([a-z][\w-]*)", PAGES[page]):
        assert name in bench.commands, name
    for name in re.findall(r"python -m (cluster\.\w+)", PAGES[page]):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_files_that_the_guide_names_are_there() -> None:
    names = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|toml|md))`", without_code(GUIDE)))
    assert len(names) > 20
    places = (ROOT / "raymc", ROOT / "tests")
    found = {n for n in names if (ROOT / n).exists() or any(any(p.rglob(n)) for p in places)}
    assert {name for name in names - found if "NAME" not in name} == set()
