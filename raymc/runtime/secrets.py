"""Secrets in what `raymc submit` would send, found by what they look like, and never shown.

detect-secrets knows the keys and tokens of many services. Ours is what it lacks:
- Its detectors that go by entropy or keywords are left out, because hashes, lock files, notebooks
  and ordinary code are full of what they find; and so are the slow ones for a few old services.
- A placeholder such as `${PASSWORD}`, `<token>` or `AKIAIOSFODNN7EXAMPLE` is no secret.
- A private key has a body: code that looks for its first line is no key.
- Hugging Face's, Google's and GitHub's newer tokens, and passwords in files of settings.
A line that ends in detect-secrets' comment `pragma: allowlist secret` is passed over.

detect-secrets is imported inside functions, because it imports requests.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from raymc.addresses import has_password

LARGEST_BYTES = 1 << 20  # of a file that is searched
_LEFT_OUT = {
    *("Basic Auth Credentials", "Private Key", "Public IP (ipv4)", "Artifactory Credentials"),
    *("Cloudant Credentials", "SoftLayer Credentials"),
    *("IBM Cloud IAM Key", "IBM COS HMAC Credentials"),
}
_MORE = {
    "Private Key": r"BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-+(?:\s|\\[nr]|[\"'+,])+"
    r"(?:[\w-]+: [^\n\\]*(?:\s|\\n)+)*[A-Za-z0-9+/]{8}|^PuTTY-User-Key-File-\d"
    # the same in base64, as in kubectl's settings: RSA, EC, OPENSSH, ENCRYPTED or none
    r"|LS0tLS1CRUdJTi(?:BSU0Eg|BFQyBQ|BPUEVO|BFTkNS|BQUklW)[A-Za-z0-9+/]{20}",
    "Hugging Face Token": r"hf_[A-Za-z0-9]{30,}\b",
    "GitHub Token": r"github_pat_\w{60,}\b",
    "Google API Key": r"AIza[\w-]{35}(?![\w-])",
    "Anthropic Token": r"sk-ant-[\w-]{40,}",
}
# An address with a password before its host, or in its query.
_ADDRESS = re.compile(
    r"""[\w+.-]+://(?:[^\s/?\#"'`:@]*:(?P<typed>[^\s"'`<>]+)@[\w.\[-][^\s"'`<>]*"""
    r"""|[^\s"'`<>]*[?&](?:\w*(?:pass|password|passwd|pwd|secret|token|signature|key)|sig)="""
    r"""(?P<made>[^\s&"'`<>]{8,}))""",
    re.IGNORECASE,
)
# A line of a file of settings or of a shell script that sets a password.
_SETTING = re.compile(
    r"""(?:^|[{,;])[\s-]*(?:export\s+)?["']?(?P<key>[\w.-]*(?:pass|password|passwd|passphrase|pwd"""
    r"""|secret|token|(?:api|access|account|secret|private)[_-]?key))["']?\s*[:=]\s*"""
    r"""(?P<quote>["']?)(?P<value>[^\s"']{8,})(?P=quote)\s*(?:$|[,;}\]#])""",
    re.IGNORECASE | re.MULTILINE,
)
_SETTINGS = {"cfg", "conf", "env", "ini", "json", "properties", "sh", "toml", "yaml", "yml"}
# A token has a digit; a password that a person chose may have none.
_OF_PASSWORD = re.compile(r"(pass|password|passwd|passphrase|pwd)$", re.IGNORECASE)
_NO_WORDS = {"required", "optional", "disabled", "passphrase", "username", "sensitive", "undefined"}
_NO_WORDS |= {"postgres", "changeit", "anonymous"}
_PLACEHOLDER = re.compile(
    r"^[{<\[$(].*|.*(?:\$\{|\{\w*\}|%[(sd]|\.\.\.|\*\*\*|xxxx|example|change.?me|your.).*",
    re.IGNORECASE | re.DOTALL,
)
_NO_PASSWORD = re.compile(r"://|^[/~.]|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)
_USUAL_WORD = re.compile("[A-Za-z]{,10}|[0-9]{,7}|[^0-9]{,7}")
_ALLOWED = re.compile(r"pragma: ?allowlist[ -]secret")


@dataclass(frozen=True)
class Secret:
    """Where a secret is: the file's name, the line from 1, and what kind it looks like."""

    file: str
    line: int
    kind: str


def find_secrets(files: Mapping[str, Path]) -> list[Secret]:
    """Return the secrets in text files of up to 1 MiB, the first of each line.

    Args:
        files: By name; a file that several names lead to is searched once.
    """
    found, searched = [], set()
    for name, path in files.items():
        if path in searched:
            continue
        searched.add(path)
        try:
            data = path.read_bytes() if path.stat().st_size <= LARGEST_BYTES else b""
        except OSError:
            continue  # packing it reports what is wrong
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            data = data.decode("utf-16", "replace").encode()  # as Windows' shell writes
        if b"\0" not in data:
            text, parts = data.decode(errors="replace"), name.lower().split(".")[1:]
            is_settings = not _SETTINGS.isdisjoint(parts)  # also of settings.yaml.bak
            found += [Secret(name, line, kind) for line, kind in _search(text, is_settings)]
    return found


def kind_of_secret(text: str) -> str:
    """Return what kind of secret a text has; empty if it has none."""
    return next((kind for _, kind in _search(text)), "")


def _search(text: str, is_settings: bool = False) -> list[tuple[int, str]]:
    """Return the line and kind of the secrets in a text, in order, the first of each line."""
    found: dict[int, str] = {}
    lines = text.split("\n")
    for place, kind in _matches(text, is_settings):
        if not _ALLOWED.search(lines[place]):
            found.setdefault(place + 1, kind)
    return sorted(found.items())


def _matches(text: str, is_settings: bool) -> Iterator[tuple[int, str]]:
    """Yield the line, from 0, and the kind of every secret."""
    for kind, pattern in _more().items():
        for match in pattern.finditer(text):
            if kind == "Private Key" or _is_token(match[0]):
                yield text.count("\n", 0, match.start()), kind
    if is_settings:
        for match in _SETTING.finditer(text):
            is_word = _OF_PASSWORD.search(match["key"]) and _is_word(match["value"])
            if is_word or _is_password(match["value"]):
                yield text.count("\n", 0, match.start("value")), "password"
    for match in _ADDRESS.finditer(text) if "://" in text else ():
        typed, made = match["typed"], match["made"]
        is_password = _is_password(made) if made else _is_typed(typed, is_settings)
        if has_password(match[0]) and is_password:
            yield text.count("\n", 0, match.start()), "password in an address"
    for kind, pattern, is_secret in _detectors():
        for match in pattern.finditer(text):
            if is_secret(match[0]):
                yield text.count("\n", 0, match.start()), kind


def _is_token(text: str) -> bool:
    """Return whether a text is a token: all that are made by chance have a digit."""
    return not _PLACEHOLDER.fullmatch(text) and any(map(str.isdigit, text.rpartition(":")[2]))


def _is_password(text: str) -> bool:
    """Return whether the value of a setting is a password, not a word, an id, path or address."""
    return _is_token(text) and any(map(str.isalpha, text)) and not _NO_PASSWORD.search(text)


def _is_word(text: str) -> bool:
    """Return whether letters alone are a password, not what documentation writes in its place."""
    plain = text.lower()
    return text.isalpha() and len(text) >= 8 and not ("password" in plain or plain in _NO_WORDS)


def _is_typed(text: str, is_settings: bool) -> bool:
    """Return whether what stands for a password in an address is one.

    Addresses in code and documentation are mostly examples with usual words.
    """
    if _PLACEHOLDER.fullmatch(text):
        return False
    return not _USUAL_WORD.fullmatch(text) or (is_settings and _is_word(text))


@cache
def _more() -> dict[str, re.Pattern[str]]:
    return {kind: re.compile(pattern, re.MULTILINE) for kind, pattern in _MORE.items()}


@cache
def _detectors() -> list[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """Return the kinds and patterns of detect-secrets' detectors, and what checks a match."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.jwt import JwtTokenDetector

    is_valid = JwtTokenDetector.is_formally_valid
    return [
        (kind, pattern, is_valid if detector is JwtTokenDetector else _is_token)
        for kind, detector in get_mapping_from_secret_type_to_class().items()
        if issubclass(detector, RegexBasedDetector) and kind not in _LEFT_OUT
        for pattern in detector().denylist
    ]
