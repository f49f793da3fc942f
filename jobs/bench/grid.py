"""The table of GRID's clips, read from their file names, which spell what is said.

Letters of a name are command, colour, preposition, letter, digit and adverb (Cooke et al. 2006,
An audio-visual corpus for speech perception and automatic speech recognition). Letter and digit
are left out: among a hundred clips, hardly any of them occurs twice. Every fifth clip is for
validation, every fifth for the test.
"""

import csv
from pathlib import Path

WORDS = {
    "command": (0, {"b": "bin", "l": "lay", "p": "place", "s": "set"}),
    "colour": (1, {"b": "blue", "g": "green", "r": "red", "w": "white"}),
    "preposition": (2, {"a": "at", "b": "by", "i": "in", "w": "with"}),
    "adverb": (5, {"a": "again", "n": "now", "p": "please", "s": "soon"}),
}
SPLITS = ("train", "train", "train", "val", "test")


def write_table(clips: Path, table: Path) -> None:
    """Write a row for each clip of a folder."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "id", "labels", "split"])
        for i, clip in enumerate(sorted(clips.absolute().glob("*.mpg"))):
            labels = [f"{kind}:{words[clip.stem[at]]}" for kind, (at, words) in WORDS.items()]
            out.writerow([clip, clip.stem, ";".join(labels), SPLITS[i % 5]])
