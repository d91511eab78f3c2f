"""A run of a method that may need an ordinary classifier, such as OC-CSE: a trained one, which really classifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsss_lib.data.dataset import DatasetView
from wsss_lib.errors import InputError
from wsss_lib.methods import cam, load_method
from wsss_lib.methods.cam import CAM
from wsss_lib.methods.method import CamMethod
from wsss_lib.models.weights import read_state
from wsss_lib.ops.metrics import top_recall
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.earlier import earlier_run
from wsss_lib.runs.folder import holds_run
from wsss_lib.runs.settings import Settings
from wsss_lib.show.progress import epoch_line
from wsss_lib.stages.contents import file_digest
from wsss_lib.stages.infer import classify
from wsss_lib.stages.provenance import network_digest
from wsss_lib.stages.train import History

OFFICIAL = "od_cam.pth"
"""The authors' name for AffinityNet's classifier, looked for in the folder of pre-trained weights."""

_CHECKED_IMAGES = 300
"""Number of training images that the ordinary classifier is tested with."""

_MARGIN = 0.1
"""Amount by which the ordinary classifier must recall more labels than a ranking that looks at no image."""


class WithClassifierRun(CamRun):
    """A run of a method that may need an ordinary classifier, to ask it or to start from it.

    Attributes:
        ordinary_run: The run that trains or has trained the ordinary classifier; None if a file is used, or none is
            needed.
        file: The authors' file with the ordinary classifier; None if it is not used.
    """

    ordinary_run: CamRun | None = None
    file: Path | None = None

    @property
    def needs_classifier(self) -> bool:
        """Whether there must be an ordinary classifier; a network of the authors needs none."""
        config = self.settings.config
        if self.settings.checkpoint is not None and self.settings.classifier is None:
            return False
        return config.asks_classifier or config.starts_from_classifier

    def prepare(self) -> None:
        """Find the ordinary classifier, if one is needed.

        It is what the settings name, a run of 00_cam or a file of the authors, or else ``od_cam.pth`` among the
        pre-trained weights if it fits, or else the run of 00_cam if it is on the same data with the same backbone, or
        else a short run in this run's own folder.

        Raises:
            InputError: The settings name something that is not an ordinary classifier.
        """
        settings = self.settings
        if not self.needs_classifier:
            return
        file, own = settings.classifier, self.folder / "classifier"
        default = settings.pretrained_folder / OFFICIAL
        for_voc = settings.preset == "voc12" and settings.config.backbone == "resnet38d"
        if file is None and for_voc and default.is_file() and not holds_run(own):
            file = default
        if file is not None and file.is_file():
            self.file = file
            if not holds_run(self.folder):
                _ = self.ordinary  # read at once: another file must not claim the folder
        else:
            self.ordinary_run, folder = earlier_run(
                settings, self.own_identity, "classifier", own, settings.config.backbone
            )
            self._check_run(self.ordinary_run.settings)
            self.settings = replace(settings, classifier=folder)

    def _check_run(self, earlier: Settings) -> None:
        """Refuse a run that trains no ordinary classifier, or one that this run's network cannot start from."""
        if not issubclass(load_method(earlier.method).METHOD, CAM):
            raise InputError(f"classifier {earlier.folder} is a run of another method; give one of 00_cam.")
        config = self.settings.config
        if config.starts_from_classifier and earlier.config.backbone != config.backbone:
            raise InputError(
                f"classifier {earlier.folder} has the backbone {earlier.config.backbone}, and nothing with the "
                f"backbone {config.backbone} can start from it; give one with that backbone."
            )

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of the run, including the ordinary classifier."""
        if self.file is not None:
            return {**self.own_identity, "classifier": file_digest(self.file)}
        if self.ordinary_run is not None:
            return {**self.own_identity, "classifier": self.ordinary_run.fingerprint()}
        return self.own_identity

    def training_sources(self) -> dict[str, str]:
        """Return the ordinary classifier's digest, if the method needs one."""
        return {"classifier": network_digest(self.ordinary.network.state_dict())} if self.needs_classifier else {}

    def variant_settings(self) -> dict[str, Any]:
        """Return where the ordinary classifier is, so that variants do not make their own."""
        return {} if self.ordinary_run is None else {"classifier": self.ordinary_run.folder}

    @cached_property
    def ordinary(self) -> CAM:
        """The ordinary classifier, trained first if need be, and fixed.

        Where the authors' erasing network is used as it is and no classifier is named, that network
        takes its place.

        Raises:
            InputError: The file holds another network.
        """
        if self.ordinary_run is None:
            config, file = self.settings.config, self.classifier_name
            method = CAM(
                cam.Config(backbone=config.backbone, backbone_options=config.backbone_options), len(self.splits.classes)
            )
            method.load_official(read_state(file), file)
        else:
            assert isinstance(self.ordinary_run.method, CAM)
            if not self.ordinary_run.is_trained:
                self.ordinary_run.train()
            method = self.ordinary_run.method
        method.train(False)
        method.network.requires_grad_(False).to(self.fabric.device)
        return method

    def setup_method(self, method: CamMethod) -> None:
        """Start from the ordinary classifier, if the configuration says so."""
        if self.settings.checkpoint is not None:
            return
        if method.config.starts_from_classifier:
            method.start_from(self.ordinary.network)

    @property
    def classifier_name(self) -> Path:
        """The file or folder of the ordinary classifier."""
        if self.ordinary_run is not None:
            return self.ordinary_run.folder
        file = self.file or self.settings.checkpoint
        assert file is not None
        return file

    def check_ordinary(self) -> tuple[float, float]:
        """Ask the ordinary classifier about some training images.

        Returns:
            Its :func:`top_recall`, and that of the same ranking for every image, the frequency of the classes.

        Raises:
            InputError: The classifier is hardly better than that ranking, so that erasing would learn from noise, or it
                needs other inputs than this run's network.
        """
        wanted = self.ordinary.backbone.normalisation
        if wanted != self.normalise:
            raise InputError(
                f"classifier {self.classifier_name} wants images normalised by {wanted}, the network that is trained "
                f"by {self.normalise}; give one with the same backbone."
            )
        training = self.splits.fit
        labels = training.labels[:_CHECKED_IMAGES]
        some = DatasetView(training, training.name, list(range(len(labels))))
        logits = classify(self.ordinary, some, self.context)
        recall = float(top_recall(logits, labels))
        blind = float(top_recall(training.labels.mean(0).expand_as(labels), labels))
        if not recall > min(blind + _MARGIN, 0.99):
            raise InputError(
                f"the ordinary classifier {self.classifier_name} puts {100 * recall:.0f} % of the labels of "
                f"{len(labels)} training images first, and the mere frequency of classes {100 * blind:.0f} %; "
                "give one that is trained on this data."
            )
        return recall, blind

    def train(self, report: Callable[[dict[str, Any]], None] = epoch_line) -> History:
        """Check the ordinary classifier where the losses use it, then train; see :meth:`CamRun.train`."""
        if self.method.config.asks_classifier and not self.is_trained:
            self.check_ordinary()
            self.method.ordinary = self.ordinary.network
        return super().train(report)
