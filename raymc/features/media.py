"""Media files to clips: the pictures and the sound an encoder wants, window by window.

Pure. The one way into `decoding/`, which imports PyAV, and so does this when the first file is
read.
"""

from collections.abc import Iterator

from raymc.errors import ResourceError
from raymc.features.clips import Clip, ClipRequest, Failure
from raymc.features.sources import Source


def read_clips(source: Source, request: ClipRequest) -> Iterator[Clip | Failure]:
    """Decode a source window by window, holding one window (and what is read ahead of it).

    Windows start every `stride_seconds` from the source's start, until one reaches its end. A
    last window shorter than a tenth of `window_seconds`, or than half the time between two
    frames, is left out. A clip has a frame for every middle of [t, t + 1) / fps that lies before
    its end, at least one; before the first frame of the file the first is shown, after the last
    the last. Sound that starts late or has gaps is silent there.

    A file never raises: what can't be opened gives one failure alone, and so does a window of
    which nothing can be used. Where FFmpeg conceals damage, finds it or loses data, the clip is
    kept and carries a failure; so does one whose picture stands still or whose sound ends early
    because data is missing. What no codec checks can't be found: a flipped bit inside a valid
    MPEG or VP9 picture or MP2 frame, a file of a format without a length (MPEG-PS and -TS, MP3,
    AAC) that was cut between two packets and now is simply shorter, or a header that gives other
    times, sizes or colours that are just as plausible.

    The same file and request give the same bytes, and the start of the source doesn't matter
    where timestamps are finer than samples. In Matroska (1 ms) sound that begins elsewhere may
    be off by half a millisecond.

    Args:
        source: The file and the part of it; end_seconds beyond the file's end is cut there.
        request: What to decode.

    Yields:
        Clips in the order of time; a failure in place of a clip that can't be made.

    Raises:
        ResourceError: PyAV isn't installed.
    """
    try:
        from raymc.features.decoding import clip_reader
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise ResourceError(
            "reading media needs PyAV, which isn't installed: pip install 'raymc[media]'"
        ) from error
    yield from clip_reader.read_clips(source, request)
