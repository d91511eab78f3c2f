"""Answers to the multiple-choice questions of the notebooks, with what each letter is told."""

from __future__ import annotations

from typing import Final

CHOICES: Final[dict[tuple[str, int], tuple[str, dict[str, str]]]] = {
    ("00_cam", 2): (
        "b",
        {
            "a": "When the logits are right, the loss does not reward covering more of the object.",
            "b": "The loss falls further only if logits grow, and those at the most telling positions grow fastest.",
            "c": "The loss contains no pixels, but its gradient reaches each position through the average.",
        },
    ),
    ("01_affinitynet", 1): (
        "a",
        {
            "a": "(1 - max A) to a higher power is lower at every pixel, so the classes win at more pixels.",
            "b": "The scores of the classes do not change; the background score falls, so the classes win more often.",
            "c": "The power stands in the unary energy U, and a label that is likelier there wins at more pixels.",
        },
    ),
    ("01_affinitynet", 6): (
        "b",
        {
            "a": "Borders slow the walk down but do not stop it: no affinity is exactly zero.",
            "b": "After many steps the start no longer matters; all cells have the same weighted mean.",
            "c": "The rows of T add up to 1, so a mean of the scores remains.",
        },
    ),
    ("01b_irn", 1): (
        "c",
        {
            "a": "The gradient of a maximum goes to one cell; only alike pairs reach all of them, one after the other.",
            "b": "The loss does not know where on the path the border is; nobody has told it.",
            "c": "The gradient of a maximum goes to the highest cell, and over many pairs the true border wins.",
        },
    ),
    ("02_oc_cse", 5): (
        "c",
        {
            "a": "It would cost more memory, but that is not the problem.",
            "b": "Labels with the target would teach it that. But y' says that the target is gone.",
            "c": "The hole alone would tell the judge which class was erased, so the mask need not cover the object.",
        },
    ),
    ("02_oc_cse", 2): (
        "b",
        {
            "a": "mask_norm='image' would do this.",
            "b": "Their masks are at most 1 / (10 + 0.00001), so nine tenths of each pixel remain.",
            "c": "A mask is zero only where the map is not positive.",
        },
    ),
    ("03_acr", 1): (
        "a",
        {
            "a": "A comparison has no gradient. The soft mask of the rest, s, must be detached; it has one.",
            "b": "The comparison passes no gradient, so it cannot pull the map down.",
            "c": "With a soft mask it could learn something like that, but a comparison has no gradient.",
        },
    ),
    ("03_acr", 4): (
        "a",
        {
            "a": "If the classifier could change the reconstructor, it would make it draw badly.",
            "b": "It does save memory, but that is not the reason.",
            "c": "Two networks can be trained in one step, but (6) would then teach the reconstructor to draw badly.",
        },
    ),
    ("04_pcss", 1): (
        "b",
        {
            "a": "It saves some time, but that is not the reason; the results would also differ.",
            "b": "The unchanged image is the teacher; otherwise both could agree on poor maps.",
            "c": "Attention has a gradient; the third pass learns through its attention.",
        },
    ),
    ("04_pcss", 4): (
        "b",
        {
            "a": "It does halve the number, but one block alone would not remove the wave.",
            "b": "A wave that remains in one of the two blocks is halved, not removed.",
            "c": "They are the same wave.",
        },
    ),
    ("05_msal", 1): (
        "b",
        {
            "a": "Colour alone does not decide between several superpixels of the same colour.",
            "b": "A pixel may then belong to any of the nine superpixels with its colour.",
            "c": "A very large weight of the positions would do that.",
        },
    ),
    ("05_msal", 4): (
        "a",
        {
            "a": "The loss trains the boundary between object and background; such a patch has no boundary.",
            "b": "They cost no more than other patches.",
            "c": "An even background is rebuilt very well by its mean.",
        },
    ),
    ("06_compare", 2): (
        "b",
        {
            "a": "A control has the same number of steps, so length alone cannot explain a difference.",
            "b": "The best of 16 epochs on the scored masks is an upper bound, which the control did not get.",
            "c": "An interval over pictures says nothing about how the epoch was chosen.",
        },
    ),
    ("07_use", 3): (
        "b",
        {
            "a": "Nothing in the masks says that tails are difficult: in all of them a tail is background.",
            "b": "Tails are background in every mask, so this is easy to learn, and confidence is about the masks.",
            "c": "That would follow if half of the masks had the tails; none has.",
        },
    ),
    ("07_use", 4): (
        "c",
        {
            "a": "An error of 0 is possible although all pictures have the same confidence, which then orders nothing.",
            "b": "A network that is sure of everything says nothing about where to look.",
            "c": "Only the order matters for this use, and only true masks can tell whether it is of any use.",
        },
    ),
}
"""For a notebook and the number of an exercise in it: the right letter, and an explanation for each letter."""
