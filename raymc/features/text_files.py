"""Bytes of a text file to text: UTF-8, or the encoding that the bytes themselves speak for.

Spreadsheets and subtitle editors write whatever encoding their machine is set to. chardet ranks
the encodings; it is the only detector we tried that is right on a single short line. The readings
with the fewest words that no person writes, such as words of two scripts, are compared. If two are
equally likely, the file is refused.
"""

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from raymc.errors import DataError

# What spreadsheets and subtitle editors write. Of rarer ones a few letters say too little.
_USUAL = (
    *(f"cp{number}" for number in (1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 850, 866, 874)),
    *("iso8859-2", "iso8859-5", "iso8859-15", "mac-roman", "koi8-r", "utf-16-le", "utf-16-be"),
    *("cp932", "euc-jp", "gb18030", "big5", "cp949"),
)
_JAPANESE_ENCODINGS = ("cp932", "euc-jp")
_SURE = 0.3  # chardet's confidence on some lines of text; on a single word it is 0.01 to 0.1
_CLEAR, _MUCH, _LARGE = 1.05, 1.5, 3.0  # factors by which one reading is likelier than another
_COMMONEST = "Windows-1252"  # what Excel and most editors wrote
_TURKISH = "Windows-1254"  # differs from it in six letters, which there are Icelandic
_MOST_BYTES = 200_000  # that are looked at
_JAPANESE = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}  # in one word
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa]")
_COMMON = {"gb18030": "gb2312", "cp949": "euc-kr"}  # the part of each in which people write
# Letters of languages written in Latin ones, beside a to z. Few words have those of two.
_ALPHABETS = (
    *("äöüß", "àâäæçèéêëîïñôöùûüÿœ", "áéíñóúü", "àáâãçéêíóôõúü", "àèéìíîïòóùú", "àçèéíïòóúü"),
    *("èéêëïöüû", "áéëíïóöü", "äåéöü", "àåæéèêøòóôü", "áæðéíóöúýþ", "äõöüšž", "âêîôûŵŷ", "çë"),
    *("áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "ąćęłńóśźż", "áéíóöőúüű", "ăâîșşțţ", "ćčđšž"),
    *("ąčęėįšųūž", "āčēģīķļņšūž", "çğıi\u0307öşüâîû", "ċġħż"),
)
_WORD = re.compile(r"[^\W\d_]+")
_SYMBOL_IN_WORD = re.compile(r"[^\W\d_][^\w\s!-~’‘‐-―·…“”„«»、-」・！，？]+[^\W\d_]")


def decode_text(
    data: bytes, where: str, encoding: str = "", *, expected: str, option: str = ""
) -> tuple[str, str]:
    """Decode a text file.

    Args:
        data: Its bytes.
        where: Its path, for messages.
        encoding: Its encoding; empty: that of its byte order mark, or UTF-8, or the likeliest.
        expected: What the file should be, for messages.
        option: The option that names the encoding, for messages; empty if there is none.

    Returns:
        The text without a byte order mark, its lines ended by a line feed alone, and the name of
        the encoding; `UTF-8` also for plain ASCII.

    Raises:
        DataError: The bytes are no text in that encoding, or could equally well be in several.
    """
    if encoding:
        text, name = _decode_as(data, where, encoding), encoding
    else:
        text, name = _detect(data, where, option)
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


def _detect(data: bytes, where: str, option: str) -> tuple[str, str]:
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
    chosen, rival = found[0][1], _rival(found)
    if rival:
        raise DataError(
            f"{where}: not in UTF-8; it may be {chosen} or {rival}: save it as UTF-8"
            + (f", or name its encoding with {option}" if option else "")
        )
    return _decode_as(data, where, chosen), chosen


def _rival(found: Sequence[tuple[float, str]]) -> str:
    """Return the reading that is too likely for the first to be trusted; empty if none is.

    On a few letters chardet is easily wrong, so the commonest encoding counts for more there.
    """
    best, name = found[0]
    for confidence, other in found[1:]:
        if name == _COMMONEST:
            is_rival = best < _SURE and (other == _TURKISH or best == confidence)
        elif other == _COMMONEST and name != _TURKISH:
            is_rival = best < _LARGE * confidence
        else:
            is_rival = best < (_CLEAR if best > _SURE else _MUCH) * confidence
        if is_rival:
            return other
    return ""


def _readings(data: bytes) -> list[tuple[float, str]]:
    """Return the encodings that give different and plausible texts, with chardet's confidence."""
    import chardet

    # most lines may be plain ASCII, which says nothing
    telling = [line for line in data.splitlines(keepends=True) if not line.isascii()]
    sample = data if b"\0" in data else b"".join(telling)
    ranked = chardet.detect_all(
        sample[:_MOST_BYTES], ignore_threshold=True, include_encodings=_USUAL
    )
    confidence = {str(guess["encoding"]): float(guess["confidence"]) for guess in ranked}
    found: dict[str, tuple[float, str]] = {}
    odd: dict[str, int] = {}
    for name in (*confidence, *_JAPANESE_ENCODINGS):  # of which it finds short ones rarely
        try:
            text = data.decode(name)
        except (UnicodeError, LookupError):
            continue
        if text not in found and not _has_controls(text):
            is_common = data.decode(_COMMONEST, "replace") == text
            found[text] = confidence.get(name, 0.0), _COMMONEST if is_common else name
            odd[text] = _count_odd(text, name)
            if name.lower() in _JAPANESE_ENCODINGS and not odd[text] and _is_japanese(text):
                return [found[text]]
    fewest = min(odd.values(), default=0)
    return [one for text, one in found.items() if odd[text] == fewest]


def _is_japanese(text: str) -> bool:
    """Whether there are so many kana that no other encoding can be meant."""
    letters = [c for c in text if c.isalpha() and not c.isascii()]
    return len(letters) > 1 and 3 * len(_KANA.findall(text)) >= len(letters)


def _has_controls(text: str) -> bool:
    unseen = {"Cc", "Cn", "Co"}
    return any(unicodedata.category(c) in unseen and c not in "\t\r\n\f\v" for c in set(text))


def _count_odd(text: str, encoding: str) -> int:
    """Count what people do not write: words of two scripts, symbols and capitals within words."""
    vowels = [c for c in set(text) if unicodedata.category(c).startswith("M")]  # of Thai
    text = text.translate(dict.fromkeys(map(ord, vowels)))
    common = _COMMON.get(encoding.lower())
    odd = len(_SYMBOL_IN_WORD.findall(text))
    words = Counter(word for word in _WORD.findall(text) if not word.isascii())
    for word, count in words.items():
        is_rare = common and (_KANA.search(word) or not _is_in(word, common))
        odd += count * (_is_odd(word) + bool(is_rare))
    return odd


def _is_in(word: str, encoding: str) -> bool:
    try:
        word.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _is_odd(word: str) -> bool:
    scripts = {unicodedata.name(letter, " ").partition(" ")[0] for letter in word}
    is_humped = re.search("aA|AAa", "".join("A" if c.isupper() else "a" for c in word)) is not None
    others = {c for c in word.lower() if not c.isascii()}
    is_known = scripts != {"LATIN"} or any(others <= {*known} for known in _ALPHABETS)
    return is_humped or not is_known or (len(scripts) > 1 and not scripts <= _JAPANESE)
