"""Two training workers on this machine, without Ray."""

from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from typing import Any

from torch.multiprocessing.spawn import start_processes


def run_as_two(work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(rank, *arguments)` in two processes, copies of one that has loaded all they need.

    To average gradients, PyTorch loads its compiler.
    """
    needed = ["torch._dynamo", "scipy.optimize", "sklearn.cluster", "raymc.training.loop"]
    set_forkserver_preload(needed)
    start_processes(work, arguments, nprocs=2, start_method="forkserver")
