"""What tests of buckets share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, on this machine alone; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
