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
    "compare_maps": "use.on_maps",
    "convert_maps": "use.on_maps",
    "create_backbone": "models",
    "dense_crf": "ops.dense_crf",
    "doubt_labels": "use.label_doubts",
    "estimate_maps": "use.how_good",
    "export_onnx": "use.onnx",
    "export_program": "use.program",
    "final_stage": "runs.segmentation",
    "intersection_over_union": "ops.metrics",
    "load_coco": "data.coco",
    "load_folder": "data.folder",
    "load_model": "use.model_file",
    "load_voc": "data.voc",
    "open_maps": "exchange.maps",
    "open_run": "runs.kinds",
    "predict_folder": "use.predict",
    "random_walk": "ops.random_walk",
    "read_authors_cams": "stages.store",
    "read_parameters": "runs.parameters",
    "read_state": "models.weights",
    "refine_maps": "use.on_maps",
    "reopen": "runs.kinds",
    "save_model": "use.model_file",
    "score_cams": "stages.evaluate",
    "score_maps": "use.on_maps",
    "segment_maps": "use.train_on_maps",
    "suggest_maps": "use.how_good",
    "sweep_confusions": "ops.metrics",
    "sweep_histogram": "ops.metrics",
    "trust_maps": "use.how_good",
    "unary_from_scores": "ops.dense_crf",
    "walk_maps": "use.train_on_maps",
    "write_report": "use.report",
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
