"""A page as a browser sees it: its elements, text and ids, and whatever it would load."""

from html.parser import HTMLParser
from io import BytesIO

import pytest
from matplotlib.figure import Figure

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADS = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Have figures put together, but not drawn, which takes longer."""

    def save(figure: Figure, file: BytesIO, **_: object) -> None:
        file.write(b'<svg xmlns="http://www.w3.org/2000/svg"/>')

    patch.setattr(Figure, "savefig", save)


class Seen(HTMLParser):
    """Checks that elements nest, and collects what tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.loaded: list[str] = []
        self.labels: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            if tag == "svg" and name == "aria-label":
                self.labels.append(value)
            if tag == "a" and name == "href":
                self.links.append(value)
            if name in LOADS and not value.startswith(
                ("#", "data:image/png;base64,", "data:image/jpeg;base64,")
            ):
                self.loaded.append(value)
            assert not name.startswith("on"), f"{tag} has {name}"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(" ".join(data.split()))

    def all_text(self) -> str:
        """Everything that is shown."""
        shown = (parts for tag, parts in self.text.items() if tag not in ("style", "script"))
        return "\n".join(part for parts in shown for part in parts)
