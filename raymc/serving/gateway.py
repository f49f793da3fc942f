"""The service's front: HTTP in, temporary files and limits, JSON or a page out.

It knows no Ray: `label` makes a timeline of a file, wherever it does so. It stands in front of Ray
Serve's own proxy, because that reads uploads into memory without a limit.
"""

import asyncio
import hmac
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
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
from raymc.data.storage import exists, open_address, reaching
from raymc.errors import DataError, first_line
from raymc.evaluation.timeline import Timeline
from raymc.evaluation.timeline_files import as_json
from raymc.report.service import api_page, drop_page
from raymc.report.timeline import timeline_page
from raymc.serving.access import is_below
from raymc.serving.labeller import FullError, Limits, Refusal

Label = Callable[[str], Awaitable[Timeline | Refusal]]
Told = Callable[[str], None]
# They write about each broken request, which a stranger may send.
for _name in ("python_multipart", "uvicorn"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
_RETRY_SECONDS = 5  # after which a refused client may come again
_DISCARDED_BYTES = 8 << 20  # of a refused upload, so that its client reads why


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


def make_app(
    label: Label,
    limits: Limits,
    *,
    title: str,
    labels: int,
    at_once: int,
    token: str = "",
    hosts: frozenset[str] = frozenset(),
    told: Told = lambda line: None,
) -> FastAPI:
    """Return the application.

    Args:
        label: Makes the timeline of a file; raises `FullError` if it can take no more.
        limits: What is taken.
        title: Name of the model.
        labels: How many labels it has.
        at_once: Requests that `label` works on at a time.
        token: What clients must send; empty: nothing.
        hosts: Names by which clients may address it; empty: any. Without this check, a page of
            another site could reach a service on loopback by a name of its own (DNS rebinding).
        told: Called with a line for each request.
    """
    app = FastAPI(
        title=f"Labels of videos: {title}",
        version=raymc.__version__,
        summary="A video in, its labels over time out.",
        docs_url=None,
        redoc_url=None,
    )
    room = at_once + limits.waiting
    inside = 0

    @app.exception_handler(Exception)
    def fail(request: Request, error: Exception) -> JSONResponse:
        told(f"error: {type(error).__name__}: {first_line(error)}")
        return _problem(500, "the service has failed; its own output says more")

    @app.middleware("http")
    async def guard(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        refusal = _refusal(request, token, hosts)
        if refusal is not None:
            await _discard(request)
            return refusal
        return await proceed(request)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return drop_page(
            title, labels=labels, needs_token=bool(token), upload_bytes=limits.upload_bytes
        )

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs() -> str:
        return api_page(app.openapi())

    @app.get(
        "/health", summary="Whether the service is there.", response_description="It is there."
    )
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(
        "/timeline",
        summary="Labels of a video over time.",
        response_description="The labels.",
        response_model=Answer,
        responses=_REFUSALS,
        openapi_extra={"requestBody": _BODY},
    )
    async def timeline(
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
        nonlocal inside
        if page and not page.startswith("blob:"):
            raise HTTPException(422, "page has to be an address that begins with blob:")
        if inside >= room:
            await _discard(request)
            raise _busy()
        inside += 1
        began = asyncio.get_running_loop().time()
        try:
            write = (
                partial(_fetch, address, limits)
                if address
                else partial(_upload, request, limits, name)
            )
            async with _received(write) as (file, shown):
                found = await label(str(file))
        except FullError:
            raise _busy() from None
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            inside -= 1
        if isinstance(found, Refusal):
            told(f"{shown}: {found.reason}")
            raise HTTPException(413 if found.is_too_long else 422, found.reason)
        took = asyncio.get_running_loop().time() - began
        count = len(found.all_segments)
        told(f"{shown}: {count} segments in {found.seconds:g} s of video; took {took:.1f} s")
        found = replace(found, path=shown)
        if page:
            return HTMLResponse(timeline_page(found, page))
        return JSONResponse(Answer(**as_json(found, windows=windows)).model_dump())

    return app


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


def _refusal(request: Request, token: str, hosts: frozenset[str]) -> JSONResponse | None:
    """Return the answer to a request that may not use the service; None if it may."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    if hosts and host not in hosts:
        return _problem(421, f"this service has another name than {host!r}")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return _problem(403, "another site's page may not use this service")
    is_open = request.method == "GET" and request.url.path in ("/", "/health")
    if not token or is_open or _has_token(request, token):
        return None
    answer = _problem(401, "a token is needed: Authorization: Bearer TOKEN")
    answer.headers["www-authenticate"] = "Bearer"
    return answer


def _problem(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason}, status)


def _busy() -> HTTPException:
    return HTTPException(
        503, "too many videos wait: try again later", {"Retry-After": str(_RETRY_SECONDS)}
    )


def _has_token(request: Request, token: str) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    is_same = hmac.compare_digest(given.strip().encode(), token.encode())
    return is_same and kind.lower() == "bearer"


async def _discard(request: Request) -> None:
    """Read a part of a body that is refused: a client that is still sending reads no answer."""
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > _DISCARDED_BYTES:
            break


@asynccontextmanager
async def _received(
    write: Callable[[Any], Coroutine[Any, Any, str]],
) -> AsyncIterator[tuple[Path, str]]:
    """Yield a file that `write` has filled, which is deleted at the end, and its name."""
    handle, file = tempfile.mkstemp(prefix="raymc-upload-")
    try:
        with os.fdopen(handle, "wb") as out:
            shown = await write(out)
        yield Path(file), _clean(shown)
    finally:
        Path(file).unlink(missing_ok=True)


async def _upload(request: Request, limits: Limits, name: str, out: Any) -> str:
    """Write the request's video to a file; returns its name."""
    if int(request.headers.get("content-length", 0)) > limits.upload_bytes + _FORM_BYTES:
        await _discard(request)
        raise _too_large(limits)
    shown = await _write(request, limits, out)
    return name or shown


async def _fetch(address: str, limits: Limits, out: Any) -> str:
    """Copy the video of an address to a file; returns its name."""
    if not is_below(address, limits.places):
        raise HTTPException(403, "this service opens no such address")
    try:
        copying = asyncio.to_thread(_copy, address, limits, out)
        await asyncio.wait_for(copying, limits.fetch_seconds)
    except TimeoutError:
        raise HTTPException(504, "the video did not arrive in time") from None
    except DataError as error:
        raise HTTPException(422, str(error)) from None
    return address


def _copy(address: str, limits: Limits, out: Any) -> None:
    filesystem, path = open_address(address)
    with reaching(address):
        if not exists(filesystem, path):
            raise DataError(f"{address}: there is no such file")
        with filesystem.open_input_stream(path) as video:
            while chunk := video.read(_DISCARDED_BYTES):
                out.write(chunk)
                if out.tell() > limits.upload_bytes:
                    raise _too_large(limits)


_FORM_BYTES = 64 << 10  # of a form, beside its file


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the video is larger than {limits.upload_bytes / 2**20:.4g} MiB")


async def _write(request: Request, limits: Limits, out: Any) -> str:
    """Write the video as it comes; returns the name of its file, if a form has one."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    form = None
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise HTTPException(400, "the form names no boundary")
        form = _Form(options[b"boundary"], out)
    written, chunks = 0, aiter(request.stream())
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), limits.upload_idle_seconds)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise HTTPException(408, "the upload has stopped") from None
        written += len(chunk)
        if written > limits.upload_bytes + (_FORM_BYTES if form else 0):
            await _discard(request)
            raise _too_large(limits)
        if form is None:
            out.write(chunk)
        else:
            form.write(chunk)
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


def _clean(name: str) -> str:
    return PurePath(name.replace("\\", "/")).name[:200] or "video"
