"""Making the next items while the caller works on the one before.

Pure: threads of the standard library. NumPy's copies and pyarrow's reading let other threads
run, so one more thread is enough to hide both behind a training step.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(items: Iterable[Item], *, depth: int) -> Iterator[Item]:
    """Yield items that a thread of its own has made up to `depth` items ahead.

    Whatever making an item raises is raised here, in its turn. The thread ends with the items,
    or when the iterator is closed or dropped, after the item that it is at.

    Args:
        items: Made one after the other, by the thread alone; closed at the end if they can be.
        depth: Items that wait beside the one that the caller has.
    """
    source = iter(items)

    def make() -> list[Item]:
        return list(islice(source, 1))  # a list, so that the end is an item like any other

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as maker:
        try:
            waiting: deque[Future[list[Item]]] = deque(maker.submit(make) for _ in range(depth))
            while made := waiting.popleft().result():
                waiting.append(maker.submit(make))
                yield made.pop()  # nothing here holds on to what the caller lets go
        finally:
            maker.shutdown(cancel_futures=True)
            if close := getattr(source, "close", None):
                close()


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Yield what a function makes of items, in their order, several of them at a time.

    Whatever the function raises is raised here, in its turn. The threads end with the items, or
    when the iterator is closed or dropped, after what they are at.

    Args:
        function: Called by several threads at once.
        items: Taken as results are.
        threads: How many items are worked on at once.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as makers:
        try:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(makers.submit(function, item))
                if len(waiting) == threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            makers.shutdown(cancel_futures=True)
