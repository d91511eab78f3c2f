"""Answers to the exercises of the notebooks that are worked out by hand, with what a typical wrong number is told."""

from __future__ import annotations

from typing import Final

NUMBERS: Final[dict[tuple[str, int], tuple[float, str, dict[float, str]]]] = {
    ("02_oc_cse", 1): (
        0.1,
        "First enlarge: (4 − 2) / 2 = 1; then rectify, which changes nothing; then divide by 10.",
        {
            0.2: "You rectified first: −2 became 0, and the mean of 4 and 0 is 2. The order matters at edges.",
            1.0: "This is the value m; the mask M is m divided by the maximum of the batch.",
            0.4: "This is the mask at the centre of the first cell; the pixel lies halfway to the other cell.",
        },
    ),
}
"""For a notebook and the number of an exercise in it: the right number, its derivation, and a remark for wrong ones."""
