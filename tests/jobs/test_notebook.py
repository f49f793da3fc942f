"""The notebook runs from its first cell to its last, and the model that it trains is a good one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "jobs" / "digits.ipynb"


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    known: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), known)
    assert 0.3 < known["metrics"]["mAP"] <= 1
    assert len(known["labels"]) == 30
    assert sorted(os.listdir()) == ["data", "runs"]
