"""Bytes of a text file to text: UTF-8, or the encoding that the bytes themselves speak for.

Spreadsheets and subtitle editors write whatever encoding their machine is set to. chardet ranks
the encodings; it is the only detector we tried that is right on a single short line. Readings that
no person would write, such as words of mixed scripts, are passed over. If two readings are equally
likely, the file is refused.
"""

import codecs
import re
import unicodedata
from contextlib import suppress
from itertools import pairwise

from raymc.errors import DataError

# What spreadsheets and subtitle editors write. Of rarer ones a few letters say too little.
_USUAL = (
    *(f"cp{number}" for number in (1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 850, 866, 874)),
    *("iso8859-2", "iso8859-5", "iso8859-15", "mac-roman", "koi8-r", "utf-16-le", "utf-16-be"),
    *("cp932", "euc-jp", "gb18030", "big5", "cp949"),
)
_MOST_BYTES = 200_000  # that are looked at
_CLEAR = 1.05  # by this factor the likeliest reading must be ahead of the next
_ODD_SHARE = 0.01  # of words that a reading may have and still be text
_WORD = re.compile(r"[^\W\d_]+")
_SYMBOL_IN_WORD = re.compile(r"[^\W\d_][^\w\s!-~’‘‐-―·…“”„«»]+[^\W\d_]")


def decode_text(data: bytes, where: str, encoding: str = "", *, expected: str) -> tuple[str, str]:
    """Decode a text file.

    Args:
        data: Its bytes.
        where: Its path, for messages.
        encoding: Its encoding; empty: that of its byte order mark, or UTF-8, or the likeliest.
        expected: What the file should be, for messages.

    Returns:
        The text without a byte order mark, its lines ended by a line feed alone, and the name of
        the encoding; `UTF-8` also for plain ASCII.

    Raises:
        DataError: The bytes are no text in that encoding, or could equally well be in several.
    """
    if encoding:
        text, name = _decode_as(data, where, encoding), encoding
    else:
        text, name = _detect(data, where)
    if "\0" in text:
        raise DataError(f"{where}: not a text; expected {expected}")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), name


def _decode_as(data: bytes, where: str, encoding: str) -> str:
    try:
        return data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError:
        raise DataError(
            f"unknown encoding {encoding!r}; expected a name such as utf-8 or windows-1252"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{where}: not in the encoding {encoding}: {error}") from error


def _detect(data: bytes, where: str) -> tuple[str, str]:
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return _decode_as(data, where, "utf-32"), "UTF-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _decode_as(data, where, "utf-16"), "UTF-16"
    is_wide = b"\0" in data  # as UTF-16 is without a mark; no other text is
    with suppress(UnicodeDecodeError):
        text = data.decode("utf-8")
        if not is_wide:
            return text, "UTF-8"
    found = [one for one in _readings(data) if one[1].startswith("utf-16") or not is_wide]
    if not found and is_wide:
        return "\0", ""
    if not found:
        raise DataError(
            f"{where}: neither UTF-8 nor another encoding that makes sense of it; save it as UTF-8"
        )
    best, others = found[0], found[1:]
    if others and best[0] < _CLEAR * others[0][0] and "Windows-1252" not in (best[1], others[0][1]):
        raise DataError(
            f"{where}: not in UTF-8; it may be {best[1]} or {others[0][1]}: save it as UTF-8, or "
            "name its encoding with --encoding"
        )
    return _decode_as(data, where, best[1]), best[1]


def _readings(data: bytes) -> list[tuple[float, str]]:
    """Return the encodings that give different and plausible texts, with chardet's confidence."""
    import chardet

    # most lines may be plain ASCII, which says nothing
    telling = [line for line in data.splitlines(keepends=True) if not line.isascii()]
    sample = data if b"\0" in data else b"".join(telling)
    found: dict[str, tuple[float, str]] = {}
    ranked = chardet.detect_all(
        sample[:_MOST_BYTES], ignore_threshold=True, include_encodings=_USUAL
    )
    for guess in ranked:
        name = str(guess["encoding"])
        try:
            text = data.decode(name)
        except (UnicodeError, LookupError):
            continue
        if text not in found and _is_plausible(text):
            found[text] = float(guess["confidence"]), name
    return list(found.values())


def _is_plausible(text: str) -> bool:
    """Whether a person may have written a text: letters of one script, and no symbols in words."""
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    odd = sum(map(_is_odd, words)) + len(_SYMBOL_IN_WORD.findall(text))
    unseen = {"Cc", "Cn", "Co"}
    controls = any(unicodedata.category(c) in unseen and c not in "\t\r\n\f\v" for c in set(text))
    return not controls and odd <= _ODD_SHARE * len(words)


def _is_odd(word: str) -> bool:
    scripts = {unicodedata.name(letter, " ").partition(" ")[0] for letter in word}
    pairs = pairwise(word)
    hump = any(a.islower() and b.isupper() and not (a + b).isascii() for a, b in pairs)
    return hump or ("LATIN" in scripts and len(scripts) > 1)
