"""A segmentation network as a program of ``torch.export``, which runs with PyTorch but without this library.

The program has the inputs and outputs of the ONNX file, see `wsss_lib.use.onnx`. The names of the classes are in the
extra file ``classes.json``::

    extra = {"classes.json": ""}
    program = torch.export.load("network.pt2", extra_files=extra).module()
    probabilities, labels = program(torch.from_numpy(pixels))  # (N, H, W, 3) uint8
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from wsss_lib.data.files import write_atomically
from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.segmentation_net import SegmentationNet
from wsss_lib.use.onnx import CHECKED, TOLERANCE, Portable, check_classes, smooth_pixels

_EXAMPLE = (2, 64, 96)
"""Count, height and width of the pictures with which the network is traced; a count of 1 would stay fixed."""


def export_program(
    network: SegmentationNet, normalisation: Normalisation, classes: Sequence[str], path: str | Path
) -> Path:
    """Write a network as a program, after comparing the outputs of both at other sizes.

    Args:
        network: The network; it is not changed.
        normalisation: Normalisation that turns pixels into the network's input.
        classes: Names of the K classes, without background.
        path: The file, ``*.pt2``; an earlier one of this name is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: The name has another ending, the file cannot be written, the number of classes is not the network's,
            or PyTorch cannot export the network. Then nothing is written.
    """
    path = Path(path)
    check_program_target(path)
    portable = Portable(copy.deepcopy(network), normalisation).cpu().float().eval().requires_grad_(False)
    check_classes(portable, classes)
    size, content = torch.export.Dim.AUTO, io.BytesIO()
    try:
        with warnings.catch_warnings():  # about future versions of PyTorch
            warnings.simplefilter("ignore")
            example = (smooth_pixels(_EXAMPLE).contiguous(),)
            program = torch.export.export(portable, example, dynamic_shapes=({0: size, 1: size, 2: size},))
            _compare(portable, program.module())
            torch.export.save(program, content, extra_files={"classes.json": json.dumps(list(classes))})
    except InputError:
        raise
    except Exception as error:  # torch.export raises errors of many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"{path} was not written: PyTorch cannot export the network ({reason}); use ONNX.") from None
    write_atomically(path, lambda file: file.write(content.getvalue()))
    return path


def check_program_target(path: Path) -> None:
    """Raise InputError if a program must not be written to a path."""
    if path.suffix != ".pt2":
        raise InputError(f"program {path} must end with .pt2; give it such a name.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a program; give the name of a file in it.")


@torch.inference_mode()
def _compare(portable: Portable, program: torch.nn.Module) -> None:
    for size in CHECKED:
        pixels = smooth_pixels(size).contiguous()
        found, wanted = program(pixels)[0], portable(pixels)[0]
        if found.shape != wanted.shape or not (found - wanted).abs().max() < TOLERANCE:
            raise InputError(
                f"the program computes other probabilities than the network for pictures of {size[1]} × {size[2]} "
                "pixels, so nothing was written; use ONNX."
            )
