"""The reliability diagram: the share of right pixels over the confidence of a network."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wsss_lib.show.figures import Plot
from wsss_lib.show.plot import name_axes


def reliability_diagram(counts: Tensor) -> Plot:
    """Plot the share of right pixels over the confidence, and below it the share of pixels with this confidence.

    Args:
        counts: ``(bins, 3)`` of :func:`wsss_lib.ops.calibration.reliability`, summed over images.
    """
    pixels, confidence, right = (column.numpy() for column in counts.unbind(1))
    there, edges = pixels > 0, np.linspace(0, 1, len(counts) + 1)
    figure = Plot(figsize=(4.6, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="if confidence could be believed")
    upper.plot(
        confidence[there] / pixels[there], right[there] / pixels[there], marker="o", markersize=4, label="measured"
    )
    upper.set(xlim=(0, 1), ylim=(0, 1))
    name_axes(upper, "", "share of right pixels")
    upper.legend(frameon=False, fontsize=9, loc="upper left")
    lower.stairs(pixels / max(1.0, pixels.sum()), edges, fill=True)
    lower.set_ylim(0, None)
    name_axes(lower, "confidence", "share of all pixels")
    return figure
