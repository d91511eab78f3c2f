"""The random walk and the final network from maps that other code made, as runs like those of the notebooks.

In the folder of the results::

    data/      labels, and links to pictures and masks, in the layout of `photos`; only for a plain folder of pictures
    maps/      the run of the maps, with their refinement and, in segmentation/, the final network
    walk/      the run of AffinityNet
    walk-irn/  the run of IRN
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsss_lib.data.files import write_atomically
from wsss_lib.errors import InputError, printable
from wsss_lib.exchange.maps import MapSet, Numbering, have_maps, open_maps
from wsss_lib.methods import imported
from wsss_lib.runs.imported import ImportedRun
from wsss_lib.runs.kinds import open_run
from wsss_lib.runs.parameters import existing, read_parameters
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.refiners import REFINERS
from wsss_lib.runs.report import write_metrics
from wsss_lib.runs.segmentation import SegmentationRun, final_stage, segment
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.store import MaskStore
from wsss_lib.use.chains import read_words
from wsss_lib.use.predict import make_folder

_COMMON = ("preset", "seed", "limit", "accelerator", "devices", "precision", "workers", "resume", "mask_values")
"""Parameters that every run has."""


def is_data_root(pictures: Path) -> bool:
    """Whether a folder of pictures has the layout of a preset, and so has labels of its own."""
    return any((pictures / name).exists() for name in ("labels.csv", "JPEGImages", "annotations", "VOCdevkit"))


def make_data(one: MapSet, folder: Path) -> Path:
    """Make a folder of pictures, labels and masks, see `wsss_lib.data.folder`, with links if the system has links.

    Args:
        one: The maps and pictures.
        folder: The folder; files that are there already must have the same content.

    Returns:
        The folder.

    Raises:
        InputError: The folder holds other data.
    """
    data, table = one.data, io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["image", "labels", "split"])
    for path, labels in zip(data.image_files, data.labels, strict=True):
        names = ";".join(data.classes[k] for k in labels.nonzero().flatten().tolist())
        rows.writerow([path.name, names, "train"])
    texts = {"labels.csv": table.getvalue(), "classes.txt": "\n".join(data.classes) + "\n"}
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path} belongs to other maps or pictures; give another folder as out.")
    for path in data.image_files:
        _link(path, folder / "images" / path.name)
    for image_id, mask in zip(data.ids, data.mask_files or (), strict=False):
        if mask is not None:
            _link(mask, folder / "masks" / f"{image_id}.png")
    for name, text in texts.items():
        _write(folder / name, text.encode())
    return folder


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    with suppress(FileNotFoundError):
        target.unlink()  # a link to a file that is gone
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a system without links
        shutil.copyfile(source, target)


@dataclass(frozen=True)
class Source:
    """Maps and their pictures, as named by a user; see :func:`wsss_lib.exchange.maps.open_maps`.

    Attributes:
        maps: Folder of the maps.
        pictures: Folder of the pictures, or of data in VOC's or COCO's layout or with a ``labels.csv``.
        masks: Folder of masks, for scores only. It and ``labels``, ``classes`` and ``ids`` are only for a plain folder
            of pictures.
        labels: Source of the image-level labels.
        classes: ``voc``, ``coco`` or a file with names.
        ids: List of the pictures that are wanted.
        numbering: Meaning of the numbers of maps.
        normalise: Whether every map is rectified and divided by its maximum.
        stretch: Whether maps of any size are stretched over their picture.
    """

    maps: str | os.PathLike[str]
    pictures: str | os.PathLike[str]
    masks: str | os.PathLike[str] | None = None
    labels: str | os.PathLike[str] | None = None
    classes: str | os.PathLike[str] | Sequence[str] = "voc"
    ids: str | os.PathLike[str] | None = None
    numbering: Numbering = "auto"
    normalise: bool = False
    stretch: bool = False

    def root(self, out: Path) -> Path:
        """Return the folder of the data; for a plain folder of pictures, make it.

        Args:
            out: Folder of the results, in which the folder of the data is made.
        """
        pictures = Path(self.pictures)
        given = [name for name in ("masks", "labels", "ids") if getattr(self, name) is not None]
        if is_data_root(pictures):
            if given:
                raise InputError(f"{given[0]} is given, but {pictures} has its own; leave {given[0]} out.")
            return pictures
        one = open_maps(
            self.maps,
            pictures,
            self.masks,
            self.labels,
            self.classes,
            self.ids,
            self.numbering,
            self.normalise,
            self.stretch,
        )
        make_folder(out)
        return make_data(one, out / "data")


def import_maps(source: Source, settings: Settings, out: Path) -> ImportedRun:
    """Open the run of maps in ``<out>/maps``, print a description of the maps, and copy the maps for training.

    Args:
        source: The maps and pictures.
        settings: Settings of a run on the same data.
        out: Folder of the results.
    """
    config = imported.Config.preset(settings.preset).replace(
        numbering=source.numbering, normalise=source.normalise, stretch=source.stretch
    )
    folder = Path(source.maps).resolve()
    run = ImportedRun(
        replace(
            settings,
            notebook="maps",
            method="imported",
            config=config,
            folder=out / "maps",
            cams=folder,
            weights=None,
            checkpoint=None,
        )
    )
    print(printable(run.foreign("fit").said))
    run.infer("fit")
    return run


def walk_maps(source: Source, out: str | os.PathLike[str], words: Sequence[str] = ()) -> RefinementRun:
    """Train AffinityNet or IRN on maps, or use a trained one, apply the random walk to the maps, and write masks.

    Args:
        source: The maps and pictures.
        out: Folder of the results. The masks lie in ``walk/masks/walk/<split>`` and, after a CRF, in
            ``walk/masks/walk-crf/<split>``; those of IRN in the same folders of ``walk-irn``.
        words: Parameters as words: ``method=irn`` for IRN, and those of the method, such as ``epochs=3`` or
            ``checkpoint=res38_aff.pth``, the authors' network, which then gives the affinities.

    Returns:
        The run, whose ``metrics.json`` has the scores if there are masks.

    Raises:
        InputError: A parameter is unknown, the folder holds another run, or maps are damaged or do not fit.
    """
    parameters, out = read_words(words, "affinitynet"), Path(out)
    method = parameters.method
    if method not in REFINERS:
        raise InputError(f"method {method} has no random walk; choose one of {', '.join(REFINERS)}.")
    if parameters.final:
        raise InputError("a walk trains no final network; leave out the parameters that begin with final.")
    for name in ("cams", "data_root", "out"):
        if name in parameters.values:
            raise InputError(f"parameter {name} follows from the maps, the pictures and the folder out; leave it out.")
    folder = out / ("walk" if method == "affinitynet" else f"walk-{method}")
    values = {"preset": "photos", **parameters.values, "data_root": str(source.root(out)), "out": str(folder)}
    settings = read_parameters(REFINERS[method], method, values)
    maps = import_maps(source, settings, out)
    run = open_run(replace(settings, cams=maps.folder)).at_epoch(parameters.epoch)
    assert isinstance(run, RefinementRun)
    run.label()
    run.train()
    refined: dict[str, Any] = {}
    for split in _splits_with_maps(maps):
        maps.infer(split)
        run.infer(split)
        stores = {**run.refine("walk", split), **run.refine("walk-crf", split)}
        if run.data(split).has_masks:
            refined[split] = run.score_masks(stores, split)
    scores = {split: maps.score(split) for split in refined if split != "fit"}
    write_metrics(run, scores, {}, refinements=refined)
    return run


def _splits_with_maps(run: ImportedRun) -> list[str]:
    """Return the splits of which all pictures have maps; of splits with the same pictures only the first."""
    found: dict[tuple[str, ...], str] = {}
    folder = run.settings.cams
    assert folder is not None
    for name in (*run.splits.scored, "fit"):
        if run.data(name).ids not in found and have_maps(run.data(name), folder):
            found[run.data(name).ids] = name
    return [*found.values()]


def segment_maps(source: Source, out: str | os.PathLike[str], words: Sequence[str] = ()) -> SegmentationRun:
    """Train the final network on the masks that maps give after a CRF, or on label maps as they are.

    Args:
        source: The maps and pictures.
        out: Folder of the results.
        words: Parameters as words: those of every run, such as ``preset=voc12``, and those of the final network, such
            as ``final.epochs=3``.

    Returns:
        The run of the final network.

    Raises:
        InputError: See :func:`walk_maps`.
    """
    parameters, out = read_words(words, "cam"), Path(out)
    unknown = [name for name in parameters.values if name not in _COMMON]
    if unknown or parameters.method != "cam":
        raise InputError(
            f"parameter {(unknown or ['method'])[0]} cannot be given for a final network; give {', '.join(_COMMON)} or "
            "parameters of the network, such as final.epochs=3."
        )
    values = {"preset": "photos", **parameters.values, "data_root": str(source.root(out)), "out": str(out / "maps")}
    maps = import_maps(source, read_parameters("00_cam", "cam", values), out)
    final = dict(parameters.final)
    backbone, weights = final.pop("backbone", ""), existing("weights", final.pop("weights", ""))
    if maps.foreign("fit").reading.form == "labels":
        run = segment(maps, MaskStore(maps.foreign("fit").folder), backbone, weights, **final)
    else:
        run = final_stage(maps, backbone, weights, **final)
    run.complete()
    return run
