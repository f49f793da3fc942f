"""A dataset's statistics as numbers, tables and one picture, to look at before paying for GPUs.

Shards are read one after the other. Axes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array

from raymc.data.labels import Vocabulary, label_counts
from raymc.data.shards import Dataset, Manifest, count_classes, ragged, read_shard
from raymc.data.shards.ragged import label_entries, observed_classes
from raymc.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SHOWN_LABELS = 20
SHOWN_PAIRS = 10
NAMED_LABELS = 8  # in a line
FEW_CLIPS = 8  # of a label: with fewer, hardly anything can be learned
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito


@dataclass(frozen=True)
class DatasetInfo:
    """The numbers of a dataset.

    Attributes:
        label_counts: Per split, the rows that carry each label.
        observed_counts: Per split, the rows in which each label was annotated.
        unlabelled: Per split, the rows without labels.
        lengths: Per modality, the tokens of each row of all splits; 0 where it is missing.
        cooccurrence: Rows of all splits that carry both labels of a pair.
    """

    path: str
    manifest: Manifest
    label_counts: Mapping[str, Int64[np.ndarray, " C"]]
    observed_counts: Mapping[str, Int64[np.ndarray, " C"]]
    unlabelled: Mapping[str, int]
    lengths: Mapping[str, Int64[np.ndarray, " N"]]
    cooccurrence: Int64[np.ndarray, "C C"]

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(self.manifest.rows(split) for split in self.manifest.splits)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shards in self.manifest.splits.values() for shard in shards)

    @property
    def total_counts(self) -> Int64[np.ndarray, " C"]:
        """Rows of all splits that carry each label."""
        return np.diagonal(self.cooccurrence)


def describe(dataset: Dataset) -> DatasetInfo:
    """Read a whole dataset, shard by shard, and count; raises `DataError` as its readers do."""
    manifest = dataset.manifest
    vocabulary, classes = manifest.vocabulary, len(manifest.vocabulary)
    names = [modality.name for modality in manifest.modalities]
    columns = ["labels", *(["observed"] if vocabulary.groups else []), *names]
    counts = {split: np.zeros(classes, np.int64) for split in manifest.splits}
    observed = {split: np.zeros(classes, np.int64) for split in manifest.splits}
    unlabelled = dict.fromkeys(manifest.splits, 0)
    pairs = np.zeros((classes, classes), np.int64)
    lengths = {name: [np.zeros(0, np.int64)] for name in names}
    for split, shards in manifest.splits.items():
        for shard in shards:
            table = read_shard(dataset, shard, columns)
            rows, labels = label_entries(table["labels"], vocabulary)
            counts[split] += np.bincount(labels, minlength=classes)
            unlabelled[split] += len(table) - len(np.unique(rows))
            marks = csr_array((np.ones_like(rows), (rows, labels)), (len(table), classes))
            together = (marks.T @ marks).tocoo()
            pairs[together.coords] += together.data
            observed[split] += _annotated(table, vocabulary)
            for modality in manifest.modalities:
                lengths[modality.name].append(ragged(table[modality.name], modality).lengths)
    tokens = {name: np.concatenate(parts) for name, parts in lengths.items()}
    return DatasetInfo(dataset.path, manifest, counts, observed, unlabelled, tokens, pairs)


def rows_line(manifest: Manifest, path: str) -> str:
    """Return how many rows each split has."""
    return f"{path}: {manifest.rows_text()}"


def training_lines(dataset: Dataset, split: str) -> list[str]:
    """Return what there is to train on: rows, modalities, and the clips of a split by label.

    Raises:
        DataError: A shard of the split can't be read.
    """
    manifest = dataset.manifest
    names = manifest.vocabulary.names
    counts = dict(zip(names, count_classes(dataset, split).tolist(), strict=True))
    ordered = sorted(counts, key=lambda name: -counts[name])
    rare = [name for name in reversed(ordered) if counts[name] < FEW_CLIPS]
    modalities = ", ".join(modality.name for modality in manifest.modalities)
    lines = [
        f"{rows_line(manifest, dataset.path)}; {modalities}",
        f"{len(names):,} labels, clips of {split}: {_listed(counts, ordered)}",
    ]
    if rare:
        lines.append(f"rare, so expect little of them: {_listed(counts, rare)}")
    return lines


def _listed(counts: Mapping[str, int], names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r} {counts[name]:,}" for name in names[:NAMED_LABELS])
    more = len(names) - NAMED_LABELS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _annotated(table: pa.Table, vocabulary: Vocabulary) -> Int64[np.ndarray, " C"]:
    if not vocabulary.groups:
        return np.full(len(vocabulary), len(table))
    return label_counts(observed_classes(table["observed"], vocabulary))


def print_info(info: DatasetInfo, console: Console) -> None:
    """Print the numbers as tables that fit 80 columns."""
    manifest = info.manifest
    facts = f"{info.rows:,} rows · {_size(info.bytes)} · {len(manifest.vocabulary)} labels"
    origin = f"licence {manifest.license or 'not stated'} · digest {manifest.digest()[:12]}"
    console.print(plain(info.path, "bold"), soft_wrap=True)
    console.print(plain(f"{facts} · {origin}"))
    for title, note, table in (
        ("Splits", "", _split_table(info)),
        (
            "Modalities",
            "per row: shortest / median / longest; missing rows aside",
            _modality_table(info),
        ),
        ("Labels", "share of the rows in which the label was annotated", _label_table(info)),
        ("Pairs", "rows with both labels, and their share of the rarer one's", _pair_table(info)),
    ):
        if table.row_count:
            console.print(plain(f"\n{title}  ", "bold").append(note, "not bold dim"))
            console.print(table)


def _table(names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    width = 40 if len(names) == 1 else 25
    for name in names:
        table.add_column(name, no_wrap=True, max_width=width, style="cyan")
    for name in numbers:
        table.add_column(plain(name), justify="right", no_wrap=True, min_width=len(name))
    return table


def _split_table(info: DatasetInfo) -> Table:
    table = _table(["split"], ["rows", "shards", "size", "labels/row", "no label"])
    for split, shards in info.manifest.splits.items():
        rows = info.manifest.rows(split)
        table.add_row(
            plain(split),
            f"{rows:,}",
            f"{len(shards):,}",
            _size(sum(shard.bytes for shard in shards)),
            f"{info.label_counts[split].sum() / max(rows, 1):.2f}",
            f"{info.unlabelled[split]:,}",
        )
    return table


def _modality_table(info: DatasetInfo) -> Table:
    table = _table(["modality"], ["dim", "type", "tokens", "seconds", "missing"])
    for modality in info.manifest.modalities:
        lengths = info.lengths[modality.name]
        present = lengths[lengths > 0]
        low, middle, high = np.quantile(present, [0, 0.5, 1]) if len(present) else np.zeros(3)
        seconds = (f"{tokens / modality.rate_hz:.4g}" for tokens in (low, middle, high))
        table.add_row(
            plain(modality.name),
            str(modality.dim),
            modality.dtype,
            f"{low:.0f} / {middle:.0f} / {high:.0f}",
            " / ".join(seconds),
            f"{(lengths == 0).mean() if len(lengths) else 0:.1%}",
        )
    return table


def _label_table(info: DatasetInfo) -> Table:
    splits = list(info.label_counts)
    table = _table(["label"], [*splits, " share"])
    table.add_column("", no_wrap=True)
    annotated = sum(info.observed_counts.values(), np.zeros_like(info.total_counts))
    shares = info.total_counts / np.maximum(annotated, 1)
    shown = _most_frequent(info)
    for k in shown:
        numbers = [f"{info.label_counts[split][k]:,}" for split in splits]
        bar = "█" * round(12 * shares[k] / max(shares[shown].max(), 1e-9))
        name = plain(info.manifest.vocabulary.names[k])
        table.add_row(name, *numbers, f"{shares[k]:.1%}", plain(bar, "blue"))
    more = len(info.manifest.vocabulary) - len(shown)
    if more:
        never = int((info.total_counts == 0).sum())
        table.caption = f"… and {more:,} rarer labels; {never:,} labels occur in no row"
    return table


def _pair_table(info: DatasetInfo) -> Table:
    table = _table(["label", "with"], ["rows", "of rarer"])
    names, counts = info.manifest.vocabulary.names, info.total_counts
    together = np.triu(info.cooccurrence, k=1)
    order = np.argsort(-together, axis=None, kind="stable")[:SHOWN_PAIRS]
    for i, j in zip(*np.unravel_index(order, together.shape), strict=True):
        if together[i, j]:
            share = together[i, j] / min(counts[i], counts[j])
            table.add_row(plain(names[i]), plain(names[j]), f"{together[i, j]:,}", f"{share:.0%}")
    return table


def _most_frequent(info: DatasetInfo) -> Int64[np.ndarray, " shown"]:
    return np.argsort(-info.total_counts, kind="stable")[:SHOWN_LABELS]


def _size(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"


def plot_info(info: DatasetInfo, file: str | PathLike[str]) -> None:
    """Draw token lengths, label counts and label pairs into one picture.

    The palette is safe for colour-blind readers. The suffix of `file`, e.g. `.png` or `.pdf`, sets
    the format.
    """
    from matplotlib.figure import Figure

    bars_height = 1.5 + 0.28 * max(len(_most_frequent(info)), 8)
    figure = Figure(figsize=(12, 3.2 + bars_height), layout="constrained")
    title = f"{info.path} · {info.rows:,} rows · {_size(info.bytes)}"
    figure.suptitle(title, weight="bold", parse_math=False)
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, bars_height))[:, 0]
    for axes, name in zip(
        parts[0].subplots(1, len(info.lengths), squeeze=False)[0], info.lengths, strict=True
    ):
        _draw_lengths(axes, info, name)
    left, right = parts[1].subplots(1, 2, width_ratios=(1, 1.1), sharey=True)
    _draw_labels(left, info)
    _draw_pairs(right, info)
    figure.savefig(file, dpi=150)


def _draw_lengths(axes: "Axes", info: DatasetInfo, name: str) -> None:
    lengths = info.lengths[name]
    longest = int(lengths.max(initial=1))
    width = -(-longest // 30)  # in whole tokens: other widths alias with the lengths
    axes.hist(
        lengths[lengths > 0],
        bins=(np.arange(1, longest + width + 1, width) - 0.5).tolist(),
        color="#5B7083",
        edgecolor="white",
        linewidth=0.4,
    )
    missing = (lengths == 0).mean() if len(lengths) else 0
    axes.set_title(f"{name}, missing in {missing:.1%}" if missing else name, loc="left")
    axes.set_xlabel(f"tokens per row, {info.manifest.modality(name).rate_hz:g} per second")
    axes.set_ylabel("rows")
    axes.set_ylim(0, None if lengths.any() else 1)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_labels(axes: "Axes", info: DatasetInfo) -> None:
    shown = _most_frequent(info)
    places, start = np.arange(len(shown)), np.zeros(len(shown))
    for (split, counts), colour in zip(info.label_counts.items(), cycle(_COLOURS), strict=False):
        axes.barh(places, counts[shown], left=start, height=0.75, color=colour, label=split)
        start += counts[shown]
    axes.set_yticks(places, _short_names(info), parse_math=False)
    axes.set_xlabel("rows with the label")
    of_all = f" of {len(info.total_counts):,}" if len(shown) < len(info.total_counts) else ""
    axes.set_title(f"{len(shown)}{of_all} labels", loc="left")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_pairs(axes: "Axes", info: DatasetInfo) -> None:
    from matplotlib.ticker import PercentFormatter

    shown = _most_frequent(info)
    with_row = np.maximum(info.total_counts[shown], 1)[:, None]
    shares = info.cooccurrence[np.ix_(shown, shown)] / with_row
    np.fill_diagonal(shares, np.nan)
    axes.set_facecolor("#E6E6E6")
    image = axes.imshow(shares, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(np.arange(len(shown)), _short_names(info), rotation=90, parse_math=False)
    axes.set_title("of the rows with one label (down), share with another (across)", loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), shrink=0.7)


def _short_names(info: DatasetInfo) -> list[str]:
    names = (info.manifest.vocabulary.names[k] for k in _most_frequent(info))
    return [name if len(name) <= 24 else f"{name[:14]}…{name[-9:]}" for name in names]
