"""Opening the run that refines the maps of another run, before a final network learns from the refined maps."""

from __future__ import annotations

from dataclasses import replace

from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.folder import holds_run
from wsss_lib.runs.kinds import open_run
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.refiners import REFINERS, refiner_config
from wsss_lib.runs.settings import read_settings


def refined(run: CamRun) -> RefinementRun:
    """Open the run that refines the maps of another run, train it, and return it.

    The run lives in the folder ``refined/<name of the refiner>`` within the other run's folder. It has the settings of
    the preset, and the other run's data, seed and devices. If the other run started from random weights instead of the
    preset's, so does this one.

    Args:
        run: A run whose maps have been made, and whose settings name the refiner.

    Raises:
        InputError: The folder of the run holds a refinement of other maps, or pre-trained weights are missing.
    """
    settings, name = run.settings, run.settings.refiner
    folder = run.folder / "refined" / name
    config = (
        read_settings(folder).config
        if holds_run(folder)
        else refiner_config(name, settings.preset, settings.config.backbone, settings.from_scratch)
    )
    other = open_run(
        replace(
            settings,
            notebook=REFINERS[name],
            method=name,
            config=config,
            folder=folder,
            weights=settings.weights if config.backbone == settings.config.backbone else None,
            cams=run.folder,
            checkpoint=None,
            classifier=None,
            superpixels=None,
            saliency=None,
            refiner="",
            epoch=0,
            resume=True,
        ),
        part=True,
    )
    assert isinstance(other, RefinementRun)
    run.infer("fit")
    other.label()
    other.train()
    return other
