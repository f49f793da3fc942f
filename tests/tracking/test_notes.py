"""Names and notes of sweeps and trials."""

import html
import re
from dataclasses import replace

import pytest
from example_trials import trial

from raymc.config import from_dict
from raymc.tracking.notes import code, plain, plan_note, sweep_note, trial_name, trial_note
from raymc.tracking.records import fit_names

CONFIG = from_dict(
    {
        "data": {"path": "data/mine"},
        "search": {
            "trials": 12,
            "space": {
                "loss.margin": {"low": 0.0, "high": 0.5},
                "loss.temperature": {"low": 0.01, "high": 0.3, "log": True},
                "loss.name": {"choices": ["prototype_contrast", "bce"]},
            },
        },
    }
)


def test_a_name_says_what_differs() -> None:
    params = {"loss.margin": 0.3123, "loss.temperature": 0.07, "model.fusion_depth": 2}
    assert trial_name(params) == "margin=0.312 τ=0.07 fusion=2"


def test_a_plan_names_values_and_the_command() -> None:
    assert plan_note(CONFIG, "raymc tune a.yaml") == (
        "Searched in 12 trials on `data/mine`: `loss.margin` 0 to 0.5, "
        "`loss.temperature` 0.01 to 0.3 (log), `loss.name` of prototype_contrast, bce.\n\n"
        "Run this command again to resume the sweep, or to repeat it elsewhere:\n\n"
        "```\nraymc tune a.yaml\n```\n"
    )


def test_a_sweep_is_told_best_first() -> None:
    trials = [
        trial(0, "pruned", 0.3, margin=0.2, temperature=0.1, name="a|b"),
        replace(trial(1, "complete", 0.612, margin=0.1, temperature=0.05), best={"val/R80": 0.5}),
        trial(2, "failed", 0.99, margin=0.3, temperature=0.1),
        *(trial(number, "complete", 0.1) for number in range(3, 12)),
    ]
    best, counts, table, rest, *_ = sweep_note(CONFIG, trials, "raymc tune").split("\n\n")
    assert best == "**Best: trial 1**, `margin=0.1 τ=0.05`: val/mAP 61.2 %, R80 50.0 %."
    assert counts == "12 trials: 10 complete, 1 pruned, 1 failed; 6:00 in all."
    rows = [
        [cell.strip() for cell in line.replace("&nbsp;", "").strip("|").split("|")]
        for line in table.splitlines()
    ]
    titles = ["trial", "state", "val/mAP", "R80", "epochs", "time", "margin", "τ", "name"]
    assert rows[:2] == [titles, ["---"] * 9]
    assert rows[2] == ["1", "complete", "61.2 %", "50.0 %", "7", "30.0 s", "0.1", "0.05", ""]
    assert rows[3] == ["0", "pruned", "30.0 %", "", "7", "30.0 s", "0.2", "0.1", "a&#124;b"]
    assert [row[0] for row in rows[4:]] == [str(number) for number in range(3, 11)]
    assert rest == "These are the best 10 of 12."


def test_a_sweep_that_found_nothing_says_so() -> None:
    note = sweep_note(CONFIG, [trial(0, "failed", None)], "raymc tune")
    assert note.startswith("1 trials: 0 complete, 0 pruned, 1 failed; 30.0 s in all.")


def test_a_trial_says_how_it_ended() -> None:
    done = replace(trial(3, "pruned", 0.4567), best={"val/R80": 0.25})
    assert trial_note(done, "val/mAP") == (
        "**Trial 3, pruned** after epoch 7 of 20; at its best epoch val/mAP 45.7 %, R80 25.0 %."
    )
    lost = replace(trial(4, "failed", None), epoch=0, message="no memory")
    assert trial_note(lost, "val/mAP") == (
        "**Trial 4, failed** after epoch 0 of 20.\n\n```\nno memory\n```"
    )


def test_names_that_mlflow_would_join_stay_apart() -> None:
    names = fit_names(["val/mAP_m!", "val/mAP_m?", "val/mAP_m_", "val/mAP_a b", "x,y"])
    assert len(set(names.values())) == 5
    assert (names["val/mAP_m_"], names["val/mAP_a b"], names["x,y"]) == (
        "val/mAP_m_", "val/mAP_a b", "x_y",
    )  # fmt: skip
    assert all(re.fullmatch(r"[/\w.\- :]{1,250}", name) for name in names.values())


@pytest.mark.parametrize("text", ["`", "``x`", "a|b", "*b*", "<b>&", "[x](y)", "_a_", "a\nb"])
def test_markdown_shows_what_was_typed(text: str) -> None:
    shown = text.replace("\n", "\\n")
    fence = code(text)[: len(code(text)) - len(code(text).lstrip("`"))]
    assert fence not in shown
    assert code(text) in (f"{fence}{shown}{fence}", f"{fence} {shown} {fence}")
    unescaped = re.sub(r"\\([`*\[\]~_\\])", r"\1", html.unescape(plain(text)))
    assert unescaped == shown
    assert not re.search(r"(?<!\\)[*`\[]|[<|]", plain(text))
