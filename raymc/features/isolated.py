"""Files to the items of a dataset, one after the other: here, or in a process of its own.

Pure. FFmpeg may crash on a damaged file, and end the process with it; where that may be so, files
are decoded apart, and the one that ends that process is a failure as any other.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection

from raymc.errors import ResourceError
from raymc.features.clips import Failure
from raymc.features.extraction import Encoders, Extract, ExtractPlan, extract_source, make_encoders
from raymc.features.sources import Digests, Source
from raymc.runtime.child_process import Child, ChildError

END = None  # what follows a file's last clip
Item = Extract | Failure | None
Numbered = Sequence[tuple[int, Source]]


def extract_files(
    sources: Numbered, plan: ExtractPlan, encoders: Encoders
) -> Iterator[tuple[int, Item]]:
    """Yield what files hold, with their numbers; each is ended by None."""
    digests = Digests()
    for number, source in sources:
        for item in extract_source(source, plan, encoders, digests=digests):
            yield number, item
        yield number, END


def extract_files_apart(sources: Numbered, plan: ExtractPlan) -> Iterator[tuple[int, Item]]:
    """Yield what `extract_files` does; a file that ends the process ends with a failure.

    Raises:
        ResourceError: The process can't begin at all.
        Exception: What `extract_files` raises.
    """
    waiting = list(sources)
    while waiting:
        with closing(Child(_send, waiting, plan)) as child:
            _begin(child)
            try:
                while waiting:
                    found = child.receive()
                    if isinstance(found, Exception):
                        raise found
                    number = waiting[0][0]
                    if found is END:
                        waiting.pop(0)
                    yield number, found
            except ChildError as error:
                number, source = waiting.pop(0)
                text = f"decoding it {error}"
                yield number, Failure(path=source.path, id=source.id, stage="open", error=text)
                yield number, END


def _begin(child: Child) -> None:
    try:
        child.receive()
    except ChildError as error:
        raise ResourceError(
            f"a process to decode files in {error} before it began; its output says why"
        ) from error


def _send(connection: Connection, sources: Numbered, plan: ExtractPlan) -> None:
    """Send what files hold, in the process of its own, after a word that it has begun."""
    encoders = make_encoders(plan.config, plan.light)
    connection.send("begun")
    try:
        for _, item in extract_files(sources, plan, encoders):
            connection.send(item)
    except Exception as error:
        connection.send(error)
