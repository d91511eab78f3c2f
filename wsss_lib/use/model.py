"""A trained segmentation network that is ready for use: a picture in, a mask out.

In four lines::

    from wsss_lib.use.model_file import load_model

    model = load_model("tiles.safetensors")
    mask, scores = model.predict("new.jpg")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_lib.data.names import class_numbers
from wsss_lib.data.pictures import Given, open_picture
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods.fields import kinds_of
from wsss_lib.methods.segmentation import Config, Rule, probabilities
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.segmentation_net import SegmentationNet
from wsss_lib.ops.dense_crf import dense_crf, unary_from_scores
from wsss_lib.runs.parameters import convert
from wsss_lib.stages.engine import check_devices, keep_freed_memory
from wsss_lib.stages.refine import label_map
from wsss_lib.stages.segment import likely_classes, wrapped_colours

_HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Prediction(NamedTuple):
    """What a model says about a picture.

    Attributes:
        mask: ``(H, W)`` uint8 of the picture's own size: 0 background, k + 1 class k.
        scores: ``(1 + K, h, w)`` float32 in [0, 1], background first: probabilities of the picture's working size (see
            `wsss_lib.data.large`), which is its own size unless it is large.
    """

    mask: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Options:
    """How a model is used; made by :meth:`Model.options`, which checks the values.

    Attributes:
        scales: Factors of the picture's size at which probabilities are computed.
        rule: Rule by which the probabilities are merged, see :func:`wsss_lib.methods.segmentation.probabilities`.
        crf: Whether a dense CRF follows.
        classes: Positions of the classes that may be found; those of all others are background.
    """

    scales: tuple[float, ...]
    rule: Rule
    crf: bool
    classes: tuple[int, ...]


@dataclass(frozen=True)
class About:
    """What a model's file says besides the network's weights.

    Attributes:
        config: Configuration of the network, of its views and of its CRF.
        classes: Names of the K classes.
        palette: ``(256, 3)`` uint8, the RGB colour of every mask value.
        normalisation: Normalisation that turns pixels into the network's input.
        trained_on: Name, counts and digests of the data, preset, seed and where the pseudo masks came from.
        results: Scores of the network's masks, by split and by name, as ``metrics.json`` of its run has them.
        made: Records of when, with which versions and on which device the network was trained.
        digest: Digest of the whole file's content.
    """

    config: Config
    classes: tuple[str, ...]
    palette: np.ndarray
    normalisation: Normalisation
    trained_on: dict[str, Any]
    results: dict[str, Any]
    made: list[dict[str, Any]]
    digest: str


class Model:
    """A trained segmentation network and all that its use needs; :func:`wsss_lib.use.model_file.load_model` makes it.

    Args:
        network: The network.
        about: Content of the model's file besides the weights.
        device: ``auto`` (CUDA where there is a device), ``cpu`` or ``cuda``.
        precision: ``32-true``, or ``bf16-mixed`` or ``16-mixed`` for automatic mixed precision.

    Raises:
        InputError: The device or the precision is unknown or cannot be had.
    """

    def __init__(
        self, network: SegmentationNet, about: About, device: str = "auto", precision: str = "32-true"
    ) -> None:
        check_devices(device, 1, precision)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            keep_freed_memory()
        self.device = torch.device(device)
        self.precision = precision
        self.about = about
        self.network = network.eval().requires_grad_(False).to(self.device)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; class k has the mask value k + 1, background is 0."""
        return self.about.classes

    def options(
        self,
        scales: Sequence[float] | str | None = None,
        mirror: bool | None = None,
        crf: bool = False,
        classes: str | Sequence[str] | None = None,
    ) -> Options:
        """Check the options of a prediction.

        Args:
            scales: Factors of the picture's size, such as ``(0.75, 1.0)`` or ``"0.75,1.0"``; None for the model's own.
            mirror: Whether the mirror image is used, too; None for the setting that the model was scored with.
            crf: Whether a dense CRF follows, with the model's settings.
            classes: Names of the classes that may be found, the others being background; None for all.

        Raises:
            InputError: A scale is out of range, or no class has such a name.
        """
        config = self.about.config
        views = config.scales if scales is None else convert("scales", scales, kinds_of(Config)["scales"])
        if not views:
            raise InputError("scales is empty; give at least one number, such as 1.0.")
        rule: Rule = config.inference
        if mirror is not None:
            rule = "mirrored" if mirror else "plain" if rule == "mirrored" else rule
        chosen = range(len(self.classes)) if classes is None else class_numbers(classes, self.classes)
        if not chosen:
            raise InputError(
                f"no class is asked for; choose among {', '.join(self.classes)}, or ask for none to get all."
            )
        return Options(tuple(views), rule, crf, tuple(chosen))

    def predict(
        self,
        picture: Given,
        scales: Sequence[float] | str | None = None,
        mirror: bool | None = None,
        crf: bool = False,
        classes: str | Sequence[str] | None = None,
    ) -> Prediction:
        """Return the mask of a picture, and the probabilities behind it.

        Args:
            picture: A file, a Pillow image, or an array ``(H, W, 3)`` uint8 RGB; of any size. A large one is computed
                with at a working size, see `wsss_lib.data.large`.
            scales: See :meth:`options`, as for the others.
            mirror: Whether the mirror image is used, too.
            crf: Whether a dense CRF follows.
            classes: Names of the classes that may be found.

        Raises:
            InputError: The picture cannot be read, or an option cannot be used.
        """
        options = self.options(scales, mirror, crf, classes)
        image, size = open_picture(picture)
        return self.finish(image, self.scores([image], options)[0], size, options)

    @torch.inference_mode()
    def scores(self, pictures: Sequence[Image.Image], options: Options) -> Tensor:
        """Return the probabilities ``(B, 1 + K, H, W)`` float32 of RGB pictures of one size, on the model's device.

        Raises:
            InputError: The pictures are so small that nothing is left at the smallest scale.
        """
        shortest = max(1, int(min(pictures[0].size) * min(options.scales)))
        if int(shortest * min((1.0, *self.network.pyramid))) < 1:
            raise InputError("the picture is too small for the network; enlarge it, or choose greater scales.")
        pixels = torch.stack([to_tensor(picture) for picture in pictures]).to(self.device)
        images = self.about.normalisation(pixels)
        with torch.autocast(self.device.type, _HALF.get(self.precision), enabled=self.precision in _HALF):
            found = probabilities(self.network.logits, images, options.scales, options.rule)
        others = [1 + k for k in range(len(self.classes)) if k not in options.classes]
        found[:, others] = 0
        return found

    @torch.inference_mode()
    def finish(self, picture: Image.Image, scores: Tensor, size: tuple[int, int], options: Options) -> Prediction:
        """Return what follows from the probabilities of a picture, after a CRF if the options say so.

        Args:
            picture: The picture at its working size.
            scores: ``(1 + K, h, w)``, what :meth:`scores` returned for the picture.
            size: ``(H, W)`` of the mask.
            options: Options that say how the model is used.

        Raises:
            InputError: A probability is not finite.
        """
        if not torch.isfinite(scores).all():
            raise InputError("what the network makes of the picture is not finite; choose the precision 32-true.")
        if options.crf:
            scores = self._refined(picture, scores)
        every = torch.arange(len(self.classes), device=scores.device)
        return Prediction(label_map(every, scores, size).cpu().numpy(), scores.cpu().numpy())

    def _refined(self, picture: Image.Image, scores: Tensor) -> Tensor:
        classes, chosen = likely_classes(scores)
        if not len(classes):
            return scores
        config = self.about.config
        if config.crf_image == "wrapped":
            mean = torch.tensor(self.about.normalisation.mean) * self.about.normalisation.divisor
            picture = wrapped_colours(picture, mean)
        chosen = chosen.clamp(0, 1).half().float()  # as a run stores them, so that both make the same masks
        [field] = dense_crf([to_tensor(picture).to(self.device)], [unary_from_scores(chosen[None])], config.crf)
        refined = torch.zeros_like(scores)
        refined[0] = field[0, 0]
        refined[1 + classes] = field[0, 1:]
        return refined
