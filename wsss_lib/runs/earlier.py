"""Finding the run that another run continues: the maps of AffinityNet, the ordinary classifier of OC-CSE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from wsss_lib.errors import InputError
from wsss_lib.methods import load_method
from wsss_lib.methods.method import CamConfig, further_backbone
from wsss_lib.models.pretrained import has_toy_weights
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.folder import RunFolder, holds_run
from wsss_lib.runs.kinds import open_run
from wsss_lib.runs.parameters import default_folder
from wsss_lib.runs.settings import Settings, read_settings

_IN_COMMON = ("data_root", "labels", "mask_values", "pretrained_folder", "accelerator", "devices", "workers")
"""Settings that a run and the one that it continues have in common."""


def earlier_run(
    settings: Settings,
    identity: Mapping[str, Any],
    role: Literal["cams", "classifier"],
    own: Path,
    backbone: str = "",
) -> tuple[CamRun, Path | None]:
    """Open the run that the settings name, or else that of 00_cam if it is on the same data, or else a short one.

    Once started, a short run is reused, even if a run of 00_cam appears later.

    Args:
        settings: Settings of the run that continues the earlier one.
        identity: Everything that decides the numbers of the continuing run, see
            :attr:`wsss_lib.runs.run.Run.own_identity`.
        role: The name of the setting, and what the earlier run is.
        own: Folder of the short run.
        backbone: Backbone of the earlier run, unless the settings name a run; "" if any backbone will do.

    Returns:
        The run, which is not trained yet if it is new, and its folder; None in place of the folder for a short run,
        which moves together with the run that uses it.

    Raises:
        InputError: The run is on other data, or makes no class activation maps.
    """
    common = {"seed": settings.seed, "limit": settings.limit, "precision": settings.precision}
    config = _short(settings, backbone)
    differs = config.pretrained != type(config).preset(settings.preset, config.backbone).pretrained
    default = default_folder("00_cam", settings.preset, common, {"pretrained": config.pretrained} if differs else {})
    here = _data(identity)
    given: Path | None = getattr(settings, role)
    fits = _fits(default, identity, backbone)
    folder = given or (default if fits and not holds_run(own) else own)
    if holds_run(folder) or folder != own:
        earlier = continued(settings, folder)
        there = _data(RunFolder(folder).identity())
        if here != there:
            raise InputError(
                f"{role} {folder} is a run on other data ({there}; here {here}); give one on the same data."
            )
        if _other_pictures(RunFolder(folder).identity(), identity):
            raise InputError(
                f"{role} {folder} was made from other pictures than there are now; give one on the same data."
            )
        if not isinstance(earlier.config, CamConfig):
            raise InputError(f"{role} {folder} is a run of {earlier.method}, which makes no CAMs; give one of 00_cam.")
    else:
        weights = settings.weights if config.backbone == settings.config.backbone else None
        earlier = replace(
            settings, notebook="00_cam", method="cam", config=config, weights=weights, folder=own, checkpoint=None
        )
    run = open_run(earlier, guest=True, part=folder == own)
    assert isinstance(run, CamRun)  # its configuration makes maps
    return run, None if folder == own else folder


def continued(settings: Settings, folder: Path) -> Settings:
    """Return the settings of the run in a folder; the places of the data and the devices come from ``settings``."""
    return replace(read_settings(folder), **{name: getattr(settings, name) for name in _IN_COMMON})


def _short(settings: Settings, backbone: str) -> CamConfig:
    """Return the configuration of 00_cam with half its epochs, and with a backbone; "" chooses the default backbone.

    On the toy world, the earlier run starts from weights if the run does; a network without weights decides nothing.
    """
    config: CamConfig = load_method("cam").Config.preset(
        settings.preset, backbone or further_backbone(settings.preset, settings.config.backbone)
    )
    batch_size = min(config.batch_size, settings.config.batch_size)
    decides = settings.preset == "toy" and has_toy_weights(settings.config.backbone)
    pretrained = settings.config.pretrained if decides else config.pretrained
    return config.replace(epochs=max(1, config.epochs // 2), batch_size=batch_size, pretrained=pretrained)


def _data(identity: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in identity.items() if name.startswith("data "))


def _fits(folder: Path, identity: Mapping[str, Any], backbone: str) -> bool:
    """Return whether a folder that the user has not named holds a run on the same data with a backbone."""
    if not holds_run(folder):
        return False
    try:
        there = RunFolder(folder).identity()
        same = _data(there) == _data(identity) and not _other_pictures(there, identity)
        return same and backbone in ("", read_settings(folder).config.backbone)
    except InputError as error:
        print(f"the run in {folder} is not used: {error}")
        return False


def _other_pictures(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether two runs have pictures that differ; runs of format 1 do not say which pictures they had."""
    parts = [part for part in here if part.startswith("pictures ")]
    return any(there.get(part, here[part]) != here[part] for part in parts)
