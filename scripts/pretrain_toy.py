"""Make the corpus, and the pre-trained networks of the toy world, again.

``python scripts/pretrain_toy.py`` draws the corpus (`wsss_lib.data.corpus`), trains a small ResNet-50 and a small
transformer to tell its kinds, and writes the weights to ``wsss_lib/models/toy_weights`` as float16 safetensors, each
with a ``.json`` that states its SHA-256 and how it was made. The same seed gives the same files with the same version
of PyTorch on the same kind of processor, as only one thread computes. The toy world is not looked at.

The transformer starts from the mimetic initialisation of Trockman and Kolter ("Mimetic Initialization of Self-Attention
Layers", ICML 2023) with sinusoidal positions: its attention is local from the beginning, as that of a network that has
learned from a million pictures is. Besides kinds it learns the pixels of patches that are hidden from it, for which it
must look at their neighbours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from wsss_lib.data.corpus import KINDS, SIZE, Corpus
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.deit import DeiT, decays
from wsss_lib.models.pretrained import TOY_WEIGHTS
from wsss_lib.stages.engine import keep_freed_memory

BATCH, SMOOTHING, DECAY = 32, 0.1, 0.05
WINDOW = 64
"""Side in pixels of the training pictures in all but the last epochs, which saves half of the time."""

HIDDEN = 0.7
"""Greatest share of an image's patches that are hidden from the transformer."""


def augment(pictures: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Zoom, move, mirror and recolour pictures, each by draws of its own.

    Args:
        pictures: ``(B, 3, S, S)`` uint8.
        side: Side of the pictures that come out.
        rng: Source of the draws.

    Returns:
        ``(B, 3, side, side)`` float32 in [0, 255].
    """
    count = len(pictures)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=rng) * (high - low) + low

    zoom, mirror = draw(0.75, 1.1), torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    room = (1 - zoom).abs()
    place = torch.zeros(count, 2, 3)
    place[:, 0, 0], place[:, 1, 1] = zoom * mirror, zoom
    place[:, 0, 2], place[:, 1, 2] = draw(-1, 1) * room, draw(-1, 1) * room
    grid = F.affine_grid(place, [count, 3, side, side], align_corners=False)
    seen = F.grid_sample(pictures.float(), grid, padding_mode="reflection", align_corners=False)
    seen = seen * draw(0.7, 1.3, 1, 1, 1)
    for mean in (seen.mean((1, 2, 3), keepdim=True), seen.mean(1, keepdim=True)):  # contrast, saturation
        seen = mean + (seen - mean) * draw(0.7, 1.3, 1, 1, 1)
    return seen.clamp(0, 255)


class Convolutional(nn.Module):
    """A small ResNet-50 with a linear classifier of the mean features."""

    name, rate, epochs, whole_epochs = "resnet50", 3e-3, 6, 2

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_backbone("resnet50", width=0.25, output_stride=8)
        self.head = nn.Linear(self.backbone.out.channels, len(KINDS))

    def kinds(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of normalised images."""
        return self.head(list(self.backbone(images).values())[-1].mean((2, 3)))

    def loss(self, pictures: Tensor, kinds: Tensor, whole: bool, rng: torch.Generator) -> Tensor:
        """Return the cross-entropy of the kinds; unless ``whole``, pictures are made smaller."""
        images = self.backbone.normalisation(augment(pictures, SIZE if whole else WINDOW, rng))
        return F.cross_entropy(self.kinds(images), kinds, label_smoothing=SMOOTHING)


class Transformer(nn.Module):
    """A small DeiT that tells kinds by its class token and by its patches, and draws the patches that are hidden."""

    name, rate, epochs, whole_epochs = "deit_small", 1.5e-3, 5, 1

    def __init__(self) -> None:
        super().__init__()
        backbone = create_backbone("deit_small", channels=96, depth=4, heads=3, patch=8, grid=12)
        assert isinstance(backbone, DeiT)
        self.backbone = backbone
        channels, patch = backbone.out.channels, backbone.patch
        with torch.no_grad():
            backbone.pos_embed[0, 1:] = sinusoids(backbone.grid, channels)
        for block in backbone.blocks:
            start_mimetic(block.attn)
        self.head = nn.Linear(channels, len(KINDS))
        self.patch_head = nn.Conv2d(channels, len(KINDS), 3, padding=1)
        self.pixels = nn.Linear(channels, 3 * patch**2)
        self.hidden_token = nn.Parameter(torch.zeros(1, 1, channels))

    def tokens(self, images: Tensor, top: int = 0, left: int = 0, hidden: Tensor | None = None) -> Tensor:
        """Return the tokens ``(B, 1 + h * w, D)`` behind the last block.

        Args:
            images: Normalised images, whole or windows.
            top: First row of the window in patches.
            left: First column.
            hidden: ``(B, h * w)`` bool, the patches that are hidden; None for none.
        """
        backbone, side = self.backbone, images.shape[-1] // self.backbone.patch
        patches = backbone.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        if hidden is not None:
            patches = torch.where(hidden[..., None], self.hidden_token, patches)
        first, table = backbone.pos_embed.split([1, backbone.grid**2], dim=1)
        square = table.unflatten(1, (backbone.grid, backbone.grid))
        positions = square[:, top : top + side, left : left + side].flatten(1, 2)
        tokens = torch.cat([(backbone.cls_token + first).expand(len(images), -1, -1), patches + positions], dim=1)
        for block in backbone.blocks:
            tokens, _ = block(tokens)
        return tokens

    def logits(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits ``(B, K)`` of the class token, and those of the patches."""
        side = math.isqrt(tokens.shape[1] - 1)
        return self.head(tokens[:, 0]), self.patch_head(self.backbone.patches(tokens, (side, side))).mean((2, 3))

    def kinds(self, images: Tensor) -> Tensor:
        """Return the mean of both logits ``(B, K)`` of normalised images."""
        return torch.stack(self.logits(self.tokens(images))).mean(0)

    def loss(self, pictures: Tensor, kinds: Tensor, whole: bool, rng: torch.Generator) -> Tensor:
        """Return the cross-entropies of the kinds, and the squared error on the hidden patches, added.

        Unless ``whole``, windows of the pictures are looked at, which keep their positions.
        """
        patch = self.backbone.patch
        images = self.backbone.normalisation(augment(pictures, SIZE, rng))
        top = left = 0
        if not whole:
            top, left = torch.randint((SIZE - WINDOW) // patch + 1, (2,), generator=rng).tolist()
            rows, columns = (slice(patch * first, patch * first + WINDOW) for first in (top, left))
            images = images[:, :, rows, columns]
        true = F.unfold(images, patch, stride=patch).transpose(1, 2)  # (B, h * w, 3 * patch ** 2)
        share = HIDDEN * torch.rand(len(images), 1, generator=rng)
        hidden = torch.rand(true.shape[:2], generator=rng) < share
        tokens = self.tokens(images, top, left, hidden)
        loss = (self.pixels(tokens[:, 1:]) - true)[hidden].square().mean()
        for logits in self.logits(tokens):
            loss = loss + F.cross_entropy(logits, kinds, label_smoothing=SMOOTHING)
        return loss


def sinusoids(grid: int, channels: int) -> Tensor:
    """Return sines and cosines ``(grid * grid, channels)`` of row and column, of periods from 4 to 4 * grid patches."""
    fast, slow = math.log(math.pi / 2), math.log(math.pi / 2 / grid)
    angles = torch.arange(grid)[:, None] * torch.linspace(fast, slow, channels // 4).exp()
    along = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, channels / 2)
    shape = (grid, grid, along.shape[1])
    return torch.cat([along[:, None].expand(shape), along[None].expand(shape)], dim=2).flatten(0, 1)


@torch.no_grad()
def start_mimetic(attention: nn.Module) -> None:
    """Give an attention the mimetic initialisation: like looks at like, and values are taken with a minus.

    The products of the matrices of query and key, and of value and projection, are the unit matrix times 0.7 and -0.4,
    plus noise of the same size.
    """
    channels, heads = attention.proj.in_features, attention.heads
    width, noise = channels // heads, channels**-0.5
    weight = attention.qkv.weight
    for head in range(heads):
        wanted = 0.7 * noise * torch.randn(channels, channels) + 0.7 * torch.eye(channels)
        left, size, right = torch.linalg.svd(wanted)
        root = size[:width].sqrt()
        weight[head * width : (head + 1) * width] = (left[:, :width] * root).T
        weight[channels + head * width : channels + (head + 1) * width] = right[:width] * root[:, None]
    wanted = 0.4 * noise * torch.randn(channels, channels) - 0.4 * torch.eye(channels)
    left, size, right = torch.linalg.svd(wanted)
    weight[2 * channels :] = right * size.sqrt()[:, None]
    attention.proj.weight.copy_(left * size.sqrt())


Network = Convolutional | Transformer

NETWORKS: dict[str, type[Network]] = {kind.name: kind for kind in (Convolutional, Transformer)}


def batches(count: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield the positions of an epoch's batches; what does not fill a batch is left out."""
    yield from torch.randperm(count, generator=rng).split(BATCH)[: count // BATCH]


def pictures_and_kinds(corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Return ``(n, 3, S, S)`` uint8 and ``(n,)`` int64."""
    return torch.from_numpy(corpus.pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(corpus.kinds)


def pretrain(name: str, corpus: Corpus, seed: int, report: Callable[[str], None] = print) -> Network:
    """Train a network to tell the kinds of the corpus.

    Args:
        name: Name of the backbone, one of :data:`NETWORKS`.
        corpus: The pictures.
        seed: Seed of weights, order and augmentation.
        report: Called with a line for each epoch.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = NETWORKS[name]()
    named = [(n, p) for n, p in network.named_parameters() if not n.startswith("backbone.norm.")]  # nothing passes it
    rest = [p for n, p in named if not decays(p, n) or n == "hidden_token"]
    matrices = [p for n, p in named if decays(p, n) and n != "hidden_token"]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=network.rate)
    pictures, kinds = pictures_and_kinds(corpus)
    steps = len(pictures) // BATCH
    schedule = OneCycleLR(optimizer, network.rate, total_steps=network.epochs * steps, pct_start=0.1)
    start, network = time.perf_counter(), network.to(memory_format=torch.channels_last)
    for epoch in range(network.epochs):
        network.train()
        total, whole = 0.0, epoch >= network.epochs - network.whole_epochs
        for chosen in batches(len(pictures), rng):
            loss = network.loss(pictures[chosen], kinds[chosen], whole, rng)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        report(f"{name}, epoch {epoch + 1} of {network.epochs}: loss {total / steps:.3f}, {seconds:.0f} s")
    return network.eval()


@torch.inference_mode()
def accuracy(network: Network, corpus: Corpus) -> float:
    """Return the share of pictures whose kind is told right."""
    pictures, kinds = pictures_and_kinds(corpus)
    found = [network.kinds(network.backbone.normalisation(some)).argmax(1) for some in pictures.split(BATCH)]
    return float((torch.cat(found) == kinds).float().mean())


def save(backbone: Backbone, path: Path, **about: object) -> None:
    """Write a backbone's weights as float16, and beside them a ``.json`` with their SHA-256 and more."""
    state = {name: value for name, value in backbone.state_dict().items() if value.is_floating_point()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes({name: value.to(torch.float16).contiguous() for name, value in state.items()}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest, **about}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"{' or '.join(NETWORKS)} (default: both)")
    parser.add_argument("--out", type=Path, default=TOY_WEIGHTS, help="folder of the files (default: the package's)")
    parser.add_argument("--count", type=int, default=6000, help="pictures of the corpus (default: 6000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus and training (default: 0)")
    options = parser.parse_args()
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        parser.error(f"network {unknown[0]} is unknown; choose among {', '.join(NETWORKS)}.")
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.perf_counter()
    corpus, new = Corpus(options.count, options.seed), Corpus(400, options.seed + 1)
    print(f"{len(corpus)} pictures drawn in {time.perf_counter() - start:.0f} s, SHA-256 {corpus.digest()}", flush=True)
    for name in options.networks or NETWORKS:
        network = pretrain(name, corpus, options.seed, lambda line: print(line, flush=True))
        about = {"corpus": corpus.digest(), "pictures": len(corpus), "kinds": len(KINDS), "seed": options.seed}
        right = round(accuracy(network, new), 4)
        save(network.backbone, options.out / f"{name}.safetensors", right=right, **about, torch=torch.__version__)
        print(f"{name}: {100 * right:.1f} % of {len(new)} new pictures right, {options.out / name}.safetensors")


if __name__ == "__main__":
    main()
