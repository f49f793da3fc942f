"""The files of the APPROVE release as they are, checked.

May import `joined.py`; `approve_release.py` puts them together.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymc.datasets.joined import kind_of, parse_object
from raymc.errors import DataError

SPLITS = ("train", "val", "test")  # from the least held out to the most
DOMAINS = ("literacy", "math")


Labels = Mapping[str, Sequence[str]]  # of each id
Lists = Mapping[str, Mapping[str, Labels]]  # of each domain and split
Addresses = Mapping[str, Mapping[str, str]]  # of each file and id


def read_lists(data: bytes, file: str) -> Lists:
    """Read the labels of each id, by domain and split.

    Raises:
        DataError: The file is malformed.
    """
    lists: dict[str, dict[str, Labels]] = {domain: {} for domain in DOMAINS}
    for split, domains in parse_object(data, file).items():
        if split not in SPLITS:
            raise DataError(f"{file}: unknown split '{split}'; expected {', '.join(SPLITS)}")
        for domain, videos in _items(domains, f"{file}: '{split}'"):
            where = f"{file}: '{split}', '{domain}'"
            if domain not in DOMAINS:
                raise DataError(f"{where}: unknown domain; expected {' or '.join(DOMAINS)}")
            lists[domain][split] = {
                name: _labels(labels, f"{where}, '{name}'")
                for name, labels in _items(videos, where)
            }
    return {
        domain: {split: found[split] for split in SPLITS if split in found}
        for domain, found in lists.items()
    }


def read_addresses(data: bytes, file: str, notes: list[str]) -> dict[str, str]:
    """Read the address of each id; of an id that stands there twice, the first, and a note.

    Raises:
        DataError: The file is malformed.
    """
    addresses: dict[str, str] = {}
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for fields in filter(None, reader):
            name, address = (field.strip() for field in fields) if len(fields) == 2 else ("", "")
            if not name or not address.startswith(("http://", "https://")):
                raise DataError(
                    f"{file}: line {reader.line_num}: {','.join(fields)!r:.80}; expected an id and "
                    "an address, such as 1,https://…"
                )
            if name in addresses:
                same = "the same" if address == addresses[name] else "another"
                notes.append(
                    f"{file.rsplit('/', 1)[-1]}: line {reader.line_num} repeats id {name} with "
                    f"{same} address; the first is kept"
                )
            addresses.setdefault(name, address)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: no CSV in UTF-8 ({error}); fetch the file again") from error
    return addresses


def _items(values: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        raise DataError(
            f"{where} holds {kind_of(values)}; expected {{split: {{domain: {{id: [labels]}}}}}}"
        )
    yield from values.items()


def _labels(values: Any, where: str) -> Sequence[str]:
    if not isinstance(values, list) or not all(isinstance(name, str) and name for name in values):
        raise DataError(f"{where} holds {values!r:.60}; expected a list of labels' names")
    return sorted(set(values))
