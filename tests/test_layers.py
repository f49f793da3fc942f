"""Imports go down only, from room to room, and few files know Ray or MLflow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import raymc

PACKAGE = Path(raymc.__file__).parent
# From the top. A room imports from the floors below its own, and from itself.
FLOORS = (
    {"api"},
    {"cli"},
    {"serving"},
    {"report", "tracking"},
    {"evaluation", "search"},
    {"formats", "training"},
    {"features", "metrics", "model"},
    {"data"},
    {"runtime"},
    {"config", "terminal"},
    {"addresses"},
    {"errors", "events"},
)
TRAINING = next(at for at, rooms in enumerate(FLOORS) if "training" in rooms)
# What settings may never cost: a misspelt key is reported without them.
HEAVY = {"matplotlib", "mlflow", "numpy", "optuna", "pandas", "pyarrow", "ray", "scipy", "sklearn"}
HEAVY |= {"torch"}


def modules() -> dict[str, Path]:
    """The package's modules by name, `raymc` left out of it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def floor_of(module: str) -> int:
    """The module's floor, 0 the top one."""
    if room_of(module) in ("", "__main__"):
        return -1 if module else len(FLOORS)
    return next(at for at, rooms in enumerate(FLOORS) if room_of(module) in rooms)


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements and what holds some: a tenth of the nodes that `ast.walk` goes through."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        yield (node := waiting.pop())
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, name, ())


@cache
def imports_of(module: str) -> frozenset[str]:
    """Whatever a module imports by full name, wherever in the file the statement stands."""
    return frozenset(_imported(module))


def _imported(module: str) -> Iterator[str]:
    for node in statements(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name.removeprefix("raymc.") in MODULES else str(node.module)


def own_imports_of(module: str) -> set[str]:
    names = {name.removeprefix("raymc.") for name in imports_of(module) if name[:6] == "raymc."}
    return names - {module}


def is_of_ray(module: str) -> bool:
    """Whether a file may import Ray: by its name, or by the first line of its docstring."""
    first = (ast.get_docstring(parsed(module)) or "").partition("\n")[0]
    return MODULES[module].name == "on_ray.py" or first.startswith("On Ray")


def loaded(program: str) -> set[str]:
    """The top-level packages that a program loads."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


def test_every_room_has_a_floor() -> None:
    files = {"addresses", "api", "errors", "events", "terminal"}
    assert set().union(*FLOORS) == ROOMS | files
    assert not ROOMS & {"jobs", "cluster", "tests"}
    assert sum(bool(floor - files) for floor in FLOORS) <= 10


def test_imports_go_down() -> None:
    for module in MODULES:
        offered = {"api"} if not module else set()  # by `import raymc`, when it is first used
        for name in own_imports_of(module) - offered:
            is_down = room_of(name) == room_of(module) or floor_of(name) > floor_of(module)
            assert is_down, f"{module} imports {name}"


def test_only_files_that_say_so_know_ray_and_only_tracking_knows_mlflow() -> None:
    for module in MODULES:
        foreign = {name.partition(".")[0] for name in imports_of(module)}
        assert "ray" not in foreign or is_of_ray(module), module
        assert "mlflow" not in foreign or room_of(module) == "tracking", module
        if floor_of(module) >= TRAINING and not is_of_ray(module):
            assert not {name for name in own_imports_of(module) if is_of_ray(name)}, module


def test_no_import_goes_in_a_circle() -> None:
    graph = {module: own_imports_of(module) for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) == graph.keys()


@pytest.mark.slow
def test_training_and_all_below_load_neither_ray_nor_mlflow() -> None:
    pure = [m for m in MODULES if m and floor_of(m) >= TRAINING and not is_of_ray(m)]
    assert {"training.loop", "training.bundle", "model.losses", "data.shards"} <= set(pure)
    pure += ["cli.runs", "cli.timeline", "cli.use"]  # commands that answer in seconds
    pure += ["tracking.models", "tracking.recording"]
    found = loaded(
        "import sys, raymc.features.encoders as e\n"
        "e.visual_encoder('patches'), e.text_encoder('words'), e.audio_encoder('logmel')\n"
        "assert 'av' not in sys.modules\n"
        f"import torch, {', '.join(f'raymc.{name}' for name in pure)}\n"
        "model, config = torch.nn.Linear(1, 1), raymc.config.OptimizerConfig()\n"
        "raymc.training.optimizer.make_optimizer(model, config, torch.device('cpu')).step()\n"
        "assert 'torch._dynamo' not in sys.modules  # its compiler"
    )
    assert not {"mlflow", "optuna", "ray"} & found
    assert not {"huggingface_hub", "tokenizers", "torchaudio", "transformers"} & found


@pytest.mark.slow
def test_a_process_that_only_decodes_loads_no_torch() -> None:
    found = loaded(
        "from raymc.config import ExtractConfig\n"
        "from raymc.features import extraction\n"
        "config = ExtractConfig(visual='patches', audio='none', text='words')\n"
        "plan = extraction.plan_extraction(config)\n"
        "encoders = extraction.make_encoders(config, plan.light)\n"
        "from raymc.features.sources import Source\n"
        "source = Source(path='missing.mp4', id='x')\n"
        "assert len(list(extraction.extract_source(source, plan, encoders))) == 1\n"
        "import raymc.features.decoding.clip_reader"
    )
    assert "av" in found
    assert "torch" not in found


def test_nothing_is_timed_by_the_time_of_day() -> None:
    """It jumps when a suspended machine wakes or its clock is set; only dates come from it."""
    of_day = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
    named = {name.partition(".")[2] for name in of_day}
    found = {
        (module, name)
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Attribute) and node.attr in named
        if (name := ast.unparse(node)) in of_day
    }
    assert found == {
        ("runtime.interruption", "time.time_ns"),  # tells two commands apart
        ("runtime.jobs", "time.time"),  # how long a job has run, by the head's dates
        ("search.searcher", "datetime.now"),  # since a sweep began, perhaps days ago
        ("tracking.records", "time.time"),  # dates in MLflow
        ("training.audit", "time.time"),  # of the starts of a run, which may be days apart
    }


def test_settings_and_what_shows_runs_load_nothing_heavy() -> None:
    found = loaded(
        "import raymc.config, raymc.tracking, raymc.cli.display, raymc.cli.tables\n"
        "raymc.config.load(None, ['train.epochs=3'])"
    )
    assert not HEAVY & found
