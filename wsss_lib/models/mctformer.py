"""MCTformer: class maps from a transformer's attention and from its patch tokens.

Xu, Ouyang, Bennamoun, Boussaid, Xu, "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation", CVPR
2022 (V1 and V2); the same authors' MCTformer+ (2023); and the network of PCSS (Kwon et al., ECCV 2024), which is V2
with another rule for the maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from wsss_lib.models.backbone import relu
from wsss_lib.models.deit import AttentionMaps, DeiT

Variant = Literal["v1", "v2", "plus", "pcss"]


@dataclass(frozen=True)
class ForwardState:
    """The state of a forward pass after some of the blocks.

    Attributes:
        tokens: ``(B, C + h * w, D)``.
        grid: ``(h, w)``.
        block: Number of blocks that were applied.
        class_to_patch: For every applied block ``(B, C, h * w)``, the attention of class tokens to patches, mean over
            the heads; empty if the attention is not kept.
        patch_to_patch: ``(B, h * w, h * w)``, the attention among patches, summed over the blocks; None if the
            attention is not kept.
        class_tokens: Class tokens ``(B, C, D)`` after every applied block.
    """

    tokens: Tensor
    grid: tuple[int, int]
    block: int = 0
    class_to_patch: tuple[Tensor, ...] = ()
    patch_to_patch: Tensor | None = None
    class_tokens: tuple[Tensor, ...] = ()

    def constant(self) -> ForwardState:
        """Return this state with attention through which no gradient flows."""
        summed = self.patch_to_patch
        constant = tuple(x.detach() for x in self.class_to_patch)
        return replace(self, class_to_patch=constant, patch_to_patch=None if summed is None else summed.detach())


class Outputs(NamedTuple):
    """The outputs of the network.

    Attributes:
        class_logits: ``(B, C)``, the means of the class tokens over the channels.
        patch_logits: ``(B, C)`` from the patch tokens; None for V1.
        cams: ``(B, C, h, w)``, at least 0, the maps of the patch tokens alone; None for V1.
        fused: ``(B, C, h, w)``, the class tokens' attention, times :attr:`cams`; None without attention.
        refined: ``(B, C, h, w)``, :attr:`fused` spread by the attention among patches; None without attention.
        class_tokens: Class tokens ``(B, C, D)`` after every block.
    """

    class_logits: Tensor
    patch_logits: Tensor | None
    cams: Tensor | None
    fused: Tensor | None = None
    refined: Tensor | None = None
    class_tokens: tuple[Tensor, ...] = ()

    @property
    def logits(self) -> Tensor:
        """The mean of both logits ``(B, C)``, or the class tokens' alone."""
        return self.class_logits if self.patch_logits is None else (self.class_logits + self.patch_logits) / 2


def ranked_pooling(maps: Tensor, decay: float = 0.996) -> Tensor:
    """Pool ``(B, C, h, w)`` maps to ``(B, C)``: a mean weighted by ``decay^i``, i the rank of a value, highest first.

    MCTformer+'s global weighted ranking pooling.
    """
    ranked = maps.flatten(2).sort(dim=2, descending=True).values
    weights = decay ** torch.arange(ranked.shape[2], device=maps.device, dtype=ranked.dtype)
    return (ranked * weights).sum(2) / weights.sum()


def refine_by_patches(patch_to_patch: Tensor, maps: Tensor, radius: int = 0) -> Tensor:
    """Spread maps along the attention among patches: ``r_bci = sum_j S_bij m_bcj``.

    Args:
        patch_to_patch: ``(B, h * w, h * w)``, S.
        maps: ``(B, C, h, w)``, m.
        radius: Largest distance of patches j from patch i, in rows and in columns; 0 for no limit, as in the papers.

    Returns:
        ``(B, C, h, w)``.
    """
    if radius:
        rows, columns = (x.flatten() for x in torch.meshgrid(*map(torch.arange, maps.shape[2:]), indexing="ij"))
        near = [(x[:, None] - x[None]).abs() <= radius for x in (rows, columns)]
        patch_to_patch = patch_to_patch * (near[0] & near[1]).to(patch_to_patch)
    return (maps.flatten(2) @ patch_to_patch.transpose(1, 2)).reshape(maps.shape)


class MCTformer(nn.Module):
    """A transformer that classifies twice, by its class tokens and by its patches.

    Args:
        backbone: The transformer, with C class tokens.
        variant: Name of the network, one of four.
        layers: Number of last blocks over which the attention of class tokens is averaged (``plus``, ``pcss``) or
            summed (``v1``, ``v2``); 0 for the authors' number, 3 for ``v1`` and ``v2``, else all.
    """

    def __init__(self, backbone: DeiT, variant: Variant = "pcss", layers: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone.norm.requires_grad_(False)  # it is not used
        self.variant = variant
        self.layers = layers or (min(3, backbone.depth) if variant in ("v1", "v2") else backbone.depth)
        if variant != "v1":
            self.head = nn.Conv2d(backbone.out.channels, backbone.classes, 3, padding=1)

    @staticmethod
    def official_key(key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key``."""
        return key if key.startswith("head.") else f"backbone.{key}"

    def start(self, images: Tensor) -> ForwardState:
        """Turn ``(B, 3, H, W)`` normalised images into tokens."""
        tokens, grid = self.backbone.embed(images)
        return ForwardState(tokens, grid)

    def advance(self, state: ForwardState, until: int, maps: AttentionMaps | None = None) -> ForwardState:
        """Pass the blocks up to, but without, number ``until``, counted from 0.

        Args:
            state: State of the forward pass.
            until: Number of the first block that is not applied.
            maps: Whether the attention is kept, see :class:`wsss_lib.models.deit.Attention`.
        """
        count, tokens = self.backbone.classes, state.tokens
        class_to_patch, summed = list(state.class_to_patch), state.patch_to_patch
        class_tokens = list(state.class_tokens)
        for block in list(self.backbone.blocks)[state.block : until]:
            tokens, weights = block(tokens, maps)
            class_tokens.append(tokens[:, :count])
            if weights is not None:
                class_to_patch.append(weights[:, :count, count:].contiguous())  # a view would keep all weights alive
                among = weights[:, count:, count:]
                summed = among if summed is None else summed + among
        return ForwardState(tokens, state.grid, until, tuple(class_to_patch), summed, tuple(class_tokens))

    def with_patches(self, state: ForwardState, change: Callable[[Tensor], Tensor]) -> ForwardState:
        """Apply a function to the patch tokens, which it takes and returns as ``(B, D, h, w)``."""
        count, tokens = self.backbone.classes, state.tokens
        changed = change(self.backbone.patches(tokens, state.grid)).flatten(2).transpose(1, 2)
        return replace(state, tokens=torch.cat([tokens[:, :count], changed.to(tokens.dtype)], dim=1))

    def finish(self, state: ForwardState, power: float = 1.0, radius: int = 0) -> Outputs:
        """Return logits and maps from the state after all blocks.

        Args:
            state: State after all blocks.
            power: Power of the fused maps before they are spread; 1 as in the papers.
            radius: Largest distance over which they are spread, see :func:`refine_by_patches`.
        """
        class_logits = state.tokens[:, : self.backbone.classes].mean(-1)
        patch_logits = cams = None
        if self.variant != "v1":
            maps = self.head(self.backbone.patches(state.tokens, state.grid))  # (B, C, h, w)
            patch_logits = ranked_pooling(maps) if self.variant == "plus" else maps.mean(dim=(2, 3))
            cams = relu(maps.detach() if self.variant == "v2" else maps.clone())
        fused = refined = None
        if state.patch_to_patch is not None:
            fused = self.fuse(state, cams)
            refined = refine_by_patches(state.patch_to_patch, fused if power == 1 else fused**power, radius)
        return Outputs(class_logits, patch_logits, cams, fused, refined, state.class_tokens)

    def fuse(self, state: ForwardState, cams: Tensor | None) -> Tensor:
        """Return the attention of the class tokens in the last blocks, times the maps of the patches, ``(B, C, h, w)``.

        V1: ``sum_l A_l``; V2: ``sum_l A_l * cams``; +: ``sqrt(mean_l A_l * cams)``; PCSS: ``mean_l A_l * cams``.
        """
        chosen = torch.stack(state.class_to_patch[-self.layers :])
        attention = chosen.sum(0) if self.variant in ("v1", "v2") else chosen.mean(0)
        attention = attention.unflatten(2, state.grid)
        if cams is None:
            return attention
        return (attention * cams).sqrt() if self.variant == "plus" else attention * cams

    def forward(
        self, images: Tensor, maps: AttentionMaps | None = None, power: float = 1.0, radius: int = 0
    ) -> Outputs:
        """Return logits and maps of ``(B, 3, H, W)`` normalised images; attention is used only if ``maps`` is given.

        :meth:`finish` explains ``power`` and ``radius``.
        """
        return self.finish(self.advance(self.start(images), self.backbone.depth, maps), power, radius)
