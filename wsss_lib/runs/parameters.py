"""From the parameters cell of a notebook to the settings of a run, checked at once."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.fields import Kind, Limits, kinds_of
from wsss_lib.methods.method import PRESETS, Config, further_backbone
from wsss_lib.models.pretrained import backbone_of_weights
from wsss_lib.runs.epochs import KeptEpochs
from wsss_lib.runs.refiners import check_refiner
from wsss_lib.runs.settings import PATHS, RENAMED, Settings, default_weights, project_root
from wsss_lib.stages.engine import PRECISIONS

NOTEBOOKS = {
    "cam": "00_cam",
    "affinitynet": "01_affinitynet",
    "irn": "01b_irn",
    "oc_cse": "02_oc_cse",
    "acr": "03_acr",
    "pcss": "04_pcss",
    "msal": "05_msal",
}
"""For every method with a lesson, the notebook that makes the same run."""

WITHOUT_NOTEBOOK = ("irn_cam",)
"""Methods without a lesson."""


def run_names() -> dict[str, str]:
    """Return for every method of the shell the name of its runs, which is also that of their folder under ``runs``.

    It is the name of the notebook that makes the same run or, for a method without a notebook, the method's own.
    """
    return NOTEBOOKS | {name: name for name in WITHOUT_NOTEBOOK}


COMMON: dict[str, Kind] = {
    "preset": Kind(str, choices=PRESETS),
    "data_root": Kind(str),
    "labels": Kind(str),
    "mask_values": Kind(str),
    "weights": Kind(str),
    "cams": Kind(str),
    "classifier": Kind(str),
    "superpixels": Kind(str),
    "saliency": Kind(str),
    "pseudo_masks": Kind(str),
    "checkpoint": Kind(str),
    "out": Kind(str),
    "backbone": Kind(str),
    "pretrained": Kind(bool),
    "seed": Kind(int, Limits(0, 2**31 - 1)),
    "limit": Kind(int),
    "accelerator": Kind(str),
    "devices": Kind(int, Limits(1, 64)),
    "precision": Kind(str),
    "workers": Kind(int, Limits(-1, 256)),
    "resume": Kind(bool),
    "segmentation": Kind(bool),
    "refiner": Kind(str),
    "keep_epochs": Kind(bool),
    "epoch": Kind(int, Limits(0)),
    "ablations": Kind(int, Limits(-1)),
}
"""Parameters of the notebooks. The others set the field of the same name in the method's `Config`."""

_NETWORKS = ("weights", "classifier", "superpixels", "checkpoint")
"""Paths that may be given as the names of files in ``pretrained/``."""

_OTHER_PATHS = ("out", "runs")
"""Paths that are looked for in the working directory alone."""

_CONVERTED = (bool, int, float, str, tuple)

_PASSED_ON = (
    "mask_values",
    "seed",
    "limit",
    "accelerator",
    "devices",
    "precision",
    "workers",
    "resume",
    "refiner",
    "keep_epochs",
)
_NAMED_IN_FOLDER = ("backbone", "seed", "limit", "precision")
"""Parameters besides those of the method that lead to another default folder."""


def read_parameters(notebook: str, method: str, namespace: Mapping[str, Any]) -> Settings:
    """Check a notebook's parameters and turn them into settings.

    A parameter of the method keeps the value of the preset if it has the value that says so, see `keeps_preset`.

    Args:
        notebook: Name of the notebook, for example ``00_cam``.
        method: Name of the method, for example ``cam``.
        namespace: The notebook's ``globals()``; see :func:`read_values`.

    Raises:
        InputError: A parameter is unknown, of the wrong type, out of range, or names a folder that is missing.
    """
    config_class: type[Config] = load_method(method).Config
    kinds = parameter_types(method)
    namespace = with_present_names(namespace)
    refuse_unknown(namespace, kinds)
    values = read_values(namespace, kinds)

    preset, backbone = values.get("preset", "toy"), values.get("backbone", "")
    if preset == "photos" and not backbone and values.get("weights") and "mobilenet_v2" in config_class.backbones:
        backbone = backbone_of_weights(existing("weights", values["weights"]))
    changes = {k: v for k, v in values.items() if k not in COMMON and not keeps_preset(v, kinds[k])}
    config = config_class.preset(preset, backbone)
    if values.get("pretrained", config.pretrained) != config.pretrained:
        changes["pretrained"] = values["pretrained"]
    from_scratch = config.pretrained and not changes.get("pretrained", True)
    config = config.replace(**changes)
    config.check()
    _refuse_ignored(preset, values)
    if values.get("segmentation") and not from_scratch:
        further = further_backbone(preset, config.backbone)
        same = config.backbone == load_method("segmentation").Config.preset(preset, further).backbone
        check_final_network(preset, further, same and bool(values.get("weights")))
    if values.get("refiner"):
        check_refiner(values["refiner"], preset, config.backbone, bool(values.get("weights")), from_scratch)
    paths: dict[str, Any] = {name: existing(name, values.get(name, "")) for name in PATHS}
    folder = _path("out", values["out"]) if values.get("out") else default_folder(notebook, preset, values, changes)
    _refuse_epoch(values, folder)
    return Settings(
        notebook=notebook,
        method=method,
        preset=preset,
        config=config,
        folder=folder,
        **paths,
        pretrained_folder=project_root() / "pretrained",
        **{name: values[name] for name in _PASSED_ON if name in values},
    )


def with_present_names(namespace: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the namespace with the present name of each parameter that has its name of version 0.1.0, and say so.

    A notebook's own namespace is changed, because the notebook's later cells read the parameter there.
    """
    renamed = {old: new for old, new in RENAMED.items() if isinstance(namespace.get(old), str)}
    for old, new in renamed.items():
        print(f"parameter {old} is now called {new}; the old name works for one more version.")
        if isinstance(namespace, MutableMapping):
            namespace[new] = namespace.pop(old)
        else:
            namespace = {**{name: value for name, value in namespace.items() if name != old}, new: namespace[old]}
    return namespace


def default_folder(notebook: str, preset: str, values: Mapping[str, Any], changes: Mapping[str, Any]) -> Path:
    """Return ``runs/<notebook>/<preset>``, with everything in its name that leads to other numbers.

    Args:
        notebook: Name of the notebook.
        preset: Name of the preset.
        values: Parameters that every notebook has.
        changes: Parameters of the method that differ from the preset.
    """
    named = {k: values[k] for k in _NAMED_IN_FOLDER if values.get(k) not in (None, "", 0, "32-true")} | {**changes}
    parts = [preset, *(f"{name}={_short(value)}" for name, value in sorted(named.items()))]
    return project_root() / "runs" / notebook / "-".join(parts)


def parameter_types(method: str) -> dict[str, Kind]:
    """Return all that a notebook on a method can set, and what each value may be; lists of numbers travel as strings.

    Besides the parameters of every notebook, these are the fields of the method's `Config` that are numbers, strings,
    switches or lists of numbers.
    """
    own = kinds_of(load_method(method).Config)
    return COMMON | {name: kind for name, kind in own.items() if kind.base in _CONVERTED and name not in COMMON}


def _refuse_ignored(preset: str, values: Mapping[str, Any]) -> None:
    """Raise for a parameter that the other parameters would make the run silently ignore."""
    given = [name for name in ("data_root", "labels", "mask_values", "weights", "checkpoint") if values.get(name)]
    if preset == "toy" and given:
        raise InputError(
            f"{given[0]} is given, but preset toy draws its own data and brings its own weights; "
            "choose another preset, such as photos."
        )
    if values.get("weights") and not values.get("pretrained", True):
        raise InputError("weights is given, but pretrained False trains from scratch; leave one of the two out.")


def _refuse_epoch(values: Mapping[str, Any], folder: Path) -> None:
    """Raise if the network of the epoch that is asked for cannot be there; `Run.at_epoch` opens that network."""
    epoch = values.get("epoch")
    if not epoch:
        return
    if not values.get("resume", True):
        raise InputError(
            f"epoch {epoch} is given, but resume False would remove its network; leave one of the two out."
        )
    KeptEpochs(folder).check(epoch)


def check_final_network(preset: str, backbone: str, weights_given: bool) -> None:
    """Check, before anything is trained, that the pre-trained weights of the final segmentation network are there.

    Args:
        preset: Name of the preset.
        backbone: Backbone of the network; "" for that of the preset.
        weights_given: Whether the user has named a file for it.

    Raises:
        InputError: The weights are missing, or the network cannot have this backbone.
    """
    config = load_method("segmentation").Config.preset(preset, backbone)
    if config.pretrained and not weights_given:
        default_weights(preset, config.backbone, project_root() / "pretrained")


def refuse_unknown(namespace: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise for a name that papermill injected although it is not a parameter; papermill itself only warns."""
    cells: list[str] = namespace.get("In", [])
    injected = [cell for cell in cells if cell.startswith("# Parameters")]
    if not injected:
        return
    own = {name for cell in cells if cell not in injected for name in _annotated_names(cell)}
    unused = {*PATHS, "mask_values", "refiner", "keep_epochs", "epoch"} - own
    known = {name for name in known if name not in unused}  # what a notebook does not use must not be given
    for statement in ast.parse(injected[-1]).body:
        for target in getattr(statement, "targets", []):
            if isinstance(target, ast.Name) and RENAMED.get(target.id, target.id) not in known | own:
                near = difflib.get_close_matches(target.id, [*known], n=1)
                hint = f"perhaps {near[0]} is meant." if near else f"choose among {', '.join(sorted(own or known))}."
                raise InputError(f"parameter {target.id} is unknown; {hint}")


def _annotated_names(cell: str) -> list[str]:
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # a cell with a magic command
        return []
    return [s.target.id for s in body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]


def read_values(namespace: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the parameters that are in the namespace, checked and as their types.

    A parameter that arrived as a text and means something else, such as ``"5"`` or ``"False"``, is also replaced in
    the namespace, because the notebook's later cells read it there.

    Args:
        namespace: The notebook's ``globals()``.
        kinds: Types and limits of the parameters, by name.

    Raises:
        InputError: A parameter has the wrong type, or is out of range.
    """
    values = {name: convert(name, namespace[name], kind) for name, kind in kinds.items() if name in namespace}
    if isinstance(namespace, MutableMapping):
        namespace.update(
            {k: v for k, v in values.items() if type(v) is not type(namespace[k]) and kinds[k].base is not tuple}
        )
    return values


def convert(name: str, value: Any, kind: Kind) -> Any:
    """Return a parameter as the type of its kind, after checking type, range and choices.

    A parameter of a method may also have the value that keeps the preset's, see `keeps_preset`.

    Raises:
        InputError: The value has another type, or is out of range.
    """
    base = kind.base
    if base is tuple:
        return _numbers(name, value, kind.limits)
    if base is str and (value is None or isinstance(value, bool | int | float)):
        value = _name(name, value)
    if base is not str and isinstance(value, str):
        value = _meant(value, base)
    if base is float and type(value) is int:
        value = float(value)
    if type(value) is not base:
        raise InputError(f"parameter {name} must be of type {base.__name__}, but {value!r} is {type(value).__name__}.")
    if name not in COMMON and keeps_preset(value, kind):
        return value
    problem = kind.limits.problem(value) if isinstance(value, int | float) else ""
    if problem:
        raise InputError(f"parameter {name} must be {problem}, not {value}.")
    kind.check(name, value)
    return value


def keeps_preset(value: Any, kind: Kind) -> bool:
    """Return whether a value of a method's parameter stands for the value of the preset.

    Such values are "" and (); for a number 0, or -1 where 0 itself is in range. So a weight of 0 is a weight of 0.
    """
    if isinstance(value, str | tuple):
        return not value
    marker = 0 if kind.limits.problem(0) else -1
    return bool(value == marker and kind.limits.problem(marker))


def _name(name: str, value: float | None) -> str:
    """Return the name of a file or folder from which papermill has made a number, True, False or None.

    What the user wrote cannot be known: 2012 may have been 02012 or 2_012. So the name is taken only if exactly one
    file or folder could be meant and it is called like the value.

    Raises:
        InputError: No such file or folder exists, or another one could be meant.
    """
    alike = {
        path.name
        for folder in (_folders(name) if name in (*PATHS, *_OTHER_PATHS) else [])
        for path in (folder.iterdir() if folder.is_dir() else [])
        if repr(_as_papermill_reads(path.name)) == repr(value)
    }
    if alike != {str(value)}:
        if name == "precision":
            raise InputError(f"precision {value!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
        kind = "the number " if isinstance(value, int | float) and not isinstance(value, bool) else ""
        raise InputError(
            f"{name} arrived as {kind}{value!r}; papermill turns words that look like a number, True, False or None "
            f"into one, so write -r {name} WORD instead of -p {name} WORD."
        )
    return str(value)


def _as_papermill_reads(word: str) -> Any:
    """Return what papermill makes of a word after ``-p``."""
    for read in ({"True": True, "False": False, "None": None}.__getitem__, int, float):
        with suppress(KeyError, ValueError):
            return read(word)
    return word


def _meant(text: str, kind: type) -> Any:
    """Return the number or truth value that a text means, as after papermill's ``-r``; the text if it means none."""
    with suppress(KeyError, ValueError):
        return {"true": True, "false": False}[text.strip().lower()] if kind is bool else kind(text)
    return text


def _numbers(name: str, value: Any, limits: Limits) -> tuple[float, ...]:
    """Read a list of numbers such as ``"0.5,1.0"``, ``"[0.5, 1.0]"`` or ``[0.5, 1.0]``; "" is the empty list."""
    text = str(list(value) if isinstance(value, tuple) else value).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text or value != "" else ()
    except ValueError:
        raise InputError(f'parameter {name} must be numbers with commas such as "0.5,1.0", not {value!r}.') from None
    if any(limits.problem(number) for number in numbers):
        raise InputError(f"parameter {name} must hold numbers {limits.of_numbers}, not {value!r}.")
    return numbers


def existing(name: str, value: str) -> Path | None:
    """Find a file or folder by the name that the user gave; None if the name is "".

    It is looked for from the working directory, then from the project's root, and networks also in ``pretrained/``.

    Raises:
        InputError: No such file or folder exists.
    """
    if not value:
        return None
    path = _path(name, value)
    for candidate in (folder / path for folder in _folders(name)):
        if candidate.exists():
            return candidate.resolve()
    raise InputError(f"{name} {value} does not exist (looked for from {Path.cwd()}); give the path of an existing one.")


def _folders(name: str) -> list[Path]:
    """Return the folders in which a path of the user's may begin."""
    if name in _OTHER_PATHS:
        return [Path()]
    return [Path(), project_root(), *([project_root() / "pretrained"] if name in _NETWORKS else [])]


def _path(name: str, value: str) -> Path:
    try:
        path = Path(value).expanduser()
        path.stat()
    except RuntimeError:
        raise InputError(f"{name} {value} begins with the home folder of an unknown user; correct it.") from None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} {value[:80]!r} cannot be used ({reason}); give another path.") from None
    return path


def _short(value: Any) -> str:
    return (
        ",".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
