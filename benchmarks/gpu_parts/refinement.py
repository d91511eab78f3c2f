"""The random walk against dense squarings, and the dense CRF against pydensecrf."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import Any

import dense_crf
import random_walk
import torch
from common import alternate, compute_exactly, seconds
from random_walk import OURS, PLAIN, RUN, STRIDE

from gpu_parts.pictures import mosaics
from gpu_parts.report import Report

SIZE = {False: (375, 500), True: (60, 80)}
"""Height and width of a picture, for tiny or not."""


def peak(device: torch.device) -> dict[str, int]:
    """Return the column with the peak memory in MiB since the last call, on CUDA only."""
    if device.type != "cuda":
        return {}
    result = {"peak_MiB": round(torch.cuda.max_memory_allocated() / 2**20)}
    torch.cuda.reset_peak_memory_stats()
    return result


def walk(device_name: str, tiny: bool, report: Report) -> None:
    """Walk over one picture and over several at once, by three versions with equal scores."""
    device = torch.device(device_name)
    compute_exactly(device)
    height, width = (-(-side // STRIDE) for side in SIZE[tiny])
    report.note(f"Grid of {height} x {width} cells, 3 rows of scores, t = 256; error: from the walk in float64.")
    for count in (1, 2) if tiny else (1, 16):
        inputs = random_walk.make_inputs(count, 3, height, width, device)
        exact = random_walk.exact_walk(*inputs, 256)
        walked = {name: run(*inputs, 256) for name, run in RUN.items()}
        variants = {name: lambda run=run, inputs=inputs: run(*inputs, 256) for name, run in RUN.items()}
        times = alternate(variants, 1 if tiny else 5, device)
        medians = {name: statistics.median(turns) for name, turns in times.items()}
        for name in RUN:
            peak(device)
            variants[name]()
            error = random_walk.error(walked[name], exact)
            row: dict[str, Any] = {"version": name, "pictures": count, "ms_per_picture": 1000 * medians[name] / count}
            report.row(**row, **{"speed-up": medians[PLAIN] / medians[name]}, **peak(device), error=error)
            if name == OURS and not error <= random_walk.TOLERANCE:
                report.problem(f"the scores of {count} pictures differ by {error:.2g} from the walk in float64.")


def crf(device_name: str, tiny: bool, report: Report) -> None:
    """Solve the fields of batches of pictures, and of some of them by pydensecrf."""
    device = torch.device(device_name)
    compute_exactly(device)
    height, width = SIZE[tiny]
    batches = (1, 2) if tiny else (1, 4, 16, 64)
    case = dense_crf.Case(labels=3, fields=1, batch=1)
    pictures = mosaics(max(batches), height, width)
    energies = dense_crf.make_energies(case, max(batches), height, width)
    report.note(f"{width} x {height} pixels, 3 labels, {dense_crf.STEPS} updates; pydensecrf: one process, one thread.")
    compared = min(batches[-1], 4)
    expected, theirs = None, 0.0
    if importlib.util.find_spec("pydensecrf") is None:
        report.note("pydensecrf is not installed (pip install pydensecrf2), so there is no comparison with it.")
    else:
        found: list[Any] = []
        total = seconds(
            lambda: found.extend(dense_crf.plain(pictures[:compared], energies[:compared])), torch.device("cpu")
        )
        expected, theirs = found, total / compared
        report.row(version="pydensecrf", at_once=1, ms_per_picture=1000 * theirs)
    images, unaries = dense_crf.to_tensors(pictures, energies, device)
    options = argparse.Namespace(height=height, width=width)
    for batch in batches:
        with report.attempt(f"{batch} pictures at once"):
            dense_crf.solve_at_once(device, batch, options)
            inputs = images[: max(batch, compared)], unaries[: max(batch, compared)]
            results = dense_crf.ours(*inputs)
            peak(device)
            times = [seconds(lambda inputs=inputs: dense_crf.ours(*inputs), device) for _ in range(1 if tiny else 3)]
            ours = statistics.median(times) / len(inputs[0])
            row: dict[str, Any] = {"version": "ours", "at_once": batch, "ms_per_picture": 1000 * ours}
            row |= {"pictures/s": 1 / ours, **peak(device)}
            if expected is not None:
                equal, mean = dense_crf.difference(results[:compared], expected)
                row |= {"speed-up": theirs / ours, "equal_labels_%": equal, "mean_difference": mean}
            report.row(**row)
