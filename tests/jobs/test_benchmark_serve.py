"""The benchmark of the service: what it counts and asks; no time is asserted."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from jobs.bench import serve as bench
from raymc.data.shards import Dataset, read_shard
from raymc.training.bundle import load_bundle, tokens_of_frames

_CODES = (200, 503, 500)
_asked = count()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(_CODES[next(_asked) % 3])
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """A service that answers, refuses and fails in turn."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_answers_refusals_and_errors_are_counted_apart(port: int) -> None:
    seconds, statuses = bench._ask(port, bench._video(b"video"), [3, 6, 3])
    assert sorted(statuses) == [200] * 4 + [500] * 4 + [503] * 4
    assert len(seconds) == 12


def test_a_service_that_is_gone_is_an_error() -> None:
    assert bench._ask(bench._free_port(), bench._invocation(b"{}"), [2])[1] == [0, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("children_are_threads")
def test_features_are_those_of_the_video(
    media_bundle: Path, media_dataset: Dataset, videos: Path
) -> None:
    bundle = load_bundle(media_bundle)
    rows = bench._features(bundle, str(videos / "3.mp4"))
    columns = {one.name: [row[one.name] for row in rows] for one in bundle.modalities}
    scores = bundle.score_tokens(tokens_of_frames(columns, bundle.modalities))
    table = read_shard(media_dataset, *media_dataset.split("train")).slice(2)
    np.testing.assert_allclose(scores, bundle.score(table), atol=1e-6)
