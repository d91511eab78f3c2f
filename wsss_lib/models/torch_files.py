"""Reading the state dictionary of a PyTorch checkpoint without executing anything that the file contains.

Checkpoints of other programs, such as PyTorch-Lightning, keep objects of their own classes beside the tensors.
PyTorch's safe reader refuses such a file; this module skips the objects and reads the tensors.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.models.weight_formats import is_safetensors, map_file

_ZIP_MAGIC = b"PK\x03\x04"
TORCH_MAGICS = (_ZIP_MAGIC, b"\x80")  # a zip archive since PyTorch 1.6, a pickle before
_MOST_UNKNOWN_NAMES = 256
"""Most unknown names in one file. Real checkpoints have tens; PyTorch goes through all of them at every step."""


def is_markup(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a web page."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def describe(head: bytes) -> str:
    """Describe a file of an unexpected format in words, from its first bytes."""
    if is_safetensors(head):
        return "a safetensors file"
    if is_markup(head):
        return "a web page that was saved in place of the weights"
    return "not a weight file"


def read_torch(path: str | Path) -> dict[str, Tensor]:
    """Read a state dictionary that `torch.save` wrote, without executing anything that the file contains.

    A state dictionary under the key `state_dict` or `model` is unwrapped. A `module.` in front of every key, which
    data-parallel wrappers leave there, is removed. Objects beside the state dictionary, such as PyTorch-Lightning's
    settings and callbacks, are skipped. A file is refused if it contains a filled instance of most subclasses of `dict`
    and `list`, a name from `os` or `sys`, or an object in the format from before PyTorch 1.6.

    Args:
        path: The file.

    Returns:
        Dense tensors on the CPU by key.

    Raises:
        InputError: The file is missing, damaged or not a PyTorch file, contains code that is not beside a state
            dictionary, or holds something other than tensors.
    """
    head = bytes(map_file(path)[:64])
    if not head.startswith(TORCH_MAGICS) or is_safetensors(head):
        raise InputError(f"{path} is {describe(head)}; give a file that was written by torch.save.")
    try:
        if head.startswith(_ZIP_MAGIC):
            check_archive(path)
        content = _load(path)
    except pickle.UnpicklingError as error:
        content = _state_among_objects(path)
        if content is None:
            raise InputError(_refusal(path, str(error))) from None
    except Exception as error:
        # For a damaged file, PyTorch raises exceptions of many kinds.
        if "TorchScript" in str(error):
            raise InputError(f"{path} is a TorchScript program; give a file with the state dictionary alone.") from None
        raise InputError(f"{path} is damaged or incomplete ({type(error).__name__}); download it again.") from None
    return flat_tensors(path, content)


def check_archive(path: str | Path) -> None:
    """Check the members of a ZIP archive against their checksums, which PyTorch does not do: 0.25 s for 500 MB.

    An archive that PyTorch was told to write without checksums passes.

    Raises:
        zipfile.BadZipFile: A checksum is wrong, or the file is not a ZIP archive; damage of other kinds raises other
            errors.
    """
    with zipfile.ZipFile(path) as archive:
        stated = any(member.CRC for member in archive.infolist())
        damaged = archive.testzip() if stated else None
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def names_beside_state(path: str | Path) -> frozenset[str]:
    """Return the names of the entries that a PyTorch checkpoint has beside its state dictionary.

    Args:
        path: The file; one that :func:`read_torch` refuses has no names.
    """
    try:
        content = _plain(_load(path))
    except Exception:  # of many kinds, as in read_torch
        return frozenset()
    wrapped = isinstance(content, dict) and isinstance(content.get("state_dict"), dict)
    return frozenset(name for name in content if isinstance(name, str)) - {"state_dict"} if wrapped else frozenset()


def _load(path: str | Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


class _Inert:
    """Replacement for every class and function that a file names: it takes any argument and does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _state_among_objects(path: str | Path) -> dict[str, Tensor] | None:
    """Return the state dictionary of a checkpoint with objects beside it; None if there is none, or objects are in it.

    No object is made and no function is called: PyTorch reads the file with `_Inert` under all names that PyTorch does
    not know itself.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if len(names) > _MOST_UNKNOWN_NAMES:
            return None
        with torch.serialization.safe_globals([(_Inert, name) for name in names]):
            content = _plain(_load(path))
    except Exception:  # of many kinds, as in read_torch
        return None
    state = _plain(content.get("state_dict", content.get("model"))) if isinstance(content, dict) else None
    if isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        return state
    return None


def _plain(content: Any) -> Any:
    """Copy a dictionary without the attributes that a file can set on it and that would hide its methods."""
    return dict(dict.items(content)) if isinstance(content, dict) else content


def _refusal(path: str | Path, reason: str) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", reason):
        code = f"contains code ({found[1]}), which was not executed"
    else:
        code = "is damaged or contains more than tensors, perhaps code; nothing of it was executed"
    return f"{path} {code}; give a file that was saved with torch.save(network.state_dict(), path)."


def flat_tensors(path: str | Path, content: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dictionary, unwrapped and without ``module.`` in front of every key.

    Args:
        path: Name of the file for error messages.
        content: The object that the file holds.

    Raises:
        InputError: The object is not a dictionary of dense tensors.
    """
    content = _plain(content)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = _plain(content[wrapper])
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; give a file with a dictionary of tensors.")
    if not content:
        raise InputError(f"{path} holds no tensors; give a file that a network was saved in.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{path} holds a {type(value).__name__} under {key!r}; give a file with a flat dictionary of tensors."
            )
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{path} holds a sparse, quantised or empty tensor under {key!r}; save it as a dense one.")
    state = {key: Tensor.detach(value) for key, value in content.items()}  # a file can hide value.detach, too
    while all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state
