"""Draw the map of the course, once for each lesson with a mark where the reader is: docs/pictures/map/LESSON.svg.

python scripts/course_map.py

Each drawing has its own light background, so that it can be read on a dark page, too.
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIZE = 740, 306
"""Width and height in pixels; the site shows a lesson as wide as that, so letters keep their size."""

Box = tuple[int, int, int, int]
"""Left, top, width and height."""

LESSONS: dict[str, tuple[Box, str]] = {
    "00_cam": ((128, 38, 80, 48), "CAM"),
    "02_oc_cse": ((216, 38, 80, 48), "OC-CSE"),
    "03_acr": ((304, 38, 80, 48), "ACR"),
    "04_pcss": ((392, 38, 80, 48), "PCSS"),
    "05_msal": ((480, 38, 80, 48), "MSAL"),
    "01_affinitynet": ((112, 168, 96, 48), "AffinityNet"),
    "01b_irn": ((216, 168, 70, 48), "IRN"),
    "07_use": ((632, 168, 96, 48), "new pictures"),
    "06_compare": ((12, 256, 716, 38), "compares the maps, the masks and the final networks"),
}
"""Place and title of each lesson."""

THINGS: tuple[tuple[Box, str], ...] = (
    ((12, 38, 88, 48), "images and\ntheir labels"),
    ((590, 38, 138, 48), "a map\nfor each class"),
    ((22, 168, 82, 48), "maps as\nthey are"),
    ((322, 168, 84, 48), "dense CRF\n(in 01)"),
    ((430, 168, 54, 48), "masks"),
    ((508, 168, 100, 48), "final network\n(in 00 to 05)"),
)
"""Place and text of what a lesson makes or uses."""

FRAMES: tuple[tuple[Box, str], ...] = (
    ((120, 12, 448, 96), "one of five ways to make maps"),
    ((12, 142, 284, 96), "one of three ways to go on"),
)

ARROWS = (
    "M100 62 H116",
    "M568 62 H586",
    "M659 86 V125 H154 V138",
    "M296 192 H318",
    "M406 192 H426",
    "M484 192 H504",
    "M608 192 H628",
)

STYLE = """
text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1a1a1a; text-anchor: middle }
.number { font-weight: bold }
.caption { font-size: 12px; fill: #444; text-anchor: start }
.page { fill: #fff; stroke: #bbb }
.frame { fill: #f1f4f8; stroke: #9aa7b5; stroke-dasharray: 4 3 }
.lesson { fill: #dcebfa; stroke: #31669c }
.thing { fill: #fff; stroke: #777 }
.here { fill: #ffd166; stroke: #000; stroke-width: 3 }
.flag { fill: #000 }
.flag + text { font-size: 12px; fill: #fff }
.arrow { fill: none; stroke: #444; stroke-width: 1.6; marker-end: url(#head) }
"""


def rectangle(box: Box, kind: str, radius: int = 6) -> str:
    """Return a rectangle of the given class of the style sheet."""
    x, y, width, height = box
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" class="{kind}"/>'


def writing(x: float, y: float, text: str, kind: str = "") -> str:
    """Return one line of text."""
    about = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{about}>{escape(text)}</text>'


def lines(box: Box, text: str, kinds: tuple[str, ...] = ()) -> list[str]:
    """Return the lines of a text in the middle of a box."""
    x, y, width, height = box
    parts = text.split("\n")
    first = y + height / 2 + 4.5 - 8.5 * (len(parts) - 1)
    return [
        writing(x + width / 2, first + 17 * i, part, kinds[i] if i < len(kinds) else "") for i, part in enumerate(parts)
    ]


def told(here: str) -> str:
    """Return the map in words."""
    return (
        "Map of the course. Images and their labels become maps in 00, 02, 03, 04 or 05. The maps as they are, "
        "or after AffinityNet (01) or IRN (01b), pass through a dense CRF and become masks. The masks train the final "
        "network, which makes masks of new pictures in 07. 06 compares the maps, the masks and the final networks. "
        f"You are here: {here.partition('_')[0]}."
    )


def drawing(here: str) -> str:
    """Return the map as SVG, with a mark at one lesson."""
    width, height = SIZE
    sizes = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {sizes} role="img">',
        f"<title>{escape(told(here))}</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>',
        rectangle((1, 1, width - 2, height - 2), "page", 10),
    ]
    for box, text in FRAMES:
        parts += [rectangle(box, "frame"), writing(box[0] + 10, box[1] + 16, text, "caption")]
    parts += [f'<path d="{path}" class="arrow"/>' for path in ARROWS]
    for box, text in THINGS:
        parts += [rectangle(box, "thing", 20), *lines(box, text)]
    for lesson, (box, title) in LESSONS.items():
        number = lesson.partition("_")[0]
        wide = box[2] > SIZE[0] / 2
        text = f"{number} {title}" if wide else f"{number}\n{title}"
        parts += [rectangle(box, "here" if lesson == here else "lesson"), *lines(box, text, ("number",))]
    x, y, width, height = LESSONS[here][0]
    flag = (x + width // 2 - 42, y + height, 84, 18) if width < SIZE[0] / 2 else (x + 10, y + 10, 84, 18)
    parts += [rectangle(flag, "flag", 9), writing(flag[0] + 42, flag[1] + 13, "you are here"), "</svg>"]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write the map of each lesson."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "map", help="folder of the drawings")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for lesson in LESSONS:
        (folder / f"{lesson}.svg").write_text(drawing(lesson), encoding="utf-8")


if __name__ == "__main__":
    main()
