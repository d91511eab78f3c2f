"""Masks of a folder of new pictures, which may be stopped and continued.

In the folder of the results::

    <name>.png             the mask, of the picture's own size, in the colours of the model
    overlays/<name>.jpg    on request: the mask over the picture
    scores/<name>.npz      on request: `classes`, background first, and `scores` float16 (1 + K, h, w)
    predictions.csv        classes of every picture, their share of its area, and how sure the model is
    predictions.json       model and options that made all this

Every mask says in a text chunk of its PNG which model, options and picture it was made with, and what its row in the
table is. So a mask is made again exactly if one of these has changed, and the table needs no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from wsss_lib.data.files import image_size, is_unfinished, write_atomically, write_csv
from wsss_lib.data.large import resize_labels, working_size
from wsss_lib.data.pictures import find_pictures, open_picture
from wsss_lib.errors import InputError, printable
from wsss_lib.ops.cam import argmax
from wsss_lib.runs.folder import RunFolder
from wsss_lib.show.progress import bars_are_seen
from wsss_lib.stages.evaluate import ahead
from wsss_lib.stages.infer import PIXELS_PER_BATCH
from wsss_lib.stages.provenance import maker
from wsss_lib.stages.store import read_json, write_json
from wsss_lib.use.model import Model, Options, Prediction

OVERLAYS = ("", "jpg", "png")
"""Formats of the overlays; "" for none."""

_WINDOW = 512
"""Pictures that are looked at together to find some of one size; memory does not grow with their number."""

_MARK = "wsss_lib"
"""Name of the text chunk in a mask."""

_OPAQUE = 0.6
"""Opacity of the colours of a class over the picture."""

_Batch = list[tuple[str, Path, tuple[int, int]]]
"""Name, file and own size of pictures that have one working size."""


@dataclass
class Summary:
    """What became of the pictures.

    Attributes:
        made: Number of the masks that were made.
        kept: Number of the masks that were there already, from the same model, options and pictures.
        broken: The files that have no mask, and the reasons.
    """

    made: int = 0
    kept: int = 0
    broken: dict[Path, str] = field(default_factory=dict)


def predict_folder(
    model: Model,
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    overlay: str = "",
    scores: bool = False,
    scales: Sequence[float] | str | None = None,
    mirror: bool | None = None,
    crf: bool = False,
    classes: str | Sequence[str] | None = None,
    report: Callable[[str], object] = print,
) -> Summary:
    """Write the missing masks of pictures into a folder.

    Args:
        model: The model that makes the masks.
        pictures: A picture, a folder, a ``.txt`` file with a list, or a list of these, see
            :func:`wsss_lib.data.pictures.find_pictures`. Neither labels nor a run are needed.
        out: The folder of the results; made if need be.
        overlay: ``jpg`` or ``png`` to write the masks over the pictures, too; "" for none.
        scores: Whether the probabilities are written, too.
        scales: See :meth:`wsss_lib.use.model.Model.options`, as for the next three.
        mirror: Whether the mirror image is used, too.
        crf: Whether a dense CRF follows.
        classes: Names of the classes that may be found.
        report: Called with one sentence for every picture that cannot be used.

    Returns:
        How many masks were made and kept, and which pictures cannot be used.

    Raises:
        InputError: No picture is found, two pictures have one name, an option cannot be used, or the folder is that of
            the pictures, holds files of others or cannot be written to.
    """
    options, out = model.options(scales, mirror, crf, classes), Path(out)
    if overlay not in OVERLAYS:
        raise InputError(f"overlay {overlay!r} is unknown; choose jpg or png.")
    found = find_pictures(pictures)
    refuse_pictures_folder(out, found)
    work = _Work(model, options, out, overlay, scores, report)
    make_folder(out)
    with RunFolder(out).locked():
        work.begin(found)
        with tqdm(total=len(found), desc="masks", leave=False, disable=not bars_are_seen()) as bar:
            names = list(found)
            for start in range(0, len(names), _WINDOW):
                for count in work.do({name: found[name] for name in names[start : start + _WINDOW]}):
                    bar.update(count)
        work.write_table(found)
    return work.summary


def refuse_pictures_folder(out: Path, found: dict[str, Path]) -> None:
    """Raise InputError if results would lie among the pictures, or if the folder of the results is a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"out {out} is a file; give a folder.")
    if any(folder.resolve() == out.resolve() for folder in {path.parent for path in found.values()}):
        raise InputError(f"out {out} is the folder of the pictures; give another one for the results.")


def make_folder(out: Path) -> None:
    """Make the folder of the results; raise InputError if that, or writing into it, is not possible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out {out} cannot be made ({error.strerror}); give another folder.") from None
    if not os.access(out, os.W_OK):
        raise InputError(f"out {out} cannot be written to; choose a folder that you may write to.")


class _Work:
    """What is done for a model, its options and a folder of results."""

    def __init__(
        self,
        model: Model,
        options: Options,
        out: Path,
        overlay: str,
        scores: bool,
        report: Callable[[str], object],
    ) -> None:
        self.model = model
        self.options = options
        self.out = out
        self.extras = {
            "overlays": f".{overlay}" if overlay else "",
            "scores": ".npz" if scores else "",
        }
        self.report = report
        self.summary = Summary()

    @cached_property
    def source(self) -> dict[str, Any]:
        """The model and the options that decide what a mask shows, as plain values."""
        return {"model": self.model.about.digest, **asdict(self.options), "precision": self.model.precision}

    @cached_property
    def key(self) -> str:
        """A short name of :attr:`source`."""
        return hashlib.sha256(json.dumps(self.source, sort_keys=True).encode()).hexdigest()[:16]

    # ------------------------------------------------------------------------------------------------- the folder

    def begin(self, found: dict[str, Path]) -> None:
        """Refuse a folder with files of others, remove what a killed process has left, and write the record."""
        record = self.out / "predictions.json"
        ours = record.is_file() and _is_record(read_json(record))
        if not ours:
            names = [f"{name}.png" for name in found] + ["predictions.csv", "predictions.json", *self.extras]
            there = next((name for name in names if (self.out / name).exists()), None)
            if there is not None:
                raise InputError(
                    f"{self.out / there} was not made by a prediction; move it elsewhere or give another folder as out."
                )
        for folder in (self.out, *(self.out / name for name in self.extras)):
            for path in [path for path in folder.glob(".tmp-*") if is_unfinished(path)]:
                path.unlink(missing_ok=True)
        about = self.model.about
        content = {
            "predictions_of": {**self.source, "key": self.key},
            "classes": list(about.classes),
            "trained_on": about.trained_on,
            "made": maker(self.model.device),
        }
        (self.out / "predictions.csv").unlink(missing_ok=True)  # it tells of all pictures, so it is written last
        write_json(record, content)

    def mask_path(self, name: str) -> Path:
        """Return where the mask of a picture lies."""
        return self.out / f"{name}.png"

    def _is_done(self, name: str, picture: Path) -> bool:
        """Whether all that is wanted of a picture is there, and whole."""
        path = self.mask_path(name)
        mark = _read_mark(path)
        if mark == {}:
            raise _ForeignError(
                f"{path} was not made by a prediction; move it elsewhere or give another folder as out."
            )
        wanted = [self.out / kind / (name + suffix) for kind, suffix in self.extras.items() if suffix]
        return (
            mark is not None
            and mark.get("key") == self.key
            and mark.get("picture") == _signature(picture)
            and all(extra.is_file() for extra in wanted)
        )

    # ---------------------------------------------------------------------------------------------------- the work

    def do(self, found: dict[str, Path]) -> Iterator[int]:
        """Make the missing results of some pictures; yield numbers of pictures that are done."""
        groups: dict[tuple[int, int], _Batch] = {}
        for name, path in found.items():
            try:
                size = None if self._is_done(name, path) else image_size(path)
            except _ForeignError:
                raise
            except (InputError, OSError) as error:
                self._give_up(path, error)
                yield 1
                continue
            if size is None:
                self.summary.kept += 1
                yield 1
            else:
                groups.setdefault(working_size(*size), []).append((name, path, size))
        with ThreadPoolExecutor(2) as pool:
            for batch, images in ahead(pool, _read, self._batches(groups), count=2):
                self._work_on(batch, images)
                yield len(batch)

    def _batches(self, groups: dict[tuple[int, int], _Batch]) -> Iterator[_Batch]:
        most = PIXELS_PER_BATCH.get(self.model.device.type, PIXELS_PER_BATCH["cuda"])
        for (height, width), pictures in groups.items():
            # as many as an inference of a run takes, for the same rounding
            count = max(1, int(most / (2 * height * width * max(self.options.scales) ** 2)))
            for start in range(0, len(pictures), count):
                yield pictures[start : start + count]

    def _work_on(self, batch: _Batch, images: list[Image.Image | InputError]) -> None:
        readable = []
        for entry, image in zip(batch, images, strict=True):
            if isinstance(image, InputError):
                self._give_up(entry[1], image)
            else:
                readable.append((entry, image))
        if not readable:
            return
        try:
            found = self.model.scores([image for _, image in readable], self.options)
        except InputError as error:  # all have one size, which the network cannot take
            for (_, path, _), _ in readable:
                self._give_up(path, InputError(f"{path}: {error}"))
            return
        for ((name, path, size), image), scores in zip(readable, found, strict=True):
            try:
                prediction, signature = self.model.finish(image, scores, size, self.options), _signature(path)
            except (InputError, OSError) as error:
                self._give_up(path, InputError(f"{path}: {error}"))
            else:
                self._write(name, path, image, prediction, signature)

    def _write(self, name: str, path: Path, image: Image.Image, prediction: Prediction, signature: list[int]) -> None:
        mask, scores = prediction
        palette = self.model.about.palette
        for kind, suffixes in {"overlays": (".jpg", ".png"), "scores": (".npz",)}.items():
            for suffix in suffixes:  # those of an earlier model must not stay beside the new mask
                (self.out / kind / (name + suffix)).unlink(missing_ok=True)
        if suffix := self.extras["overlays"]:
            _write_picture(self.out / "overlays" / (name + suffix), _blend(image, mask, palette))
        if suffix := self.extras["scores"]:
            names, values = np.array(["background", *self.model.classes]), scores.astype(np.float16)
            write_atomically(
                self.out / "scores" / (name + suffix),
                lambda file: np.savez_compressed(file, classes=names, scores=values),
                durable=False,
            )
        mark = {"key": self.key, "picture": signature, "file": printable(path.name), **self._row(scores)}
        _write_mask(self.mask_path(name), mask, palette, mark)  # last: with it all the others count as done
        self.summary.made += 1

    def _row(self, scores: np.ndarray) -> dict[str, Any]:
        """Return by class its share of the area and the mean probability within it, and that of all pixels."""
        values = torch.from_numpy(scores)
        labels = argmax(values, 0)
        classes = {}
        for k, name in enumerate(self.model.classes, 1):
            inside = labels == k
            if inside.any():
                classes[name] = [float(inside.float().mean()), float(values[k][inside].mean())]
        return {"classes": classes, "overall": float(values.amax(0).mean())}

    def _give_up(self, path: Path, error: Exception) -> None:
        sentence = str(error) if isinstance(error, InputError) else f"{path} cannot be read ({error}); copy it again."
        self.summary.broken[path] = sentence
        self.report(sentence)

    def write_table(self, found: dict[str, Path]) -> None:
        """Write ``predictions.csv``: a row for every picture that has a mask."""
        write_csv(self.out / "predictions.csv", self._rows(found))

    def _rows(self, found: dict[str, Path]) -> Iterator[list[str]]:
        yield ["file", "classes", "share", "confidence", "overall"]
        for name, path in found.items():
            mark = None if path in self.summary.broken else _read_mark(self.mask_path(name), whole=False)
            if mark:
                shares, confidences = ([v[i] for v in mark["classes"].values()] for i in range(2))
                numbers = [";".join(f"{value:.4f}" for value in values) for values in (shares, confidences)]
                yield [path.name, ";".join(mark["classes"]), *numbers, f"{mark['overall']:.4f}"]


class _ForeignError(InputError):
    """There is a file in the way that this program has not written."""


def _is_record(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("predictions_of"), dict)


def _signature(path: Path) -> list[int]:
    """Return the size and the time of the last change of a file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _read(batch: _Batch) -> tuple[_Batch, list[Image.Image | InputError]]:
    """Return the pictures of a batch, or why one cannot be read."""

    def read(path: Path) -> Image.Image | InputError:
        try:
            return open_picture(path)[0]
        except InputError as error:
            return error

    return batch, [read(path) for _, path, _ in batch]


def _write_mask(path: Path, mask: np.ndarray, palette: np.ndarray, mark: dict[str, Any]) -> None:
    picture, text = Image.fromarray(mask), PngInfo()
    picture.putpalette(palette.tobytes())
    text.add_text(_MARK, json.dumps(mark))
    write_atomically(path, lambda file: picture.save(file, "PNG", pnginfo=text), durable=False)


def _read_mark(path: Path, whole: bool = True) -> dict[str, Any] | None:
    """Return what a mask says of itself: nothing if this program did not write it, None if it is missing or damaged.

    Args:
        path: The mask.
        whole: Whether the checksums of the file are compared.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get(_MARK)
            if whole:
                picture.verify()
        return {} if text is None else dict(json.loads(text))
    except Exception:  # Pillow reports damage in many ways
        return None


def _blend(image: Image.Image, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the picture ``(H, W, 3)`` uint8 with the colours of a mask over it; the background stays clear."""
    labels = resize_labels(mask, (image.height, image.width))
    share = np.where(labels == 0, 0.0, _OPAQUE).astype(np.float32)[..., None]
    return ((1 - share) * np.asarray(image, np.float32) + share * palette[labels]).astype(np.uint8)


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, kind), durable=False)
