"""The class of all figures: a Matplotlib figure that shows itself in a notebook and says in words what it shows."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from wsss_lib.errors import printable

TEXT = 9
"""Size of the text of all figures in points."""

LETTERS_PER_INCH = 13
"""Number of letters of that size in an inch, about."""

_LONGEST_LINE = 60
"""Greatest number of letters in a line of a figure; a longer line loses its middle."""

_BAR = "<colorbar>"
"""Label that Matplotlib gives to the axes of a colour bar."""


def shortened(text: str, longest: int = _LONGEST_LINE) -> str:
    """Return a text whose lines have at most ``longest`` letters; the middle of a longer line is replaced by "…"."""
    end = longest // 3
    lines = printable(text).split("\n")
    return "\n".join(x if len(x) <= longest else f"{x[: longest - end - 1]}…{x[-end:]}" for x in lines)


def wrapped(text: str, longest: int) -> str:
    """Return a shortened text in lines of at most ``longest`` letters, broken at spaces where that is possible."""
    lines = [textwrap.wrap(line, longest, break_on_hyphens=False) or [""] for line in shortened(text).split("\n")]
    return "\n".join(part for line in lines for part in line)


class Plot(Figure):
    """A figure that notebooks display: drawings as PNG, photographic figures as JPEG, which keeps notebooks small.

    Text in the figure is never read as a formula, because a class may be called ``a$b$``.

    Attributes:
        photographic: Whether the figure is shown as JPEG.
        words: Description of the figure for readers who cannot see it; "" for the words that are written in it.
    """

    photographic: bool = False
    words: str = ""

    def png(self) -> bytes:
        """Return the figure as the bytes of a PNG file."""
        return self._bytes("png")

    def encoded(self) -> tuple[str, bytes]:
        """Return the kind of file in which notebooks show the figure, such as ``image/png``, and its bytes."""
        if self.photographic:
            return "image/jpeg", self._bytes("jpeg", pil_kwargs={"quality": 85})
        return "image/png", self.png()

    def alt(self) -> str:
        """Return the alternative text of the figure: its words, or the titles, axes and legends that it has."""
        if self.words:
            return _one_line(self.words)
        drawn = [axis for axis in self.axes if axis.get_label() != _BAR]
        axes = [f"{axis.get_ylabel()} over {axis.get_xlabel()}" for axis in drawn if axis.get_xlabel()]
        keys = [text.get_text() for legend in self._legends(drawn) for text in legend.get_texts()]
        parts = {"Figure": [axis.get_title() for axis in drawn], "Axes": axes, "Legend": keys}
        found = {name: [*dict.fromkeys(filter(None, texts))] for name, texts in parts.items()}
        return _one_line(" ".join(f"{name}: {', '.join(texts)}." for name, texts in found.items() if texts) or "Figure")

    def _legends(self, axes: Iterable[Axes]) -> list[Legend]:
        return [*self.legends, *(legend for axis in axes if (legend := axis.get_legend()) is not None)]

    def _bytes(self, kind: str, **options: Any) -> bytes:
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
            text.set_text(shortened(text.get_text()))
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, facecolor="white", bbox_inches="tight", **options)
        return buffer.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, str]] | None:
        return None if self.photographic else (self.png(), {"alt": self.alt()})

    def _repr_jpeg_(self) -> tuple[bytes, dict[str, str]] | None:
        return (self.encoded()[1], {"alt": self.alt()}) if self.photographic else None


def name_axes(axis: Axes, x: str, y: str) -> None:
    """Name both axes, the vertical one in horizontal letters above it, and hide the frame at the top and right."""
    axis.set_xlabel(x, fontsize=TEXT)
    axis.set_ylabel(y, rotation=0, ha="left", va="bottom", fontsize=TEXT)
    axis.yaxis.set_label_coords(0, 1.02)
    axis.tick_params(labelsize=TEXT)
    axis.spines[["top", "right"]].set_visible(False)


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
