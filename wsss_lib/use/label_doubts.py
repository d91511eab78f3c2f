"""What the command ``wsss doubt`` does: labelled pictures in, a table of the labels that are perhaps wrong out.

doubts.csv    a label per line, the most doubtful first
doubts.png    the pictures of the first lines
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import write_atomically, write_csv
from wsss_lib.data.splits import open_splits
from wsss_lib.errors import InputError
from wsss_lib.methods.fields import Kind, Limits
from wsss_lib.methods.method import CamConfig
from wsss_lib.models import create_backbone
from wsss_lib.models.pretrained import load_backbone
from wsss_lib.runs.parameters import convert, read_parameters
from wsss_lib.runs.settings import Settings, default_weights
from wsss_lib.show.figures import grid
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.infer import pooled_features
from wsss_lib.stages.label_doubts import FOLDS, LabelDoubt, find_label_doubts, judged_classes, require_packages
from wsss_lib.use.chains import refuse_unknown_words
from wsss_lib.use.predict import refuse_pictures_folder

TABLE, SHEET = "doubts.csv", "doubts.png"
"""Names of the files."""

HEAD = ("rank", "picture", "class", "kind", "rank_of_kind", "given", "probability", "quality")
"""Columns of the table."""

KINDS = ("missing", "superfluous")
"""The kinds of doubt, see :attr:`wsss_lib.stages.label_doubts.LabelDoubt.kind`."""

SHOWN = 12
"""Most pictures of each kind on the sheet."""

_SHARED = (
    "data_root",
    "preset",
    "labels",
    "mask_values",
    "backbone",
    "weights",
    "out",
    "seed",
    "limit",
    "accelerator",
    "precision",
    "workers",
)
_OWN = {"folds": Kind(int, Limits(2, 100)), "rows": Kind(int, Limits(0))}
_ROWS = 500

PARAMETERS = {
    "folds": f"Number of parts of the pictures; each part is judged by classifiers of the others (default: {FOLDS}).",
    "rows": f"Most lines of each kind, missing and superfluous; 0 for all labels of all pictures (default: {_ROWS}).",
}
"""The parameters that only this command has, and what they mean."""

NAMES = (*PARAMETERS, *_SHARED)
"""The parameters of the command; all but the first ones mean what they mean for ``wsss fit``."""


@dataclass(frozen=True)
class LabelDoubts:
    """The labels of a data set that are perhaps wrong.

    Attributes:
        data: The pictures with their given labels.
        doubts: The labels, the most doubtful first.
        left_out: Sentence about classes whose labels are not judged; "" if all are.
    """

    data: Dataset
    doubts: list[LabelDoubt]
    left_out: str = ""

    @property
    def shown(self) -> list[LabelDoubt]:
        """The doubts on the sheet: the first of each kind."""
        return [doubt for kind in KINDS for doubt in [one for one in self.doubts if one.kind == kind][:SHOWN]]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the table and the sheet into a folder, and return their paths.

        Raises:
            InputError: A file cannot be written, or a picture cannot be read.
        """
        table, sheet = folder / TABLE, folder / SHEET
        titles = [
            f"{doubt.kind}: {self._class(doubt)} {doubt.probability:.2f}\n{self._picture(doubt)}"
            for doubt in self.shown
        ]
        write_csv(table, [HEAD, *self._rows()])
        figure = grid([self.data.image(doubt.image) for doubt in self.shown], titles)
        write_atomically(sheet, lambda stream: stream.write(figure.png()))
        return table, sheet

    def _rows(self) -> Iterator[tuple[object, ...]]:
        ranks = dict.fromkeys(KINDS, 0)
        for rank, doubt in enumerate(self.doubts, 1):
            ranks[doubt.kind] += 1
            names = self._picture(doubt), self._class(doubt), doubt.kind, ranks[doubt.kind]
            yield rank, *names, "yes" if doubt.given else "no", f"{doubt.probability:.4f}", f"{doubt.quality:.4f}"

    def _picture(self, doubt: LabelDoubt) -> str:
        path = self.data.image_file(doubt.image)
        return self.data.ids[doubt.image] if path is None else path.name

    def _class(self, doubt: LabelDoubt) -> str:
        return self.data.classes[doubt.label]


def doubt_labels(parameters: Mapping[str, Any]) -> tuple[LabelDoubts, Path]:
    """Find the labels that are perhaps wrong among those that a network would be trained on.

    Args:
        parameters: Values of some of `NAMES`, as they are or as texts; ``data_root`` is the folder of the pictures.

    Returns:
        The doubts; and the folder for their files, ``out`` or ``runs/doubts/<preset>``. Nothing is written.

    Raises:
        InputError: A parameter cannot be used; the folder for the files is a file or holds pictures; a package, data or
            weights are missing; no picture has a label; or no class can be judged.
    """
    refuse_unknown_words(dict(parameters), NAMES)
    own = {name: convert(name, parameters[name], kind) for name, kind in _OWN.items() if name in parameters}
    for name, value in own.items():
        _OWN[name].check(name, value)
    require_packages()
    settings = read_parameters("doubts", "cam", {k: v for k, v in parameters.items() if k in _SHARED})
    _refuse_own_folder(settings)
    config, folds = settings.config, own.get("folds", FOLDS)
    assert isinstance(config, CamConfig)
    data = open_splits(
        settings.preset, settings.data_root, settings.labels, settings.limit, config.toy_world, settings.mask_values
    ).fit
    files = {image_id: path for i, image_id in enumerate(data.ids) if (path := data.image_file(i)) is not None}
    refuse_pictures_folder(settings.folder, files)  # both before the network looks at all pictures
    judged_classes(data.labels, data.classes, folds)
    weights = settings.weights or default_weights(settings.preset, config.backbone, settings.pretrained_folder)
    backbone = create_backbone(config.backbone, **config.backbone_options)
    load_backbone(backbone, weights)
    context = Context(
        make_fabric(settings.accelerator, 1, settings.precision), backbone.normalisation, settings.loaders
    )
    features = pooled_features(backbone.to(context.fabric.device), data, context, config.view_multiple)
    doubts, left_out = find_label_doubts(
        features, data.labels, data.classes, folds, settings.seed, own.get("rows", _ROWS)
    )
    return LabelDoubts(data, doubts, left_out), settings.folder


def _refuse_own_folder(settings: Settings) -> None:
    if settings.data_root is not None and settings.folder.resolve() == settings.data_root.resolve():
        raise InputError(f"out {settings.folder} is the folder of the pictures; give another one for the results.")
