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
    its end, or its last frame if there is no such middle; before the first frame of the file the
    first is shown, after the last the last. Sound that starts late or has gaps is silent there.
    Time 0 is where the earliest stream of the file starts.

    A file never raises: what can't be opened gives a failure alone, and so does each window of
    which nothing can be used, and the rest of a file that ends before it should. Where FFmpeg
    conceals damage, reports an error, or data is missing, the clip is kept and carries a failure;
    a modality of which nothing is there is None. What no codec or container checks can't be
    found: flipped bits that leave a valid stream (easily so in VP8, VP9, HEVC, MP2, MP3, PCM; FFV1
    and FLAC have checksums), a file without a length (MPEG-PS and -TS, raw streams) that was cut
    and now is simply shorter, bytes lost in AVI, which numbers its frames instead of timing
    them, and headers that say something else just as plausible. `digests.py` finds all of it.

    The same file and request give the same bytes. Frames are also the same wherever the source
    starts; sound is up to the decoder's dither and noise, and to a millisecond where a format
    times no finer (Matroska, FLV).

    Args:
        source: The file and the part of it; end_seconds beyond the file's end is cut there.
        request: What to decode.

    Yields:
        Clips in the order of time; failures in place of a clip that can't be made.

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
