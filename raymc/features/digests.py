"""Files compared with the digests that a table gives for them, before anything is decoded.

Pure: pyarrow only. Most codecs and containers have no checksum, so that flipped bits would give
plausible rows; a digest finds them all.
"""

from raymc.errors import DataError
from raymc.features.sources import Source
from raymc.shards.storage import digest, exists, open_address, reaching


class Digests:
    """Compares files with their digests; a file of many parts is read once for all of them."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def check(self, source: Source) -> None:
        """Read a source's file from end to end, if there is a digest to compare it with.

        Raises:
            DataError: The file has another digest, or can't be read.
        """
        if source.sha256 is None:
            return
        if source.path not in self._found:
            self._found[source.path] = _sha256(source.path)
        if (found := self._found[source.path]) != source.sha256:
            raise DataError(f"the file's sha256 is {found}, expected {source.sha256}")


def _sha256(path: str) -> str:
    filesystem, inner = open_address(path)
    with reaching(path):
        is_file = exists(filesystem, inner)
    if not is_file:  # opening a pipe would wait for ever
        raise DataError("no such file")
    return digest(filesystem, inner)
