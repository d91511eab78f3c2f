"""Which kind of run a method has, and opening the run that lives in a folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from wsss_lib.methods import load_method
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import Settings, read_settings

_KINDS = {
    "imported": "imported.ImportedRun",
    "affinitynet": "affinitynet.AffinityNetRun",
    "irn": "irn.IRNRun",
    "superpixels": "msal.SuperpixelRun",
    "segmentation": "segmentation.SegmentationRun",
}
"""Kinds of runs of methods that make no class activation maps.

The names are texts, so that a kind of run can open another run without a circle of imports.
"""

_BY_NEED = {
    "": "cam.CamRun",
    "classifier": "with_classifier.WithClassifierRun",
    "superpixels": "msal.MsalRun",
    "census": "pcss.PcssRun",
}
"""Kinds of runs of all other methods, by what the method needs, see `wsss_lib.methods.method.CamMethod.needs`."""


def open_run(settings: Settings, guest: bool = False, part: bool = False) -> Run:
    """Open a run of the kind that its method has.

    Args:
        settings: Settings of the run.
        guest: Whether the run is opened for the results that it already has, see :class:`wsss_lib.runs.run.Run`.
        part: Whether another run makes this one for its own use.
    """
    path = _KINDS.get(settings.method) or _BY_NEED[load_method(settings.method).METHOD.needs]
    module, name = path.split(".")
    kind: type[Run] = getattr(import_module(f"wsss_lib.runs.{module}"), name)
    return kind(settings, guest, part)


def reopen(folder: str | Path, guest: bool = False) -> Run:
    """Open the run that lives in a folder.

    Args:
        folder: Folder of a run.
        guest: Whether the run is opened for the results that it already has, see :class:`wsss_lib.runs.run.Run`.

    Raises:
        InputError: The folder holds no run, or the run does not fit this version of the library.
    """
    return open_run(read_settings(Path(folder)), guest)
