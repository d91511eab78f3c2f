"""Class activation maps that other code made, in place of a method that makes them; see `wsss_lib.runs.imported`.

There is no network and nothing is trained: the walk and the final network start from the maps in the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn

from torch import Tensor
from torch.optim import Optimizer

from wsss_lib.errors import InputError
from wsss_lib.methods.fields import Limits
from wsss_lib.methods.method import LIGHT, Batch, CamMethod, LongSideConfig
from wsss_lib.models.backbone import Backbone


class Imported(CamMethod):
    """A method without a network. A call that needs a network raises InputError."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:  # noqa: ARG002
        super().__init__(config)

    @property
    def backbone(self) -> Backbone:
        """Refuse, as there is none.

        Raises:
            InputError: Always.
        """
        self._refuse()

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Refuse, as there is no network to train.

        Raises:
            InputError: Always.
        """
        self._refuse()

    def step(self, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Refuse to train.

        Raises:
            InputError: Always.
        """
        self._refuse()

    def logits(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Refuse to recognise classes.

        Raises:
            InputError: Always.
        """
        self._refuse()

    def cam(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Refuse to make maps of other pictures.

        Raises:
            InputError: Always.
        """
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError("the maps of this run are from files, so it has no network; use the run of a method for that.")


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of imported maps.

    Attributes:
        numbering: Meaning of the numbers of maps, see `wsss_lib.exchange.maps.open_maps`.
        normalise: Whether every map is rectified and divided by its maximum.
        stretch: Whether maps of any size are stretched over their picture.
    """

    pretrained: bool = False
    epochs: Annotated[int, Limits(0)] = 0
    numbering: Literal["auto", "0", "1", "background"] = "auto"
    normalise: bool = False
    stretch: bool = False

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Config:
        """Return the settings of a preset; the backbone is that of the final network on ``photos``."""
        return cls(backbone=backbone or (LIGHT[0] if name == "photos" else cls.backbone))


METHOD = Imported
