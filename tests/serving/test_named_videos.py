"""The gateway alone: videos that clients name by their address, only below the places it was given;
and an upload that is found to be too large at its end.
"""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import uvicorn

from raymc.config import ServeConfig
from raymc.errors import ConfigError
from raymc.evaluation.timeline import Timeline
from raymc.serving.access import check_places, is_below
from raymc.serving.gateway import Gateway
from raymc.serving.labeller import Refusal


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that may be opened, with a link out of it, beside one that may not."""
    for name in ("open", "open-not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a b.mp4").write_bytes(b"video")
    (tmp_path / "open" / "large.mp4").write_bytes(b"x" * 2000)
    (tmp_path / "open" / "out.mp4").symlink_to(tmp_path / "open-not" / "a b.mp4")
    return tmp_path


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The same folder as a web server has it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def gateway(folder: Path, web: str) -> Iterator[int]:
    """A gateway before a model that says what it was given; yields its port."""

    async def label(path: str) -> Timeline | Refusal:
        return Refusal(f"given {Path(path).read_bytes()!r}")

    places = check_places([str(folder / "open"), f"{web}/open"])
    settings = ServeConfig(max_mb=1000 / 2**20, videos=places)
    app = Gateway(label, settings, title="m", labels=1).app
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def asked(port: int, address: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", f"/timeline?address={quote(address)}")
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())["detail"]


def test_a_named_video_is_opened_below_the_places_only(
    gateway: int, folder: Path, web: str
) -> None:
    for place in (str(folder), web):
        name = "a b.mp4" if place == str(folder) else "a%20b.mp4"
        assert asked(gateway, f"{place}/open/{name}") == (422, "given b'video'")
        assert asked(gateway, f"{place}/open/large.mp4")[0] == 413
        status, told = asked(gateway, f"{place}/open/none.mp4")
        assert (status, told) == (422, f"{place}/open/none.mp4: there is no such file")
        for elsewhere in ("open-not/a b.mp4", "open/../open-not/a b.mp4", "open/%2e%2e/x.mp4"):
            assert asked(gateway, f"{place}/{elsewhere}")[0] in (403, 422)
        assert asked(gateway, f"{place}/open-not/{name}")[0] == 403
        assert asked(gateway, f"{place}/open/../open-not/{name}")[0] == 403
    assert asked(gateway, f"{folder}/open/out.mp4")[0] == 403
    assert asked(gateway, "/etc/passwd")[0] == 403


def test_an_upload_without_a_length_that_is_there_at_once(gateway: int) -> None:
    head = b"POST /timeline HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway), timeout=60) as client:
        client.sendall(head + b"7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_what_leads_elsewhere() -> None:
    places = ("s3://school/lessons/",)
    assert is_below("s3://school/lessons/a/1.mp4", places)
    for address in (
        "s3://school/lessons-secret/1.mp4",
        "s3://school/lessons/../x.mp4",
        "s3://school/lessons/%2e%2e/x.mp4",
        "s3://school/lessons/1.mp4?endpoint_override=http://here",
        "s3://school/lessons/1.mp4::file:///etc/passwd",
        "s3://school/lessons/1.mp4#x",
        "s3://school/lessons/\n1.mp4",
        "simplecache::s3://school/lessons/1.mp4",
        "S3://school/lessons/1.mp4",
        "/etc/passwd",
        "lessons/1.mp4",
        "",
    ):
        assert not is_below(address, places), address
    assert not is_below("s3://school/lessons/1.mp4", ())


@pytest.mark.parametrize("place", ["no/such/folder", "file:///data", "s3://b/x?region=y"])
def test_a_place_that_can_not_be_one(place: str) -> None:
    with pytest.raises(ConfigError, match="--videos"):
        check_places([place])
