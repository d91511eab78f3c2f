"""PCSS: a training step, and the census of frequencies, against a plain version of the authors' code.

The plain version does what the authors' code does. Each block computes and keeps its attention; all attentions are
stacked, averaged over the heads and summed. There are three whole passes. Frequencies are suppressed image by image and
label by label with complex Fourier transforms. The census transforms the whole batch again for each of its 112 probes,
keeps attention that is never read, and adds the losses class by class. Ours is `PCSS.update` through Lightning Fabric,
where two passes share the blocks before the mixture, and `census`. Both versions start from the same weights and get
the same images, labels, order and influence. There is no stochastic depth, because sharing would change its random
numbers.

Before the timing, all parts of the losses of `--steps` steps must agree within a relative tolerance of 1e-3, and the
tables of the census within 1e-4. With `--precision bf16-mixed` a third variant runs. It has no tolerance; its losses
are only printed.

Columns: milliseconds per image, median of the turns (for the census per image and probe); ratio: speed-up over plain in
the same turn, median; peak MiB: memory of the network, and its growth during two steps or one census, measured in a
separate process; ratio: peak of plain over this peak.

The papers' sizes are `--device cuda --batch 64 --crop 224`; a census then has images of 224 pixels, 64 at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from common import (
    alternate,
    assert_equal_losses,
    begin,
    choose_sizes,
    comparison,
    compute_exactly,
    draw_labels,
    forget_peak,
    loss_table,
    machine,
    parser,
    peak_of,
    peaks_within,
    plain_stretch,
    print_peak,
    table,
)
from torch import Tensor, nn

from wsss_lib.methods.pcss import PCSS, Config, census, choose_census_images
from wsss_lib.models.deit import Block, decays
from wsss_lib.models.mctformer import MCTformer
from wsss_lib.stages.engine import make_fabric

PLAIN, OURS, MIXED = "plain", "ours", "ours, bf16"
CLASSES = 20
PATCH = 16
RATE = 1e-5
TOLERANCE = {"step": 1e-3, "census": 1e-4}
QUOTA = 100

Call = Callable[[], object]


def make_method(crop: int, options: argparse.Namespace) -> PCSS:
    """Build PCSS with random weights and a random influence of each frequency."""
    torch.manual_seed(0)
    network = {"drop_path": 0.0, "depth": options.depth}
    config = Config(
        backbone_options=network,
        pretrained=False,
        crop_size=crop,
        learning_rate=RATE,
        epochs=1,
        warm_up=0,
        merge_block=options.depth * 2 // 3 - 1,
        shortcut_start=0,
    )
    method = PCSS(config, CLASSES)
    blocks = crop // PATCH
    method.influence.update(torch.rand(CLASSES, blocks, blocks) + 0.1)
    method.epoch = 1
    return method


def make_inputs(count: int, crop: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise ``(B, 3, S, S)`` with one to three labels ``(B, C)``, and an order ``(B,)``."""
    torch.manual_seed(1)
    labels = draw_labels(count, CLASSES)
    return torch.randn(count, 3, crop, crop).to(device), labels.to(device), torch.arange(count).roll(1).to(device)


# ----------------------------------------------------------------------------------------------------------- plain


class PlainNet(nn.Module):
    """A plain transformer that keeps all attention.

    Args:
        network: Network whose weights and shapes are copied.
        merge_block: Block after which magnitudes are replaced.
    """

    def __init__(self, network: MCTformer, merge_block: int) -> None:
        super().__init__()
        self.backbone, self.head = deepcopy(network.backbone), deepcopy(network.head)
        self.merge_block = merge_block

    def block(self, block: Block, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens after a block, and the attention of all its heads."""
        attention = block.attn
        batch, count, channels = tokens.shape
        qkv = attention.qkv(block.norm1(tokens)).reshape(batch, count, 3, attention.heads, channels // attention.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (channels // attention.heads) ** -0.5).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, count, channels)
        tokens = tokens + attention.proj(mixed)
        return tokens + block.mlp(block.norm2(tokens)), weights

    def forward(
        self, images: Tensor, magnitudes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return both logits, plain and refined maps, and the patch tokens after the merge block."""
        tokens, (h, w) = self.backbone.embed(images)
        stack = []
        for i, block in enumerate(self.backbone.blocks):
            tokens, weights = self.block(block, tokens)
            stack.append(weights)
            if i == self.merge_block:
                middle = tokens[:, CLASSES:].transpose(1, 2).reshape(len(images), -1, h, w)
                if magnitudes is not None:
                    phase = torch.angle(torch.fft.fft2(middle))
                    replaced = torch.fft.ifft2(magnitudes * torch.exp(1j * phase)).real
                    tokens = torch.cat([tokens[:, :CLASSES], replaced.flatten(2).transpose(1, 2)], dim=1)
        features = tokens[:, CLASSES:].transpose(1, 2).reshape(len(images), -1, h, w)
        maps = self.head(features)
        cams = F.relu(maps)
        attention = torch.stack(stack).mean(dim=2)  # (L, B, T, T)
        fused = attention.mean(0)[:, :CLASSES, CLASSES:].reshape(cams.shape) * cams
        among = attention[:, :, CLASSES:, CLASSES:].sum(0)
        refined = torch.matmul(among.unsqueeze(1), fused.flatten(2).unsqueeze(-1)).reshape(cams.shape)
        return tokens[:, :CLASSES].mean(-1), F.adaptive_avg_pool2d(maps, 1).flatten(1), cams, refined, middle


def plain_suppress(images: Tensor, labels: Tensor, influence: Tensor) -> Tensor:
    """Suppress frequencies image by image and label by label."""
    result = []
    for image, row in zip(images, labels, strict=True):
        parts = []
        for k in row.nonzero().flatten().tolist():
            spectrum = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1)) * (1 - influence[k])
            parts.append(torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real)
        result.append(torch.stack(parts).mean(0))
    return torch.stack(result)


def plain_step(options: argparse.Namespace, device: torch.device) -> Call:
    """Return the plain step."""
    method = make_method(options.crop, options)
    config = method.config
    net = PlainNet(method.network, config.merge_block).to(device).train()
    named = list(net.named_parameters())
    groups = [
        {"params": [p for n, p in named if not decays(p, n)], "weight_decay": 0.0},
        {"params": [p for n, p in named if decays(p, n)], "weight_decay": config.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    influence = method.influence.maps().to(device)
    images, labels, order = make_inputs(options.batch, options.crop, device)

    def classify(outputs: Sequence[Tensor]) -> Tensor:
        return sum(F.multilabel_soft_margin_loss(z, labels) for z in outputs[:2])

    def step() -> dict[str, float]:
        first = net(images)
        suppressed = net(plain_suppress(images, labels, influence))
        own = torch.fft.fft2(first[4]).abs()
        others = torch.fft.fft2(first[4][order]).abs().detach()
        mixed = net(images, config.own_magnitude * own + (1 - config.own_magnitude) * others)
        weights = config.shortcut_weight, config.phase_weight
        parts = {
            "classification": classify(first),
            "suppressed": classify(suppressed),
            "suppressed_maps": weights[0] * (plain_stretch(first[2]) - plain_stretch(suppressed[2])).abs().mean(),
            "mixed": classify(mixed),
            "mixed_maps": weights[1] * (plain_stretch(first[3]).detach() - plain_stretch(mixed[3])).abs().mean(),
        }
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {name: value.item() for name, value in {"loss": loss, **parts}.items()}

    return step


def plain_census(options: argparse.Namespace, device: torch.device) -> Call:
    """Return the plain census."""
    method = make_method(options.census_crop, options)
    net = PlainNet(method.network, options.depth - 1).to(device).eval()
    images, labels, _ = make_inputs(options.census_images, options.census_crop, device)
    size, blocks = options.census_crop, options.census_crop // PATCH

    @torch.no_grad()
    def hold() -> Tensor:
        result = torch.zeros(CLASSES, blocks, blocks, device=device)
        for row in range(blocks):
            for column in range(blocks // 2 + 1):
                top, left = size - PATCH * row, size - PATCH * column
                mask = torch.ones(size, size)
                mask[PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)] = 0
                if column > 0:
                    mask[top % size : top % size + PATCH, left : left + PATCH] = 0
                spectra = torch.fft.fftshift(torch.fft.fft2(images)) * mask.to(device)
                z_tokens, z_patches, *_ = net(torch.fft.ifft2(torch.fft.ifftshift(spectra)).real)
                losses = F.softplus(-z_tokens) + F.softplus(-z_patches)
                for k in range(CLASSES):
                    some = labels[:, k].nonzero().flatten()[:QUOTA]
                    value = losses[some, k].sum().item()
                    result[k, row, column] = value
                    if column > 0:
                        result[k, -row % blocks, blocks - column] = value
        return result

    return hold


# ------------------------------------------------------------------------------------------------------------ ours


def our_step(options: argparse.Namespace, device: torch.device, precision: str) -> Call:
    """Return the library's step."""
    method = make_method(options.crop, options)
    method.setup(make_fabric(device.type, precision=precision), total_steps=10_000)
    method.train()
    inputs = make_inputs(options.batch, options.crop, device)
    return lambda: {name: float(value) for name, value in method.update(*inputs).items()}


def our_census(options: argparse.Namespace, device: torch.device, precision: str) -> Call:
    """Return the library's census."""
    method = make_method(options.census_crop, options)
    net = method.network.to(device).eval()
    images, labels, _ = make_inputs(options.census_images, options.census_crop, device)
    used = choose_census_images(labels, QUOTA)
    fabric = make_fabric(device.type, precision=precision)

    def logits(filtered: Tensor) -> tuple[Tensor, Tensor]:
        outputs = net(filtered)
        return outputs.class_logits, outputs.patch_logits

    def hold() -> Tensor:
        with fabric.autocast():
            return census(logits, [(images, used)], options.census_crop, PATCH, at_once=options.at_once)

    return hold


VARIANTS: dict[str, Callable[..., Call]] = {
    f"step/{PLAIN}": plain_step,
    f"step/{OURS}": partial(our_step, precision="32-true"),
    f"step/{MIXED}": partial(our_step, precision="bf16-mixed"),
    f"census/{PLAIN}": plain_census,
    f"census/{OURS}": partial(our_census, precision="32-true"),
    f"census/{MIXED}": partial(our_census, precision="bf16-mixed"),
}


def measure_peak(key: str, options: argparse.Namespace, device: torch.device) -> None:
    """Print the growth of memory in two steps or one census, with building the network."""
    calls = 2 if key.startswith("step") else 1
    forget_peak()

    def work() -> None:
        function = VARIANTS[key](options, device)
        for _ in range(calls):
            function()

    print_peak(peak_of(work, device))


def compare_steps(names: Sequence[str], options: argparse.Namespace, device: torch.device) -> None:
    """Compare and time the training step, and print its tables."""
    memory = peaks_within("step", names)
    steps = {name: VARIANTS[f"step/{name}"](options, device) for name in names}
    losses = {name: [step() for _ in range(options.steps)] for name, step in steps.items()}
    assert_equal_losses(losses[PLAIN], losses[OURS], TOLERANCE["step"])
    times = alternate(steps, options.repeats, device, warm_up=0)
    print(f"\nDeiT-S of depth {options.depth}, batch {options.batch}, crop {options.crop}; losses of", end=" ")
    print(f"{options.steps} steps agree (relative tolerance {TOLERANCE['step']:g})")
    print(
        table(
            ("PCSS's step", "ms/image", "ratio", "peak MiB", "ratio"), comparison(times, memory, PLAIN, options.batch)
        )
    )
    print()
    print(loss_table(losses))


def compare_censuses(names: Sequence[str], options: argparse.Namespace, device: torch.device) -> None:
    """Compare and time the census, and print its table."""
    memory = peaks_within("census", names)
    censuses = {name: VARIANTS[f"census/{name}"](options, device) for name in names}
    tables = {name: hold() for name, hold in censuses.items()}
    tolerance = TOLERANCE["census"]
    torch.testing.assert_close(tables[OURS], tables[PLAIN], rtol=tolerance, atol=tolerance)
    times = alternate(censuses, options.repeats, device, warm_up=0)
    size, blocks = options.census_crop, options.census_crop // PATCH
    probes = blocks * (blocks // 2 + 1)
    print(f"\n{options.census_images} images of {size} pixels, {probes} probes; tables agree (tolerance {tolerance:g})")
    rows = comparison(times, memory, PLAIN, options.census_images * probes)
    print(table(("census", "ms/image and probe", "ratio", "peak MiB", "ratio"), rows))


def arguments() -> argparse.Namespace:
    """Read the command line; the default sizes depend on the device."""
    options = parser(__doc__, repeats=2)
    options.add_argument("--part", choices=("step", "census"), help="part to measure (default: both)")
    options.add_argument("--depth", type=int, default=12, help="blocks of the transformer (default: 12, DeiT-S's)")
    options.add_argument("--batch", type=int, help="images per step (default: 8, on CUDA 64)")
    options.add_argument("--crop", type=int, default=224, help="side of the training images (default: 224)")
    options.add_argument("--steps", type=int, default=2, help="number of compared steps (default: 2)")
    options.add_argument("--census-images", type=int, help="images of a census (default: 4, on CUDA 64)")
    options.add_argument("--census-crop", type=int, help="side of the images of a census (default: 96, on CUDA 224)")
    options.add_argument("--at-once", type=int, help="filtered images at a time (default: 32, on CUDA 512)")
    options.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="adds a variant")
    return choose_sizes(
        options.parse_args(), batch=(8, 64), census_images=(4, 64), census_crop=(96, 224), at_once=(32, 512)
    )


def main() -> None:
    """Compare, then time, then print the tables."""
    options = arguments()
    device = begin(options)
    compute_exactly(device)
    if options.measure:
        measure_peak(options.measure, options, device)
        return
    print(f"{machine(device)}; {options.repeats} turns")
    names = [PLAIN, OURS] + [MIXED] * (options.precision == "bf16-mixed")
    if options.part != "census":
        compare_steps(names, options, device)
    if options.part != "step":
        compare_censuses(names, options, device)


if __name__ == "__main__":
    main()
