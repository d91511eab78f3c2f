"""A segmentation network as an ONNX file, which runs without PyTorch and without this library.

The network in the file takes ``pixels``, ``(N, H, W, 3)`` uint8 RGB of any size, normalises them itself, and returns
``probabilities``, ``(N, 1 + K, H, W)`` float32, background first, and ``labels``, ``(N, H, W)`` uint8: 0 background,
k + 1 class k. The names of the classes stand in the metadata, as a JSON list under ``classes``. It looks at every
picture once, at its own size: other scales, mirror images and a CRF are not part of the file.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss_lib.data.files import write_atomically
from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.segmentation_net import SegmentationNet
from wsss_lib.ops.cam import upsample

_OPSET = 18
TRACED = (1, 64, 96)
"""Count, height and width of the pictures for which the network is written down."""
CHECKED = ((1, 97, 65), (2, 83, 118))
"""Sizes for which PyTorch and the file are compared: odd sides, an even one, several pictures."""
TOLERANCE = 1e-3
"""Greatest difference of two probabilities; rounding alone made 1.4e-5 in the tests."""
_MOST_CLASSES = 254


class Portable(nn.Module):
    """A network with everything around it: pixels in, probabilities and labels out.

    Args:
        network: The network.
        normalisation: Normalisation that turns pixels into the network's input.
    """

    def __init__(self, network: SegmentationNet, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.normalisation = normalisation

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(N, H, W, 3)`` uint8 RGB to ``(N, 1 + K, H, W)`` probabilities and ``(N, H, W)`` uint8 labels."""
        images = self.normalisation(pixels.permute(0, 3, 1, 2))
        logits = upsample(self.network.logits(images), (pixels.shape[1], pixels.shape[2]))
        return logits.softmax(1), logits.argmax(1).to(torch.uint8)


def export_onnx(
    network: SegmentationNet, normalisation: Normalisation, classes: Sequence[str], path: str | Path
) -> Path:
    """Write a network to an ONNX file, after checking that onnxruntime computes what PyTorch does.

    Args:
        network: The network; it is not changed.
        normalisation: Normalisation that turns pixels into the network's input.
        classes: Names of the K classes, without background.
        path: The file, ``*.onnx``; an earlier one of this name is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: The packages onnx and onnxruntime are not installed, the name has another ending, the file cannot be
            written, the number of classes is not the network's, a weight is not finite, or onnxruntime computes
            something else than PyTorch. Then nothing is written.
    """
    path = Path(path)
    onnx, runtime = check_onnx_target(path)
    broken = [name for name, value in network.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"the network is not finite in {broken[0]}; train it again with a lower learning_rate.")
    portable = Portable(copy.deepcopy(network), normalisation).cpu().float().eval().requires_grad_(False)
    check_classes(portable, classes)
    model = onnx.load_from_string(_traced(portable))
    onnx.helper.set_model_props(model, {"classes": json.dumps(list(classes), ensure_ascii=False)})
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    _compare(portable, runtime.InferenceSession(content, providers=["CPUExecutionProvider"]), path)
    write_atomically(path, lambda file: file.write(content))
    return path


def check_onnx_target(path: Path) -> tuple[Any, Any]:
    """Return the packages onnx and onnxruntime.

    Raises:
        InputError: A package is missing, or an ONNX file must not be written to the path.
    """
    packages = _package("onnx"), _package("onnxruntime")
    if path.suffix != ".onnx":
        raise InputError(f"ONNX file {path} must end with .onnx; give it such a name.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an ONNX file; give the name of a file in it.")
    return packages


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(
            f"the package {name} is missing, which an ONNX file needs: type pip install onnx onnxruntime."
        ) from None


@torch.inference_mode()
def check_classes(portable: Portable, classes: Sequence[str]) -> None:
    """Raise InputError unless the names are as many as the network's classes, and fit into 8-bit labels."""
    outputs = portable(smooth_pixels(TRACED))[0].shape[1]
    if outputs != len(classes) + 1:
        raise InputError(
            f"{len(classes)} classes are named, but the network has {outputs - 1} and background; give their names."
        )
    if len(classes) > _MOST_CLASSES:
        raise InputError(f"{len(classes)} classes do not fit into 8-bit labels; {_MOST_CLASSES} are the most.")


def smooth_pixels(size: tuple[int, int, int]) -> Tensor:
    """Return smooth coloured noise ``(*size, 3)`` uint8, always the same."""
    count, height, width = size
    seeded = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 7, 9, generator=seeded) * 255
    fine = 40 * torch.randn(count, 3, height, width, generator=seeded)
    return (upsample(coarse, (height, width)) + fine).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _traced(portable: Portable) -> bytes:
    """Return the network as PyTorch writes it down while it computes once, with sizes left open."""
    content: Any = io.BytesIO()  # which PyTorch takes, though its annotation does not say so
    sides = {0: "count", 1: "height", 2: "width"}
    with warnings.catch_warnings():  # that sizes are followed only as tensors is what the comparison is for
        warnings.simplefilter("ignore")
        torch.onnx.export(
            portable,
            (smooth_pixels(TRACED).contiguous(),),
            content,
            dynamo=False,  # the newer exporter took 37 s in place of 0.6 s for EfficientNet-Lite0
            opset_version=_OPSET,
            input_names=["pixels"],
            output_names=["probabilities", "labels"],
            dynamic_axes={
                "pixels": sides,
                "probabilities": {0: "count", 2: "height", 3: "width"},
                "labels": sides,
            },
        )
    written: bytes = content.getvalue()
    return written


@torch.inference_mode()
def _compare(portable: Portable, session: Any, path: Path) -> None:
    """Raise InputError unless onnxruntime computes what PyTorch computes."""
    for size in CHECKED:
        pixels = smooth_pixels(size)
        wanted, labels = (part.numpy() for part in portable(pixels))
        try:
            found, its_labels = session.run(None, {"pixels": pixels.numpy()})
        except Exception as error:  # the package has errors of its own
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"{path} was not written: onnxruntime cannot compute pictures of {size[1]} × {size[2]} pixels with it "
                f"({reason}); try another version of onnxruntime."
            ) from None
        sure = np.sort(wanted, axis=1)
        sure = sure[:, -1] - sure[:, -2] > 2 * TOLERANCE
        apart = np.abs(found - wanted).max() if found.shape == wanted.shape else np.inf
        if not apart < TOLERANCE or (its_labels != labels)[sure].any():
            raise InputError(
                f"{path} was not written: onnxruntime computes other probabilities with it than PyTorch, by up to "
                f"{apart:.2g} for pictures of {size[1]} × {size[2]} pixels; try another version of onnxruntime."
            )
