"""DeiT: a vision transformer, with a class token for every class.

Touvron, Cord, Douze, Massa, Sablayrolles, Jegou, "Training Data-Efficient Image Transformers & Distillation through
Attention", ICML 2021, in the form of MCTformer (Xu et al., CVPR 2022), which has one class token for each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Backbone, Tap

AttentionMaps = Literal["constant", "differentiable"]
"""Whether gradients flow through the returned attention maps."""

_PRETRAINED_GRID = 14
_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        channels: Number of channels D.
        heads: Number of heads, each of ``D / heads`` channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, maps: AttentionMaps | None = None) -> tuple[Tensor, Tensor | None]:
        """Mix ``(B, T, D)`` tokens.

        Args:
            tokens: The tokens.
            maps: Kind of attention maps that are returned as well; with None the maps are never held in memory.

        Returns:
            ``(B, T, D)``, and ``(B, T, T)``, the mean over the heads of how much every token (row) takes from every
            other; a row sums to 1.
        """
        batch, count, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        weights = None
        if maps == "differentiable":
            every = _attention(query, key)
            mixed, weights = every @ value, every.mean(1)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
            if maps == "constant":
                with torch.no_grad():
                    weights = _attention(query, key).mean(1)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, channels)), weights


def _attention(query: Tensor, key: Tensor) -> Tensor:
    """Return ``softmax(q k^T / sqrt(d))``, ``(B, heads, T, T)``."""
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(-1)


class Mlp(nn.Module):
    """Two linear layers with four times as many channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform each of the ``(B, T, D)`` tokens separately."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and MLP, each with a normalisation before it and a residual connection around it.

    Args:
        channels: Number of channels D.
        heads: Number of heads of the attention.
        drop_path: Probability, in training, that attention or MLP is skipped for an image.
    """

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=_EPS)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=_EPS)
        self.mlp = Mlp(channels)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, tokens: Tensor, maps: AttentionMaps | None = None) -> tuple[Tensor, Tensor | None]:
        """Process ``(B, T, D)`` tokens; see :meth:`Attention.forward`."""
        mixed, weights = self.attn(self.norm1(tokens), maps)
        tokens = tokens + self.drop_path(mixed)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens))), weights


class DeiT(Backbone):
    """A vision transformer with C class tokens. The defaults are DeiT-S's.

    Pixels to the right of and below the last whole patch are ignored. The weight files contain a normalisation after
    the last block, which MCTformer does not apply.

    Args:
        classes: C, the number of class tokens.
        channels: Number of channels D.
        depth: Number of blocks.
        heads: Heads of the attention.
        patch: Side of a patch in pixels.
        grid: Side of the table of positions in patches, at least 2; the positions of other images are interpolated.
        drop_path: Probability, in training, that attention or MLP of the last block is skipped; it grows linearly from
            0 in the first block.
        positions: ``shared``: one table for class tokens and patches (MCTformer-V1, V2, PCSS); ``separate``: one each,
            of ``2 * grid`` patches a side (MCTformer+).
    """

    classifier_keys: ClassVar[tuple[str, ...]] = ("head.", "head_dist.")

    def __init__(
        self,
        classes: int = 1,
        channels: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 16,
        grid: int = _PRETRAINED_GRID,
        drop_path: float = 0.1,
        positions: Literal["shared", "separate"] = "shared",
    ) -> None:
        if channels % heads:
            raise InputError(f"channels {channels} is not a multiple of heads {heads}; change one of them.")
        super().__init__({"tokens": Tap(channels, patch)})
        self.classes = classes
        self.patch = patch
        self.cls_token = nn.Parameter(torch.empty(1, classes, channels))
        if positions == "shared":
            self.grid = grid
            self.pos_embed = nn.Parameter(torch.empty(1, classes + grid**2, channels))
        else:
            self.grid = 2 * grid
            self.pos_embed_cls = nn.Parameter(torch.empty(1, classes, channels))
            self.pos_embed_pat = nn.Parameter(torch.empty(1, self.grid**2, channels))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, channels, patch, stride=patch)})
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList([Block(channels, heads, rate) for rate in rates])
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters(recurse=False):
            assert name.startswith(("cls_token", "pos_embed"))
            nn.init.trunc_normal_(parameter, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the weights of a DeiT with one class token: every class token of this network gets a copy of it.

        For ``separate`` positions the table of the patches is enlarged to twice the side by repetition, as by the
        authors.
        """
        adapted = dict(state)
        token, table = state.get("cls_token"), state.get("pos_embed")
        if token is not None and token.ndim == 3 and token.shape[1] == 1:
            adapted["cls_token"] = token.repeat(1, self.classes, 1)
            if table is not None and table.ndim == 3:
                first, patches = table[:, :1].repeat(1, self.classes, 1), table[:, 1:]
                if hasattr(self, "pos_embed"):
                    adapted["pos_embed"] = torch.cat([first, patches], dim=1)
                else:
                    del adapted["pos_embed"]
                    side = round(patches.shape[1] ** 0.5)
                    square = patches.transpose(1, 2).reshape(1, -1, side, side)
                    adapted["pos_embed_cls"] = first
                    adapted["pos_embed_pat"] = F.interpolate(square, scale_factor=2).flatten(2).transpose(1, 2)
        return adapted

    def positions(self, height: int, width: int) -> Tensor:
        """Return the position embeddings ``(1, C + h * w, D)`` for images of a height and width in pixels.

        For a grid other than that of the table, the table is interpolated bicubically with the scale factors of the
        authors' code. For the shared table these are the factors of a grid that is larger by a tenth of a patch, and
        they also apply to the table's own grid if the image is not square.
        """
        grid = height // self.patch, width // self.patch
        own = grid == (self.grid, self.grid)
        if hasattr(self, "pos_embed"):
            of_classes, of_patches = self.pos_embed.split([self.classes, self.grid**2], dim=1)
            margin, own = 0.1, own and height == width
        else:
            # the factors determine the output's size; rounding must not remove a patch
            of_classes, of_patches, margin = self.pos_embed_cls, self.pos_embed_pat, 1e-6
        if not own:
            square = of_patches.transpose(1, 2).reshape(1, -1, self.grid, self.grid)
            scale = [(side + margin) / self.grid for side in grid]
            square = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)
            of_patches = square.flatten(2).transpose(1, 2)
        return torch.cat([of_classes, of_patches], dim=1)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens ``(B, C + h * w, D)`` of ``(B, 3, H, W)`` images and the grid ``(h, w)`` of their patches.

        Raises:
            InputError: The images are smaller than a patch.
        """
        if min(images.shape[2:]) < self.patch:
            height, width = images.shape[2:]
            raise InputError(
                f"images of {height} × {width} pixels are smaller than a patch of {self.patch}; give larger ones, or "
                "larger scales."
            )
        patches = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return tokens + self.positions(*images.shape[2:]), (patches.shape[2], patches.shape[3])

    def patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the patch tokens among ``(B, C + h * w, D)`` as features ``(B, D, h, w)``."""
        return tokens[:, self.classes :].transpose(1, 2).reshape(len(tokens), -1, *grid)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` normalised images to the patch tokens ``(B, D, h, w)`` behind the last block."""
        tokens, grid = self.embed(images)
        for block in self.blocks:
            tokens, _ = block(tokens)
        return {"tokens": self.patches(tokens, grid)}


def decays(parameter: nn.Parameter, name: str) -> bool:
    """Whether weight decay acts on a parameter: on matrices, not on biases, normalisations, tokens and positions."""
    return parameter.ndim > 1 and not name.rpartition(".")[2].startswith(("cls_token", "pos_embed"))
