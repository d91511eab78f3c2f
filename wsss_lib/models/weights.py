"""Reading pre-trained weights and loading them into a network, completely or not at all.

`read_state` reads a file of any of the four known formats as a flat dictionary of tensors, `read_sidecar` reads the
`.json` that describes the file, and `load_into` checks every key, shape and value and then copies the tensors into a
module.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_lib.errors import InputError
from wsss_lib.models.torch_files import TORCH_MAGICS, describe, flat_tensors, is_markup, read_torch
from wsss_lib.models.weight_formats import (
    MXNET_MAGIC,
    is_safetensors,
    map_file,
    read_caffe,
    read_mxnet,
    read_safetensors,
    resnet38d_from_mxnet,
    vgg16_from_caffe,
)

MODEL_A_MD5 = "2421c1945b6797cecd3f89db14ca73f6"
"""MD5 of the ResNet-38 that down-samples by pooling: another network with the names and shapes of Model A1."""
MODEL_A1_MD5 = "ff21f45d6bf03284100dcbec571edfad"
"""MD5 of the ResNet-38 that the methods of this library start from."""

_CAFFE_MAGICS = (b"\x0a", b"\x12", b"\xa2\x06", b"\x1a", b"\x20", b"\x28", b"\x32", b"\x38", b"\x42")
"""First bytes of a Caffe model: the tags of its name, its layers and its inputs."""


# ------------------------------------------------------------------------------------------------------ reading a file


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a PyTorch, safetensors, MXNet or Caffe file; the content decides which it is, not the name.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, in the file's types, by the keys of the official PyTorch networks without the name of a
        sub-network in front: `conv1a.weight`, not `backbone.conv1a.weight`.

    Raises:
        InputError: The file is missing, damaged, of an unknown format, or known to hold another network.
    """
    head = bytes(map_file(path)[:64])
    if is_safetensors(head):  # before all others: the length with which it begins may be any number
        return flat_tensors(path, read_safetensors(path))
    if head.startswith(MXNET_MAGIC):
        _refuse_model_a(path)
        return resnet38d_from_mxnet(read_mxnet(path), path)
    if head.startswith(TORCH_MAGICS):
        return read_torch(path)
    if head.startswith(_CAFFE_MAGICS) and not is_markup(head):
        return vgg16_from_caffe(read_caffe(path), path)
    raise InputError(f"{path} is {describe(head)}; give a PyTorch, safetensors, MXNet or Caffe weight file.")


def _refuse_model_a(path: str | Path) -> None:
    if hashlib.md5(map_file(path), usedforsecurity=False).hexdigest() == MODEL_A_MD5:
        raise InputError(
            f"{path} is ResNet-38 Model A, which loads into our network but is another one; "
            f"use Model A1 instead (ilsvrc-cls_rna-a1_cls1000_ep-0001.params, MD5 {MODEL_A1_MD5})."
        )


# --------------------------------------------------------------------------------------- the description beside a file


@dataclass(frozen=True)
class Sidecar:
    """The content of the `.json` that describes a weight file.

    Attributes:
        mean: Numbers that are subtracted from the channels of an image on the 0-1 scale; None if not stated.
        std: Numbers that the channels are then divided by; None exactly if `mean` is None.
        sha256: Verified checksum in lower-case hexadecimal digits; None if not stated.
    """

    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    sha256: str | None


def read_sidecar(path: str | Path) -> Sidecar | None:
    """Read the `.json` beside a weight file and compare the checksum it states with the file's.

    Args:
        path: The weight file (not the `.json`).

    Returns:
        The description, or None where there is no such `.json`. Entries with other names are ignored.

    Raises:
        InputError: The description is malformed, or the weight file is missing or is not the file described.
    """
    sidecar = Path(path).with_suffix(".json")
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{sidecar} is not readable as JSON ({error}); correct or remove it.") from None
    if not isinstance(content, dict):
        raise InputError(f"{sidecar} does not hold a JSON object; correct or remove it.")
    if ("mean" in content) != ("std" in content):
        raise InputError(f"{sidecar} states only one of mean and std; state both or neither.")
    return Sidecar(
        mean=_three_numbers(sidecar, content, "mean"),
        std=_three_numbers(sidecar, content, "std"),
        sha256=_verified_checksum(sidecar, content, Path(path)),
    )


def _three_numbers(sidecar: Path, content: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    if name not in content:
        return None
    values = content[name]
    numbers = isinstance(values, list) and len(values) == 3 and all(type(value) in (int, float) for value in values)
    if not numbers or not all(0 <= value <= 1 for value in values) or (name == "std" and 0 in values):
        wanted = "three numbers between 0 and 1" + (", none of them 0" if name == "std" else "")
        raise InputError(f"{sidecar}: {name} must be {wanted}, not {values!r}; correct it.")
    red, green, blue = values
    return float(red), float(green), float(blue)


def _verified_checksum(sidecar: Path, content: dict[str, Any], path: Path) -> str | None:
    if "sha256" not in content:
        return None
    stated = content["sha256"]
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-fA-F]{64}", stated):
        raise InputError(f"{sidecar}: sha256 must be 64 hexadecimal digits, not {stated!r}; correct it.")
    found = hashlib.sha256(map_file(path)).hexdigest()
    if found != stated.lower():
        raise InputError(f"{path} has the SHA-256 {found}, but {sidecar.name} states {stated}; download it again.")
    return found


# ------------------------------------------------------------------------------------------------- filling a network


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a file into a network, by tensor.

    Attributes:
        loaded: Keys of the network that the file filled.
        missing: Keys of the network that the file lacks, counters of batch normalisations apart.
        unexpected: Keys of the file that the network does not have.
        mismatched: Keys of the network whose shape differs, with the shape in the file and the shape in the network.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    def __str__(self) -> str:
        shapes = tuple(f"{key} is {found} in the file but {wanted} here" for key, found, wanted in self.mismatched)
        exceptions = {"missing": self.missing, "unexpected": self.unexpected, "mismatched": shapes}
        counts = [_count(what, names) for what, names in exceptions.items() if names]
        return ", ".join([f"{len(self.loaded)} tensors loaded", *counts])


def _count(what: str, names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{more})"


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    unused: Sequence[str] = (),
    rename: Callable[[str], str | None] | None = None,
) -> LoadReport:
    """Copy tensors into a module: all of them, or none if anything is wrong.

    Counters of batch normalisations (`*.num_batches_tracked`) may be missing, because old versions of PyTorch did not
    save them. Values are converted to the module's types.

    Args:
        module: The network to fill.
        state: Tensors by key, as `read_state` returns them.
        source: The file's name for error messages.
        unused: Prefixes of keys of the file that the module need not have, such as `classifier.`.
        rename: Function from a key of the file to the module's key, or to None to leave the tensor out.

    Returns:
        The loaded keys; `unexpected` lists the keys of the file that were left out.

    Raises:
        InputError: Keys are missing or left over, shapes or kinds of number differ, or a value to be loaded is not a
            finite number of the module's type. The module is then unchanged.
    """
    if isinstance(unused, str):
        raise TypeError("unused is a sequence of beginnings, not one string")  # which would match any letter
    wanted = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    origins: dict[str, str] = {}  # key of the module: key of the file
    left_over: list[str] = []
    refused: list[str] = []
    for key in state:
        target = key if rename is None else rename(key)
        if target is None:
            left_over.append(key)
        elif target not in wanted:
            (left_over if key.startswith(tuple(unused)) else refused).append(key)
        elif target in origins:
            raise InputError(f"{source} fills {target} twice, by {origins[target]} and {key}; give another file.")
        else:
            origins[target] = key
    lacking = [key for key in wanted if key not in origins and not key.endswith("num_batches_tracked")]
    shapes = {key: (tuple(state[origin].shape), tuple(wanted[key].shape)) for key, origin in origins.items()}
    mismatched = tuple((key, found, here) for key, (found, here) in shapes.items() if found != here)
    fitting = tuple(key for key, (found, here) in shapes.items() if found == here)
    if lacking or refused or mismatched or not fitting:
        problems = LoadReport(fitting, tuple(lacking), tuple(refused), mismatched)
        found = str(problems).replace("loaded", "fit", 1)
        raise InputError(f"{source} is probably for another network: {found}; give the file of this network.")
    converted = {key: _converted(state[origin], wanted[key], origin, source) for key, origin in origins.items()}
    module.load_state_dict(converted, strict=False)
    return LoadReport(fitting, unexpected=tuple(left_over))


def _converted(value: Tensor, wanted: Tensor, key: str, source: str | Path) -> Tensor:
    """Return a tensor in the type of the tensor that it replaces, after a check that the kinds of number agree."""
    if value.is_floating_point() != wanted.is_floating_point() or value.is_complex() != wanted.is_complex():
        raise InputError(f"{source} has {value.dtype} values in {key}, not {wanted.dtype}; give a file of such values.")
    value = value.to(wanted.dtype)
    if not torch.isfinite(value).all():
        raise InputError(f"{source} has NaN or infinite values in {key}; give a file whose training did not diverge.")
    return value
