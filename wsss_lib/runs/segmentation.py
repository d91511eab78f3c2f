"""A run of the final stage: a segmentation network that is trained on the pseudo masks of another run.

The stages, which all continue where they were stopped: :meth:`~wsss_lib.runs.run.Run.train`,
:meth:`SegmentationRun.infer`, :meth:`SegmentationRun.refine`; :meth:`SegmentationRun.complete` does them all. A
notebook ends with ``final_stage(run).complete()``, which takes the masks after the CRF; ``segment`` takes any other
masks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import IGNORE
from wsss_lib.data.toy import ToyOptions
from wsss_lib.errors import InputError
from wsss_lib.methods.method import further_backbone
from wsss_lib.methods.segmentation import Config, Segmentation
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.folder import RunFolder, holds_run
from wsss_lib.runs.refined import refined
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.report import choose_masks, write_metrics
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import read_settings
from wsss_lib.show.progress import bar, epoch_line
from wsss_lib.stages.contents import Digests, combined
from wsss_lib.stages.examples import JointlyScaled, PseudoLabelled, TrainingImages
from wsss_lib.stages.provenance import UNKNOWN, source_of
from wsss_lib.stages.refine import Threshold, refine
from wsss_lib.stages.segment import WrappedColours, infer_masks, probabilities_of
from wsss_lib.stages.store import MaskStore, ScoreStore


class SegmentationRun(Run[Segmentation]):
    """A run of the final segmentation stage.

    Attributes:
        pseudo_masks: Masks that the network is trained on; None if the settings name a network that the authors' code
            trained.
    """

    stages = ("train", "infer", "refine")
    pseudo_masks: MaskStore | None = None

    def toy_world(self) -> ToyOptions:
        """Return the toy world of the run that the pseudo masks are from."""
        owner = self._owner() if self.settings.preset == "toy" else None
        return super().toy_world() if owner is None else read_settings(owner).config.toy_world

    def _owner(self) -> Path | None:
        """Return the folder of the run in which the pseudo masks lie, ``<run>/masks/<refinement>/<split>``, if any."""
        folder = self.settings.pseudo_masks
        if folder is None or len(folder.parents) < 3 or not holds_run(folder.parents[2]):
            return None
        return folder.parents[2]

    def prepare(self) -> None:
        """Find the pseudo masks.

        Raises:
            InputError: The folder of masks is missing or of a run on other data, no mask shows a class, or a mask is
                missing, damaged, of another size than its image or holds a value that is not a class.
        """
        folder = self.settings.pseudo_masks
        if folder is None:
            if self.settings.checkpoint is None:
                raise InputError(
                    "the segmentation stage needs pseudo masks; give their folder as pseudo_masks, such as "
                    "masks/crf-4/train of a run."
                )
            return
        self.pseudo_masks = MaskStore(folder)
        self._check_owner()
        self._check_complete(self.pseudo_masks)
        if not holds_run(self.folder):  # else they have been read before, and the identity knows them
            self._check_content(self.pseudo_masks)

    def _check_content(self, masks: MaskStore) -> None:
        data, found = self.splits.fit, torch.zeros(256, dtype=torch.bool)
        for index, image_id in enumerate(bar(data.ids, f"pseudo masks of {data.name}", len(data))):
            found[masks.read(image_id, len(data.classes), data.own_size(index)).flatten().long().unique()] = True
        if not found[1:IGNORE].any():
            values = " and ".join(str(value) for value in found.nonzero().flatten().tolist())
            raise InputError(
                f"pseudo_masks {masks.folder} show no class: every pixel is {values} (0 is background, 255 ignored); "
                "give masks that hold the class numbers, from 1 on."
            )

    def _check_complete(self, masks: MaskStore) -> None:
        data = self.splits.fit
        missing = [image_id for image_id in data.ids if image_id not in masks]
        if len(missing) == len(data):
            raise InputError(
                f"pseudo_masks {masks.folder} holds no mask of {data.name} ({missing[0]}.png and so on); give a folder "
                "of masks of the images that are trained on."
            )
        if missing:
            raise InputError(
                f"pseudo mask {masks.path(missing[0])} is missing, as {len(missing)} of {len(data)} are; finish the "
                "stage that makes them, for the split fit, or give another folder as pseudo_masks."
            )

    def _check_owner(self) -> None:
        owner = self._owner()
        if owner is None:
            return
        name = "data fit"
        there, here = RunFolder(owner).identity().get(name), self.own_identity[name]
        if there != here:
            raise InputError(
                f"pseudo_masks {self.settings.pseudo_masks} are of a run on other data ({name}: {there}; here {here});"
                " give masks of the same data."
            )

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of the run, including the content of the pseudo masks."""
        return {**self.own_identity, **({} if self.pseudo_masks is None else {"pseudo masks": self._mask_digest})}

    def input_digests(self, digests: Digests) -> dict[str, str]:
        """Return the digests of pictures and of pseudo masks."""
        found = super().input_digests(digests)
        if self.pseudo_masks is None or self.place.is_old:
            return found
        paths = [self.pseudo_masks.path(image_id) for image_id in self.splits.fit.ids]
        return {**found, "pseudo masks": combined(digests.of(paths, "pseudo masks"))}

    @cached_property
    def _mask_digest(self) -> str:
        assert self.pseudo_masks is not None
        paths = [self.pseudo_masks.path(image_id) for image_id in self.splits.fit.ids]
        if not self.place.is_old:
            return self.input_digests(self.digests)["pseudo masks"]
        found = 0  # as format 1 has it
        for path in paths:
            found = zlib.crc32(path.read_bytes(), found)
        return f"{found:08x}"

    def example(self) -> PseudoLabelled:
        """Return what makes training examples: augmented images with their pseudo masks."""
        config = self.method.config
        assert self.pseudo_masks is not None  # else there is nothing to train
        return PseudoLabelled(
            self.splits.fit,
            self.pseudo_masks,
            config.augmentation(),
            config.colour_jitter,
            config.hue_jitter,
            self.normalise,
        )

    def training_images(self) -> TrainingImages:
        """Return the augmented training data, with one scale for a batch if the settings say so."""
        kind = JointlyScaled if self.method.config.one_scale_per == "batch" else TrainingImages
        return kind(self.splits.fit, self.example(), self.settings.seed)

    def infer(self, split: str) -> MaskStore:
        """Write the missing masks of a split, and return their store.

        The probabilities of the classes that may be in an image go to ``scores``, so that :meth:`refine` can be stopped
        and continued without the network, in many processes; that folder may be removed when the refinement is done.
        """
        data, store = self.data(split), self.masks("segmentation", split)
        with self.working(), self.timed(f"inference {split}"):
            source, scores = self.source(), self._scores(split)
            self.begin(store, split, source)
            if self.masks_left(split) or source_of(scores) not in (source, UNKNOWN):
                self.begin(scores, split, source)
            if not self.delegate("infer", split):
                self.to_device()
                refined = self.masks("segmentation-crf", split)
                done = {i for i in data.ids if i in store and (i in scores or i in refined)}
                infer_masks(self.method, data, store, scores, done, self.context)
        return store

    def _scores(self, split: str) -> ScoreStore:
        return ScoreStore(self.folder / "scores" / "segmentation" / self.split_folder(split))

    def refine(self, refinement: str, split: str) -> dict[str, MaskStore]:
        """Write the missing masks of a split after a CRF; :meth:`infer` comes first.

        Args:
            refinement: ``crf``.
            split: Name of the split.

        Returns:
            The store by its name, ``segmentation-crf``.

        Raises:
            InputError: The refinement is unknown, or :meth:`infer` has not been called.
        """
        if refinement != "crf":
            raise InputError(f"refinement {refinement!r} is unknown; choose crf.")
        config, read = self.method.config, partial(probabilities_of, self._scores(split))
        for store in (self.masks("segmentation", split), self._scores(split)):
            self.require(store)
        source = source_of(self.masks("segmentation", split))
        return self.write_masks(refinement, split, read, ["segmentation-crf"], config.crf, source)

    def crf_images(self, data: Dataset) -> Dataset:
        """Return a split as it is, or with wrapped colours if the settings say so."""
        return data if self.method.config.crf_image == "true" else WrappedColours(data, self.normalise)

    def complete(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> dict[str, dict[str, Any]]:
        """Train, infer, refine and score what is not done yet, and write ``metrics.json``.

        Args:
            report: Called with the summary of every finished epoch.

        Returns:
            By split, ``train`` and ``val``, and by name, ``segmentation`` and ``segmentation-crf``, the scores of
            :func:`wsss_lib.stages.evaluate.confusion_summary`; nothing for a split without masks.
        """
        self.train(report)
        results = {}
        for split, data in self.splits.scored.items():
            stores = {"segmentation": self.infer(split), **self.refine("crf", split)}
            if data.has_masks:
                results[split] = self.score_masks(stores, split)
        write_metrics(self, {}, {}, masks=results)
        return results

    def masks_left(self, split: str) -> bool:
        """Return whether an image of a split has no mask yet, or one without what its refinement needs."""
        masks, refined, scores = (
            self.masks("segmentation", split),
            self.masks("segmentation-crf", split),
            self._scores(split),
        )
        return any(i not in masks or (i not in refined and i not in scores) for i in self.data(split).ids)


def cam_masks(run: CamRun, threshold: float | None = None) -> MaskStore:
    """Return the masks of the training images that the maps of a run give at one background threshold.

    Args:
        run: A run whose maps of ``fit`` and, if no threshold is given, of ``train`` have been made.
        threshold: The background score; None for the one that is best on ``train``.
    """
    if threshold is None:
        scores = run.score("train")
        threshold = scores.thresholds[scores.best]
    store, cams = run.masks(f"cam-{threshold:g}", "fit"), run.cams("fit")
    run.require(cams)
    with run.working():
        run.begin(store, "fit", source_of(cams))
        refine(run.data("fit"), Threshold(cams, threshold), [store], run.fabric, None)
    return store


def final_stage(
    run: CamRun | RefinementRun, backbone: str = "", weights: Path | None = None, **changes: Any
) -> SegmentationRun:
    """Open the final stage of a run on its best masks of the training images, which are made if they are missing.

    Args:
        run: A run that is trained and makes masks. If it makes several sets of masks, such as one for each power of the
            background in a CRF, the set that is best on ``train`` is used; without true masks, the set whose power is
            nearest to `wsss_lib.runs.report.FIXED_ALPHA`. If its settings name a refiner, that refines its maps first,
            and its masks are used.
        backbone: Name of the backbone, see :func:`segment`.
        weights: File of the backbone's pre-trained weights, see :func:`segment`.
        changes: Fields of the configuration that differ, see :func:`segment`.
    """
    if isinstance(run, CamRun) and run.settings.refiner:
        run.infer("train")
        run = refined(run)
    run.infer("fit")
    stores = run.refine(run.final_masks, "fit")
    scores: dict[str, float | None] = dict.fromkeys(stores)
    if len(stores) > 1 and run.data("train").has_masks:
        run.infer("train")
        found = run.score_masks(run.refine(run.final_masks, "train"), "train")
        scores |= {name: row["mean_iou"] for name, row in found.items()}
    return segment(run, stores[choose_masks(scores)], backbone, weights, **changes)


def segment(
    run: Run, masks: MaskStore, backbone: str = "", weights: Path | None = None, **changes: Any
) -> SegmentationRun:
    """Open the final stage of a run, in the folder ``segmentation/<name of the masks>`` within the run's folder.

    The final stage has the run's preset, data, seed and devices. If its backbone is not the preset's, the backbone is
    added to the folder's name. If the run started from random weights instead of the preset's, so does the final stage.

    Args:
        run: The run.
        masks: Masks of the run for the split ``fit``; the network is trained on them.
        backbone: Backbone of the network, which comes with the settings of its authors; "" for that of the run in the
            folder, or of the run itself if it is a light one for ``photos``, or of the preset.
        weights: File of its pre-trained weights; None for the run's own if it has this backbone, else for the default.
        changes: Fields of the segmentation stage's configuration that differ from these settings.

    Raises:
        InputError: A mask is missing or does not fit, or the folder holds a run on other masks.
    """
    settings, name = run.settings, masks.folder.parent.name
    folder = run.folder / "segmentation" / (f"{name}-{backbone}" if backbone else name)
    if not backbone and holds_run(folder):  # the preset may have had another backbone when it began
        backbone = read_settings(folder).config.backbone
    backbone = backbone or further_backbone(settings.preset, settings.config.backbone)
    config = Config.preset(settings.preset, backbone)
    if settings.from_scratch:
        config = config.replace(pretrained=False)
    config = config.replace(**changes)
    config.check()
    if weights is None and config.backbone == settings.config.backbone:
        weights = settings.weights
    return SegmentationRun(
        replace(
            settings,
            method="segmentation",
            config=config,
            folder=folder,
            weights=weights,
            pseudo_masks=masks.folder,
            cams=None,
            classifier=None,
            superpixels=None,
            saliency=None,
            checkpoint=None,
            epoch=0,
            resume=True,
        ),
        part=True,
    )
