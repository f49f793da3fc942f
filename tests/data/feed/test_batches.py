"""Padded batches against a slow copy row by row; cached and streamed feeds against each other."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import SPLIT_ROWS, feed_of

from raymc.config import BatchConfig, Config, override
from raymc.data.feed import feed as feed_module
from raymc.data.feed.batches import (
    Batch,
    Block,
    RowStore,
    block_from_table,
    cut_at_shards,
    decode_tokens,
)
from raymc.data.feed.feed import Feed, ReadShards, on_device
from raymc.data.feed.order import PADDING_ROW
from raymc.data.labels import Vocabulary
from raymc.data.shards import Dataset, Manifest, Modality, Shard
from raymc.errors import DataError

VOCABULARY = Vocabulary(("add", "count", "rhyme"), groups={"math": ("add", "count")})
MODALITIES = (
    Modality("half", 3, "float16"),
    Modality("single", 2, "float32"),
    Modality("byte", 5, "uint8", scale=0.1, offset=-1.0),
)


@dataclass(frozen=True)
class Clip:
    """A row, as the slow reference sees it."""

    id: str
    tokens: dict[str, np.ndarray | None]
    labels: list[str] | None
    observed: list[str] | None


def random_clips(count: int, seed: int = 0) -> list[Clip]:
    """Clips of up to 6 tokens, a third of the modalities missing."""
    generator = np.random.default_rng(seed)
    clips = []
    for i in range(count):
        tokens = {}
        for m in MODALITIES:
            values = generator.integers(0, 256, (int(generator.integers(0, 7)), m.dim))
            missing = generator.random() < 0.25
            tokens[m.name] = None if missing else (values / 7).astype(m.dtype)
        labels = [name for name in VOCABULARY.names if generator.random() < 0.4]
        observed = [None, [], ["math"]][int(generator.integers(3))]
        clips.append(Clip(f"clip {i}", tokens, labels or None, observed))
    return clips


def table_of(clips: Sequence[Clip]) -> pa.Table:
    def as_bytes(tokens: np.ndarray | None) -> bytes | None:
        return None if tokens is None else tokens.tobytes()

    columns = {
        "id": pa.array([clip.id for clip in clips], pa.string()),
        "labels": pa.array([clip.labels for clip in clips], pa.list_(pa.string())),
        "observed": pa.array([clip.observed for clip in clips], pa.list_(pa.string())),
    }
    for m in MODALITIES:
        values = [as_bytes(clip.tokens[m.name]) for clip in clips]
        columns[m.name] = pa.array(values, pa.large_binary())
    return pa.table(columns)


def manifest_of(shard_rows: Sequence[int]) -> Manifest:
    shards = tuple(Shard(f"train/{i}", rows, 0, "") for i, rows in enumerate(shard_rows))
    return Manifest(VOCABULARY, MODALITIES, {"train": shards})


def store_of(clips: Sequence[Clip], block_rows: Sequence[int]) -> RowStore:
    """A store of blocks of these lengths, added last to first."""
    store, table = RowStore(MODALITIES, len(VOCABULARY)), table_of(clips)
    starts = [0, *itertools.accumulate(block_rows)]
    for first, rows in reversed(list(zip(starts, block_rows))):
        store.add(first, block_from_table(table.slice(first, rows), manifest_of([len(clips)])))
    return store


def slow_batch(clips: Sequence[Clip], rows: Sequence[int]) -> Batch:
    """The same batch, row by row and value by value."""
    tokens, lengths = {}, {}
    for m in MODALITIES:
        found = [None if row == PADDING_ROW else clips[row].tokens[m.name] for row in rows]
        counts = [0 if x is None else len(x) for x in found]
        padded = torch.zeros(len(rows), max([1, *counts]), m.dim)
        for i, x in enumerate(found):
            for t in range(counts[i]):
                assert x is not None
                padded[i, t] = torch.tensor(x[t].astype(np.float32))
        tokens[m.name] = padded.to(getattr(torch, m.dtype))
        lengths[m.name] = torch.tensor(counts, dtype=torch.int64)
    labels = torch.zeros(len(rows), len(VOCABULARY), dtype=torch.bool)
    observed = torch.zeros_like(labels)
    for i, row in enumerate(rows):
        for k, name in enumerate(VOCABULARY.names):
            if row != PADDING_ROW:
                groups = clips[row].observed
                labels[i, k] = name in (clips[row].labels or [])
                observed[i, k] = groups is None or "math" in groups or name == "rhyme"
    is_short = any(n < tokens[name].shape[1] for name in tokens for n in lengths[name].tolist())
    numbers = torch.tensor(rows, dtype=torch.int64)
    return Batch(tokens, lengths, labels, observed, numbers, padded=is_short)


def assert_same(batch: Batch, expected: Batch) -> None:
    assert batch.tokens.keys() == expected.tokens.keys()
    for name, tokens in expected.tokens.items():
        torch.testing.assert_close(batch.tokens[name], tokens, rtol=0, atol=0)
        torch.testing.assert_close(batch.lengths[name], expected.lengths[name], rtol=0, atol=0)
    for key in ("labels", "observed", "rows"):
        torch.testing.assert_close(getattr(batch, key), getattr(expected, key), rtol=0, atol=0)
    assert batch.padded == expected.padded


@pytest.mark.parametrize("block_rows", [[40], [1] * 40, [3, 0, 11, 26], [20, 20]], ids=str)
def test_batches_are_those_of_a_slow_copy(block_rows: list[int]) -> None:
    clips = random_clips(40)
    store = store_of(clips, block_rows)
    generator = np.random.default_rng(1)
    for size in (1, 2, 7, 40):
        rows = generator.permutation(40)[:size]
        assert_same(store.batch(rows), slow_batch(clips, rows.tolist()))
        padded = np.concatenate([[PADDING_ROW], rows, [PADDING_ROW] * 2])
        assert_same(store.batch(padded), slow_batch(clips, padded.tolist()))


def test_a_share_of_nothing_but_padding_has_empty_rows() -> None:
    store = RowStore(MODALITIES, len(VOCABULARY))
    batch = store.batch(np.full(2, PADDING_ROW))
    assert_same(batch, slow_batch([], [PADDING_ROW] * 2))
    assert batch.tokens["half"].shape == (2, 1, 3)


def test_ids_and_lengths_of_rows() -> None:
    clips = random_clips(40)
    store, rows = store_of(clips, [5, 20, 15]), np.random.default_rng(1).permutation(40)
    assert store.ids(rows) == [clips[row].id for row in rows]
    expected = [sum(len(x) for x in clips[r].tokens.values() if x is not None) for r in rows]
    assert store.lengths(rows).tolist() == expected
    assert store.lengths(rows[:0]).tolist() == []


def held_rows(store: RowStore) -> int:
    return sum(len(block) for block in store._blocks)


def test_blocks_are_forgotten_once_all_their_rows_are_released() -> None:
    clips = random_clips(12)
    store = store_of(clips, [4, 4, 4])
    store.release(np.array([0, 1, 2, 5, 8]))
    assert held_rows(store) == 12
    store.release(np.array([11, 3, 9, 10]))
    assert held_rows(store) == 4
    assert_same(store.batch(np.array([7, 4])), slow_batch(clips, [7, 4]))
    store.release(np.array([4, 6, 7]))
    assert held_rows(store) == 0


def test_batches_move_whole() -> None:
    moved = slow_batch(random_clips(3), [0, 1, 2]).to(torch.device("meta"))
    tensors = [*moved.tokens.values(), *moved.lengths.values()]
    tensors += [moved.labels, moved.observed, moved.rows]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_store_s_batches_move_in_one_copy() -> None:
    clips = random_clips(7)
    batch = store_of(clips, [7]).batch(np.array([3, 0, PADDING_ROW, 6]))
    memory = batch.memory
    assert memory is not None
    moved = batch.to(torch.device("meta"))
    tensors = [*moved.tokens.values(), *moved.lengths.values(), moved.labels, moved.observed]
    tensors += [moved.rows, moved.memory]
    assert len({x.untyped_storage()._cdata for x in tensors}) == 1  # one tensor was copied
    elsewhere = replace(batch, memory=memory.clone()).to(torch.device("cpu"))
    memory.zero_()  # what was copied are the bytes, not the tensors
    assert_same(elsewhere, slow_batch(clips, [3, 0, PADDING_ROW, 6]))


def test_a_gpu_copies_beside_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that only notes what it is asked for."""
    asked: list[str] = []

    class Stream:
        def __init__(self, device: object = None, name: str = "copies") -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            asked.append(f"{self.name} wait for {other.name}")

    def copied(batch: Batch, device: torch.device) -> Batch:
        asked.append(f"copy {batch.rows.tolist()} to {device} in {current[-1].name}")
        return replace(batch, labels=~batch.labels)

    def kept(batch: Batch, stream: Stream) -> None:
        asked.append(f"keep {batch.rows.tolist()} for {stream.name}")

    @contextmanager
    def switched(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    current = [Stream(name="steps")]
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", switched)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(Batch, "to", copied)
    monkeypatch.setattr(Batch, "used_in", kept)
    clips = random_clips(2)
    batches = [slow_batch(clips, [row]) for row in range(2)]
    for batch, moved in on_device(batches, torch.device("cuda")):
        assert torch.equal(moved.labels, ~batch.labels)
        asked.append("step")
    assert asked == [
        *("copy [0] to cuda in copies", "steps wait for copies", "keep [0] for steps", "step"),
        *("copy [1] to cuda in copies", "steps wait for copies", "keep [1] for steps", "step"),
    ]


def test_labels_that_nobody_annotated() -> None:
    table = table_of(random_clips(6)).drop_columns("observed")
    block = block_from_table(table, manifest_of([6]))
    assert block.observed.all()
    nothing = table.set_column(1, "labels", pa.nulls(6, pa.list_(pa.string())))
    assert not block_from_table(nothing, manifest_of([6])).labels.any()


@pytest.mark.parametrize("column", ["id", "labels", "single"])
def test_a_column_that_is_missing(column: str) -> None:
    table = table_of(random_clips(2)).drop_columns(column)
    with pytest.raises(DataError, match=f"no column '{column}', which is required.*have: .*byte"):
        block_from_table(table, manifest_of([2]))


def test_a_label_that_is_unknown() -> None:
    clips = random_clips(3)
    clips[1] = replace(clips[1], labels=["cout"])
    with pytest.raises(DataError, match=r"row 1: unknown label 'cout'.*did you mean 'count'"):
        block_from_table(table_of(clips), manifest_of([3]))


def test_a_modality_of_another_dim() -> None:
    with pytest.raises(DataError, match=r"'half', row 0: .* bytes are not a multiple"):
        decode_tokens(table_of(random_clips(5)), [Modality("half", 4)])


SHARD_ROWS = [3, 0, 5, 1, 4]


def tables_of(table: pa.Table, lengths: Iterable[int], *, merge: int = 1) -> list[pa.Table]:
    """Cut a table into pieces of these lengths, `merge` pieces to a table of as many chunks."""
    ends = [0, *itertools.accumulate(lengths)]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    return [pa.concat_tables(pieces[at : at + merge]) for at in range(0, len(pieces), merge)]


@pytest.mark.parametrize("merge", [1, 2, 9])
@pytest.mark.parametrize(
    "lengths", [[13], [1] * 13, [3, 5, 1, 4], [2, 2, 9], [0, 12, 0, 1, 0], [4, 4, 4, 1]], ids=str
)
@pytest.mark.parametrize("shards", [[0, 1, 2, 3, 4], [4, 2, 1, 0, 3]], ids=str)
def test_pieces_lie_within_a_shard_each(shards: list[int], lengths: list[int], merge: int) -> None:
    clips = random_clips(13)
    starts = [0, *itertools.accumulate(SHARD_ROWS)]
    stream = [row for s in shards for row in range(starts[s], starts[s + 1])]
    table = table_of([clips[row] for row in stream])
    found = []
    for first, piece in cut_at_shards(tables_of(table, lengths, merge=merge), shards, SHARD_ROWS):
        assert len(piece) > 0
        assert {column.num_chunks for column in piece.columns} == {1}
        last = first + len(piece) - 1
        assert sum(start <= first for start in starts) == sum(start <= last for start in starts)
        found += [(clip_id, first + i) for i, clip_id in enumerate(piece["id"].to_pylist())]
    assert found == [(clips[row].id, row) for row in stream]


def test_pieces_are_not_copied() -> None:
    table = table_of(random_clips(13))
    (data,) = table["half"].chunks
    for _, piece in cut_at_shards([table], range(5), SHARD_ROWS):
        assert piece["half"].chunk(0).buffers()[2].address == data.buffers()[2].address


@pytest.mark.parametrize(
    ("lengths", "problem"),
    [
        ([], "fewer"),
        ([0], "fewer"),
        ([3, 5], "fewer"),
        ([12], "fewer"),
        ([8, 2], "fewer"),
        ([13, 1], "more"),
        ([14], "more"),
        ([1] * 15, "more"),
    ],
    ids=str,
)
def test_shards_that_changed(lengths: list[int], problem: str) -> None:
    tables = tables_of(table_of(random_clips(15)), lengths)
    with pytest.raises(DataError, match=f"hold {problem} rows than dataset.json.*data check"):
        list(cut_at_shards(tables, range(5), SHARD_ROWS))


def lists_of(feed: Feed, epoch: int) -> list[Batch]:
    """An epoch's batches; epoch 0 is the evaluation."""
    return list(feed.training(epoch) if epoch else feed.evaluation())


@pytest.mark.slow
@pytest.mark.parametrize("window_rows", [1, 20, 1000])
@pytest.mark.parametrize("pool_batches", [1, 3])
def test_streamed_feeds_are_cached_feeds(
    tiny: Dataset, tiny_config: Config, window_rows: int, pool_batches: int
) -> None:
    config = override(
        tiny_config, {"batch.window_rows": window_rows, "batch.pool_batches": pool_batches}
    )
    kept = feed_of(tiny, "train", config)
    streamed = feed_of(tiny, "train", config, keep=False)
    for epoch in (0, 1, 2, 1):
        both = lists_of(kept, epoch), lists_of(streamed, epoch)
        assert len(both[0]) == len(both[1]) == kept.steps == streamed.steps
        for batch, expected in zip(*both):
            assert_same(batch, expected)
        rows = torch.cat([batch.rows for batch in both[0]])
        assert sorted(rows.tolist()) == list(range(SPLIT_ROWS["train"])) == list(range(kept.rows))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "keep"), [(2, True), (3, True), (11, True), (11, False)])
def test_workers_share_the_same_global_batches(
    tiny: Dataset, tiny_config: Config, workers: int, keep: bool
) -> None:
    alone = feed_of(tiny, "train", tiny_config)
    shares = [
        feed_of(tiny, "train", tiny_config, keep=keep, share=(rank, workers))
        for rank in range(workers)
    ]
    for epoch in (0, 3):
        for batch, *parts in zip(
            lists_of(alone, epoch), *(lists_of(feed, epoch) for feed in shares), strict=True
        ):
            assert len({len(part.rows) for part in parts}) == 1
            for rank, part in enumerate(parts):
                real = part.rows >= 0
                assert torch.equal(part.rows[real], batch.rows[rank::workers])
                assert torch.equal(part.labels[real], batch.labels[rank::workers])
                assert torch.equal(part.observed[real], batch.observed[rank::workers])
                assert not part.labels[~real].any()
                assert not part.observed[~real].any()
                for name, tokens in part.tokens.items():
                    expected = batch.tokens[name][rank::workers]
                    longest = tokens.shape[1]
                    assert torch.equal(tokens[real], expected[:, :longest])
                    assert not expected[:, longest:].any()


def asking(read: ReadShards, asked: list[int]) -> ReadShards:
    """Read as before, and note which shards are asked for."""

    def ask(shards: Sequence[int]) -> Iterable[pa.Table]:
        asked.extend(shards)
        return read(shards)

    return ask


@pytest.mark.parametrize("window_rows", [16, 1000])
def test_workers_that_stream_read_each_shard_once(
    tiny: Dataset, tiny_config: Config, window_rows: int
) -> None:
    config = override(tiny_config, {"batch.window_rows": window_rows})
    alone = feed_of(tiny, "train", config)
    shares = [feed_of(tiny, "train", config, keep=False, share=(rank, 2)) for rank in (0, 1)]
    asked: list[int] = []
    for feed in shares:
        feed._read = asking(feed._read, asked)
    for epoch in (3, 0):
        asked.clear()
        parts = [lists_of(feed, epoch) for feed in shares]
        is_shared = epoch == 0 or window_rows == 16  # a split of one window has one lane
        assert sorted(asked) == sorted([*range(6)] * (1 if is_shared else 2))
        whole = lists_of(alone, epoch)
        if epoch:
            for batch, *both in zip(whole, *parts, strict=True):
                assert len({len(part.rows) for part in both}) == 1
                joined = torch.cat([part.rows for part in both])
                kept = joined >= 0
                order = joined[kept].argsort()
                assert torch.equal(joined[kept][order], batch.rows.sort().values)
                labels = torch.cat([part.labels for part in both])[kept][order]
                assert torch.equal(labels, batch.labels[batch.rows.argsort()])
        rows = [torch.cat([part.rows for part in both]) for both in parts]
        assert len(rows[0]) == len(rows[1])
        assert sorted(x for x in torch.cat(rows).tolist() if x >= 0) == list(range(alone.rows))


@pytest.mark.parametrize("keep", [True, False])
def test_a_resumed_epoch_goes_on_with_the_same_batches(
    tiny: Dataset, tiny_config: Config, keep: bool
) -> None:
    config = override(tiny_config, {"batch.window_rows": 16})
    whole = list(feed_of(tiny, "train", config).training(2))
    for skip in (0, 1, 3, len(whole), len(whole) + 4):
        rest = list(feed_of(tiny, "train", config, keep=keep).training(2, skip=skip))
        assert len(rest) == max(0, len(whole) - skip)
        for batch, expected in zip(rest, whole[skip:]):
            assert_same(batch, expected)


class Reader:
    """Reads rows from memory in tables of awkward lengths, and counts how often it is asked."""

    def __init__(self, clips: Sequence[Clip], shard_rows: Sequence[int], *, extra: int = 0) -> None:
        self.clips, self.extra, self.calls = clips, extra, 0
        self.starts = [0, *itertools.accumulate(shard_rows)]

    def __call__(self, shards: Sequence[int]) -> Iterable[pa.Table]:
        self.calls += 1
        parts = [self.clips[self.starts[s] : self.starts[s + 1]] for s in shards]
        stream = [*itertools.chain(*parts), *self.clips[: max(0, self.extra)]]
        stream = stream[: len(stream) + min(0, self.extra)]
        for at in range(0, len(stream), 5):
            yield table_of(stream[at : at + 5])


def memory_feed(reader: Reader, shard_rows: Sequence[int], *, keep: bool) -> Feed:
    config = BatchConfig(size=4, window_rows=24, pool_batches=2)
    manifest = manifest_of(shard_rows)
    return Feed(reader, manifest, "train", config=config, seed=0, keep=keep)


@pytest.mark.slow
def test_a_streamed_feed_holds_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    class WatchedStore(RowStore):
        def add(self, first_row: int, block: Block) -> None:
            super().add(first_row, block)
            held.append(held_rows(self))

    monkeypatch.setattr(feed_module, "RowStore", WatchedStore)
    shard_rows = [8] * 20
    reader = Reader(random_clips(160), shard_rows)
    feed = memory_feed(reader, shard_rows, keep=False)
    for epoch in (1, 2, 0):
        rows = torch.cat([batch.rows for batch in lists_of(feed, epoch)])
        assert sorted(rows.tolist()) == list(range(160))
    assert len(held) > 50
    assert max(held) <= 2 * 24
    held.clear()
    lists_of(memory_feed(reader, shard_rows, keep=True), 1)
    assert max(held) == 160


@pytest.mark.slow
def test_windows_of_large_rows_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    class WatchedStore(RowStore):
        def add(self, first_row: int, block: Block) -> None:
            super().add(first_row, block)
            held.append(held_rows(self))

    monkeypatch.setattr(feed_module, "RowStore", WatchedStore)
    reader = Reader(random_clips(160), [8] * 20)
    shards = tuple(Shard(f"train/{i}", 8, 1 << 20, "") for i in range(20))
    manifest = Manifest(VOCABULARY, MODALITIES, {"train": shards})
    config = BatchConfig(size=4, window_mb=3, pool_batches=2)
    made, most = [], []
    for keep in (False, True):
        feed = Feed(reader, manifest, "train", config=config, seed=0, keep=keep)
        made.append(lists_of(feed, 1))
        most.append(max(held))
    for batch, expected in zip(*made, strict=True):
        assert_same(batch, expected)
    assert most[0] <= 2 * 3 * 8  # two windows, while the next is on its way
    assert most[1] == 160


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")}


@pytest.mark.parametrize("keep", [True, False])
def test_a_feed_that_is_left_early_leaves_no_thread(keep: bool) -> None:
    shard_rows = [8] * 40
    feed = memory_feed(Reader(random_clips(320), shard_rows), shard_rows, keep=keep)
    for epoch in (1, 0):
        running = feed.training(epoch) if epoch else feed.evaluation()
        next(running)
        assert threads()
        del running
        assert not threads()
    assert len(lists_of(feed, 2)) == 80
    assert not threads()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_page_locked_where_there_is_a_gpu() -> None:
    clips = random_clips(8)
    for batch in lists_of(memory_feed(Reader(clips, [8]), [8], keep=True), 1):
        moved = batch.to(torch.device("cuda")).to(torch.device("cpu"))
        assert_same(moved, slow_batch(clips, batch.rows.tolist()))
        tensors = [*batch.tokens.values(), *batch.lengths.values()]
        assert all(x.is_pinned() for x in [*tensors, batch.labels, batch.observed, batch.rows])


@pytest.mark.parametrize(("keep", "calls"), [(True, 1), (False, 3)])
def test_a_kept_split_is_read_once(keep: bool, calls: int) -> None:
    reader = Reader(random_clips(20), [8, 12])
    feed = memory_feed(reader, [8, 12], keep=keep)
    for epoch in (1, 0, 2):
        lists_of(feed, epoch)
    assert reader.calls == calls


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("extra", "problem"), [(1, "more"), (9, "more"), (-1, "fewer")])
def test_feeds_notice_shards_that_changed(keep: bool, extra: int, problem: str) -> None:
    reader = Reader(random_clips(20), [8, 12], extra=extra)
    for epoch in (0, 1):
        with pytest.raises(DataError, match=f"hold {problem} rows"):
            lists_of(memory_feed(reader, [8, 12], keep=keep), epoch)
