import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raymc.errors import ResourceError
from raymc.features.torchaudio_compat import load_torchaudio

REAL = "NATIVE = True\ndef fail_if_no_align(function):\n    return function\n"
BROKEN = "raise OSError('libc10_cuda.so: cannot open shared object file')\n"
PACKAGE = """
from torchaudio import _extension
@_extension.fail_if_no_align
def forced_align(emission):
    return "aligned"
"""


@pytest.fixture
def fake_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a torchaudio of ours; the modules of the real one come back afterwards."""
    kept = {name: module for name, module in sys.modules.items() if name.startswith("torchaudio")}
    for name in kept:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(PACKAGE)
    yield tmp_path / "torchaudio"
    for name in [name for name in sys.modules if name.startswith("torchaudio")]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_a_working_extension_is_left_alone(
    fake_torchaudio: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None
) -> None:
    (fake_torchaudio / "_extension.py").write_text(REAL)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    torchaudio = load_torchaudio()
    assert torchaudio._extension.NATIVE
    assert torchaudio.forced_align(None) == "aligned"


def test_a_broken_extension_is_replaced_where_torch_has_no_cuda(
    fake_torchaudio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_torchaudio / "_extension.py").write_text(BROKEN)
    monkeypatch.setattr(torch.version, "cuda", None)
    torchaudio = load_torchaudio()
    assert torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE is False
    assert load_torchaudio() is torchaudio
    with pytest.raises(ResourceError, match="forced_align needs its native extension"):
        torchaudio.forced_align(None)


def test_a_broken_extension_beside_cuda_is_an_error(
    fake_torchaudio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_torchaudio / "_extension.py").write_text(BROKEN)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ResourceError, match=r"libc10_cuda\.so.*install the torchaudio"):
        load_torchaudio()
    assert "torchaudio._extension" not in sys.modules


def test_a_missing_torchaudio_is_not_hidden(
    fake_torchaudio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(ModuleNotFoundError, match="torchaudio"):
        load_torchaudio()


def test_the_real_one_computes() -> None:
    torchaudio = load_torchaudio()
    assert importlib.util.find_spec("torchaudio._extension")
    mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=256, n_mels=20)
    assert mel(torch.ones(8000)).shape == (20, 63)
