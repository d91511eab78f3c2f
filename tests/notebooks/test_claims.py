"""Numbers in a notebook's prose that repeat an output equal that output."""

import re
from pathlib import Path

import nbformat
import pytest
from claims import CLAIMS

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
DOCUMENTS = {
    "README": ROOT / "README.md",
    "results": ROOT / "docs/results.md",
    "leaderboard": ROOT / "docs/leaderboard.md",
}
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"


def plain(text):
    """Return a text without asterisks, with single blanks, and with one kind of minus sign."""
    return " ".join(text.replace("*", "").replace("−", "-").split())


def output_of(cell):
    shown = (o.get("text", "") or o.get("data", {}).get("text/markdown", "") for o in cell.outputs)
    return "\n".join(shown)


def texts(stem):
    """Return what can be read in the cells of a notebook, by their ids; a document is one cell called text."""
    if stem in DOCUMENTS:
        return {"text": plain(DOCUMENTS[stem].read_text(encoding="utf-8"))}
    cells = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells
    return {c.id: plain(output_of(c) if c.cell_type == "code" else c.source) for c in cells}


def numbers(words, text):
    """Return the numbers of a text where it has the words, or None."""
    parts = re.split("([#…])", plain(words))
    meaning = {"#": f"({NUMBER})", "…": ".*?"}
    found = re.search("".join(meaning.get(part) or re.escape(part) for part in parts), text)
    return found and found.groups()


def agrees(said, shown):
    """Return whether a number in prose is a number of an output, rounded to the digits of the prose."""
    said, shown = said.replace(",", ""), shown.replace(",", "")
    digits = len(said.partition(".")[2])
    return abs(float(said) - float(shown)) <= 0.5 * 10**-digits + 1e-9


def complaint(stem, claim, read=texts):
    """Return a sentence that says what is wrong with a claim, or an empty text."""
    cell, words, source, line = claim
    other, _, output = source.rpartition(":")
    said = numbers(words, read(stem).get(cell, ""))
    shown = numbers(line, read(other or stem).get(output, ""))
    if said is None:
        return f"{stem}, cell {cell}, does not say “{words}”; change tests/notebooks/claims.py with the sentence."
    if shown is None:
        return f"{stem}: the output of cell {source} has no “{line}”, which cell {cell} repeats."
    assert len(said) == len(shown) > 0, f"{stem}, cell {cell}: the two texts need the same number of #."
    wrong = [(a, b) for a, b in zip(said, shown, strict=True) if not agrees(a, b)]
    pairs = ", ".join(f"{a} where the output of cell {source} shows {b}" for a, b in wrong)
    return f"{stem}, cell {cell}, “{words}” says {pairs}; correct the sentence." if wrong else ""


@pytest.mark.parametrize("stem", CLAIMS)
def test_prose_repeats_the_outputs(stem):
    complaints = [complaint(stem, claim) for claim in CLAIMS[stem]]
    assert not any(complaints), "\n".join(filter(None, complaints))


def test_every_lesson_has_claims():
    assert {*CLAIMS} - {*DOCUMENTS} == {path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert sum(claim[1].count("#") for claims in CLAIMS.values() for claim in claims) >= 30


CELLS = {"m": plain("The walk reaches **41.5 %**,\nin 1,024 steps."), "c": plain("walk | 41.46 | 39.0 |\nsteps 1024")}


@pytest.mark.parametrize(
    ("words", "line", "expected"),
    [
        ("walk reaches # %", "walk | #", ""),
        ("in # steps", "steps #", ""),
        ("# %, in # steps", "walk | # … steps #", ""),
        ("walk reaches # %", "walk | … | # |", "says 41.5 where the output of cell c shows 39.0"),
        ("walk gains #", "walk | #", "does not say “walk gains #”"),
        ("walk reaches # %", "CRF | #", "has no “CRF | #”"),
    ],
)
def test_differences_are_named(words, line, expected):
    said = complaint("nb", ("m", words, "c", line), read=lambda _: CELLS)
    assert expected in said
    assert bool(said) == bool(expected)
