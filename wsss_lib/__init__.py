"""Weakly supervised semantic segmentation: pixel masks learnt from image-level labels alone.

The names below are loaded when they are first used, so that ``import wsss_lib`` takes no time:

    >>> import wsss_lib
    >>> wsss_lib.intersection_over_union  # doctest: +ELLIPSIS
    <function intersection_over_union at ...>
"""

import importlib

__version__ = "0.2.0"

_HOMES = {
    "CamStore": "stages.store",
    "InputError": "errors",
    "create_backbone": "models",
    "dense_crf": "ops.dense_crf",
    "final_stage": "runs.segmentation",
    "intersection_over_union": "ops.metrics",
    "load_coco": "data.coco",
    "load_folder": "data.folder",
    "load_voc": "data.voc",
    "open_run": "runs.kinds",
    "random_walk": "ops.random_walk",
    "read_authors_cams": "stages.store",
    "read_parameters": "runs.parameters",
    "read_state": "models.weights",
    "reopen": "runs.kinds",
    "score_cams": "stages.evaluate",
    "sweep_confusions": "ops.metrics",
    "sweep_histogram": "ops.metrics",
    "unary_from_scores": "ops.dense_crf",
}
"""Where each public name is defined."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"wsss_lib.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names as well."""
    return sorted([*globals(), *__all__])
