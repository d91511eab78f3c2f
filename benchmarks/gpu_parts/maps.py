"""Multi-scale maps against one picture, one view and all classes at a time, see `inference.py`."""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from typing import Any

import inference
import torch
from common import compute_exactly, statistics_of_a_batch, synchronise
from inference import OURS, PLAIN, RUN, Maps

from gpu_parts.pictures import Mosaics
from gpu_parts.refinement import peak
from gpu_parts.report import Report
from wsss_lib.methods import pcss
from wsss_lib.methods.method import CamMethod
from wsss_lib.stages.engine import make_fabric

CLASSES = 20
SCALES = {"resnet38d": (1.0, 0.5, 1.5, 2.0), "deit_small": (1.0, 0.75, 1.25)}
"""Scales of AffinityNet's classifier and of MCTformer+."""


class PCSS(pcss.PCSS):
    """PCSS with maps that are divided by their maximum, so that one plain version serves both networks."""

    normalise_maps = CamMethod.normalise_maps


def make_method(backbone: str, device: torch.device, tiny: bool) -> CamMethod:
    """Build a method with random weights."""
    if backbone == "resnet38d":
        values = {"width": 0.0625 if tiny else 1.0, "scales": SCALES[backbone], "view_multiple": 0}
        return inference.make_method(
            argparse.Namespace(backbone=backbone, classes=CLASSES, device=device.type, **values)
        )
    torch.manual_seed(0)
    options = {"channels": 96, "depth": 4, "heads": 3} if tiny else {}
    config = pcss.Config(backbone_options=options, pretrained=False, scales=SCALES[backbone], merge_block=2)
    method = PCSS(config, CLASSES)
    with statistics_of_a_batch(method.network):
        method.network(torch.randn(2, 3, 96, 96))
    method.network.to(device)
    return method


def multi_scale(device_name: str, tiny: bool, report: Report, backbone: str) -> None:
    """Make the maps of some pictures in fp32 and in bf16, by both versions."""
    device = torch.device(device_name)
    compute_exactly(device)
    count, height, width = (2, 60, 80) if tiny else (16, 375, 500)
    workers = 0 if tiny else min(4, (os.cpu_count() or 1) // 2)
    data, few = Mosaics(count, height, width, CLASSES), Mosaics(1, height, width, CLASSES)
    method = make_method(backbone, device, tiny)
    scales = ", ".join(f"{scale:g}" for scale in SCALES[backbone])
    report.note(f"{count} pictures of {width} x {height}, scales {scales}, each mirrored; {workers} loading processes.")
    for precision in ("32-true", "bf16-mixed"):
        fabric = make_fabric(device.type, precision=precision)
        maps: dict[str, Maps] = {}
        times: dict[str, float] = {}
        for version in (PLAIN, OURS):
            with report.attempt(f"{version}, {precision}"):
                make = partial(RUN[version], method, fabric=fabric)
                make(few, workers=0)  # loads code and chooses algorithms
                peak(device)
                synchronise(device)
                start = time.perf_counter()
                maps[version] = make(data, workers=workers)
                synchronise(device)
                times[version] = time.perf_counter() - start
                row: dict[str, Any] = {"version": f"{version}, {'fp32' if precision == '32-true' else 'bf16'}"}
                row["pictures/s"] = count / times[version]
                if PLAIN in times:
                    row["speed-up"] = times[PLAIN] / times[version]
                report.row(**row, **peak(device))
        if precision == "32-true" and len(maps) == 2:
            with report.attempt("the maps of both versions"):
                inference.assert_equal(maps[OURS], maps[PLAIN])
