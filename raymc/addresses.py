"""Addresses of servers, databases and storage, which may hold passwords.

An address with a password is taken apart where it is read (`keep_password`): settings, messages,
records and files hold it without the password, which stays in this process. `with_password` gives
it back where a connection is opened, and nothing else may use it. Another process has to be told
the password again, by its environment: `${NAME}` in an address stands for a variable.

Addresses are read by SQLAlchemy's parser or by urllib's. A text from elsewhere that may quote an
address, such as a library's error, goes through `redacted`.
"""

import os
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from raymc.errors import ConfigError

_DATABASES = {"cockroachdb", "mariadb", "mssql", "mysql", "oracle", "postgres", "postgresql"}
_DATABASES |= {"sqlite"}
# Names of parts of a query and of variables that are secret: at their end with any prefix, as in
# sslpassword, or as a word of theirs, as in AWS_ACCESS_KEY_ID.
_SECRET = re.compile(
    r"(pass|passwd|passphrase|password|pwd|secret|token|credentials?|signature|^sig|^auth"
    r"|authorization|(api|access|account|secret)[_-]?key|odbc_connect)$"
    r"|passw(or)?d|passphrase|secret|(^|[_-])(pass|pat|token|key|credentials?)([_-]|$)",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TELLING_LETTERS = 4  # shorter passwords occur in texts by chance
# A short word or a number, such as "true", is a password only after : or =.
_COMMON = re.compile("[A-Za-z]{,7}|[0-9]{,7}")

_known: dict[str, str] = {}  # addresses with their passwords, by the address without
# What no text may hold: by it, a pattern that finds it, and what to write in its place.
_secrets: dict[str, tuple[str, str]] = {}


def without_password(address: str) -> str:
    """Return an address without its password, or any other text as it is.

    Secret parts of its query, such as `?password=` and `?token=`, are left out too. A variable
    such as `${NAME}` is no password.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    try:
        if scheme.partition("+")[0].lower() in _DATABASES:
            return _of_database(address)
        return _of_server(address)
    except ValueError:  # not an address that anybody could connect to
        return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def _of_database(address: str) -> str:
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except ArgumentError as error:
        raise ValueError from error
    _, at, host = (url.host or "").rpartition("@")  # of a password with an @ of its own
    if url.password is not None and "@" in (url.database or ""):
        raise ValueError("a password with @ and /")
    query = {name: value for name, value in url.query.items() if not _is_secret(name, value)}
    is_open = not at and (url.password is None or _is_variable(url.password))
    if is_open and len(query) == len(url.query):
        return address
    kept = url.password if is_open else None
    shown = URL.create(
        url.drivername, url.username, kept, host or None, url.port, url.database, query
    ).render_as_string(hide_password=False)
    return unquote(shown) if kept else shown


def _of_server(address: str) -> str:
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    if "@" in address and not at:
        _ = parts.port  # raises ValueError if a password with a slash was taken for a port
        if not parts.scheme:
            raise ValueError("words before the address")
    name, colon, password = user.partition(":")
    if colon and not _is_variable(password):
        user = name
    netloc = f"{user}@{host}" if user else host
    query, fragment = _open_parts(parts.query), _open_parts(parts.fragment)
    if (netloc, query, fragment) == (parts.netloc, parts.query, parts.fragment):
        return address
    return urlunsplit((parts.scheme, netloc, parts.path, query, fragment))


def _open_parts(query: str) -> str:
    """Return a query without its secret parts."""
    pairs = [(piece, *piece.partition("=")[::2]) for piece in query.split("&")]
    kept = [piece for piece, name, value in pairs if not _is_secret(unquote(name), value)]
    return "&".join(kept)


def is_secret_name(name: str) -> bool:
    """Return whether a variable or a part of a query has the name of a secret."""
    return _SECRET.search(name) is not None


def _is_secret(name: str, value: str | tuple[str, ...]) -> bool:
    return is_secret_name(name) and not _is_variable(str(value))


def _is_variable(text: str) -> bool:
    return _VARIABLE.fullmatch(text) is not None


def keep_password(address: str) -> str:
    """Return an address without its password, which this process remembers."""
    shown = without_password(address)
    if shown != address:
        _known[shown] = address
        _remember(address, shown)
    return shown


def _remember(address: str, shown: str) -> None:
    for secret, text in ((address, shown), (address.rstrip("/"), shown.rstrip("/"))):
        _secrets[secret] = re.escape(secret), text
    user = address.partition("://")[2].rpartition("@")[0]
    values = [user.partition(":")[2]]
    values += [piece.partition("=")[2] for piece in re.split("[?&#]", address) if "=" in piece]
    for value in values:
        for form in (value, unquote(value), quote(value, safe="")):
            if len(form) >= _TELLING_LETTERS and form not in shown:
                before = "(?<=[:=])" if _COMMON.fullmatch(form) else r"(?<![\w.-])"
                _secrets[form] = rf"{before}{re.escape(form)}(?![\w-])", "***"


def limit_connecting() -> None:
    """Let Postgres' client give up a silent server after 15 s, not never, unless told otherwise."""
    os.environ.setdefault("PGCONNECT_TIMEOUT", "15")


def with_password(address: str) -> str:
    """Return an address with the password that this process remembers for it, to connect."""
    return _known.get(address, address)


def has_password(address: str) -> bool:
    """Return whether an address was read with a password, or has one."""
    return address in _known or without_password(address) != address


def resolved(address: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return an address whose variables are replaced by their values, passwords kept apart.

    Values are percent-encoded, unless a variable is the whole address.

    Raises:
        ConfigError: The environment has no such variable.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise ConfigError(
                f"the address {without_password(address)} names the variable {found[1]}, which "
                "your environment does not have: set it"
            )
        text = environment[found[1]]
        return text if found[0] == address else quote(text, safe="")

    return keep_password(_VARIABLE.sub(value, address))


def redacted(text: str) -> str:
    """Return a text in which every password that this process has read is replaced.

    The letters of a password inside a word are left, since they are there by chance; so is a
    short word, such as "true", that follows no : or =.
    """
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            pattern, shown = _secrets[secret]
            text = re.sub(pattern, lambda _, shown=shown: shown, text)
    return text
