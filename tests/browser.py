"""Chromium without a window, for tests of pages; nothing but loopback and files is reached."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "headless=new",
    "no-sandbox",  # CI is root in a container
    "disable-gpu",
    "disable-dev-shm-usage",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "no-proxy-server",
    "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "window-size=1800,1300",
)
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs a browser: apt-get install chromium chromium-driver",
)
# Cells of one row whose texts, or the bar behind one, are closer than so many pixels.
_TOUCHING = """
const text = cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const boxes = [...range.getClientRects()].filter(box => box.width > 0);
  const right = Math.max(...boxes.map(b => b.right)), style = getComputedStyle(cell);
  const box = cell.getBoundingClientRect(), origin = style.backgroundOrigin;
  const end = origin === "content-box" ? box.right - parseFloat(style.paddingRight) : box.right;
  return { left: Math.min(...boxes.map(b => b.left)),
           right: cell.classList.contains("bar") ? Math.max(right, end) : right,
           shown: boxes.length > 0, words: cell.textContent.trim() };
};
const found = [];
for (const row of document.querySelectorAll("tr")) {
  const cells = [...row.cells].map(text).filter(cell => cell.shown);
  for (let at = 1; at < cells.length; at++) {
    if (cells[at].left - cells[at - 1].right < arguments[0]) {
      found.push(`${cells[at - 1].words} | ${cells[at].words}`);
    }
  }
}
return found;
"""


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Chromium as someone has it who was never on a page before."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser: webdriver.Chrome, width: int, height: int = 900) -> None:
    """Show pages so wide, as a phone does where a window can't be made so narrow."""
    given = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", given)


def touching(browser: webdriver.Chrome, pixels: int = 4) -> list[str]:
    """Texts of neighbouring cells that touch, or are closer than so many pixels."""
    return browser.execute_script(_TOUCHING, pixels)
