"""Runs of the superpixel network, and of MSAL, which needs a trained superpixel network."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsss_lib.data.saliency import SaliencyMaps
from wsss_lib.data.transforms import Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods import superpixels
from wsss_lib.methods.method import CamMethod
from wsss_lib.methods.superpixels import Superpixels
from wsss_lib.models.pretrained import load_backbone
from wsss_lib.models.superpixel_net import SPIXEL_FCN, SuperpixelNet
from wsss_lib.models.torch_files import names_beside_state
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.earlier import continued
from wsss_lib.runs.folder import holds_run
from wsss_lib.runs.run import Run
from wsss_lib.stages.contents import Digests, combined, file_digest
from wsss_lib.stages.examples import Example, LabelledImages, SalientImages
from wsss_lib.stages.provenance import network_digest


class SuperpixelRun(Run[Superpixels]):
    """A run that trains the superpixel network on the training images; their labels are not used."""

    def example(self) -> Example:
        """Return what makes training examples."""
        return LabelledImages(self.splits.fit, self.method.config.augmentation(), self.normalise)


class MsalRun(CamRun):
    """A run of MSAL.

    Attributes:
        saliency: The maps that MSAL-S rebuilds; None for MSAL-I.
        superpixel_run: The run that trains or has trained the superpixel network; None if a file is used.
        file: A file with such a network; None if it is not used.
    """

    saliency: SaliencyMaps | None = None
    superpixel_run: SuperpixelRun | None = None
    file: Path | None = None

    def prepare(self) -> None:
        """Find saliency maps, if they are needed, and the superpixel network.

        The superpixel network is the file or the run that the settings name, or else a run in this run's folder.

        Raises:
            InputError: The settings name something that is not a superpixel network, or saliency maps are missing.
        """
        settings = self.settings
        self.saliency = self._find_saliency()
        if settings.superpixels is not None and settings.superpixels.is_file():
            self.file = settings.superpixels
            if not holds_run(self.folder):
                _ = self.superpixels  # read at once: another file must not claim the folder
            return
        folder = settings.superpixels or self.folder / "superpixels"
        if settings.superpixels is not None or holds_run(folder):
            earlier = continued(settings, folder)
            if earlier.method != "superpixels":
                raise InputError(f"superpixels {folder} is a run of {earlier.method}; give one of superpixels.")
        else:
            config = superpixels.Config.preset(settings.preset)
            config = config.replace(batch_size=min(config.batch_size, settings.config.batch_size))
            earlier = replace(
                settings, method="superpixels", config=config, folder=folder, weights=None, checkpoint=None
            )
        self.superpixel_run = SuperpixelRun(earlier, guest=True, part=settings.superpixels is None)

    def _find_saliency(self) -> SaliencyMaps | None:
        wanted, folder = self.settings.config.needs_saliency, self.settings.saliency
        if wanted and folder is None:
            raise InputError(
                "target saliency needs saliency maps; name their folder as saliency, or choose target image."
            )
        if not wanted and folder is not None:
            raise InputError("saliency is given, but target image does not use it; choose target saliency.")
        return SaliencyMaps(folder, self.splits.fit) if folder is not None else None

    def example(self) -> Example:
        """Return what makes training examples."""
        if self.saliency is None:
            return super().example()
        augmentation = self.method.config.augmentation()
        assert isinstance(augmentation, Augmentation)
        return SalientImages(self.saliency, augmentation, self.normalise)

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of the run, including superpixels and saliency."""
        identity = {**self.own_identity}
        if self.saliency is not None:
            identity["saliency"] = self.saliency.fingerprint()
            identity |= self._saliency_digest(self.digests)
        if self.file is not None:
            identity["superpixels"] = file_digest(self.file)
        if self.superpixel_run is not None:
            identity["superpixels"] = self.superpixel_run.fingerprint()
        return identity

    def input_digests(self, digests: Digests) -> dict[str, str]:
        """Return the digests of pictures and of saliency maps."""
        return {**super().input_digests(digests), **self._saliency_digest(digests)}

    def _saliency_digest(self, digests: Digests) -> dict[str, str]:
        if self.saliency is None:
            return {}
        return {"saliency content": combined(digests.of(self.saliency.paths, "saliency maps"))}

    def source(self) -> str:
        """Return the source of what the networks make, which includes the superpixels."""
        return (
            f"{super().source()} and superpixels {self._superpixel_digest}"
            if self._needs_superpixels
            else super().source()
        )

    def training_sources(self) -> dict[str, str]:
        """Return the superpixel network's digest, if the method needs it."""
        there = self.superpixel_run is None or self.superpixel_run.is_trained or not self.is_trained
        return {"superpixels": self._superpixel_digest} if self._needs_superpixels and there else {}

    @property
    def _needs_superpixels(self) -> bool:
        return self.settings.config.needs_superpixels and self.settings.checkpoint is None

    @property
    def _superpixel_digest(self) -> str:
        return network_digest(self.superpixels.state_dict())

    def variant_settings(self) -> dict[str, Any]:
        """Return where the superpixel network is, so that variants do not make their own."""
        return {} if self.superpixel_run is None else {"superpixels": self.superpixel_run.folder}

    @cached_property
    def superpixels(self) -> SuperpixelNet:
        """The superpixel network, trained first if need be, and fixed."""
        if self.superpixel_run is None:
            assert self.file is not None
            network = SuperpixelNet()
            if "best_EPE" in names_beside_state(self.file):
                network.normalisation = SPIXEL_FCN
            load_backbone(network, self.file)
        else:
            if not self.superpixel_run.is_trained:
                self.superpixel_run.train()
            network = deepcopy(self.superpixel_run.method.network)  # that run may still be trained
        return network.eval().requires_grad_(False).to(self.fabric.device)

    def setup_method(self, method: CamMethod) -> None:
        """Give the method its superpixels, if it needs them."""
        if method.config.needs_superpixels:
            method.superpixels = self.superpixels
            method.superpixels.given = method.backbone.normalisation
