"""The service's front: HTTP in, temporary files and limits, JSON or a page out.

It knows no Ray: `label` makes a timeline of a file, wherever it does so. It stands in front of Ray
Serve's own proxy, because that reads uploads into memory without a limit.
"""

import asyncio
import hmac
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

import raymc
from raymc.config import ServeConfig
from raymc.data.storage import exists, open_address, reaching
from raymc.errors import DataError, first_line
from raymc.evaluation.timeline import Timeline
from raymc.evaluation.timeline_files import as_json
from raymc.report.service import api_page, drop_page
from raymc.report.timeline import timeline_page
from raymc.serving.access import LOOPBACK, is_below, is_loopback
from raymc.serving.labeller import FullError, Refusal

Label = Callable[[str], Awaitable[Timeline | Refusal]]
_RETRY_SECONDS = 5  # after which a refused client may come again
_IDLE_SECONDS = 60.0  # an upload that sends nothing for so long is given up
_FETCH_SECONDS = 300.0  # so is a video that takes longer to arrive from its address
_CHUNK_BYTES = 8 << 20  # read at a time from an address
_DISCARDED_BYTES = 8 << 20  # of a refused upload, so that its client reads why
_FORM_BYTES = 64 << 10  # of a form, beside its file


class Segment(BaseModel):
    """A stretch of the video in which a label shows; times are seconds."""

    label: str
    start: float
    end: float
    value: float
    peak: float


class LabelOfVideo(BaseModel):
    """A label's highest value in the video, and the value from which it shows (null: never)."""

    label: str
    value: float
    threshold: float | None


class Window(BaseModel):
    """A window of the video, with the value of each label in the order of `labels`."""

    start: float
    end: float
    values: list[float]


class Answer(BaseModel):
    """A video's labels over time, as `as_json` makes it; values are of the kind `kind`."""

    video: str
    seconds: float
    window_seconds: float
    stride_seconds: float
    kind: str
    segments: list[Segment]
    labels: list[LabelOfVideo]
    windows: list[Window]
    failures: list[str]


_BODY = {
    "description": "The file itself, or a form with one file; none if the address names a video.",
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    },
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "There is no video in the request."},
    401: {"description": "The token is missing or wrong."},
    403: {"description": "The service opens no such address."},
    408: {"description": "The upload has stopped."},
    413: {"description": "The video is too large or too long."},
    422: {"description": "The video can't be read."},
    503: {"description": "Too many videos wait. Try again after the seconds in Retry-After."},
    504: {"description": "The video did not arrive from its address in time."},
}


class Gateway:
    """The service over HTTP, as the application `app`.

    Args:
        label: Makes the timeline of a file; raises `FullError` if it can take no more.
        settings: What is taken. `videos` are as `check_places` returns them.
        title: Name of the model.
        labels: How many labels it has.
        token: What clients must send; empty: nothing.
        told: Called with a line for each request.
    """

    def __init__(
        self,
        label: Label,
        settings: ServeConfig,
        *,
        title: str,
        labels: int,
        token: str = "",
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._label, self._settings, self._token, self._told = label, settings, token, told
        self._inside = 0
        # By which clients may address a service on loopback; empty: any name. Without this check, a
        # page of another site could reach it by a name of its own (DNS rebinding).
        self._names = LOOPBACK | {settings.host} if is_loopback(settings.host) else frozenset()
        self._page = drop_page(
            title, labels=labels, needs_token=bool(token), upload_bytes=settings.upload_bytes
        )
        self.app = self._application(title)

    def _application(self, title: str) -> FastAPI:
        app = FastAPI(
            title=f"Labels of videos: {title}",
            version=raymc.__version__,
            summary="A video in, its labels over time out.",
            docs_url=None,
            redoc_url=None,
        )
        app.add_exception_handler(Exception, self._fail)
        app.middleware("http")(self._guard)
        page: dict[str, Any] = {"response_class": HTMLResponse, "include_in_schema": False}
        app.get("/", **page)(self._root)
        app.get("/docs", **page)(self._docs)
        app.get(
            "/health",
            name="health",
            summary="Whether the service is there.",
            response_description="It is there.",
        )(self._health)
        app.post(
            "/timeline",
            name="timeline",
            summary="Labels of a video over time.",
            response_description="The labels.",
            response_model=Answer,
            responses=_REFUSALS,
            openapi_extra={"requestBody": _BODY},
        )(self._timeline)
        return app

    # Routes have no docstrings, because FastAPI would put them into the schema.
    def _root(self) -> str:
        return self._page

    def _docs(self) -> str:
        return api_page(self.app.openapi())

    def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _timeline(
        self,
        request: Request,
        name: Annotated[str, Query(description="Name of the file, for the answer.")] = "",
        windows: Annotated[bool, Query(description="Answer with all windows, too.")] = False,
        address: Annotated[
            str,
            Query(
                description="Address or path of a video, in place of a body; only below the places "
                "that the service was started with."
            ),
        ] = "",
        page: Annotated[
            str,
            Query(description="Answer with a page, on which the video has this blob: address."),
        ] = "",
    ) -> Response:
        if page and not page.startswith("blob:"):
            raise HTTPException(422, "page has to be an address that begins with blob:")
        began = asyncio.get_running_loop().time()
        try:
            async with self._room(request), self._video(request, name, address) as (file, shown):
                found = await self._label(file)
        except FullError:
            raise _busy() from None
        except ClientDisconnect:
            return Response(status_code=499)
        if isinstance(found, Refusal):
            self._told(f"{shown}: {found.reason}")
            raise HTTPException(413 if found.is_too_long else 422, found.reason)
        took = asyncio.get_running_loop().time() - began
        count = len(found.all_segments)
        self._told(f"{shown}: {count} segments in {found.seconds:g} s of video; took {took:.1f} s")
        found = replace(found, path=shown)
        if page:
            return HTMLResponse(timeline_page(found, page))
        return JSONResponse(Answer(**as_json(found, windows=windows)).model_dump())

    def _fail(self, request: Request, error: Exception) -> JSONResponse:
        self._told(f"error: {type(error).__name__}: {first_line(error)}")
        return _problem(500, "the service has failed; its own output says more")

    async def _guard(
        self, request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Refuse a request that may not use the service, or let it proceed."""
        refusal = self._refusal(request)
        if refusal is None:
            return await proceed(request)
        await _discard(request.stream())
        return refusal

    def _refusal(self, request: Request) -> JSONResponse | None:
        """Return the answer to a request that may not use the service; None if it may."""
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        origin = request.headers.get("origin")
        if self._names and host not in self._names:
            return _problem(421, f"this service has another name than {host!r}")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return _problem(403, "another site's page may not use this service")
        is_open = request.method == "GET" and request.url.path in ("/", "/health")
        if not self._token or is_open or _has_token(request, self._token):
            return None
        answer = _problem(401, "a token is needed: Authorization: Bearer TOKEN")
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    @asynccontextmanager
    async def _room(self, request: Request) -> AsyncIterator[None]:
        """Let a request in, or refuse it if too many are inside."""
        if self._inside >= self._settings.most_inside:
            await _discard(request.stream())
            raise _busy()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @asynccontextmanager
    async def _video(
        self, request: Request, name: str, address: str
    ) -> AsyncIterator[tuple[str, str]]:
        """Yield a file of the request's video, which is deleted at the end, and its name."""
        handle, file = tempfile.mkstemp(prefix="raymc-upload-")
        try:
            with os.fdopen(handle, "wb") as out:
                if address:
                    await _fetch(address, self._settings, out)
                    shown = address
                else:
                    received = await _receive(request, self._settings, out)
                    shown = name or received
            yield file, PurePath(shown.replace("\\", "/")).name[:200] or "video"
        finally:
            Path(file).unlink(missing_ok=True)


def _problem(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason}, status)


def _busy() -> HTTPException:
    return HTTPException(
        503, "too many videos wait: try again later", {"Retry-After": str(_RETRY_SECONDS)}
    )


def _too_large(settings: ServeConfig) -> HTTPException:
    return HTTPException(413, f"the video is larger than {settings.max_mb:.4g} MiB")


def _has_token(request: Request, token: str) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    is_same = hmac.compare_digest(given.strip().encode(), token.encode())
    return is_same and kind.lower() == "bearer"


async def _discard(chunks: AsyncIterator[bytes]) -> None:
    """Read a part of a body that is refused: a client that is still sending reads no answer."""
    read = 0
    with suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(_IDLE_SECONDS):
            async for chunk in chunks:
                read += len(chunk)
                if read > _DISCARDED_BYTES:
                    break


async def _fetch(address: str, settings: ServeConfig, out: Any) -> None:
    """Copy the video of an address to a file."""
    if not is_below(address, settings.videos):
        raise HTTPException(403, "this service opens no such address")
    try:
        copying = asyncio.to_thread(_copy, address, settings, out)
        await asyncio.wait_for(copying, _FETCH_SECONDS)
    except TimeoutError:
        raise HTTPException(504, "the video did not arrive in time") from None
    except DataError as error:
        raise HTTPException(422, str(error)) from None


def _copy(address: str, settings: ServeConfig, out: Any) -> None:
    filesystem, path = open_address(address)
    with reaching(address):
        if not exists(filesystem, path):
            raise DataError(f"{address}: there is no such file")
        with filesystem.open_input_stream(path) as video:
            while chunk := video.read(_CHUNK_BYTES):
                out.write(chunk)
                if out.tell() > settings.upload_bytes:
                    raise _too_large(settings)


async def _receive(request: Request, settings: ServeConfig, out: Any) -> str:
    """Write the video to a file as it comes; returns the name that a form gives it, or nothing."""
    form, most, chunks = None, settings.upload_bytes, request.stream()
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if int(request.headers.get("content-length", 0)) > most + _FORM_BYTES:
        await _discard(chunks)
        raise _too_large(settings)
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise HTTPException(400, "the form names no boundary")
        form, most = _Form(options[b"boundary"], out), most + _FORM_BYTES
    write, written = form.write if form else out.write, 0
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), _IDLE_SECONDS)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise HTTPException(408, "the upload has stopped") from None
        written += len(chunk)
        if written > most:
            await _discard(chunks)
            raise _too_large(settings)
        write(chunk)
    if not out.tell():
        raise HTTPException(400, "there is no video in the request: send the file as its body")
    return form.name if form else ""


class _Form:
    """Writes the first file of a form."""

    def __init__(self, boundary: bytes, out: Any) -> None:
        self.name, self._out, self._header, self._is_file = "", out, [b"", b""], False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._read(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._read(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_part_data": self._data,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the form."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise HTTPException(400, "the form can't be parsed") from error

    def _begin(self) -> None:
        self._is_file, self._header = False, [b"", b""]

    def _read(self, part: int, data: bytes) -> None:
        self._header[part] += data

    def _end_header(self) -> None:
        key, value = self._header
        self._header = [b"", b""]
        if key.lower() == b"content-disposition":
            name = parse_options_header(value)[1].get(b"filename")
            self._is_file = name is not None and not self._out.tell()
            self.name = (name or b"").decode(errors="replace") if self._is_file else self.name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._out.write(data[start:end])
