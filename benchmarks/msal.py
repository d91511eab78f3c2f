"""MSAL against a plain re-implementation of the authors' code: a step, the superpixel operators, inference.

The plain step computes gradients of the superpixel network that are never used, and its operators make nine padded
copies of their input. Both steps start from the same weights and must have equal losses; operators and maps must be
equal, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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
    forget_peak,
    machine,
    parser,
    peak_of,
    peaks_within,
    print_peak,
    statistics_of_a_batch,
    table,
)
from torch import Tensor, nn
from torch.optim import SGD

from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.msal import MSAL, Config, ipc_loss, named_groups, normalise_cams, valid_cells
from wsss_lib.models.superpixel_net import CELL, SuperpixelNet
from wsss_lib.ops.superpixels import mix_neighbours, superpixel_pool, superpixel_upsample
from wsss_lib.stages.engine import make_fabric

PLAIN, OURS = "plain", "wsss_lib"
CLASSES = 20
TOLERANCE = 2e-3
"""Relative tolerance of the losses of several steps."""

Function = Callable[[], list[Tensor]]


# ------------------------------------------------------------------------------------------------- the plain way


def shifted(maps: Tensor, k: int) -> Tensor:
    """Return a padded copy of ``(B, c, h, w)`` maps in which each position has the value of its neighbour k."""
    row, column = divmod(k, 3)
    height, width = maps.shape[2:]
    return F.pad(maps, [1] * 4)[:, :, row : row + height, column : column + width].contiguous()


def plain_pool(features: Tensor, association: Tensor, cell: int = CELL) -> Tensor:
    """Average features over superpixels, neighbour by neighbour."""
    sums = weights = torch.zeros(())
    for k in range(9):
        share = association[:, k : k + 1]
        sums = sums + shifted(F.avg_pool2d(features * share, cell), 8 - k)
        weights = weights + shifted(F.avg_pool2d(share, cell), 8 - k)
    return sums / (weights + 1e-8)


def plain_upsample(maps: Tensor, association: Tensor, cell: int = CELL) -> Tensor:
    """Give each pixel the weighted mean of its superpixels' values, neighbour by neighbour."""
    parts = []
    for k in range(9):
        enlarged = F.interpolate(shifted(maps, k), scale_factor=cell, mode="nearest") if cell > 1 else shifted(maps, k)
        parts.append(enlarged * association[:, k : k + 1])
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def plain_forward(net: nn.Module, images: Tensor, q: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Compute the forward pass of `MSALNet` with the operators above."""
    of_superpixels = net.get_qfeats(q)
    x4 = net.backbone.until_last(images)
    k4 = net.get_tran_conv4(torch.cat([net.x4_feats(x4.detach()), of_superpixels], dim=1))
    x4 = plain_upsample(x4 * net.ala1(x4.mean((2, 3), keepdim=True)), k4, 1)
    x5 = net.backbone.last(x4)
    k5 = net.get_tran_conv5(torch.cat([net.x5_feats(x5.detach()), of_superpixels], dim=1))
    gated = x5 * net.ala2(x5.detach().mean((2, 3), keepdim=True))
    maps = plain_upsample(net.classifier(gated), k5, 1)
    features = F.normalize(x4.flatten(2), dim=1)
    affinity = (features.transpose(1, 2) @ features).clamp(0.01, 0.999)
    affinity = torch.where(affinity < config.threshold, torch.zeros_like(affinity), affinity)
    affinity = affinity / affinity.sum(1, keepdim=True)
    flat = maps.flatten(2)
    for _ in range(config.iterations):
        flat = flat @ affinity
    return flat.reshape(maps.shape), net.classifier(gated).mean((2, 3))


# ------------------------------------------------------------------------------------------------------- the step


def made(options: argparse.Namespace, device: torch.device) -> tuple[MSAL, Tensor, Tensor]:
    """Return a method whose statistics fit its random weights, and images and labels."""
    torch.manual_seed(0)
    config = Config.preset("voc12").replace(
        learning_rate=0.01,  # at 0.1, random weights make rounding grow within three steps
        pretrained=False,
        backbone_options={"width": options.width, "output_stride": 16, "dilated": False},
    )
    images = torch.rand(options.batch, 3, options.crop, options.crop)
    images = F.avg_pool2d(images, 5, 1, 2) * 12 - 6
    labels = (torch.rand(options.batch, CLASSES) < 0.1).float()
    labels[:, 3] = 1
    method = MSAL(config, CLASSES)
    method.superpixels = SuperpixelNet()
    with statistics_of_a_batch(method.superpixels):
        association = method.superpixels(images)["association"]
    with statistics_of_a_batch(method.network):
        method.network(images, association)
    method.backbone.freeze(first_layers=False, affine=False)
    method.superpixels.to(device).eval()
    method.network.to(device)
    return method, images.to(device), labels.to(device)


def our_step(
    options: argparse.Namespace, device: torch.device, precision: str = "32-true"
) -> Callable[[], dict[str, float]]:
    """Return one update, as the library does it."""
    method, images, labels = made(options, device)
    assert method.superpixels is not None
    method.superpixels.requires_grad_(False)
    method.setup(make_fabric(device.type, precision=precision), total_steps=1000)

    def step() -> dict[str, float]:
        method.train(True)
        return {name: float(v) for name, v in method.update(images, labels, method.associate(images)).items()}

    return step


def plain_step(options: argparse.Namespace, device: torch.device) -> Callable[[], dict[str, float]]:
    """Return one update, as the authors' code does it."""
    method, images, labels = made(options, device)
    network, superpixels, config = method.network, method.superpixels, method.config
    assert superpixels is not None
    optimizer = SGD(named_groups(network, config), lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 - t / 1000) ** config.power)

    def step() -> dict[str, float]:
        network.train()
        q = superpixels(images)["association"]
        maps, pooled = plain_forward(network, images, q, config)
        target = plain_pool(images, q).detach() * valid_cells(images)
        cams = normalise_cams(maps[:, 1:]) * labels[:, :, None, None]
        losses = {
            "classification": classification_loss(pooled[:, 1:], labels),
            "ipc": config.ipc_weight * ipc_loss(cams, target, config.patches, config.gate),
        }
        loss = losses["classification"] + losses["ipc"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        schedule.step()
        return {name: float(v.detach()) for name, v in {"loss": loss, **losses}.items()}

    return step


STEPS = {PLAIN: plain_step, OURS: our_step}


# ------------------------------------------------------------------------------------------------------ operators


def operator(name: str, what: str, options: argparse.Namespace, device: torch.device) -> Function:
    """Return a function that runs an operator and its backward pass, and returns the result and all gradients."""
    torch.manual_seed(1)
    batch, side = options.batch, options.crop // CELL
    whole, grid = (options.crop, options.crop), (side, side)
    shapes = {"pool": (3, whole, whole), "up": (21, grid, whole), "mix": (1024, grid, grid)}
    channels, of_values, of_weights = shapes[what]
    values = torch.randn(batch, channels, *of_values, device=device, requires_grad=True)
    weights = torch.randn(batch, 9, *of_weights, device=device).softmax(1).requires_grad_()
    functions = {
        "pool": {PLAIN: plain_pool, OURS: superpixel_pool},
        "up": {PLAIN: plain_upsample, OURS: superpixel_upsample},
        "mix": {PLAIN: partial(plain_upsample, cell=1), OURS: mix_neighbours},
    }
    function = functions[what][name]

    def call() -> list[Tensor]:
        result = function(values, weights)
        return [result.detach(), *torch.autograd.grad(result.square().sum(), [values, weights])]

    return call


# ------------------------------------------------------------------------------------------------------ inference


def inference(name: str, options: argparse.Namespace, device: torch.device) -> Function:
    """Return a function that makes the maps of one image at four scales, each also mirrored."""
    method, images, labels = made(argparse.Namespace(**{**vars(options), "batch": 2}), device)
    method.train(False)
    network, superpixels, config = method.network, method.superpixels, method.config
    assert superpixels is not None
    image, label = images[:1, :, : options.crop * 3 // 4].contiguous(), labels[:1]
    size = (image.shape[2], image.shape[3])

    def resize(values: Tensor, to: tuple[int, int]) -> Tensor:
        return F.interpolate(values, to, mode="bilinear", align_corners=False)

    def whole(scale: float) -> tuple[int, int]:
        height, width = (-(-round(side * scale) // CELL) * CELL for side in size)
        return height, width

    @torch.no_grad()
    def plain() -> list[Tensor]:
        every = []
        for scale in (*config.scales, *(-s for s in config.scales)):
            to, scaled = whole(abs(scale)), (round(size[0] * abs(scale)), round(size[1] * abs(scale)))
            once, twice = resize(image, to), resize(resize(image, scaled), to)
            if scale < 0:
                once, twice = once.flip(-1), twice.flip(-1)
            q = superpixels(once)["association"]
            maps = plain_upsample(plain_forward(network, twice, q, config)[0], q)
            maps = resize(maps, whole(1.0))
            every.append(maps.flip(-1) if scale < 0 else maps)
        cams = normalise_cams(torch.stack(every).sum(0)[:, 1:]) * label[:, :, None, None]
        return [resize(cams, size)[0, label[0] > 0]]

    @torch.no_grad()
    def ours() -> list[Tensor]:
        return method.multi_scale(image, label)

    return plain if name == PLAIN else ours


# ----------------------------------------------------------------------------------------------------------- main


PARTS = {"pool": "pooling of 3 channels", "up": "up-sampling of 21", "mix": "mixing of 1,024"}


def assert_equal(functions: dict[str, Function]) -> None:
    """Check that both variants compute the same.

    Raises:
        AssertionError: The results differ.
    """
    for plain, ours in zip(functions[PLAIN](), functions[OURS](), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-3 * float(plain.abs().max()))


def function_of(group: str, name: str, options: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """Return the function to measure."""
    if group == "step":
        return STEPS[name](options, device)
    return inference(name, options, device) if group == "inference" else operator(name, group, options, device)


def compare(group: str, titles: Sequence[str], options: argparse.Namespace, device: torch.device) -> list[Sequence]:
    """Return the rows of a group, after checking that both variants compute the same."""
    memory = peaks_within(group, (PLAIN, OURS))
    functions = {name: function_of(group, name, options, device) for name in (PLAIN, OURS)}
    if group == "step":
        losses = {name: [f() for _ in range(options.steps)] for name, f in functions.items()}
        assert_equal_losses(losses[PLAIN], losses[OURS], TOLERANCE)
        first, last = (losses[PLAIN][t]["loss"] for t in (0, -1))
        assert abs(last / first - 1) > TOLERANCE, f"the loss hardly changes: from {first} to {last}"
    else:
        assert_equal(functions)
    times = alternate(functions, options.repeats, device)
    images = 1 if group == "inference" else options.batch
    return [
        (f"{title}{row[0]}", *row[1:])
        for title, row in zip(titles, comparison(times, memory, PLAIN, images), strict=True)
    ]


def main() -> None:
    """Compare, then time, then print the tables."""
    arguments = parser(__doc__, repeats=2)
    arguments.add_argument("--width", type=float, default=1.0, help="factor of ResNet-50's channels (default: 1)")
    arguments.add_argument("--batch", type=int, help="images per step (default: 2, on CUDA 16)")
    arguments.add_argument("--crop", type=int, help="side of the images, a multiple of 16 (default: 240, on CUDA 480)")
    arguments.add_argument("--steps", type=int, default=3, help="number of compared steps (default: 3)")
    options = choose_sizes(arguments.parse_args(), batch=(2, 16), crop=(240, 480))
    device = begin(options)
    compute_exactly(device)
    if options.measure:
        group, _, name = options.measure.partition("/")
        function = function_of(group, name, options, device)
        forget_peak()
        print_peak(peak_of(lambda: [function() for _ in range(2)], device))
        return
    print(f"{machine(device)}; {options.repeats} turns; ResNet-50 of width {options.width:g}, batch {options.batch},")
    print(f"crop {options.crop}; losses of {options.steps} steps agree (relative tolerance {TOLERANCE:g})\n")
    head = ("ms/image", "ratio", "peak MiB", "ratio")
    print(table(("training step", *head), compare("step", ("", ""), options, device)), "\n")
    rows = [row for what, title in PARTS.items() for row in compare(what, [f"{title}, "] * 2, options, device)]
    print(table(("operator, forward and backward", *head), rows), "\n")
    print(table(("maps at four scales, mirrored", *head), compare("inference", ("", ""), options, device)))


if __name__ == "__main__":
    main()
