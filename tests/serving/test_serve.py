"""The service: one real server, asked as programs, browsers and strangers ask it, until SIGTERM."""

import base64
import http.client
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, needs_browser, resize
from click.testing import CliRunner
from drivers import RAYMC, running, wait_until
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from threads import read_in_threads
from videos import write_video

import raymc
from raymc.cli.main import main
from raymc.config import ServeConfig
from raymc.errors import BundleError, ConfigError
from raymc.evaluation.timeline import Timeline, make_timeline, window_and_stride
from raymc.serving.on_ray import Labelling
from raymc.training.bundle import load_bundle

TOKEN = "0123456789abcdef-and-more"
AS_PROGRAM = {"Authorization": f"Bearer {TOKEN}"}
# What a browser does where somebody drops a file from a folder.
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
const files = new DataTransfer();
files.items.add(new File([bytes], arguments[1], { type: "video/mp4" }));
const zone = document.getElementById("drop");
for (const kind of ["dragenter", "dragover", "drop"]) {
  zone.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
}
"""


class Server:
    """A running service."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, uploads: Path) -> None:
        self.process, self.log, self.uploads = process, log, uploads
        wait_until(lambda: "ready: http" in log.read_text(), process)
        line = next(line for line in log.read_text().splitlines() if "ready: " in line)
        self.address = line.split()[1].removeprefix("http://")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=120)

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Return the status, the body (parsed if it is JSON) and the headers of an answer."""
        connection = self.connection()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {**AS_PROGRAM, **named})
        return read(connection)

    def being_sent(self) -> list[Path]:
        """The files of uploads that are not yet answered."""
        return list(self.uploads.glob("raymc-upload-*"))

    def begin(self, size: int) -> http.client.HTTPConnection:
        """Begin an upload of so many bytes, and send none of them."""
        connection = self.connection()
        connection.putrequest("POST", "/timeline?name=slow.mp4")
        for name, value in {**AS_PROGRAM, "Content-Length": str(size)}.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection


def read(connection: http.client.HTTPConnection) -> tuple[int, Any, dict[str, str]]:
    answer = connection.getresponse()
    text = answer.read().decode()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    is_json = headers.get("content-type") == "application/json"
    connection.close()
    return answer.status, json.loads(text) if is_json else text, headers


@pytest.fixture(scope="module")
def server(media_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "token").write_text(f"{TOKEN}\n")
    (uploads := folder / "uploads").mkdir()
    command = [RAYMC, "serve", media_bundle, "--port", "0", "--token-file", folder / "token"]
    command += ["--max-mb", "0.5", "--max-minutes", "0.05", "--queue", "1", "--decoders", "1"]
    log, environment = (
        folder / "log",
        {"TMPDIR": str(uploads), "RAY_TMPDIR": "/tmp"},
    )  # sockets need short paths
    with running(*command, log=log, environment=environment) as process:
        yield Server(process, log, uploads)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a < b.mp4", seed=5)


@pytest.fixture(scope="module")
def expected(media_bundle: Path, video: Path) -> Timeline:
    with pytest.MonkeyPatch.context() as patch:
        read_in_threads(patch)
        return make_timeline(load_bundle(media_bundle), str(video))


def form(video: Path) -> tuple[bytes, str]:
    """A form as `curl --form file=@VIDEO` sends it."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n',
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="../of/form.mp4"\r\n',
        b"Content-Type: video/mp4\r\n\r\n" + video.read_bytes() + b"\r\n--edge--\r\n",
    ]
    return b"".join(parts), "multipart/form-data; boundary=edge"


@pytest.mark.slow
class TestServer:
    """In this order: the last test ends the server."""

    def test_a_video_gets_the_labels_of_its_timeline(
        self, server: Server, video: Path, expected: Timeline
    ) -> None:
        status, found, _ = server.ask("POST", "/timeline?windows=true", video.read_bytes())
        assert status == 200, found
        assert (found["kind"], found["seconds"]) == ("probability", expected.seconds)
        np.testing.assert_allclose(
            [window["values"] for window in found["windows"]],
            expected.values(expected.scores),
            atol=1e-4,
        )
        assert [one["label"] for one in found["labels"]] == list(expected.labels)
        times = [(one["label"], one["start"], one["end"]) for one in found["segments"]]
        assert times == [
            (label, round(start, 3), round(end, 3))
            for label, start, end, *_ in expected.all_segments
        ]
        body, kind = form(video)
        status, of_form, _ = server.ask("POST", "/timeline", body, content_type=kind)
        assert (status, of_form["video"], of_form["windows"]) == (200, "form.mp4", [])
        assert of_form["labels"] == found["labels"]

    def test_what_is_refused(self, server: Server, video: Path, tmp_path: Path) -> None:
        long = write_video(tmp_path / "long.mp4", seconds=5.0)
        good = video.read_bytes()
        for answer, status, reason in [
            (server.ask("POST", "/timeline", b"no video"), 422, ""),
            (server.ask("POST", "/timeline"), 400, "there is no video in the request"),
            (server.ask("POST", "/timeline", bytes(600_000)), 413, "larger than 0.5 MiB"),
            (server.ask("POST", "/timeline", long.read_bytes()), 413, "longer than 0.05 minutes"),
            (server.ask("POST", "/timeline", good, Authorization="Bearer x"), 401, "token"),
            (server.ask("POST", "/timeline", good, Authorization=f"Basic {TOKEN}"), 401, "token"),
            (server.ask("GET", "/docs", Authorization=""), 401, "token"),
            (server.ask("POST", "/timeline", good, Host="evil.example"), 421, "another name"),
            (server.ask("POST", "/timeline", good, Origin="http://evil.example"), 403, "site's"),
            (server.ask("POST", "/timeline?page=http://evil.example", good), 422, "blob:"),
            (server.ask("GET", "/nothing"), 404, ""),
        ]:
            assert answer[0] == status, answer
            assert reason in str(answer[1])
            assert "Traceback" not in str(answer[1])
        # Without a length, it is counted as it comes.
        connection = server.connection()
        chunks = (bytes(100_000) for _ in range(8))
        connection.request("POST", "/timeline", chunks, AS_PROGRAM, encode_chunked=True)
        assert read(connection)[0] == 413
        assert server.being_sent() == []
        assert TOKEN not in server.log.read_text()
        listed = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True)
        assert TOKEN not in listed.stdout

    def test_a_full_queue_refuses_and_recovers(
        self, server: Server, video: Path, expected: Timeline
    ) -> None:
        content = video.read_bytes()
        held = [server.begin(len(content)) for _ in range(2)]
        wait_until(lambda: len(server.being_sent()) == 2, server.process)
        found = server.ask("POST", "/timeline", content)
        assert found[0] == 503
        assert int(found[2]["retry-after"]) > 0
        assert server.ask("GET", "/health")[0] == 200
        for connection in held:
            connection.send(content)
        assert [read(connection)[0] for connection in held] == [200, 200]
        answers: list[int] = []

        def client() -> None:
            answers.append(server.ask("POST", "/timeline", content)[0])

        clients = [threading.Thread(target=client) for _ in range(6)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        assert set(answers) <= {200, 503}
        assert 200 in answers
        wait_until(lambda: server.ask("POST", "/timeline", content)[0] == 200, server.process)

    def test_what_programs_read(self, server: Server) -> None:
        status, schema, _ = server.ask("GET", "/openapi.json")
        assert status == 200
        call = schema["paths"]["/timeline"]["post"]
        assert set(call["requestBody"]["content"]) == {
            "application/octet-stream",
            "multipart/form-data",
        }
        assert {"200", "401", "413", "422", "503"} <= call["responses"].keys()
        status, page, _ = server.ask("GET", "/docs")
        assert status == 200
        for field in schema["components"]["schemas"]["Answer"]["properties"]:
            assert f"<code>{field}</code>" in page
        assert "//" not in page.split("<body>")[1].split("openapi.json")[1]  # it loads nothing

    @needs_browser
    def test_a_dropped_video_shows_its_timeline(
        self, server: Server, video: Path, expected: Timeline, tmp_path: Path
    ) -> None:
        with chromium(tmp_path / "profile") as browser:
            browser.get(f"http://{server.address}/")
            dropped = base64.b64encode(video.read_bytes()).decode()
            browser.execute_script(DROP, dropped, "nameless.mp4")
            says = browser.find_element(By.ID, "status")
            wait = WebDriverWait(browser, 120)
            wait.until(lambda _: "a token is needed" in says.text)
            browser.find_element(By.ID, "token").send_keys(TOKEN)
            browser.execute_script(DROP, dropped, video.name)
            frame = browser.find_element(By.ID, "timeline")
            wait.until(lambda _: frame.is_displayed())
            assert says.text == video.name
            for width in (1200, 400):
                resize(browser, width)
                inner = browser.execute_script("return document.documentElement.scrollWidth")
                assert inner <= width
                browser.save_screenshot(str(tmp_path / f"{width}.png"))
            browser.switch_to.frame(frame)
            assert browser.find_element(By.TAG_NAME, "h1").text == video.name
            shown = [
                one.get_attribute("textContent") for one in browser.find_elements(By.TAG_NAME, "h3")
            ]
            assert set(expected.labels) <= set(shown)
            assert expected.chosen in browser.find_element(By.CLASS_NAME, "summary").text
            source = browser.find_element(By.ID, "video").get_attribute("src")
            assert str(source).startswith(f"blob:http://{server.address}/")
            browser.switch_to.default_content()
            browser.find_element(By.ID, "file").send_keys(str(Path(__file__)))
            wait.until(lambda _: says.get_attribute("class") == "wrong")
            assert "test_serve.py" in says.text
            assert not frame.is_displayed()
            bad = [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
            assert not [one for one in bad if "timeline" not in one["message"]], bad

    def test_sigterm_finishes_what_is_there(self, server: Server, video: Path) -> None:
        content = video.read_bytes()
        held = server.begin(len(content))
        held.send(content[:100])
        wait_until(lambda: len(server.being_sent()) == 1, server.process)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "finishing those that are here" in server.log.read_text())
        held.send(content[100:])
        assert read(held)[0] == 200
        assert server.process.wait() == 143
        last = server.log.read_text().splitlines()[-1]
        assert last == "raymc: ended by SIGTERM; run the same command again"
        assert server.being_sent() == []


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["--host", "0.0.0.0"], "", "can be reached by others: set a token"),
        (["--host", "::"], "", "can be reached by others: set a token"),
        ([], "short", "the token in RAYMC_SERVE_TOKEN has 5 letters; expected 16 or more"),
        (["--token-file", "nowhere"], "", "--token-file nowhere can't be read"),
        (["--window", "-1"], "", "--window is -1"),
        (["--port", "99999"], "", "'--port': 99999 is not in the range 0<=x<=65535"),
        (["--max-mb", "nan"], "", "setting max_mb = nan: Input should be a finite number"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    arguments: list[str],
    token: str,
    message: str,
    media_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAYMC_SERVE_TOKEN", token)
    result = CliRunner().invoke(main, ["serve", str(media_bundle), *arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert message in line


def test_from_python(media_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def serve(*given: Any, **_: Any) -> None:
        asked.append(given)

    monkeypatch.setattr("raymc.serving.run.run_service", serve)
    model = load_bundle(media_bundle)
    raymc.serve(model, port=0, videos=[tmp_path], max_mb=1.0, queue=3, show=False)
    ((bundle, _, settings),) = asked
    assert bundle is model
    places = (f"{tmp_path.resolve()}/",)
    assert settings == ServeConfig(port=0, videos=places, max_mb=1.0, queue=3)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"host": "0.0.0.0"}, "can be reached by others"),
        ({"prot": 0}, "unknown setting 'prot': did you mean 'port'?"),
        ({"videos": str(tmp_path)}, "setting videos = .* valid tuple"),
    ]
    for wrong, message in refused:
        with pytest.raises(ConfigError, match=message):
            raymc.serve(model, **wrong)


def test_a_model_of_other_features_is_refused(tiny_bundle: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(tiny_bundle)])
    assert (result.exit_code, "doesn't say how its features were made" in result.stderr) == (
        2,
        True,
    )
    assert raymc.load(tiny_bundle).recipe is None


def test_a_process_that_starts_again_serves_no_other_bundle(media_bundle: Path) -> None:
    windows = window_and_stride(load_bundle(media_bundle), None, None)
    with pytest.raises(BundleError, match=r"holds another bundle by now: start the service anew$"):
        Labelling(media_bundle, "another", windows, ServeConfig())
