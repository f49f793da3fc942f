"""What stands in for child processes where none has to crash."""

from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from threading import Thread
from typing import Any

import pytest

from raymc.runtime.child_process import Child


class ChildThread(Child):
    """Runs its function in a thread, which starts at once; objects go there and back pickled."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self.connection, theirs = Pipe()

        def run() -> None:
            with theirs, suppress(OSError):  # the other end may be closed early
                function(theirs, *arguments)

        Thread(target=run, daemon=True).start()

    def receive(self) -> Any:
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()


def read_in_threads(patch: pytest.MonkeyPatch) -> None:
    """Read files in threads, not in processes, which take seconds to start."""
    for module in ("raymc.features.extraction", "raymc.formats.hdf5"):
        patch.setattr(f"{module}.Child", ChildThread)
        patch.setattr(f"{module}.limit_cpu", lambda seconds: None)
