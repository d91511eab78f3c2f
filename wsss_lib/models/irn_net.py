"""IRN's network: it predicts boundaries between classes and, for every pixel, the centre of its object.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019); widths
and normalisation as in the authors' code. Five features of a backbone are reduced by 1×1 convolutions, brought to
stride 4 and joined, in each of two branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Backbone
from wsss_lib.ops.affinity import pair_offsets
from wsss_lib.ops.paths import path

_EDGE = (32, 32, 32, 32, 32)
_DISPLACEMENT = (64, 128, 256, 256, 256)
_MIXED = 256
_ALIASES = ("stage", "backbone.", "newly_added.", "edge_layers.", "dp_layers.", "fc_dp7.4.")
"""Prefixes of further names that the authors' checkpoints have for the same tensors."""
_PATHS, _OFFSETS = "path_indices", "disp_target"
"""Prefixes of the authors' keys of arrays that follow from the radius and the size of their training images."""


class MeanShift(nn.Module):
    """Subtract the mean displacement of the training images, in evaluation mode.

    The loss compares displacements with each other and so leaves one constant open; :attr:`running_mean` is set after
    training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.zeros(2))

    def forward(self, displacements: Tensor) -> Tensor:
        """Shift ``(B, 2, h, w)``."""
        return displacements if self.training else displacements - self.running_mean.view(2, 1, 1)


class IRNNet(nn.Module):
    """The boundary branch and, if wanted, the displacement branch, on a backbone.

    The layers have the authors' names: `fc_edge1` to `fc_edge5` reduce the taps, `fc_edge6` joins them; `fc_dp1` to
    `fc_dp5` reduce the taps for displacements, `fc_dp6` joins the deep taps and `fc_dp7` all taps.

    Args:
        backbone: The network in front, with five taps of the strides 4, 4, 8, 16 and 16, or 8 in place of 16.
        displacements: Whether there is a displacement branch. Boundaries do not depend on it.
    """

    def __init__(self, backbone: Backbone, displacements: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.has_displacements = displacements
        self.taps = list(backbone.taps)[-5:]
        channels = [backbone.taps[name].channels for name in self.taps]
        strides = [backbone.taps[name].stride for name in self.taps]
        for i, (inputs, outputs, stride) in enumerate(zip(channels, _EDGE, strides, strict=True), 1):
            self.add_module(f"fc_edge{i}", _reduction(inputs, outputs, 4, stride // strides[0]))
        self.fc_edge6 = nn.Conv2d(sum(_EDGE), 1, 1)
        if not displacements:
            return
        for i, (inputs, outputs, stride) in enumerate(zip(channels, _DISPLACEMENT, strides, strict=True), 1):
            enlarge = 1 if i <= 2 else stride // strides[2]
            self.add_module(f"fc_dp{i}", _reduction(inputs, outputs, outputs // 8 if i <= 2 else 16, enlarge))
        self.fc_dp6 = _reduction(sum(_DISPLACEMENT[2:]), _MIXED, 16, strides[2] // strides[0])
        joined = sum(_DISPLACEMENT[:2]) + _MIXED
        self.fc_dp7 = nn.Sequential(*_reduction(joined, _MIXED, 16), nn.Conv2d(_MIXED, 2, 1, bias=False))
        self.mean_shift = MeanShift()

    def official_key(self, key: str) -> str | None:
        """Return our name of a tensor that the authors' checkpoints call ``key``, or None if it is not needed."""
        if key.startswith((*_ALIASES, _PATHS, _OFFSETS)):
            return None
        if key.startswith(("fc_dp", "mean_shift.")) and not self.has_displacements:
            return None
        return f"backbone.{key.removeprefix('resnet50.')}" if key.startswith("resnet50.") else key

    @property
    def stride(self) -> int:
        """Input pixels per cell of the outputs along an axis."""
        return self.backbone.taps[self.taps[0]].stride

    @property
    def edge_layers(self) -> nn.ModuleList:
        """The layers of the boundary branch."""
        return nn.ModuleList(m for name, m in self.named_children() if name.startswith("fc_edge"))

    @property
    def displacement_layers(self) -> nn.ModuleList:
        """The layers of the displacement branch, if there is one."""
        return nn.ModuleList(m for name, m in self.named_children() if name.startswith("fc_dp"))

    def edges(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Return the boundary logits ``(B, 1, h, w)`` of the features of a backbone."""
        reduced = self._reduce(taps, "fc_edge")
        return self.fc_edge6(_join(reduced, reduced[1]))

    def displacements(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, 2, h, w)``: (dy, dx) in cells, from every cell to the centre of its object."""
        reduced = self._reduce(taps, "fc_dp")
        deep = self.fc_dp6(_join(reduced[2:], reduced[2]))
        return self.mean_shift(self.fc_dp7(_join([*reduced[:2], deep], reduced[1])))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map ``(B, 3, H, W)`` normalised images to boundary logits and displacements, at :attr:`stride`."""
        taps = self.backbone(images)
        return self.edges(taps), self.displacements(taps) if self.has_displacements else None

    def _reduce(self, taps: Mapping[str, Tensor], layers: str) -> list[Tensor]:
        return [self.get_submodule(f"{layers}{i}")(taps[name]) for i, name in enumerate(self.taps, 1)]


def _reduction(inputs: int, outputs: int, groups: int, enlarge: int = 1) -> nn.Sequential:
    """Return convolution, normalisation, enlargement of coarse features, and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs)]
    if enlarge > 1:
        layers.append(nn.Upsample(scale_factor=enlarge, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _join(features: Sequence[Tensor], like: Tensor) -> Tensor:
    """Join features, cut at the right and the bottom to the size of one of them."""
    height, width = like.shape[2:]
    return torch.cat([f[..., :height, :width] for f in features], dim=1)


def check_radius(state: Mapping[str, Tensor], radius: int, source: object) -> None:
    """Raise InputError if the authors' checkpoint was trained with pairs of another radius.

    The checkpoint holds indices of all paths, one array for every number of cells of a path.

    Args:
        state: Tensors by the authors' keys.
        radius: Radius that is wanted.
        source: Name of the file for the error message.
    """
    found = sum(key.startswith(_PATHS) for key in state)
    if not found or found == _path_lengths(radius):
        return
    other = next((r for r in range(2, 33) if _path_lengths(r) == found), None)
    raise InputError(
        f"{source} was trained with pairs of {f'radius {other}' if other else 'another radius'}, not {radius}; "
        f"set the radius of the run to that, or give another file."
    )


def _path_lengths(radius: int) -> int:
    """Return how many different numbers of cells the paths have."""
    return len({len(path(offset)) for offset in pair_offsets(radius)})
