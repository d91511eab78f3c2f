"""Which kind of run a method has, and opening the run that lives in a folder."""

from __future__ import annotations

from pathlib import Path

from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.irn import IRNRun
from wsss_lib.runs.msal import MsalRun, SuperpixelRun
from wsss_lib.runs.pcss import PcssRun
from wsss_lib.runs.run import Run
from wsss_lib.runs.segmentation import SegmentationRun
from wsss_lib.runs.settings import Settings, read_settings
from wsss_lib.runs.with_classifier import WithClassifierRun

_KINDS: dict[str, type[Run]] = {
    "affinitynet": AffinityNetRun,
    "irn": IRNRun,
    "oc_cse": WithClassifierRun,
    "acr": WithClassifierRun,
    "pcss": PcssRun,
    "superpixels": SuperpixelRun,
    "msal": MsalRun,
    "segmentation": SegmentationRun,
}
"""Kinds of runs by method; a method that is not listed has a `CamRun`."""


def open_run(settings: Settings, guest: bool = False, part: bool = False) -> Run:
    """Open a run of the kind that its method has.

    Args:
        settings: Settings of the run.
        guest: Whether the run is opened for the results that it already has, see :class:`wsss_lib.runs.run.Run`.
        part: Whether another run makes this one for its own use.
    """
    return _KINDS.get(settings.method, CamRun)(settings, guest, part)


def reopen(folder: Path, guest: bool = False) -> Run:
    """Open the run that lives in a folder.

    Args:
        folder: Folder of a run.
        guest: Whether the run is opened for the results that it already has, see :class:`wsss_lib.runs.run.Run`.

    Raises:
        InputError: The folder holds no run, or the run does not fit this version of the library.
    """
    return open_run(read_settings(folder), guest)
