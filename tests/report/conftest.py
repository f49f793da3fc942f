"""One browser for all pages, because Chromium takes seconds to start and to end."""

from collections.abc import Iterator

import pytest
from browser import chromium
from selenium import webdriver


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
