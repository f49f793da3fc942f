"""Media files to clips: the pictures and the sound that encoders want, window by window.

The one way into `decoding/`, which imports PyAV, and so is imported only when the first file is
read.
"""

from collections.abc import Callable, Iterator

from raymc.errors import ResourceError
from raymc.features.clips import Clip, ClipRequest, Failure
from raymc.features.sources import Source


def read_clips(
    source: Source, request: ClipRequest, *, on_packet: Callable[[], None] = lambda: None
) -> Iterator[Clip | Failure]:
    """Decode a source window by window; one window and the packets read ahead are in memory.

    Windows start every `stride_seconds` from the source's start, until one reaches its end. A
    last window shorter than a tenth of `window_seconds`, or than half the time between two
    frames, is left out. A clip has a frame for every middle of [t, t + 1) / fps that lies before
    its end, or its last frame if there is no such middle; before the first frame of the file the
    first is shown, after the last the last. Where that is for more than a second, the clip has a
    failure, unless the video has one frame alone. Sound that starts late or has gaps is silent
    there. Time 0 is where the earliest stream of the file starts. Where times jump by more than an
    hour and no stream has anything in between, the clip ends at the gap, windows in it are left
    out, and one failure says so.

    Frames are shown at the times that FFmpeg gives them when it decodes the whole file, and are the
    same as then. Recordings that were joined in one file (MPEG-PS, MPEG-TS, Ogg) follow each other.

    A damaged file never raises an error. A file that can't be opened yields only a failure, and
    so does a window of which nothing can be used, and the rest of a file that ends too early.
    Where FFmpeg conceals damage, reports an error, or data is missing, the clip has a failure; a
    modality without any data is None. Damage that no codec or container checks for goes
    unnoticed: flipped bits that leave a valid stream (likely in VP8, VP9, HEVC, MP2, MP3, PCM;
    FFV1 and FLAC have checksums), a truncated file of a format without a length (MPEG-PS and
    -TS, raw streams), bytes lost in AVI, ASF and MXF, which number frames or time them in the
    order of decoding, and headers with other plausible values. A digest (`sources.Digests`) finds
    all of it.

    The same file and request give the same bytes. Frames are also the same wherever the source
    starts; sound is up to the decoder's dither and noise, and to a millisecond where a format
    times no finer (Matroska, FLV).

    Args:
        source: The file and the part of it; end_seconds beyond the file's end is cut there.
        request: What to decode.
        on_packet: Called before each packet is read.

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
            "reading media needs PyAV, which is not installed: pip install 'raymc[media]'"
        ) from error
    yield from clip_reader.read_clips(source, request, on_packet)
