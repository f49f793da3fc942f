"""The page of a review: clips with frames and questions, whose answers become a corrected table.

The table is made in the browser, of all clips of the dataset; `raymc extract` reads it.
"""

import base64
import hashlib
import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from raymc.config import ExtractConfig
from raymc.data.shards.tokens import RESERVED_COLUMNS
from raymc.evaluation.review.learning_curves import MORE, Curve
from raymc.evaluation.review.review import REVIEWED, Listener, Review, absolute, review_lines
from raymc.evaluation.review.thumbnails import Thumbnails, thumbnails_of
from raymc.evaluation.timeline import clock
from raymc.metrics.bootstrap import Difference
from raymc.metrics.text import estimate_text, percent
from raymc.report import drawing
from raymc.report.page import (
    Block,
    Cell,
    Figure,
    Note,
    Page,
    Part,
    Section,
    Table,
    number,
    render_template,
    text,
)
from raymc.report.playing import copies_of
from raymc.report.timeline import EMBED_BYTES

CORRECTED = "corrected.csv"
CLIPS_SHOWN, PAIRS_SHOWN, CURVES_DRAWN, UNREAD_NAMED = 100, 50, 8, 10
_COPIED_SECONDS = 60.0  # longer clips get no copy that browsers play
_WINDOWS = ("window_seconds", "stride_seconds")  # the table has each clip's own times
_ROLES = ("id", "path", "start_seconds", "end_seconds", "labels", "split", REVIEWED)


def review_page(
    review: Review,
    page: Path,
    *,
    name: str,
    clips_shown: int = CLIPS_SHOWN,
    listener: Listener = lambda what, done, total: None,
) -> str:
    """Return the page of a review as HTML.

    Args:
        review: What was found.
        page: Where the page will be: it plays videos by their paths from there.
        name: Of the run.
        clips_shown: Most clips with labels that look wrong.
        listener: Called with the progress through the clips whose frames are decoded.
    """
    table = _Rows(review, page)
    doubtful = _doubtful(review, table, clips_shown)
    pairs = _pairs(review, table)
    picks = _picks(review, table)
    every = [*doubtful, *pairs, *picks]
    _add_pictures([clip for card in every for clip in _clips_of(card)], listener)
    sections = [
        Section(
            "labels", "Labels that look wrong", _parts(_label_notes(review, doubtful), doubtful)
        ),
        Section("duplicates", "Duplicates", _parts(_pair_notes(review, pairs), pairs)),
        Section("next", "What to label next", _parts(_pick_notes(review), picks)),
        Section("classes", "Classes", _class_parts(review)),
        Section("save", "Your answers", _save_parts(review, table, every)),
    ]
    summary = [*review_lines(review), *([_HOW] if every else [])]
    shown = Page(f"Review of {name}", summary, sections, "written by `raymc review`")
    return render_template("review.html", page=shown)


_HOW = (
    "Answer what you can, then download the corrected table at the bottom. Your answers stay in "
    "this browser until then."
)


def extract_command(review: Review) -> str:
    """Return the command that makes a dataset of the corrected table, as the first was made."""
    default = asdict(ExtractConfig())
    settings = [
        f"extract.{key}={value}"
        for key, value in (review.bundle.recipe or {}).items()
        if key in default and key not in _WINDOWS and value != default[key]
    ]
    return shlex.join(["raymc", "extract", CORRECTED, "--out", "data/corrected", *settings])


class _Rows:
    """The rows of the corrected table: all clips of the dataset, and clips to label."""

    def __init__(self, review: Review, page: Path) -> None:
        self.review, self.folder = review, page.absolute().parent
        table = review.clips.table
        tokens = {modality.name for modality in review.clips.dataset.manifest.modalities}
        taken = {*RESERVED_COLUMNS, *tokens, *_ROLES}
        extras = [column for column in table.column_names if column not in taken]
        there = [column for column in _ROLES if column in table.column_names]
        self.columns = [*dict.fromkeys([*there, "labels", "split", REVIEWED]), *extras]
        values = {column: table[column].to_pylist() for column in (*there, *extras)}
        self.rows = [self._row(values, row) for row in range(len(table))]
        self._numbers = {clip: row for row, clip in enumerate(review.clips.ids)}

    def _row(self, values: Mapping[str, list[Any]], row: int) -> dict[str, Any]:
        cells = {column: _cell(given[row]) for column, given in values.items()}
        if "path" in cells:
            cells["path"] = absolute(str(cells["path"]))
        cells["split"] = self.review.clips.splits[row]
        seen = _listed(cells.get(REVIEWED))
        return {
            "cells": cells,
            "labels": self.review.labels_of(row),
            "reviewed": seen or [],
            "was_seen": seen is not None,
            "is_new": False,
        }

    def add(self, place: Mapping[str, Any]) -> int:
        """Return the number of a clip to label, which becomes a row if it is not one yet."""
        if place["id"] in self._numbers:
            known = self.rows[self._numbers[place["id"]]]["cells"].get("path")
            if known in (None, absolute(str(place.get("path", "")))):
                return self._numbers[place["id"]]
        names = {"start": "start_seconds", "end": "end_seconds"}
        cells = {names.get(key, key): _cell(value) for key, value in place.items()}
        if "path" in cells:
            cells["path"] = absolute(str(cells["path"]))
        self.columns = list(dict.fromkeys([*self.columns, *cells]))
        cells["split"] = self.review.bundle.config.data.train
        self.rows.append(
            {"cells": cells, "labels": [], "reviewed": [], "was_seen": False, "is_new": True}
        )
        return len(self.rows) - 1

    def shown(self, row: int) -> dict[str, Any]:
        """Return what a card shows of a clip; pictures are added later."""
        cells = self.rows[row]["cells"]
        path, start, end = (cells.get(x) for x in ("path", "start_seconds", "end_seconds"))
        is_there = os.path.isfile(path or "")
        times = f", {clock(start)} to {clock(end)}" if _is_time(start) and _is_time(end) else ""
        name = f"{Path(path).name}{times}, " if path else ""
        fragment = f"#t={start:g},{end:g}" if times else ""
        reason = "" if is_there or path is None else f"{path} is not here"
        return {
            "row": row,
            "id": cells["id"],
            "split": cells["split"],
            "where": f"{name}{'new' if self.rows[row]['is_new'] else cells['split']}",
            "path": path or "",
            "start": start,
            "end": f"{end:g}" if times else "",
            # with ./ because a name such as a:b.mp4 would be an address
            "src": f"./{quote(os.path.relpath(path or '', self.folder))}{fragment}"
            if is_there
            else "",
            "pictures": (),
            "reason": reason,
        }

    def to_json(self) -> Markup:
        """Return the rows for the page's script."""
        key = [self.review.bundle.digest, self.review.clips.dataset.manifest.digest()]
        key += [str(len(self.rows))]
        found = {
            "columns": self.columns,
            "rows": self.rows,
            "key": hashlib.sha256("".join(key).encode()).hexdigest()[:16],
        }
        # so that no text ends the element that holds it
        return Markup(json.dumps(found, allow_nan=False).replace("<", "\\u003c"))


def _cell(value: Any) -> Any:
    """Return a value of the dataset as a table has it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str | int | float):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def _listed(value: Any) -> list[str] | None:
    """Return the labels in a cell of the column `reviewed`; None if the clip was not reviewed."""
    try:
        found = json.loads(value or "null")
    except (TypeError, ValueError):
        return None
    return [str(one) for one in found] if isinstance(found, list) else None


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float)


def _doubtful(review: Review, table: _Rows, most: int) -> list[dict[str, Any]]:
    """Return a card for each clip with labels that look wrong, the worst first."""
    by_row: dict[int, list[dict[str, Any]]] = {}
    names = review.bundle.vocabulary.names
    for one in review.doubts:
        label, likely = names[one.label], percent(one.probability, digits=0)
        told = f"“{label}” is {'' if one.is_given else 'not '}given; the models say {likely}."
        question = {"label": label, "given": one.is_given, "text": told}
        question["name"] = f"q-{one.row}-{one.label}"
        by_row.setdefault(one.row, []).append(question)
    return [
        {"kind": "labels", "clip": table.shown(row), "questions": questions}
        for row, questions in list(by_row.items())[:most]
    ]


def _pairs(review: Review, table: _Rows) -> list[dict[str, Any]]:
    cards = []
    for at, one in enumerate(review.pairs[:PAIRS_SHOWN]):
        clips = [table.shown(one.row), table.shown(one.other)]
        alike = (
            "The same tokens" if one.is_equal else f"Nearly the same (cosine {one.similarity:.3f})"
        )
        labels = [set(review.labels_of(row)) for row in (one.row, one.other)]
        others = "" if labels[0] == labels[1] else ", with other labels"
        splits = "" if clips[0]["split"] == clips[1]["split"] else ", in two splits"
        cards.append(
            {"kind": "pair", "name": f"p-{at}", "clips": clips, "text": f"{alike}{splits}{others}."}
        )
    return cards


def _picks(review: Review, table: _Rows) -> list[dict[str, Any]]:
    cards = []
    names = review.bundle.vocabulary.names
    for one in review.picks:
        likely = review.candidates.probabilities[one.row]
        best = [
            f"{names[k]} {percent(float(likely[k]), digits=0)}" for k in (-likely).argsort()[:3]
        ]
        clip = table.shown(table.add(review.candidates.places[one.row]))
        told = f"The model says: {', '.join(best)}. From {review.candidates.sources[one.row]}."
        cards.append({"kind": "pick", "name": f"n-{clip['row']}", "clip": clip, "text": told})
    return cards


def _clips_of(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    return card["clips"] if card["kind"] == "pair" else [card["clip"]]


def _add_pictures(clips: Sequence[dict[str, Any]], listener: Listener) -> None:
    """Add frames to what cards show; each clip is decoded once."""
    wanted = {
        (clip["path"], float(clip["start"]), float(clip["end"])): Thumbnails()
        for clip in clips
        if clip["src"] and clip["end"]
    }
    for done, (place, found) in enumerate(zip(list(wanted), thumbnails_of(list(wanted))), 1):
        wanted[place] = found
        listener("clips with frames", done, len(wanted))
    copies = _copies(
        [place for place in wanted if place[2] - place[1] <= _COPIED_SECONDS], listener
    )
    for clip in clips:
        if clip["src"] and clip["end"]:
            place = clip["path"], float(clip["start"]), float(clip["end"])
            clip["pictures"], clip["reason"] = wanted[place].pictures, wanted[place].reason
            if place in copies:
                clip["src"], clip["end"] = copies[place], ""


def _copies(
    places: Sequence[tuple[str, float, float]], listener: Listener
) -> dict[tuple[str, float, float], str]:
    """Return, as addresses that hold them, copies of clips whose files browsers don't play."""
    found, room = dict[tuple[str, float, float], str](), EMBED_BYTES
    for done, (place, copy) in enumerate(zip(places, copies_of(places)), 1):
        room -= len(copy)
        if room < 0:
            break
        if copy:
            found[place] = "data:video/mp4;base64," + base64.b64encode(copy).decode()
        listener("clips to play", done, len(places))
    return found


def _parts(notes: Sequence[str], cards: Sequence[Mapping[str, Any]]) -> list[Part]:
    parts: list[Part] = [Note(note) for note in notes]
    if cards:
        parts.append(Block(Markup(render_template("review_cards.html", cards=cards))))
    return parts


def _label_notes(review: Review, cards: Sequence[object]) -> list[str]:
    if not review.doubts:
        rest = ", as far as they can be judged" if review.unjudged else ""
        return [f"No label looks wrong{rest}."]
    notes = [
        f"{review.models} models were trained for {review.epochs} epochs each. Each judged the "
        "clips of videos that it had not seen. These are the labels that they contradict most, the "
        "worst first (confident learning). The models err, too: only you can say what is right."
    ]
    clips = len({one.row for one in review.doubts})
    if clips > len(cards):
        notes.append(f"The page shows the first {len(cards)} of {clips:,} clips.")
    return notes


def _pair_notes(review: Review, cards: Sequence[object]) -> list[str]:
    if not review.pairs:
        return [
            "No clip is in two splits, and no two videos with other labels are the same or nearly."
        ]
    notes = [
        "A clip that is in two splits makes scores too high. Two clips that are the same should "
        "have the same labels. Near-duplicates have nearly the same features; look before you "
        "leave one out."
    ]
    if len(review.pairs) > len(cards):
        notes.append(f"The page shows the first {len(cards)} of {len(review.pairs):,} pairs.")
    return notes


def _pick_notes(review: Review) -> list[str]:
    if not len(review.candidates):
        return [
            "The dataset has no clips without labels. To choose from other videos, add "
            "--unlabelled SOURCE, a folder of videos or a dataset of their features."
        ]
    notes = [
        f"Of {len(review.candidates):,} clips without labels, these are the ones of which the "
        "model is least sure and which differ most from the labelled clips and from each other. A "
        "clip that you label joins the training split."
    ]
    if unread := review.candidates.failures:
        more = f", and {len(unread) - UNREAD_NAMED:,} more" * (len(unread) > UNREAD_NAMED)
        notes.append(f"Not read: {'; '.join(unread[:UNREAD_NAMED])}{more}.")
    return notes


def _class_parts(review: Review) -> list[Part]:
    if not review.curves:
        return [Note("Learning curves were left out (--no-curves).")]
    heads = ["class", "clips", "videos", "AP now", *(f"gain at {times} ×" for times in MORE), ""]
    rows = [
        [
            text(one.label),
            number(one.clips, f"{one.clips:,}"),
            number(one.videos, f"{one.videos:,}"),
            _estimate(one.now),
            *(_estimate(one.gains[times]) for times in MORE),
            Cell("too few examples" if one.has_few else "", style="worse" if one.has_few else ""),
        ]
        for one in sorted(review.curves, key=_most_to_gain)
    ]
    caption = (
        "Average precision (AP) in percent on clips that the models have not seen, and the points "
        "that 2 and 4 times as many examples would add; in brackets 95 % intervals"
    )
    note = (
        "The gains extend a power law, fitted to models trained on a quarter, a half and all of "
        "the clips, for the same number of epochs. They assume more examples of the same kind, and "
        "the intervals do not cover how much one training differs from another. A class in fewer "
        "than 10 videos has too few examples."
    )
    return [Table(caption, heads, rows, frozenset(range(1, 6))), *_figure(review), Note(note)]


def _most_to_gain(curve: Curve) -> tuple[float, str]:
    gain = curve.gains[MORE[0]].value
    return (-gain if gain == gain else math.inf, curve.label)


def _estimate(one: Difference) -> Cell:
    return number(one.value, estimate_text(one.value, one.low, one.high))


def _figure(review: Review) -> Iterator[Figure]:
    shown = [
        one for one in sorted(review.curves, key=_most_to_gain) if one.now.value == one.now.value
    ]
    if not shown:
        return

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for one in shown[:CURVES_DRAWN]:
            points = [point for point in zip(one.sizes, one.precision) if point[0] >= 1]
            axes.plot(*zip(*points), marker="o", label=drawing.short(one.label))
        drawing.log_counts(axes)
        axes.set_xlabel("clips with the class that were trained on")
        axes.set_ylabel("average precision")
        axes.set_ylim(0, 1)
        drawing.percent(axes)
        axes.legend(fontsize=7, ncols=2)

    svg = drawing.as_svg(draw, name="curves", label="Learning curves", height=3.2)
    which = f"The {CURVES_DRAWN} classes" if len(shown) > CURVES_DRAWN else "The classes"
    yield Figure(svg, f"{which} with the most to gain from more examples.")


def _save_parts(review: Review, table: _Rows, cards: Sequence[object]) -> list[Part]:
    has_paths = "path" in table.columns
    if not cards:
        told = "There is nothing to answer."
    elif has_paths:
        told = (
            f"{CORRECTED} has all clips of the dataset, with your corrections, and the new clips "
            "that you labelled. Make a dataset of it, and train again:"
        )
    else:
        told = (
            f"{CORRECTED} has the ids, labels and splits of all clips, with your corrections. This "
            "dataset was not made of videos, so correct the labels where it came from."
        )
    command = extract_command(review) if has_paths and cards else ""
    bar = render_template(
        "review_bar.html",
        vocabulary=review.bundle.vocabulary.names,
        data=table.to_json(),
        cards=cards,
    )
    return [Note(told), *([Note(command)] if command else []), Block(Markup(bar))]
