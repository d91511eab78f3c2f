"""Class activation maps of a folder of new pictures, made by the network of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from wsss_lib.data.files import write_atomically
from wsss_lib.data.names import class_numbers
from wsss_lib.data.pictures import find_pictures, open_picture
from wsss_lib.errors import InputError
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.folder import RunFolder
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.show import figures
from wsss_lib.show.progress import bars_are_seen
from wsss_lib.stages.provenance import begin, maker
from wsss_lib.stages.store import CamStore
from wsss_lib.use.predict import Summary, make_folder, refuse_pictures_folder


def map_folder(
    folder: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    overlay: bool = False,
    classes: str | Sequence[str] | None = None,
    report: Callable[[str], object] = print,
) -> Summary:
    """Write the missing class activation maps of pictures.

    ``<name>.npz`` holds ``classes`` int64 ``(n,)``, from 0, and ``cams`` uint16 ``(n, H, W)``, 65,535 times the value,
    of the picture's working size (see `wsss_lib.data.large`); :class:`wsss_lib.stages.store.CamStore` reads it.

    Args:
        folder: Folder of the run of a method that makes maps, trained to its end.
        pictures: See :func:`wsss_lib.data.pictures.find_pictures`.
        out: The folder of the results; made if need be.
        overlay: Whether ``overlays/<name>.png`` shows the picture and every map over it.
        classes: Names of the classes whose maps are wanted; None for those that the network believes in, see
            :meth:`wsss_lib.runs.cam.CamRun.cam`.
        report: Called with one sentence for every picture that cannot be used.

    Raises:
        InputError: The folder holds no such run, or as in :func:`wsss_lib.use.predict.predict_folder`.
    """
    out = Path(out)
    found, summary, store = find_pictures(pictures), Summary(), CamStore(out)
    refuse_pictures_folder(out, found)
    run = _map_maker(Path(folder))
    asked = "all it believes in" if classes is None else f"{class_numbers(classes, run.splits.classes)}"
    make_folder(out)
    with RunFolder(out).locked():
        begin(store, f"{run.source()}, classes {asked}", [*found], maker(run.fabric.device), adopt=False)
        for name, path in tqdm(found.items(), desc="maps", leave=False, disable=not bars_are_seen()):
            figure = out / "overlays" / f"{name}.png"
            if name in store and (figure.is_file() or not overlay):
                summary.kept += 1
                continue
            try:
                image, _ = open_picture(path)
            except InputError as error:
                summary.broken[path] = str(error)
                report(str(error))
                continue
            numbers, maps = run.cam(image, classes)
            figure.unlink(missing_ok=True)  # that of an earlier network must not stay beside the new maps
            if overlay:
                _write_figure(figure, image, [run.splits.classes[k] for k in numbers], maps)
            store.write(name, numbers, maps)
            summary.made += 1
    return summary


def _map_maker(folder: Path) -> CamRun:
    """Open the run in a folder that makes maps; of a run that refines maps the one whose maps they are."""
    run = reopen(folder, guest=True)
    if isinstance(run, RefinementRun):
        run = run.cam_run
    if not isinstance(run, CamRun):
        raise InputError(
            f"{folder} is a run of {run.settings.method}, which makes no maps; give one of another method."
        )
    if not run.is_trained:
        raise InputError(f"{run.folder} is not trained to its end; start the run again.")
    return run


def _write_figure(path: Path, image: Image.Image, names: Sequence[str], maps: Tensor) -> None:
    pictures = [np.asarray(image), *(figures.overlay(image, values.numpy()) for values in maps)]
    content = figures.grid(pictures, ["picture", *names], inches=3).png()
    write_atomically(path, lambda file: file.write(content), durable=False)
