"""A method's whole chain without its notebook: the same run, in the same folder, with the same numbers."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_lib.errors import InputError, printable
from wsss_lib.methods import load_method
from wsss_lib.methods.fields import Kind
from wsss_lib.results.choose import fixed_choice
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import open_run
from wsss_lib.runs.parameters import (
    COMMON,
    check_final_network,
    convert,
    existing,
    keeps_preset,
    parameter_types,
    read_parameters,
    run_names,
    with_present_names,
)
from wsss_lib.runs.parameters import NOTEBOOKS as NOTEBOOKS
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.refiners import REFINERS
from wsss_lib.runs.report import (
    cam_summaries,
    cam_table,
    choose_threshold,
    describe,
    network_table,
    ranking_summary,
    refinement_table,
    relative,
    write_metrics,
)
from wsss_lib.runs.segmentation import final_stage
from wsss_lib.runs.settings import PATHS, Settings
from wsss_lib.stages.evaluate import CamScores
from wsss_lib.stages.store import MaskStore, read_json
from wsss_lib.use.model_file import NAME, check_target, save_model

FINAL = "final."
"""Prefix of the name of a parameter of the final network."""

_OWN_PATHS = {"affinitynet": ("cams",), "irn": ("cams",)}
_PATHS_BY_NEED = {"classifier": ("classifier",), "superpixels": ("superpixels", "saliency")}
"""Paths that methods use besides the common ones, by :attr:`wsss_lib.methods.method.CamMethod.needs`."""

_COMMON_PATHS = ("data_root", "labels", "weights", "checkpoint")
_OF_NOTEBOOKS = ("segmentation", "ablations")
_OF_EPOCHS = ("keep_epochs", "epoch")
_OF_FINAL = ("backbone", "weights")
_EXPLAINED = {
    "data_root": "The folder of the data; the toy world needs none.",
    "out": "Folder of the results; by default one under runs/ with the name of the notebook and the preset.",
    "preset": "toy, photos, voc12 or coco14: what all other settings are by default.",
    "accelerator": "auto (CUDA where there is a device), cpu or cuda.",
    "precision": "32-true, bf16-mixed or 16-mixed.",
    "backbone": "Name of the network, if it is not that of the preset.",
    "checkpoint": "File of a network that the authors' code trained, which is then used instead of training one.",
}


@dataclass(frozen=True)
class Parameters:
    """The parameters in the words ``name=value`` of a command.

    Attributes:
        method: Name of the method.
        values: Parameters of the method's notebook, as texts.
        final: Parameters of the final network that differ from the preset's, checked.
    """

    method: str
    values: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Number of the epoch whose kept network is used, see :meth:`wsss_lib.runs.run.Run.at_epoch`; 0 for the last.

        Raises:
            InputError: The parameter is not a number, or is negative.
        """
        return int(convert("epoch", self.values.get("epoch", 0), parameter_types(self.method)["epoch"]))


def read_words(words: Sequence[str], method: str = "cam") -> Parameters:
    """Read the words ``name=value`` of a command.

    Args:
        words: The words. ``method=cam`` is one of them, too. A name that begins with ``final.`` is about the final
            network, such as ``final.epochs=3``.
        method: Name of the method, if the words do not say it.

    Raises:
        InputError: A word is something else, or a name is unknown or given twice.
    """
    values = split_words(words)
    method = values.pop("method", method)
    if method not in run_names():
        raise InputError(f"method {method!r} is unknown; choose one of {', '.join(run_names())}.")
    final_values = {name: value for name, value in values.items() if name.startswith(FINAL)}
    own = dict(with_present_names({name: value for name, value in values.items() if name not in final_values}))
    refuse_unknown_words(own, known_parameters(method))
    types = final_parameters()
    final = {name.removeprefix(FINAL): value for name, value in final_values.items()}
    refuse_unknown_words(final, list(types), FINAL)
    own_types = parameter_types(method)
    for name in own.keys() & own_types.keys():
        _convert_given(name, own[name], own_types[name])
    given = {name: _convert_given(name, value, types[name]) for name, value in final.items()}
    return Parameters(method, own, {k: v for k, v in given.items() if k in _OF_FINAL or v not in ("", ())})


def split_words(words: Sequence[str], example: str = "epochs=5") -> dict[str, Any]:
    """Return the values in words ``name=value`` by name, as texts.

    Args:
        words: The words.
        example: A word that is right, for the sentence about one that is not.

    Raises:
        InputError: A word is something else, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise InputError(f"{word!r} is not a parameter; write name=value, such as {example}.")
        if name in values:
            raise InputError(f"parameter {name} is given twice; leave one out.")
        values[name] = value
    return values


def _convert_given(name: str, value: str, kind: Kind) -> Any:
    """Return the value of a word; refuse 0 or -1 where it stands for the preset's value, which nobody needs to give."""
    found = convert(name, value, kind)
    if name not in COMMON and isinstance(found, int | float) and keeps_preset(found, kind):
        raise InputError(
            f"parameter {name} must be {kind.limits.problem(found)}, not {found}; leave it out for the preset's value."
        )
    return found


def known_parameters(method: str) -> list[str]:
    """Return the names of all parameters of a method's run."""
    needs = getattr(load_method(method).METHOD, "needs", "")
    paths = {*_COMMON_PATHS, *_OWN_PATHS.get(method, ()), *_PATHS_BY_NEED.get(needs, ())}
    unused = {*(name for name in PATHS if name not in paths), *_OF_NOTEBOOKS}
    unused |= {"refiner"} if method in REFINERS else set()
    return [name for name in parameter_types(method) if name not in unused]


def final_parameters() -> dict[str, Kind]:
    """Return the parameters of the final network and their types."""
    own = {*known_parameters("cam")} - {*parameter_types("segmentation")}
    types = parameter_types("segmentation")
    common = {*parameter_types("cam")} & {
        "preset",
        "pretrained",
        "seed",
        "limit",
        "accelerator",
        "devices",
        "precision",
        "workers",
    }
    left_out = {*own, *common, *PATHS, "mask_values", "out", "resume", *_OF_EPOCHS, *_OF_NOTEBOOKS} - {*_OF_FINAL}
    return {name: kind for name, kind in types.items() if name not in left_out}


def explain(method: str) -> dict[str, str]:
    """Return what the parameters of a method mean, by name, from the descriptions of the fields that they set."""
    texts: dict[str, str] = {}
    for kind in (Settings, *load_method(method).Config.__mro__):
        fields = re.split(
            r"^    (\w+): ", inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2], flags=re.MULTILINE
        )
        texts = {**dict(zip(fields[1::2], (" ".join(text.split()) for text in fields[2::2]), strict=True)), **texts}
    return {**texts, **_EXPLAINED}


def refuse_unknown_words(values: dict[str, Any], known: Sequence[str], prefix: str = "") -> None:
    """Refuse names that are not known.

    Args:
        values: Values by name.
        known: The known names.
        prefix: Beginning of the names as the user writes them, which ``values`` and ``known`` lack.

    Raises:
        InputError: A name is not known; the sentence says which one may be meant.
    """
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"perhaps {prefix}{near[0]} is meant." if near else f"choose among {', '.join(sorted(known))}."
            raise InputError(f"parameter {prefix}{name} is unknown; {hint}")


def open_method(parameters: Parameters, with_final: bool) -> CamRun | RefinementRun:
    """Open the run of a method, once all that it and the final network need is known to be there.

    Args:
        parameters: The method and its parameters.
        with_final: Whether the final network follows.

    Raises:
        InputError: A parameter cannot be used, or data or weights are missing.
    """
    final = parameters.final
    usual = with_final and not {*_OF_FINAL} & final.keys()
    settings = read_parameters(
        run_names()[parameters.method], parameters.method, {**parameters.values, "segmentation": usual}
    )
    if with_final and not usual:
        existing("weights", final.get("weights", ""))
        given = bool(final.get("weights")) or (
            settings.weights is not None and settings.config.backbone == final.get("backbone")
        )
        if not settings.from_scratch:
            check_final_network(settings.preset, final.get("backbone", ""), given)
    run = open_run(settings).at_epoch(parameters.epoch)
    assert isinstance(run, CamRun | RefinementRun)
    return run


def run_method(run: CamRun | RefinementRun) -> None:
    """Train a method, make and score its maps and masks, and write ``metrics.json``, as its notebook does.

    What a notebook has measured besides, such as its comparisons, stays in ``metrics.json``.
    """
    print(describe(run), flush=True)
    maps_of = run.cam_run if isinstance(run, RefinementRun) else run
    maps_of.train()
    for split in (*run.splits.scored, "fit"):
        maps_of.infer(split)
    scored = [name for name, data in run.splits.scored.items() if data.has_masks]
    scores: dict[str, CamScores] = {name: maps_of.score(name) for name in scored}
    summaries = cam_summaries(scores) if scores else {}
    if scores:
        print(cam_table(summaries))
    if isinstance(run, RefinementRun):
        run.label()
        run.train()
        for split in run.splits.scored:
            run.infer(split)
    refined = {}
    for split in run.splits.scored:
        stores: dict[str, MaskStore] = {}
        for refinement in ("crf", "walk", "walk-crf") if isinstance(run, RefinementRun) else ("crf",):
            stores |= run.refine(refinement, split)
        if split in scored:
            refined[split] = {"cam": summaries[split]["swept"], **run.score_masks(stores, split)}
    if refined:
        names = {"cam": f"CAM seed, threshold {choose_threshold(scores)[0]:.2f}", **{name: name for name in stores}}
        stages = {name: "crf" if name.startswith("crf-") else name for name in stores}
        print(refinement_table(refined, names, {"cam": "inference", **stages}, run.seconds))
    ranking = {}
    if isinstance(run, CamRun):
        for name, data in run.splits.scored.items():
            ranking[name] = ranking_summary(run.classify(data), data.labels, data.classes)
    path = run.folder / "metrics.json"
    earlier = read_json(path) if path.is_file() else {}
    metrics = write_metrics(run, scores, ranking, refinements=refined)
    more = {name: value for name, value in earlier.items() if name not in metrics}
    if more:
        write_metrics(run, scores, ranking, refinements=refined, **more)
    print(f"results in {relative(run.folder)}")


def fit(run: CamRun | RefinementRun, final: dict[str, Any], file: Path | None = None) -> Path:
    """Do the whole chain of a method up to its final network, and return the model file of the final network.

    The model file is written as soon as the network is trained, and again, with its scores, once it is scored.

    Args:
        run: The run of the method.
        final: Value of :attr:`Parameters.final`.
        file: The model file; None for ``model.safetensors`` in the folder of the run.
    """
    file = file or run.folder / NAME
    check_target(file)
    run_method(run)
    changes = {name: value for name, value in final.items() if name not in _OF_FINAL}
    weights: Path | None = existing("weights", final.get("weights", ""))
    network = final_stage(run, final.get("backbone", ""), weights, **changes)
    if isinstance(run, CamRun) and not run.settings.refiner and not run.data("train").has_masks:
        assert network.settings.pseudo_masks is not None
        print(fixed_choice(network.settings.pseudo_masks.parent.name))
    print(f"final network: {network.settings.config.backbone}, files in {relative(network.folder)}", flush=True)
    network.train()
    save_model(network, file)
    print(f"{printable(file)} can be used already; its network is scored now", flush=True)
    results = network.complete()
    if results:
        print(network_table(results, network.seconds))
    save_model(network, file)
    print(f"model file: {printable(file)}\nuse it: wsss predict {printable(file)} PICTURES --out FOLDER", flush=True)
    return file
