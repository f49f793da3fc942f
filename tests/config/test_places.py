"""Settings that name a place: home folders, passwords, and names that can't exist."""

from pathlib import Path

import pytest

from raymc.addresses import with_password
from raymc.config import from_dict, is_setting, load, run_name, to_dict
from raymc.errors import ConfigError


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    make = "data.make={name: npz, file: ~/a.npz, modalities: {v: v}, rates_hz: {v: 1}}"
    config = load(None, ["run.folder=~/x", "run.storage=~/s", "data.path=~/d", make])
    assert (config.run.folder, config.run.storage) == ("/home/me/x", "/home/me/s")
    assert config.data.path == "/home/me/d"
    assert getattr(config.data.make, "file", "") == "/home/me/a.npz"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (f"run.name={'n' * 260}", "260 bytes, and file systems allow 255"),
        (f"run.name=a/{'é' * 130}", "260 bytes"),
        (f"data.path=/data/{'n' * 260}", "260 bytes"),
        ('run.name="a\\0b"', "NUL character"),
        ('run.folder="a\\ud800"', "can't be part of a path"),
        (f"train.seed={10**19}", "less than or equal to 9223372036854775807"),
        (f"data.make={{name: digits, seed: {10**19}}}", "less than or equal to"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^setting [a-z.]+(:| =) .*{message}") as caught:
        load(None, [setting])
    assert "\n" not in str(caught.value)


def test_a_derived_name_is_one_that_a_file_system_takes() -> None:
    name = run_name(load(None, [f"data.path={'é' * 127}"]))
    assert len(name.encode()) <= 255
    assert name.startswith("éé")


def test_settings_hold_no_password() -> None:
    addresses = {"tracking.uri": "http://me:p@ss@h", "search.storage": "postgresql://me:p@ss@h/a"}
    config = load(None, [f"{key}={value}" for key, value in addresses.items()])
    assert (config.tracking.uri, config.search.storage) == ("http://me@h", "postgresql://me@h/a")
    assert with_password(config.search.storage) == "postgresql://me:p@ss@h/a"
    assert from_dict(to_dict(config)) == config
    with pytest.raises(ConfigError, match=r"setting data.path has a password or key.*AWS_"):
        load(None, ["data.path=s3://key:word@bucket/a"])


def test_a_name_with_an_equals_sign_is_no_setting(tmp_path: Path) -> None:
    assert is_setting("loss.margin=0.2")
    assert is_setting("model={width: 8}")
    assert not any(map(is_setting, ["lr=0.1", "runs/loss.margin=0.1", "run", "a=b=c"]))
