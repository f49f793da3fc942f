"""What the 19 classes of the lessons mean: what a scene of each shows, says and moves.

The classes are those of APPROVE (Gupta et al. 2023), described after the wording of the Common
Core State Standards for kindergarten. A scene is a few steps; a step is a picture, or several that
follow each other, and what is said meanwhile. Classes that are easily confused share all but one
cue, which the table below names, so no modality tells all classes apart:

| class | what decides |
|---|---|
| letter_names | says the name of the letter that is shown |
| letter_sounds | says the sound of the letter that is shown; the picture is the same |
| sight_words | says a whole short word that is written |
| letters_in_words | names the letters of the written word one by one; the picture is the same |
| sounds_in_words | says the sounds of the written word one by one; the picture is the same |
| follow_words | marks each word of a written sentence while it is said; else it is only read |
| rhyming | says two words that rhyme, without any written; else two that don't |
| written_numerals | names the numeral that is shown beside as many objects |
| counting | says the numbers up to it in order; the picture is the same |
| quantity_of_objects | says how many objects there are; the picture is the same |
| addition_subtraction | shows and says a sum or a difference |
| measurable_attributes | says which of two bars is longer |
| spatial_language | says where one object is; the picture has two bars and an object, too |
| shape_id | one of four shapes moves out and grows; all else is the same as in the next four |
| sorting | the shapes move into groups of one kind |
| comparing_groups | the shapes of two groups move into rows, one against one |
| analyze_compare_shapes | two shapes move together, and their corners are marked |
| building_drawing_shapes | a shape is drawn side by side |
| background | none of these: talk, and halves of the other classes' cues |

On a contact sheet, a person tells the groups of look-alikes apart at a glance, and the classes of a
group not at all, but for the last pictures of those that move. The single sounds of letters are
what a synthesiser says worst: a recogniser of speech hears `buh` as any short word.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LITERACY = {
    "N": "letter_names",
    "S": "letter_sounds",
    "L": "letters_in_words",
    "D": "sounds_in_words",
    "G": "sight_words",
    "R": "rhyming",
    "F": "follow_words",
}
MATH = {
    "c": "counting",
    "w": "written_numerals",
    "q": "quantity_of_objects",
    "e": "comparing_groups",
    "a": "addition_subtraction",
    "m": "measurable_attributes",
    "t": "sorting",
    "s": "shape_id",
    "d": "analyze_compare_shapes",
    "b": "building_drawing_shapes",
    "p": "spatial_language",
}
BACKGROUND = "background"

# How often each set of labels occurs in APPROVE's release (all splits); once where no number is.
MATH_SETS = """
cqw:74 m:52 acqw:41 ceqw:37 cw:27 p:24 cepqw:23 cpqw:22 mp:17 ds:16 aqw:15 bs:14 pt:13 acq:11
a:10 s:10 t:10 bps:8 cdqsw:8 eqw:8 mpq:8 acpqw:7 bdps:7 mq:7 mt:7 mw:7 cmqw:6 cpq:6 mst:6 st:6
bdmpqs:5 cmpqw:5 epqw:5 mpst:5 pqt:5 bcdmpqs:4 bcdqsw:4 bdpqs:4 cdmqsw:4 ceq:4 dms:4 mps:4 mpw:4
bcdmqs:3 bmps:3 c:3 cepqw:3 cdmpqst:3 cdmqs:3 cpqt:3 cpw:3 cq:3 dmpst:3 mqt:3 pqst:3 pst:3
q:3 qt:3 sw:3 aceqw:2 acw:2 amw:2 aq:2 bcpqs:2 bcqsw:2 bdms:2 bds:2 bdsw:2 bpqs:2 cdmpqsw:2
cempqw:2 cemqstw:2 ceqsw:2 cmpq:2 cmq:2 cmw:2 cpqsw:2 cpt:2 cqtw:2 cstw:2 dps:2 dst:2 e:2 mpqt:2
mpqw:2 mpt:2 mqsw:2 ms:2 ps:2 pw:2 qst:2 abcdmpqs acdqsw acepqw am aqstw b bcdmpqsw bcdpqs
bcdpqsw bcdqs bcds bcmpqsw bcmqs bcmqw bcpq bcqs bdmps bdmqsw bmpqsw bmpqw bmqs bp bpsw ceqw
cdmpqs cdmsw cdpqst cdpst cdqstw cdsw cempqstw cemqw cepqtw ceqt cm cmpqstw cmpqt cmpqtw cmpw
cmqst cp cpqs cpqtw cqstw dmst dpqs dpst dpt dptw dqs dqst dqw eqw emqw ep epw mptw mqw pqs
qw s stw w
"""
LITERACY_SETS = """
N:129 F:60 R:41 FN:21 G:20 LN:19 DS:18 GN:17 FG:16 S:15 NS:14 FR:13 GR:12 DGS:11 FGN:11 GL:11
GLN:11 LNS:11 GLNS:10 GNS:10 GS:9 DGNS:8 DNS:7 FLNS:6 FS:5 LS:5 DFS:4 DLNS:4 FGL:4 FGLN:3
FGLNS:3 FGR:3 FGS:3 D:2 DFGLNS:2 DFGS:2 FGLNR:2 FLN:2 FNR:2 GLS:2 NR:2 DFGLNRS DFGNS DFGRS DFLN
DFLNRS DFLS DFNS DGLNS DGLRS DGLS DLN DLS DRS FGNR FGNS FGRS FL FLS FNS GNRS L LR
"""
# Videos by split: math, literacy, background (which is in no split of the release: 3 to 1 to 1).
COUNTS = {"train": (441, 307, 111), "val": (149, 135, 37), "test": (149, 130, 37)}


@dataclass(frozen=True)
class Mark:
    """Something on a picture, at `x`, `y` (its middle) and of `size`, all in parts of the height.

    `kind` is `text`, `outline` (of which `done` sides are drawn), `bar`, or the name of a shape.
    """

    kind: str
    x: float
    y: float
    size: float
    text: str = ""
    colour: int = 0
    done: int = 99


Picture = tuple[Mark, ...]


@dataclass(frozen=True)
class Step:
    """What is said while pictures follow each other, evenly."""

    said: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Scene:
    """Some steps, and the facts by which a reader of the list of cues knows what they are.

    `facts` are the letter, word, number or shapes of the scene, and what moves.
    """

    steps: tuple[Step, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Things:
    """What the lessons of a split are about; no two splits share anything but letters and numbers.

    `phrases` has, per class, sentences with places for what they are about.
    """

    words: tuple[str, ...]
    rhymes: tuple[tuple[str, str], ...]
    sight_words: tuple[str, ...]
    sentences: tuple[str, ...]
    objects: Mapping[str, str]  # from the spoken plural to the shape that is drawn
    talk: tuple[str, ...]
    phrases: Mapping[str, tuple[str, ...]]
    fonts: tuple[str, ...]
    voices: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    papers: tuple[tuple[int, int, int], ...]


THINGS = {
    "train": Things(
        words=("cat", "dog", "sun", "pig", "bed", "map", "fox", "cup", "net", "jam"),
        rhymes=(("cat", "hat"), ("dog", "frog"), ("sun", "bun"), ("pig", "wig"), ("bed", "red")),
        sight_words=("the", "and", "you", "said", "was", "they"),
        sentences=("the cat sat on the mat", "we go to the park", "my dog can run fast"),
        objects={"stars": "star5", "balls": "circle", "boxes": "polygon4"},
        talk=(
            "The weather is nice today.",
            "Hello friends, welcome back to our show.",
            "My brother went to the beach.",
            "Let us have a snack together.",
        ),
        phrases={
            "N": ("This is the letter {0}.", "The name of this letter is {0}.", "Look, it is {0}."),
            "S": (
                "This letter says {0}, {0}.",
                "Its sound is {0}, {0}.",
                "It makes the sound {0}.",
            ),
            "w": ("This is the number {0}.", "Here is a {0}.", "This numeral is {0}."),
            "q": ("There are {0} {1}.", "I see {0} {1}.", "We have {0} {1} here."),
            "m": (
                "The {0} bar is longer.",
                "The {0} one is the longer one.",
            ),
            "p": ("The {0} is above the line.", "The {0} is over it, on top."),
            "G": ("This word is {0}.", "Read it with me: {0}."),
            "R": ("Listen: {0}, {1}.", "Hear the ends: {0} and {1}."),
            "look": ("Look at this.", "Now watch closely.", "What happens here?"),
        },
        fonts=("DejaVuSans", "DejaVuSansMono"),
        voices=("en-us+m1", "en-us+f1", "en-us+m3", "en-us+f2", "en-us+m4"),
        colours=((200, 40, 40), (30, 60, 170), (20, 120, 60), (120, 40, 140)),
        papers=((250, 245, 225), (225, 240, 250), (240, 230, 245)),
    ),
    "val": Things(
        words=("hen", "bus", "lip", "top", "van"),
        rhymes=(("hen", "pen"), ("log", "fog"), ("van", "can")),
        sight_words=("have", "are", "with"),
        sentences=("a hen is in the pen", "look at the big bus"),
        objects={"hexagons": "polygon6", "diamonds": "diamond"},
        talk=("It is raining outside.", "I have a song for you.", "Grandma baked some bread."),
        phrases={
            "N": ("Here we have the letter {0}.", "We call this letter {0}."),
            "S": ("Say it with me: {0}, {0}.", "You can hear {0}, {0}."),
            "w": ("That is the numeral {0}.", "We write {0} like this."),
            "q": ("You can see {0} {1}.",),
            "m": ("The {0} bar has more length.",),
            "p": ("You find the {0} higher than the line.",),
            "G": ("We read this word as {0}.",),
            "R": ("Can you hear it? {0}, {1}.",),
            "look": ("Let us see.", "Here it comes."),
        },
        fonts=("DejaVuSerif",),
        voices=("en-us+m7", "en-us+f4"),
        colours=((170, 80, 20), (20, 110, 130)),
        papers=((235, 250, 230), (250, 235, 230)),
    ),
    "test": Things(
        words=("rug", "zip", "web", "nut", "box"),
        rhymes=(("rug", "bug"), ("jet", "wet"), ("nut", "hut")),
        sight_words=("like", "come", "what"),
        sentences=("the bug is on a rug", "come and see my box"),
        objects={"triangles": "polygon3", "pentagons": "polygon5"},
        talk=("The train leaves at noon.", "Clap your hands, everyone.", "The garden needs water."),
        phrases={
            "N": ("See, that letter is called {0}.", "Say the letter's name: {0}."),
            "S": ("When we read it, we say {0}, {0}.", "Hear its sound: {0}."),
            "w": ("This one is written {0}.", "Point to the number {0}."),
            "q": ("Altogether, there are {0} {1}.",),
            "m": ("Of the two bars, the {0} is longer.",),
            "p": ("Above the line there is the {0}.",),
            "G": ("Together now, the word is {0}.",),
            "R": ("Say both of them: {0}, {1}.",),
            "look": ("Keep your eyes open.", "See what comes next."),
        },
        fonts=("STIXGeneral",),
        voices=("en-us+m8", "en-us+f5"),
        colours=((60, 60, 60), (150, 30, 90)),
        papers=((245, 245, 245), (230, 235, 225)),
    ),
}


def spelt(said: str) -> str:
    """Return what is said as a person would write it down, such as `B says buh`."""
    return _PHONEMES.sub(lambda found: f"{found[1].lower()}uh", said)


_PHONEMES = re.compile(r"\[\[(\w+)@?\]\]")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# eSpeak's phonemes of the letters' sounds.
SOUNDS = {letter: f"[[{letter}@]]" for letter in "bdfghklmnprstvwyz"} | {
    "c": "[[k@]]",
    "j": "[[dZ@]]",
    "x": "[[ks@]]",
    "a": "[[a]]",
    "e": "[[E]]",
    "i": "[[I]]",
    "o": "[[0]]",
    "u": "[[V]]",
}
LETTERS = "bdfgklmnprstvwz"


def _pick(rng: np.random.Generator, values: Any) -> Any:
    values = list(values)
    return values[rng.integers(len(values))]


def _phrase(things: Things, code: str, rng: np.random.Generator, *about: str) -> str:
    return _pick(rng, things.phrases[code]).format(*about)


def _text(text: str, *, y: float = 0.5, size: float = 0.4, x: float = 0.9, colour: int = 0) -> Mark:
    return Mark("text", x, y, size, text, colour)


def _letter(things: Things, rng: np.random.Generator, say: str | None) -> Scene:
    letter = _pick(rng, LETTERS)
    about = {"N": letter.upper(), "S": SOUNDS[letter]}.get(say or "", "")
    said = _phrase(things, say, rng, about) if say else _pick(rng, things.talk)
    shown = _text(letter.upper(), x=rng.uniform(0.5, 1.3), colour=int(rng.integers(4)))
    return Scene((Step(said, ((shown,),)),), {"letter": letter, "says": about})


def _word(things: Things, rng: np.random.Generator, say: str | None) -> Scene:
    word = _pick(rng, things.sight_words if say in (None, "G") else things.words)
    parts = {
        "G": [_phrase(things, "G", rng, word)] if say == "G" else [],
        "L": [f"{word}.", *(f"{letter.upper()}." for letter in word)],
        "D": [f"{word}.", *(f"{SOUNDS[letter]}." for letter in word)],
    }
    said = parts[say] if say else [_pick(rng, things.talk)]
    picture = (_text(word, size=0.3, colour=int(rng.integers(4))),)
    steps = tuple(Step(one, (picture,)) for one in said)
    return Scene(steps, {"word": word, "says": said})


def _sentence(things: Things, rng: np.random.Generator, *, follows: bool) -> Scene:
    sentence = _pick(rng, things.sentences)
    words = sentence.split()
    y = rng.uniform(0.3, 0.7)

    def picture(marked: int) -> Picture:
        lines = [words[: len(words) // 2], words[len(words) // 2 :]]
        marks = []
        for row, line in enumerate(lines):
            for column, word in enumerate(line):
                number = row * len(lines[0]) + column
                x = 0.9 + (column - (len(line) - 1) / 2) * 0.45
                colour = 1 if number == marked else 0
                size = 0.13 if number == marked else 0.11
                marks.append(_text(word, x=x, y=y + 0.22 * row - 0.1, size=size, colour=colour))
        return tuple(marks)

    if follows:
        steps = tuple(Step(f"{word}.", (picture(i),)) for i, word in enumerate(words))
    else:
        steps = (Step(f"{sentence}.", (picture(-1),)),)
    return Scene(steps, {"sentence": sentence, "follows": follows})


def _rhyme(things: Things, rng: np.random.Generator, *, rhymes: bool) -> Scene:
    one, other = _pick(rng, things.rhymes)
    if not rhymes:
        other = _pick(rng, [pair[1] for pair in things.rhymes if pair[0] != one])
    shapes = [*things.objects.values()]
    marks = tuple(
        Mark(_pick(rng, shapes), x, 0.5, 0.3, colour=int(rng.integers(4))) for x in (0.5, 1.3)
    )
    said = _phrase(things, "R", rng, one, other)
    return Scene((Step(said, (marks,)),), {"pair": (one, other)})


def _objects(things: Things, rng: np.random.Generator, count: int, plural: str) -> list[Mark]:
    colour = int(rng.integers(4))
    across = 5
    return [
        Mark(things.objects[plural], 0.3 + 0.3 * (i % across), 0.3 + 0.28 * (i // across), 0.2,
             colour=colour)
        for i in range(count)
    ]  # fmt: skip


def _number(things: Things, rng: np.random.Generator, say: str | None) -> Scene:
    count, plural = int(rng.integers(3, 8)), _pick(rng, things.objects)
    picture = (
        *_objects(things, rng, count, plural),
        _text(str(count), y=0.83, size=0.25, colour=int(rng.integers(4))),
    )
    said = {
        "w": lambda: [_phrase(things, "w", rng, NUMBERS[count - 1])],
        "c": lambda: [f"{number}." for number in NUMBERS[:count]],
        "q": lambda: [_phrase(things, "q", rng, NUMBERS[count - 1], plural)],
        None: lambda: [_pick(rng, things.talk)],
    }[say]()
    return Scene(
        tuple(Step(one, (picture,)) for one in said),
        {"count": count, "objects": plural, "says": said},
    )


def _sum(things: Things, rng: np.random.Generator) -> Scene:
    one, other = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    adds = rng.random() < 0.6
    first, sign, result = (one, "+", one + other) if adds else (one + other, "-", one)
    verb = "plus" if adds else "minus"
    said = f"{NUMBERS[first - 1]} {verb} {NUMBERS[other - 1]} is {NUMBERS[result - 1]}."
    shown = f"{first} {sign} {other} = {result}"
    picture = (_text(shown, size=0.25, colour=int(rng.integers(4))),)
    return Scene((Step(said, (picture,)),), {"sum": (first, sign, other, result)})


def _bars(things: Things, rng: np.random.Generator, say: str | None) -> Scene:
    upper, lower = rng.permutation([0.35, 0.7]).tolist()
    plural = _pick(rng, things.objects)
    picture = (
        Mark("bar", 0.9, 0.55, upper, colour=0),
        Mark("bar", 0.9, 0.75, lower, colour=1),
        Mark(things.objects[plural], rng.uniform(0.5, 1.3), 0.25, 0.2, colour=2),
    )
    singular = plural.removesuffix("es" if plural.endswith("xes") else "s")
    about = {"m": "upper" if upper > lower else "lower", "p": singular}.get(say or "", "")
    said = _phrase(things, say, rng, about) if say else _pick(rng, things.talk)
    return Scene((Step(said, (picture,)),), {"longer": upper > lower, "says": (say, about)})


def _moving(things: Things, rng: np.random.Generator, motion: str | None) -> Scene:
    """Four shapes of two kinds, and what they do; what is said never differs."""
    kinds = [_pick(rng, things.objects.values()), "polygon8"]
    colours = rng.permutation(4)[:2].tolist()
    order = rng.permutation([0, 1, 0, 1]).tolist()
    spots = [(0.35 + 0.37 * i, rng.uniform(0.3, 0.7)) for i in range(4)]
    start = [Mark(kinds[k], x, y, 0.2, colour=colours[k]) for k, (x, y) in zip(order, spots)]
    ends = _ends(start, order, motion)
    parts = (0.0, 0.25, 0.5, 0.75, 1.0, 1.0)
    pictures = tuple(
        tuple(_between(one, end, part) for one, end in zip(start, ends))
        + (_corners(ends) if motion == "d" and part == 1.0 else ())
        for part in parts
    )
    if motion == "b":
        whole = Mark("outline", 0.9, 0.5, 0.55, text=kinds[0], colour=colours[0])
        sides = (0, 1, 2, 3, 4, 99)
        pictures = tuple(
            (Mark(whole.kind, whole.x, whole.y, whole.size, whole.text, whole.colour, done),)
            for done in sides
        )
    said = [_phrase(things, "look", rng), _phrase(things, "look", rng)]
    half = len(pictures) // 2
    steps = (Step(said[0], pictures[:half]), Step(said[1], pictures[half:]))
    return Scene(steps, {"motion": motion})


def _ends(start: list[Mark], order: list[int], motion: str | None) -> list[Mark]:
    """Where each shape ends: Mark(kind, x, y, size) by the motion of a class."""
    seen = [0, 0]
    ends = []
    for number, (mark, kind) in enumerate(zip(start, order)):
        x, y, size = mark.x, mark.y, mark.size
        if motion == "s" and number == 0:
            x, y, size = 0.9, 0.5, 0.7
        elif motion == "t":
            x, y = 0.35 + 1.1 * kind, 0.35 + 0.3 * seen[kind]
        elif motion == "e":
            x, y = 0.7 + 0.4 * seen[kind], 0.35 + 0.3 * kind
        elif motion == "d" and seen[kind] == 0:
            x, y, size = 0.7 + 0.4 * kind, 0.5, 0.35
        seen[kind] += 1
        ends.append(Mark(mark.kind, x, y, size, colour=mark.colour))
    return ends


def _between(one: Mark, end: Mark, part: float) -> Mark:
    x, y, size = (
        round(a + part * (b - a), 4)
        for a, b in ((one.x, end.x), (one.y, end.y), (one.size, end.size))
    )
    return Mark(one.kind, x, y, size, colour=one.colour)


def _corners(ends: list[Mark]) -> Picture:
    return tuple(
        Mark("circle", mark.x + dx, mark.y - 0.2, 0.06, colour=3)
        for mark in ends
        if mark.size > 0.3
        for dx in (-0.08, 0.0, 0.08)
    )


def _talk(things: Things, rng: np.random.Generator) -> Scene:
    shapes = [*things.objects.values()]
    marks = tuple(
        Mark(_pick(rng, shapes), rng.uniform(0.2, 1.6), rng.uniform(0.2, 0.8),
             rng.uniform(0.1, 0.3), colour=int(rng.integers(4)))
        for _ in range(3)
    )  # fmt: skip
    return Scene((Step(_pick(rng, things.talk), (marks,)),), {})


# A scene of each class, and halves of their cues, which are of no class.
SCENES: Mapping[str, Callable[[Things, np.random.Generator], Scene]] = {
    **{code: lambda t, r, code=code: _letter(t, r, code) for code in "NS"},
    **{code: lambda t, r, code=code: _word(t, r, code) for code in "GLD"},
    "F": lambda t, r: _sentence(t, r, follows=True),
    "R": lambda t, r: _rhyme(t, r, rhymes=True),
    **{code: lambda t, r, code=code: _number(t, r, code) for code in "wcq"},
    "a": _sum,
    **{code: lambda t, r, code=code: _bars(t, r, code) for code in "mp"},
    **{code: lambda t, r, code=code: _moving(t, r, code) for code in "stedb"},
}
DISTRACTORS: tuple[Callable[[Things, np.random.Generator], Scene], ...] = (
    _talk,
    lambda t, r: _letter(t, r, None),
    lambda t, r: _word(t, r, None),
    lambda t, r: _sentence(t, r, follows=False),
    lambda t, r: _rhyme(t, r, rhymes=False),
    lambda t, r: _number(t, r, None),
    lambda t, r: _bars(t, r, None),
    lambda t, r: _moving(t, r, None),
)


def label_of(scene: Scene) -> str | None:
    """Read a scene's list of cues by the rules above: its class, None for a distractor.

    It looks at what is shown, said and moved only, not at how the scene was drawn.
    """
    facts = scene.facts
    said = [step.said.rstrip(".") for step in scene.steps]
    if "letter" in facts:
        heard = said[0].replace(",", " ").split()
        code = "N" if facts["letter"].upper() in heard else None
        code = "S" if SOUNDS[facts["letter"]] in heard else code
    elif "word" in facts:
        letters = [*facts["word"]]
        if said[1:] == [letter.upper() for letter in letters]:
            code = "L"
        elif said[1:] == [SOUNDS[letter] for letter in letters]:
            code = "D"
        else:
            code = "G" if said[0].split()[-1] == facts["word"] else None
    elif "sentence" in facts:
        code = "F" if said == facts["sentence"].split() else None
    elif "pair" in facts:
        one, other = facts["pair"]
        code = "R" if one[-2:] == other[-2:] else None
    elif "count" in facts:
        number, plural = NUMBERS[facts["count"] - 1], facts["objects"]
        heard = " ".join(said).split()
        if said == [*NUMBERS[: facts["count"]]]:
            code = "c"
        else:
            code = ("q" if plural in heard else "w") if number in heard else None
    elif "sum" in facts:
        first, sign, other, result = facts["sum"]
        code = "a" if result == (first + other if sign == "+" else first - other) else None
    elif "longer" in facts:
        heard = {*said[0].casefold().split()}
        code = "p" if heard & {"above", "over", "higher"} else None
        code = "m" if heard & {"upper", "lower"} else code
    else:
        code = facts.get("motion")
    return {**LITERACY, **MATH}.get(code or "")
