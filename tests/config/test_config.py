"""The configuration tree: what is read, what is refused and how, what tells two runs apart."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymc.config import (
    IMPORTERS,
    Config,
    DigitsConfig,
    NpzConfig,
    Range,
    check_space,
    config_reference,
    differences,
    digest,
    flatten,
    from_dict,
    load,
    overridden,
    override,
    run_name,
    to_dict,
)
from raymc.errors import ConfigError

NPZ = {"name": "npz", "file": "x.npz", "modalities": {"visual": "v"}, "rates_hz": {"visual": 2.0}}
OTHER = {
    "batch.size": 7,
    "data.make": NPZ,
    "data.modalities": ["visual"],
    "loss.name": "asl",
    "model.fusion": "bottleneck",
    "run.name": "mine",
    "search.space.loss.margin": {"choices": [0.1, 0.2]},
    "search.space.model.fusion": {"choices": ["joint", "bottleneck"]},
    "train.monitor": "val/R80",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_the_defaults_are_a_whole_configuration() -> None:
    assert load() == Config() == from_dict({})
    check_space(Config())


@pytest.mark.parametrize("config", [Config(), override(Config(), OTHER)], ids=["default", "other"])
def test_a_configuration_survives_json_and_yaml(config: Config, tmp_path: Path) -> None:
    values = to_dict(config)
    assert from_dict(values) == config
    assert from_dict(json.loads(json.dumps(values))) == config
    assert load(write(tmp_path, yaml.safe_dump(values))) == config


def test_overrides_win_over_the_file_and_keep_its_other_settings(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: {margin: 0.2, name: asl}\nmodel:\n  depth: 3\n")
    config = load(path, ["loss.margin=0.3", "model.fusion=bottleneck", "data.make=null"])
    assert (config.loss.margin, config.loss.name) == (0.3, "asl")
    assert (config.model.depth, config.model.fusion) == (3, "bottleneck")
    assert config.data.make is None


def test_overrides_are_yaml() -> None:
    config = load(
        None,
        [
            "data.modalities=[visual, audio]",
            "train.compile=true",
            "run.name=a=b",
            "tracking.uri=''",
            "search.space.loss.margin={low: 0, high: 1}",
            "data.make={name: digits}",
            "data.make.train_clips=5",
        ],
    )
    assert config.data.modalities == ("visual", "audio")
    assert config.train.compile
    assert (config.run.name, config.tracking.uri) == ("a=b", "")
    assert config.search.space["loss.margin"] == Range(low=0, high=1)
    assert config.search.space.keys() == Config().search.space.keys()
    alone = load(None, ["search.space={loss.margin: {low: 0, high: 1}}"])
    assert alone.search.space == {"loss.margin": Range(low=0, high=1)}
    assert config.data.make == DigitsConfig(train_clips=5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "---\n"])
def test_a_file_may_be_empty(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text)) == Config()


def test_the_recipe_of_another_kind() -> None:
    config = from_dict({"data": {"make": NPZ}})
    make = NpzConfig(file="x.npz", modalities={"visual": "v"}, rates_hz={"visual": 2.0})
    assert config.data.make == make
    changed = override(config, {"data.make.labels": "z"})
    assert changed.data.make == dataclasses.replace(make, labels="z")


BAD_FILES = {
    "loss: {margn: 0.1}": r"unknown setting 'loss.margn' \(in .*c.yaml\): did you mean 'margin'\?",
    "los: {margin: 0.1}": r"unknown setting 'los' .*did you mean 'loss'\?",
    "optimizer: {zzz: 1}": r"unknown setting 'optimizer.zzz' .*expected one of lr, weight_decay, ",
    "data: {npz: 1}": r"unknown setting 'data.npz' .*expected one of path, make",
    "data: {make: {name: digits, clips: 1}}": r"setting 'data.make.clips' .*mean '\w+_clips'",
    "data: {make: {clips: 1}}": r"setting data.make = {'clips': 1}.*one of digits, ",
    "data: {make: {name: npz, lables: 1}}": r"'data.make.lables' .*did you mean 'labels'\?",
    "data: {make: {name: npz}}": r"setting data.make.file .*: Field required",
    "data: {make: {name: hdf}}": r"setting data.make = {'name': 'hdf'}.*one of digits, ",
    "data: {make: 3}": r"setting data.make = 3.*one of digits, ",
    "data: {path: 3}": r"setting data.path = 3 .*valid string",
    "data: {modalities: visual}": r"setting data.modalities = 'visual' .*valid tuple",
    "model: 5": r"setting model = 5 .*should be a dictionary",
    "model:": r"setting model = None .*should be a dictionary",
    "model: [1]": r"setting model = \[1\] .*should be a dictionary",
    "3: {}": r"expected sections such as `model:` at the top",
    "model: {3: 4}": r"setting model.3 = 3 .*Keys should be strings",
    "[a, b]": r"expected sections such as `model:` at the top",
    "text": r"expected sections such as `model:` at the top",
    "a: b: c": r"is not valid YAML: mapping values are not allowed here.* line 1",
    "a: [\n": r"is not valid YAML",
    "a: \0": r"is not valid YAML: unacceptable character",
    "a: !!python/object/apply:os.getcwd []": r"not valid YAML: could not determine a constructor",
    "loss: {temperature: -1}": r"setting loss.temperature = -1 .*greater than or equal to 0",
    "loss: {temperature: 0}": r"setting loss .*temperature is 0, which only prototype_margin",
    "loss: {margin: .nan}": r"setting loss.margin = nan ",
    "optimizer: {lr: 0}": r"setting optimizer.lr = 0 .*greater than 0",
    "optimizer: {lr: .inf}": r"setting optimizer.lr = inf .*less than or equal to 1",
    "optimizer: {warmup_epochs: .inf}": r"warmup_epochs = inf .*finite number",
    "search: {cpus_per_trial: .inf}": r"cpus_per_trial = inf .*finite number",
    "model: {width: 51}": r"setting model .*width 51 is not a multiple",
    "model: {width: 12.5}": r"setting model.width = 12.5 .*valid integer",
    "model: {depth: 3, fusion_depth: 4}": r"setting model .*fusion_depth 4 is above depth 3",
    "train: {epochs: ten}": r"setting train.epochs = 'ten' .*valid integer",
    "train: {epochs: 0}": r"setting train.epochs = 0 .*greater than or equal to 1",
    "train: {monitor: val/map}": r"setting train.monitor = 'val/map' .*'val/mAP'",
    "search: {space: {loss.margin: {low: 0}}}": r"search.space.loss.margin .*give `low` and `high`",
    "search: {space: {loss.margin: 3}}": r"setting search.space.loss.margin = 3 ",
    "search: {space: {loss.margin: {step: 3}}}": r"space.loss.margin.step' .*expected one of low",
    "search: {space: 3}": r"setting search.space = 3 .*valid dictionary",
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.items(), ids=list(BAD_FILES))
def test_a_file_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert "c.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere.yaml", "No such file"), ("", "Is a directory")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"configuration .* can't be read: {message}"):
        load(tmp_path / name)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"loss: \xff")
    with pytest.raises(ConfigError, match=r"c.yaml is not valid YAML: .* byte 0xff"):
        load(tmp_path / "c.yaml")


BAD_OVERRIDES = {
    "loss.margin": r"override 'loss.margin': expected KEY=VALUE, such as",
    "=3": r"override '=3': expected KEY=VALUE",
    "loss.margin=[": r"override 'loss.margin=\[': the value is not valid YAML",
    "loss.margin=a: b: c": r"the value is not valid YAML",
    "loss.margin=5": r"setting loss.margin = 5: .*less than or equal to 2",
    "loss.margn=1": r"unknown setting 'loss.margn': did you mean 'margin'\?",
    "loss.=1": r"unknown setting 'loss.': expected one of name, margin",
    "lr=1": r"unknown setting 'lr'",
    "model.width.x=1": r"setting model.width = {'x': 1}: .*valid integer",
    "loss.temperature=0": r"setting loss: temperature is 0",
    "search.space.loss.margin.low=0": r"setting search.space.loss.margin.low = 0",
}


@pytest.mark.parametrize(("text", "message"), BAD_OVERRIDES.items(), ids=list(BAD_OVERRIDES))
def test_an_override_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(None, [text])
    assert "\n" not in str(caught.value)


BAD_SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "loss.margn": ({"low": 0, "high": 1}, r"unknown setting 'loss.margn': did you mean 'margin'"),
    "nowhere": ({"low": 0, "high": 1}, r"unknown setting 'nowhere': expected one of data"),
    "loss": ({"low": 0, "high": 1}, r"setting loss = 0"),
    "loss.margin": ({"low": 0, "high": 3}, r"setting loss.margin = 3: .*less than or equal to 2"),
    "loss.clip": ({"low": -0.1, "high": 0.5}, r"setting loss.clip = -0.1"),
    "optimizer.lr": ({"low": float("nan"), "high": 0.1}, r"setting optimizer.lr = nan"),
    "loss.name": ({"choices": ["bce", "bces"]}, r"setting loss.name = 'bces'"),
    "model.width": ({"choices": [96, 101]}, r"setting model: width 101 is not a multiple"),
    "model.fusion_depth": (
        {"low": 0, "high": 99},
        r"setting model: fusion_depth 99 is above depth",
    ),
    "model.depth": ({"low": 1.5, "high": 4}, r"setting model.depth = 1.5: .*valid integer"),
    "data.path": ({"choices": ["a", "b"]}, r"data.path is the same for all trials"),
    "search.trials": ({"low": 1, "high": 2}, r"search.trials is the same for all trials"),
    "run.name": ({"choices": ["a"]}, r"run.name is the same for all trials"),
}


@pytest.mark.parametrize("path", BAD_SPACES)
def test_a_space_that_leaves_the_ranges(path: str) -> None:
    values, message = BAD_SPACES[path]
    config = from_dict({"search": {"space": {path: values}}})
    with pytest.raises(ConfigError, match=f"search.space: {message}") as caught:
        check_space(config)
    assert "\n" not in str(caught.value)


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting: its path, its type and its default."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        inner, path = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{path}.")
        else:
            yield path, hints[field.name], inner


def another(path: str, kind: Any, value: Any) -> Any:
    """A valid value of a setting that isn't its default."""
    if typing.get_origin(kind) is typing.Literal:
        return next((choice for choice in typing.get_args(kind) if choice != value), value)
    special = {"model.heads": 2, "model.width": 48, "data.modalities": ["visual"]}
    special |= {"search.space": {"model.depth": {"low": 4, "high": 5}}}
    special |= {"data.make": NPZ, "train.worker_resources": {"fake_gpu": 1.0}}
    special |= {"extract.columns": {"path": "Filename"}}
    if path in special:
        return special[path]
    if value is None:
        return 2.0
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int) else value / 2 or 0.5


SETTINGS = {path: another(path, kind, value) for path, kind, value in leaves(Config())}
IGNORED = ("run.", "tracking.", "extract.", "data.make", "data.cache", "search.")
IGNORED += ("train.workers", "train.device", "train.max_failures", "train.checkpoint_steps")
IGNORED += ("train.worker_resources", "batch.rows_per_pass")


@pytest.mark.parametrize("path", SETTINGS)
def test_the_digest_tells_runs_apart_that_end_differently(path: str) -> None:
    config, other = Config(), override(Config(), {path: SETTINGS[path]})
    assert other != config
    matters = not path.startswith(IGNORED)
    assert (digest(config) != digest(other)) == matters
    assert bool(differences(config, other)) == matters
    for_sweep = matters or path == "search.space"
    assert (digest(config, with_space=True) != digest(other, with_space=True)) == for_sweep
    assert bool(differences(config, other, with_space=True)) == for_sweep


def test_the_digest_is_stable() -> None:
    assert digest(Config()) == digest(from_dict(json.loads(json.dumps(to_dict(Config())))))
    assert len(digest(Config())) == 8
    assert int(digest(Config()), 16) >= 0


def test_differences_name_both_values() -> None:
    config = override(Config(), {"loss.margin": 0.1, "train.epochs": 20})
    other = override(config, {"loss.margin": 0.3, "train.epochs": 5, "run.name": "x"})
    assert differences(config, other) == ["loss.margin: 0.1 → 0.3", "train.epochs: 20 → 5"]
    assert differences(Config(), Config(), with_space=True) == []


def test_names_of_runs() -> None:
    config = override(Config(), {"data.path": "s3://bucket/clips", "loss.name": "asl"})
    assert run_name(config) == f"clips-asl-{digest(config)}"
    assert run_name(config, sweep=True) == f"clips-sweep-{digest(config, with_space=True)}"
    assert run_name(override(config, {"run.name": "mine"})) == "mine"


def test_flat_settings_are_the_tree() -> None:
    flat = flatten(Config())
    assert flat["data.make"] is None
    assert flat["search.space.loss.margin.high"] == Config().search.space["loss.margin"].high
    assert flat["data.modalities"] == []
    assert flat.keys() >= SETTINGS.keys() - {"search.space"}


def test_the_reference_lists_every_setting_in_its_section() -> None:
    sections: dict[str, str] = {}
    for part in config_reference().split("#### ")[1:]:
        title = part.splitlines()[0]
        path = title.split("`")[1]
        sections[path] = sections.get(path, "") + part
    for path in SETTINGS.keys() - {"data.make"}:
        section, _, name = path.rpartition(".")
        assert f"\n| `{name}` |" in sections[section], path
    recipes = [(kind, "data.make") for kind in IMPORTERS.values()]
    for kind, path in (*recipes, (Range, "search.space.PATH")):
        for field in dataclasses.fields(kind):
            assert f"\n| `{field.name}` |" in sections[path], field.name


@pytest.mark.parametrize(
    "row",
    [
        "| `clip` | `0.05` | ≥ 0.0, < 1.0 | Probability below which asl ignores an absent label. |",
        "| `cache_share` | `0.5` | > 0, ≤ 1 | Share of the object store that the splits may use. |",
        "| `unlabelled` | `false` |  | Accept a table without labels. |",
        "| `sampler` | `tpe` | `tpe`, `random` | Optuna sampler that proposes the next trial. |",
        "| `file` | `required` |  | Path of the .npz file. |",
    ],
)
def test_the_reference_shows_default_range_and_meaning(row: str) -> None:
    assert row in config_reference().splitlines()


def test_workers_are_a_number_or_the_fewest_and_the_most() -> None:
    train = overridden(Config(), ["train.workers=3"]).train
    assert (train.workers, train.fewest_workers, train.most_workers) == (3, 3, 3)
    config = overridden(Config(), ["train.workers=[2, 8]"])
    train = from_dict(to_dict(config)).train
    assert (train.workers, train.fewest_workers, train.most_workers) == ((2, 8), 2, 8)


@pytest.mark.parametrize("text", ["0", "[0, 2]", "[3, 2]", "[1]", "[1, 2, 3]", "1.5", "two", "[]"])
def test_numbers_of_workers_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^setting train.workers: .*(\[1, 8\])") as caught:
        overridden(Config(), [f"train.workers={text}"])
    assert "\n" not in str(caught.value)
