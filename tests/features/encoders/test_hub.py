import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from small_models import PREPROCESSOR, clip, write_model, write_tokenizer

from raymc.errors import ConfigError, RaymcError, ResourceError
from raymc.features.encoders import hub, text_encoder, visual_encoder, weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def write_snapshot(cache: Path, *, reference: str = "main") -> Path:
    """A model in the cache, as the hub's client lays it out."""
    model = cache / "models--openai--clip-small"
    (model / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
    (model / "refs" / reference).write_text(COMMIT)
    folder = write_model(model / "snapshots" / COMMIT, clip(), preprocessor_config=PREPROCESSOR)
    write_tokenizer(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("main", "openai/clip-small"),
        ("refs/pr/7", "openai/clip-small@refs/pr/7"),
        ("main", f"openai/clip-small@{COMMIT}"),
    ],
)
def test_what_the_cache_holds_needs_no_network(cache: Path, reference: str, name: str) -> None:
    write_snapshot(cache, reference=reference)
    assert visual_encoder(name).name == name
    assert text_encoder(name).dim == 32


def test_weights_go_by_what_is_read_of_them(cache: Path, tmp_path: Path) -> None:
    folder = write_snapshot(cache)
    known = visual_encoder("openai/clip-small").digest()
    words = text_encoder("openai/clip-small").digest()
    assert words != known
    (folder / "README.md").write_text("# CLIP")
    copy = shutil.copytree(folder, tmp_path / "weights/other/name")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + "\n")
    given = {"weights": str(tmp_path / "weights")}
    assert visual_encoder("other/name", **given).digest() == known
    assert text_encoder("other/name", **given).digest() != words
    shaken = bytearray((copy / "model.safetensors").read_bytes())
    shaken[-1] ^= 1
    (copy / "model.safetensors").write_bytes(shaken)
    assert visual_encoder("other/name", **given).digest() != known


def test_without_a_network_it_says_what_to_put_where() -> None:
    message = (
        r"http://127.0.0.1:9/openai/clip-small can't be reached \(.*\); without the network, put "
        r"config.json, model.safetensors, preprocessor_config.json of openai/clip-small into "
        r"FOLDER/openai/clip-small/ and set weights to FOLDER"
    )
    with pytest.raises(ResourceError, match=message) as raised:
        visual_encoder("openai/clip-small")
    assert "\n" not in str(raised.value)


def test_a_network_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def hang(request: Any, timeout: float) -> None:
        asked.update(timeout=timeout, method=request.get_method())
        raise TimeoutError("timed out")

    monkeypatch.setattr(weights.urllib.request, "urlopen", hang)
    with pytest.raises(ResourceError, match=r"can't be reached \(timed out\)"):
        text_encoder("google/bert-small")
    assert asked == {"timeout": weights.PATIENCE_SECONDS, "method": "HEAD"}


def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delattr(weights.urllib.request, "urlopen")
    message = "openai/clip-small is not in the hub's cache here, and HF_HUB_OFFLINE forbids fetch"
    with pytest.raises(ResourceError, match=message):
        visual_encoder("openai/clip-small")


def test_an_incomplete_snapshot_is_not_taken(cache: Path) -> None:
    (write_snapshot(cache) / "preprocessor_config.json").unlink()
    with pytest.raises(ResourceError, match="can't be reached"):
        visual_encoder("openai/clip-small")
    assert text_encoder("openai/clip-small").dim == 32  # all that it needs is there


class FakeHub:
    """The hub's client, but for what it fetches."""

    def __init__(self, cache: Path, outcome: Callable[[], Path]) -> None:
        self.cache, self.outcome, self.asked = cache, outcome, dict[str, Any]()

    def download(self, model: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not in the cache")
        self.asked = {"model": model, **options}
        return str(self.outcome())


@pytest.fixture
def connect(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHub]:
    """Put a fake client in the place of the hub's."""

    def put(outcome: Callable[[], Path]) -> FakeHub:
        fake = FakeHub(cache, outcome)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.download)
        monkeypatch.setattr(hub, "check_reachable", lambda *_, **__: None)
        return fake

    return put


def test_only_the_files_that_are_read_are_fetched(
    cache: Path, connect: Callable[..., FakeHub]
) -> None:
    fake = connect(lambda: write_snapshot(cache))
    visual_encoder("openai/clip-small@v2")
    assert (fake.asked["model"], fake.asked["revision"]) == ("openai/clip-small", "v2")
    patterns = fake.asked["allow_patterns"]
    assert set(FILES) <= set(patterns)
    assert not any(pattern.endswith((".bin", ".py", ".h5", ".msgpack")) for pattern in patterns)


def refusal(kind: type[errors.HfHubHTTPError], status: int) -> Callable[[], Path]:
    def refuse() -> Path:
        request = httpx2.Request("GET", "http://127.0.0.1:9/api")
        raise kind("refused\nat length", response=httpx2.Response(status, request=request))

    return refuse


def broken_connection() -> Path:
    raise httpx2.ReadTimeout("The read operation timed out")


@pytest.mark.parametrize(
    ("outcome", "kind", "message"),
    [
        (
            refusal(errors.RepositoryNotFoundError, 401),
            ConfigError,
            "the hub has no openai/clip-small@main, or it is private; check the name",
        ),
        (
            refusal(errors.RevisionNotFoundError, 404),
            ConfigError,
            "the hub has no openai/clip-small@main",
        ),
        (
            refusal(errors.GatedRepoError, 403),
            ResourceError,
            "openai/clip-small asks for consent: give it on the model's page of the hub",
        ),
        (
            refusal(errors.HfHubHTTPError, 500),
            ResourceError,
            r"openai/clip-small could not be fetched \(refused.*\); try again: files",
        ),
        (
            broken_connection,
            ResourceError,
            r"could not be fetched \(The read operation timed out\)",
        ),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(
    connect: Callable[..., FakeHub],
    outcome: Callable[[], Path],
    kind: type[RaymcError],
    message: str,
) -> None:
    connect(outcome)
    with pytest.raises(kind, match=message) as raised:
        visual_encoder("openai/clip-small")
    assert "\n" not in str(raised.value)


def conversions(*statuses: str) -> Callable[..., list[Any]]:
    requests = [
        SimpleNamespace(is_pull_request=True, status=status, git_reference=f"refs/pr/{i}")
        for i, status in enumerate(statuses)
    ]
    return lambda model, author: requests if author == "SFconvertbot" else []


def no_answer(*_: Any, **__: Any) -> list[Any]:
    raise OSError


@pytest.mark.parametrize(
    ("discussions", "hint"),
    [
        (conversions("closed", "open"), "its conversion by the hub is openai/clip-small@refs/pr/1"),
        (conversions("closed"), "take a model that has them"),
        (no_answer, "take a model that has them"),
    ],
)
def test_a_model_with_pickled_weights_alone_is_refused(
    cache: Path,
    connect: Callable[..., FakeHub],
    monkeypatch: pytest.MonkeyPatch,
    discussions: Callable[..., list[Any]],
    hint: str,
) -> None:
    folder = write_snapshot(cache)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    connect(lambda: folder)
    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", discussions)
    message = f"openai/clip-small@main has no model.safetensors on the hub; {hint}"
    with pytest.raises(ResourceError, match=message):
        visual_encoder("openai/clip-small")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = r"transformers is not installed; .*: pip install 'raymc\[encoders\]'"
    with pytest.raises(ResourceError, match=message):
        visual_encoder("openai/clip-small")


def test_a_folder_of_weights_needs_no_hub(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(write_snapshot(cache), tmp_path / "weights/openai/clip-small")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    encoder = visual_encoder("openai/clip-small", weights=str(tmp_path / "weights"))
    assert encoder.dim == 32
    message = "weights/openai/clip-large: no config.json, no model.safetensors, no preprocessor_con"
    with pytest.raises(ResourceError, match=message):
        visual_encoder("openai/clip-large", weights=str(tmp_path / "weights"))
