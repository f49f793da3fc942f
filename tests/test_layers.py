"""Imports flow one way, and the pure layer knows neither Ray nor MLflow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import raymc

PACKAGE = Path(raymc.__file__).parent
# from the top; what is in none of these is pure
LAYERS = (
    {"__main__"},
    {"cli"},
    {"bench_commands", "data_commands", "job_commands"},
    {"bench", "chaos", "commands", "comparing", "demo", "promote", "recording", "replay", "submit"},
    {"display", "progress", "pyfunc_model", "registry", "report", "serving", "tracking"},
    {
        "channel",
        "cluster",
        "evaluate",
        "extract",
        "feed",
        "job_log",
        "job_server",
        "predict",
        "preemption",
        "search",
        "searcher",
        "stages",
        "study",
        "sweep_audit",
        "train",
        "train_worker",
    },
)
PURE = len(LAYERS)
FOREIGN = {"ray": range(PURE), "mlflow": range(PURE - 1)}


def modules() -> dict[str, Path]:
    """The package's modules by name, `raymc` left out of it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer_of(module: str) -> int:
    """The module's layer, 0 the top one."""
    package = module.partition(".")[0]
    return next((at for at, names in enumerate(LAYERS) if package in names), PURE)


def imports_of(module: str) -> Iterator[str]:
    """Whatever a module imports by full name, wherever in the file the statement stands."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
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


def test_every_module_of_the_layers_is_known() -> None:
    named = set().union(*LAYERS)
    assert named <= MODULES.keys()
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_downward(module: str) -> None:
    upward = {name for name in own_imports_of(module) if layer_of(name) < layer_of(module)}
    assert not upward
    for package, layers in FOREIGN.items():
        if layer_of(module) not in layers:
            assert package not in {name.partition(".")[0] for name in imports_of(module)}


def test_no_import_goes_in_a_circle() -> None:
    graph = {module: own_imports_of(module) for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) == graph.keys()


def test_the_pure_layer_loads_neither_ray_nor_mlflow() -> None:
    pure = [f"raymc.{module}" for module in MODULES if module and layer_of(module) == PURE]
    assert {"raymc.loop", "raymc.bundle", "raymc.losses", "raymc.shards"} <= set(pure)
    program = (
        f"import sys, {', '.join(pure)}\n"
        "print(*sorted({'ray', 'mlflow'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.split() == []
