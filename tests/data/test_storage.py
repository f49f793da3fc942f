import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raymc.data.storage import open_address, whole_file, whole_folder, write_bytes


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with suppress(InterruptedError), whole_file(path) as partial:
        partial.write_text("ha")
        raise InterruptedError
    assert path.read_text() == "old"
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_has_nothing_of_an_interrupted_write(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with suppress(InterruptedError), whole_folder(folder) as partial:
        (partial / "half").write_text("")
        raise InterruptedError
    assert not folder.exists()
    with whole_folder(folder) as partial:
        (partial / "all").write_text("")
    assert [path.name for path in folder.iterdir()] == ["all"]


def test_a_folder_with_files_is_replaced_only_on_demand(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("")
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "folder") as partial:
        (partial / "new").write_text("")
    with whole_folder(tmp_path / "folder", replace=True) as partial:
        (partial / "new").write_text("")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "folder") as partial:
            save_file({"x": np.zeros(1, np.float32)}, partial / "weights")
            (partial / "text").write_text("")
        write_bytes(open_address("")[0], str(tmp_path / "bytes"), b"")
    finally:
        os.umask(before)
    files = [*(tmp_path / "folder").iterdir(), tmp_path / "bytes"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
