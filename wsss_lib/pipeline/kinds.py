"""Which kind of run a method has, and opening the run that lives in a folder."""

from __future__ import annotations

from pathlib import Path

from wsss_lib.pipeline.adversarial import AdversarialRun
from wsss_lib.pipeline.affinity import AffinityRun
from wsss_lib.pipeline.census import CensusRun
from wsss_lib.pipeline.msal import MsalRun, SuperpixelRun
from wsss_lib.pipeline.run import Run
from wsss_lib.pipeline.seeds import SeedRun
from wsss_lib.pipeline.segmentation import SegmentationRun
from wsss_lib.pipeline.settings import Settings, read_settings

_KINDS: dict[str, type[Run]] = {
    "affinitynet": AffinityRun,
    "oc_cse": AdversarialRun,
    "acr": AdversarialRun,
    "pcss": CensusRun,
    "superpixels": SuperpixelRun,
    "msal": MsalRun,
    "segmentation": SegmentationRun,
}
"""By method; all others make seeds."""


def open_run(settings: Settings, guest: bool = False) -> Run:
    """Open a run of the kind that its method has.

    Args:
        settings: Settings of the run.
        guest: Whether the run is opened for what it has made already, see :class:`wsss_lib.pipeline.run.Run`.
    """
    return _KINDS.get(settings.method, SeedRun)(settings, guest)


def reopen(folder: Path, guest: bool = False) -> Run:
    """Open the run that lives in a folder.

    Args:
        folder: Folder of a run.
        guest: Whether the run is opened for what it has made already, see :class:`wsss_lib.pipeline.run.Run`.

    Raises:
        InputError: There is no run, or it does not fit this version of the library.
    """
    return open_run(read_settings(folder), guest)
