"""Answers to the exercises of the notebooks that are worked out by hand, with what a typical wrong number is told."""

from __future__ import annotations

from typing import Final

NUMBERS: Final[dict[tuple[str, int], tuple[float, str, dict[float, str]]]] = {
    ("00_cam", 1): (
        1.0,
        "(1): F = (1, 2), and 3 · 1 - 1 · 2 = 1. (2): the map is 6 and -4, and its mean is 1.",
        {
            2.0: "This is the sum over the positions; both equations have the mean.",
            3.0: "You rectified the map first. The logit is the mean of the signed map.",
            5.0: "The second weight is -1.",
        },
    ),
    ("01_affinitynet", 2): (
        1 / 2.25,
        "The row of the middle cell is (1, 1, 0.5²) = (1, 1, 0.25), its sum is 2.25, and only cell 1 has a score.",
        {
            0.4: "You left out the power: with beta 2, the affinity 0.5 becomes 0.25.",
            0.8: "You left out the cell itself: its affinity with itself is 1 and belongs to the sum.",
            1.0: "Divide by the sum of the row, so that the row of T adds up to 1.",
            1 / 3: "You gave all three cells the same affinity.",
        },
    ),
    ("01b_irn", 2): (
        0.357,
        "The highest boundary is 0.7, so a = 0.3 and 1 - a = 0.7, and -log 0.7 = 0.36.",
        {
            2.303: "You used the ends alone: 1 - 0.1 = 0.9. The highest boundary of the whole path decides.",
            1.204: "This is -log a, the loss of a pair with the same label.",
            0.3: "This is the affinity a; the loss is -log (1 - a).",
            0.155: "Use the natural logarithm.",
        },
    ),
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
