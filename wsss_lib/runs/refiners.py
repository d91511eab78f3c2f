"""The methods that can refine the maps of another method, and their settings for this purpose."""

from __future__ import annotations

from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Config, further_backbone
from wsss_lib.runs.settings import default_weights, project_root

REFINERS = {"affinitynet": "01_affinitynet", "irn": "01b_irn"}
"""For every refiner, the notebook that makes the same run."""


def refiner_config(refiner: str, preset: str, backbone: str, from_scratch: bool = False) -> Config:
    """Return the settings of a refiner: those of the preset, with the backbone of the maps if it is a light one.

    Args:
        refiner: Name of the refiner.
        preset: Name of the preset.
        backbone: Backbone of the network that makes the maps.
        from_scratch: Whether the refiner's network starts from random weights too.
    """
    kind: type[Config] = load_method(refiner).Config
    light = further_backbone(preset, backbone)
    config = kind.preset(preset, light if light in kind.backbones else "")
    return config.replace(pretrained=False) if from_scratch else config


def check_refiner(refiner: str, preset: str, backbone: str, weights_given: bool, from_scratch: bool = False) -> None:
    """Check before training that a refiner is known and that its pre-trained weights exist.

    Args:
        refiner: Name of the refiner.
        preset: Name of the preset.
        backbone: Backbone of the network that makes the maps.
        weights_given: Whether the user has named a file of weights for the backbone of the maps.
        from_scratch: Whether the refiner's network starts from random weights.

    Raises:
        InputError: The refiner is unknown, or the weights are missing.
    """
    if refiner not in REFINERS:
        raise InputError(f"refiner {refiner!r} is unknown; choose one of {', '.join(REFINERS)}.")
    config = refiner_config(refiner, preset, backbone, from_scratch)
    if config.pretrained and not (weights_given and config.backbone == backbone):
        default_weights(preset, config.backbone, project_root() / "pretrained")
