"""Items made ahead by a thread: the same items, errors in their turn, no thread left behind."""

import threading
import weakref
from collections.abc import Iterator

import pytest

from raymc.data.feed.feed import mapped_ahead, prefetched


class Source:
    """Counts up; notes which thread made each item, and whether it was closed."""

    def __init__(self, items: int, *, fails_at: int = -1) -> None:
        self.made: list[int] = []
        self.threads: set[str] = set()
        self.is_closed = False
        self.reached = threading.Condition()
        self._items = self._make(items, fails_at)

    def __iter__(self) -> Iterator[int]:
        return self._items

    def _make(self, items: int, fails_at: int) -> Iterator[int]:
        try:
            for item in range(items):
                if item == fails_at:
                    raise ValueError("torn")
                with self.reached:
                    self.made.append(item)
                    self.threads.add(threading.current_thread().name)
                    self.reached.notify()
                yield item
        finally:
            self.is_closed = True

    def wait_for(self, count: int) -> None:
        """Wait until so many items are made."""
        with self.reached:
            assert self.reached.wait_for(lambda: len(self.made) >= count, timeout=30)


def prefetching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("prefetch")}


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 2, 7])
def test_items_come_in_order_from_one_other_thread(items: int, depth: int) -> None:
    source = Source(items)
    assert list(prefetched(source, depth=depth)) == list(range(items))
    assert source.threads.isdisjoint({threading.current_thread().name})
    assert len(source.threads) == min(items, 1)
    assert source.is_closed
    assert not prefetching()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_so_many_items_wait(depth: int) -> None:
    source = Source(20)
    items = prefetched(source, depth=depth)
    for taken in range(1, 8):
        next(items)
        source.wait_for(taken + depth)
        assert len(source.made) == taken + depth
    del items


def test_nothing_is_made_before_it_is_asked_for() -> None:
    source = Source(3)
    items = prefetched(source, depth=2)
    assert not source.made
    assert not prefetching()
    assert next(items) == 0


def test_an_error_arrives_after_the_items_before_it() -> None:
    items = prefetched(Source(9, fails_at=3), depth=4)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="torn"):
        next(items)
    assert not prefetching()
    assert list(items) == []


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_an_iterator_that_is_left_early_leaves_no_thread(how: str) -> None:
    source = Source(100)
    items = prefetched(source, depth=2)
    next(items)
    assert len(prefetching()) == 1
    if how == "closed":
        items.close()
    else:
        del items
    assert not prefetching()
    assert source.is_closed
    assert len(source.made) <= 4


def test_items_that_the_caller_lets_go_are_gone() -> None:
    class Large:
        pass

    items = prefetched((Large() for _ in range(5)), depth=1)
    item = next(items)
    gone = weakref.ref(item)
    del item
    assert gone() is None
    assert len(list(items)) == 4


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 2, 7])
def test_results_come_in_the_order_of_items(items: int, threads: int) -> None:
    assert list(mapped_ahead(lambda x: x * x, range(items), threads=threads)) == [
        x * x for x in range(items)
    ]
    assert not prefetching()


def test_so_many_are_worked_on_at_once_and_no_more() -> None:
    together = threading.Barrier(3)
    taken = []

    def items() -> Iterator[int]:
        for item in range(9):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        if item < 3:
            together.wait(timeout=30)  # broken unless three threads are here at once
        return item

    results = mapped_ahead(work, items(), threads=3)
    assert next(results) == 0
    assert taken == [0, 1, 2]
    assert list(results) == list(range(1, 9))


def test_what_the_function_raises_comes_in_its_turn() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("torn")
        return item

    results = mapped_ahead(work, range(5), threads=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="torn"):
        next(results)
    assert not prefetching()


def test_threads_end_where_results_are_dropped() -> None:
    results = mapped_ahead(lambda x: x, range(100), threads=2)
    assert next(results) == 0
    del results
    assert not prefetching()
