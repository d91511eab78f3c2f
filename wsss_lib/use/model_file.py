"""The model file: one ``.safetensors`` that holds a final segmentation network and all that its use needs.

The metadata of the file has four texts: ``wsss_lib_model`` (the number of the format), ``version`` (of the library that
wrote the file), ``description`` (JSON, see :func:`_describe`) and ``digest`` (of all that, and of the tensors). The
format holds no code, and reading it executes none.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

import wsss_lib
from wsss_lib.data.files import voc_palette, write_atomically
from wsss_lib.data.large import WORKING_PIXELS
from wsss_lib.data.names import positions
from wsss_lib.errors import InputError
from wsss_lib.methods.segmentation import Config, create_network
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.segmentation_net import SegmentationNet
from wsss_lib.models.weight_formats import is_safetensors, map_file, read_safetensors
from wsss_lib.models.weights import load_into
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.run import Run
from wsss_lib.runs.segmentation import SegmentationRun
from wsss_lib.stages.provenance import network_digest
from wsss_lib.stages.store import read_json
from wsss_lib.use.model import About, Model

FORMAT = 1
"""Number of the format of model files."""

NAME = "model.safetensors"
"""Name of the model file in the folder of a run."""

_KEYS = ("wsss_lib_model", "version", "description", "digest")
_MOST_CLASSES = 254


# ------------------------------------------------------------------------------------------------------------- writing


def save_model(run: SegmentationRun, path: str | Path) -> Path:
    """Write the network of a finished run, and all that its use needs, to one file.

    Args:
        run: A run of the final stage that is trained.
        path: The file, ``*.safetensors``. An earlier model file of this name is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: The run is not trained to its end, the name has another ending or belongs to a file that is not a
            model, or the file cannot be written.
    """
    path = Path(path)
    check_target(path)
    if not run.is_trained:
        raise InputError(f"{run.folder} is not trained to its end; start it again, then save its model.")
    state = run.method.network.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"the network of {run.folder} is not finite in {broken[0]}; train with a lower learning_rate.")
    description = json.dumps(_describe(run), ensure_ascii=False)
    texts = {"wsss_lib_model": str(FORMAT), "version": wsss_lib.__version__, "description": description}
    content = safetensors.torch.save(tensors, {**texts, "digest": _digest(texts, tensors)})
    write_atomically(path, lambda file: file.write(content))
    return path


def check_target(path: Path) -> None:
    """Raise InputError if a model must not be written to a path."""
    if path.suffix != ".safetensors":
        raise InputError(f"model file {path} must end with .safetensors; give it such a name.")
    if path.exists() and not _is_model(path):
        raise InputError(f"{path} exists and is not a model file of wsss_lib; give another name.")


def _is_model(path: Path) -> bool:
    try:
        return _KEYS[0] in _read_texts(path)
    except InputError:
        return False


def _describe(run: SegmentationRun) -> dict[str, Any]:
    """Return what the file says of a network, as plain values."""
    settings, training, identity = run.settings, run.splits.fit, run.identity()
    counts = training.labels.sum(0).int().tolist()
    metrics = run.folder / "metrics.json"
    return {
        "method": settings.method,
        "config": run.method.config.to_dict(),  # with backbone, backbone_options, scales, inference and crf
        "classes": list(training.classes),
        "palette": voc_palette()[: len(training.classes) + 1].tolist(),
        "normalisation": asdict(run.normalise),
        "working_pixels": WORKING_PIXELS,
        "trained_on": {
            "name": training.name,
            "images": len(training),
            "images_of_classes": dict(zip(training.classes, counts, strict=True)),
            "pictures": identity.get("pictures fit"),
            "labels": identity.get("data fit"),
            "pseudo_masks": identity.get("pseudo masks"),
            "masks_from": None if settings.pseudo_masks is None else "/".join(settings.pseudo_masks.parts[-3:]),
            "notebook": settings.notebook,
            "preset": settings.preset,
            "seed": settings.seed,
        },
        "results": read_json(metrics).get("masks", {}) if metrics.is_file() else {},
        "made": run.training_record.read().get("made", []),
    }


def _digest(texts: dict[str, str], tensors: dict[str, Tensor]) -> str:
    parts = [*(texts[name] for name in _KEYS[:-1]), network_digest(dict(sorted(tensors.items())))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def final_network(folder: Path) -> SegmentationRun:
    """Open the run of the final network that a folder holds: the folder of such a run, or of a run that has one.

    Raises:
        InputError: The folder holds no such run, or several.
    """
    run: Run = reopen(folder, guest=True)
    if isinstance(run, SegmentationRun):
        return run
    found = sorted(path.parent for path in (folder / "segmentation").glob("*/config.json"))
    if len(found) != 1:
        there = f"several final networks ({', '.join(path.name for path in found)})" if found else "no final network"
        what = (
            f"name the folder of one, such as {found[0]}"
            if found
            else "make one, with wsss fit or -p segmentation True"
        )
        raise InputError(f"{folder} has {there}; {what}.")
    final = reopen(found[0], guest=True)
    assert isinstance(final, SegmentationRun)
    return final


# ------------------------------------------------------------------------------------------------------------- reading


def load_model(path: str | Path, device: str = "auto", precision: str = "32-true") -> Model:
    """Read a model file; nothing of it is executed, and no other file is needed.

    Args:
        path: A file that :func:`save_model` wrote.
        device: ``auto`` (CUDA where there is a device), ``cpu`` or ``cuda``.
        precision: ``32-true``, or ``bf16-mixed`` or ``16-mixed`` for automatic mixed precision.

    Raises:
        InputError: The file is missing, of another kind, of a newer format, cut off or damaged, lacks a tensor or holds
            one that is not finite, or device or precision cannot be had.
    """
    path = Path(path)
    texts = _read_texts(path)
    tensors = read_safetensors(path)
    if texts["digest"] != _digest(texts, tensors):
        raise InputError(f"model file {path} is damaged (its content does not fit its checksum); copy it again.")
    try:
        content = json.loads(texts["description"])
        config = Config.from_dict(content["config"])
        config.check()
        classes = _checked_classes(content["classes"])
        about = About(
            config=config,
            classes=classes,
            palette=_checked_palette(content["palette"], len(classes)),
            normalisation=_checked_normalisation(content["normalisation"]),
            trained_on=dict(content["trained_on"]),
            results=dict(content["results"]),
            made=list(content["made"]),
            digest=texts["digest"],
        )
        network = _empty_network(config, len(classes), tensors)
    except Exception as error:  # a wrong value in the description leads to errors of many kinds
        reason = str(error).rstrip(".") if isinstance(error, InputError | ValueError) else repr(error)
        raise InputError(f"the description in model file {path} cannot be used ({reason}); write it again.") from None
    load_into(network, tensors, source=path)
    network.backbone.normalisation = about.normalisation
    return Model(network, about, device, precision)


def _read_texts(path: Path) -> dict[str, str]:
    """Return the metadata of a model file of a known format."""
    writers = "give a file that wsss fit or wsss save has written"
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a model file; {writers}.")
    if not path.exists():
        raise InputError(f"model file {path} does not exist; correct the path.")
    if not is_safetensors(map_file(path)[:9]):
        raise InputError(f"{path} is not a model file; {writers}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            texts: dict[str, str] = file.metadata() or {}
    except Exception as error:  # the library has an error of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"model file {path} is cut off or damaged ({reason}); copy it again.") from None
    number = texts.get(_KEYS[0], "")
    if not number.isdecimal():
        raise InputError(f"{path} is a safetensors file, but not a model of wsss_lib; {writers}.")
    if int(number[:9]) > FORMAT:
        raise InputError(
            f"model file {path} has the format {number[:9]}, written by wsss_lib {texts.get('version')}, and wsss_lib "
            f"{wsss_lib.__version__} reads formats up to {FORMAT}; install the newer version."
        )
    missing = [name for name in _KEYS if name not in texts]
    if missing:
        raise InputError(f"model file {path} is damaged (it has no {missing[0]}); copy it again.")
    return texts


def _empty_network(config: Config, num_classes: int, tensors: dict[str, Tensor]) -> SegmentationNet:
    """Return the network of a configuration, its weights undefined, once the tensors are known to have its shapes.

    It is built without memory first: a wrong width must not ask for more than the file holds.
    """
    with torch.device("meta"):
        network = create_network(config, num_classes)
    for name, wanted in network.state_dict().items():
        if name not in tensors:
            raise ValueError(f"the file has no tensor {name}, which its network needs")
        if tensors[name].shape != wanted.shape:
            raise ValueError(f"the tensor {name} is {tuple(tensors[name].shape)}, its network's {tuple(wanted.shape)}")
    return network.to_empty(device="cpu")


def _checked_classes(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not 0 < len(names) <= _MOST_CLASSES or not all(isinstance(n, str) for n in names):
        raise ValueError(f"classes are {str(names)[:60]}, not a list of names")
    if len(positions(names)) < len(names):
        raise ValueError("a class has two places")
    return tuple(names)


def _checked_palette(colours: Any, num_classes: int) -> np.ndarray:
    values = np.asarray(colours)
    if values.shape != (num_classes + 1, 3) or values.dtype.kind != "i" or values.min() < 0 or values.max() > 255:
        raise ValueError(f"the palette is not {num_classes + 1} colours")
    palette = voc_palette()
    palette[: num_classes + 1] = values
    return palette


def _checked_normalisation(values: dict[str, Any]) -> Normalisation:
    mean, std, divisor = values["mean"], values["std"], values["divisor"]
    numbers = [*mean, *std, divisor]
    if len(mean) != 3 or len(std) != 3 or not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise ValueError("the normalisation is not three means, three deviations and a divisor")
    if not all((*std, divisor)):
        raise ValueError("the normalisation divides by 0")
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), divisor, bool(values["bgr"]))
