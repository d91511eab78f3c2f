"""One training step of OC-CSE and of ACR with ResNet-38: the library against a plain version of the authors' steps.

The plain version does what the authors' code does. It has nn.BatchNorm2d in evaluation mode, a ReLU that keeps its
input, and its own SGD with the polynomial schedule. For OC-CSE, it picks the maps of the targets image by image with
labels on the CPU, and computes gradients of the ordinary classifier's weights that are never used. For ACR, it enlarges
the 448 channels of features to the image, masks them, and passes them through the decoder five times, one pass after
the other. It also computes gradients of the decoder in the classifier's step, and its classifier contains an unused
decoder and unused reconstruction layers. Ours is `OCCSE.update` and `ACR.update` through Lightning Fabric. Both
versions start from the same weights and get the same images, labels, targets and grid, without dropout.

Before the timing, all parts of the losses of `--steps` steps must agree within a relative tolerance of 1e-4. The losses
must also have changed by ten times that tolerance since the first step; otherwise they would not test the gradients.
With `--precision bf16-mixed` a third variant runs. It has no tolerance; its losses are only printed.

A second table for ACR shows the decoder's first layer alone, forward and backward: enlarging, masking and convolving
against wsss_lib.ops.masked_convolution, with the gradients that the reconstructor's step needs (features, weight) and
with the gradient that the classifier's step needs (mask).

Columns: milliseconds per image, median of the turns; ratio: speed-up over plain in the same turn, median; peak MiB:
memory of the networks, and its growth during two steps, with gradients and the state of the optimisers, measured in a
separate process (memory allocated by PyTorch on CUDA, resident memory on a CPU); ratio: peak of plain over this peak.

Fewer operations explain only a part of the speed-up. Counted by `torch.utils.flop_counter`, plain needs 1.19 times as
many as ours for OC-CSE (gradients of the judge's weights); for ACR 1.73 times at width 1/4, but 1.10 times at width 1.

The papers' sizes are `--device cuda --width 1 --batch 8`, and `--crop` 384 for OC-CSE and 256 for ACR; they are the
defaults on CUDA. The decoder always has the paper's width. So a narrower ResNet-38 gives the decoder a larger share of
ACR's step, and a higher ratio: at width 1 the ResNet-38 has 84 % of the multiplications of the plain step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from common import (
    Losses,
    PlainResNet38,
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
    plain_conv,
    plain_stretch,
    print_peak,
    statistics_of_a_batch,
    table,
)
from torch import Tensor, nn

from wsss_lib.methods import acr, oc_cse
from wsss_lib.methods.acr import ACR, draw_grid
from wsss_lib.methods.method import draw_targets
from wsss_lib.methods.oc_cse import OCCSE
from wsss_lib.models.classifier import Classifier, MapClassifier
from wsss_lib.models.reconstructor import Reconstructor, UNet
from wsss_lib.models.resnet38d import ResNet38d
from wsss_lib.ops.masked_convolution import masked_convolution
from wsss_lib.stages.engine import make_fabric

PLAIN, OURS, MIXED = "plain", "ours", "ours, bf16"
CLASSES, CHANNELS, STRIDE = 20, 448, 8
TOTAL_STEPS, DECAY, MOMENTUM = 10_000, 5e-4, 5e-4
TOLERANCE = 1e-4
LEAST_CHANGE = 10 * TOLERANCE
RATE = 3e-3
"""Learning rate at which rounding errors stay below the tolerance for some steps."""
SIZES = {"cpu": {"oc_cse": (2, 128), "acr": (1, 128)}, "cuda": {"oc_cse": (8, 384), "acr": (8, 256)}}
"""Batch and crop."""
TITLES = {"oc_cse": "OC-CSE", "acr": "ACR"}
LAYER = {"reconstructor": ("features", "weight"), "classifier": ("mask",)}
"""Inputs of the decoder's first layer for which the two steps need gradients."""


@dataclass(frozen=True)
class Variant:
    """A variant of a step.

    Attributes:
        step: Function that does the next step and returns the parts of the loss.
        networks: Networks that the variant keeps in memory from the start.
    """

    step: Callable[[], dict[str, float]]
    networks: Sequence[nn.Module] = ()

    def stored(self) -> float:
        """Return the size of the networks in MiB."""
        tensors = [t for network in self.networks for t in (*network.parameters(), *network.buffers())]
        return sum(t.numel() * t.element_size() for t in tensors) / 2**20


@dataclass(frozen=True)
class Inputs:
    """Images ``(B, 3, S, S)``, labels ``(B, K)``, targets ``(B,)`` int64, and ACR's grid ``(B, 1, S, S)``."""

    images: Tensor
    labels: Tensor
    targets: Tensor
    grid: Tensor


def size_of(method: str, options: argparse.Namespace) -> tuple[int, int]:
    """Return batch and crop."""
    batch, crop = SIZES[options.device][method]
    return options.batch or batch, options.crop or crop


def make_inputs(method: str, options: argparse.Namespace, device: torch.device) -> Inputs:
    """Draw noise with one to three classes per image."""
    batch, crop = size_of(method, options)
    torch.manual_seed(1)
    images = torch.randn(batch, 3, crop, crop)
    labels = draw_labels(batch, CLASSES)
    grid = draw_grid(batch, (crop, crop), 16, 0.5, device)
    return Inputs(images.to(device), labels.to(device), draw_targets(labels).to(device), grid)


# ------------------------------------------------------------------------------------------------------------ ours


def make_oc_cse(options: argparse.Namespace) -> OCCSE:
    """Build OC-CSE and an ordinary classifier with random weights, on the CPU."""
    torch.manual_seed(0)
    backbone = {"width": options.width, "dropout": (0.0, 0.0)}
    config = oc_cse.Config(backbone_options=backbone, pretrained=False, learning_rate=RATE)
    method = OCCSE(config, CLASSES)
    ordinary = Classifier(ResNet38d(**backbone), CLASSES)
    for network in (method.network, ordinary):
        settle(network)
        network.backbone.freeze()
    method.ordinary = ordinary.requires_grad_(False)
    return method


def make_acr(options: argparse.Namespace) -> ACR:
    """Build ACR with random weights and without dropout, on the CPU."""
    torch.manual_seed(0)
    config = acr.Config(
        backbone_options={"width": options.width, "dropout": (0.0, 0.0)},
        pretrained=False,
        crop_size=size_of("acr", options)[1],
        learning_rate=RATE,
    )
    method = ACR(config, CLASSES)
    method.reconstructor.decoder._drop = lambda x, _level: x
    for network in (method.classifier, method.reconstructor.classifier):
        settle(network)
        network.backbone.freeze(first_layers=False)
    return method


def settle(network: MapClassifier | Classifier) -> None:
    """Change a network with random weights so that it is more like a trained one.

    Its activations stay in bounds. Its blocks change their input only a little; otherwise the rounding errors of the
    gradients grow from layer to layer to one percent. The map of each class has both signs; otherwise masks are empty.
    """
    for name, layer in network.named_modules():
        if name.endswith(("bn_branch2b1", "bn_branch2b2")):
            nn.init.constant_(layer.weight, 0.2)
    entering: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    with statistics_of_a_batch(network):
        network(torch.randn(2, 3, 64, 64))
    hook.remove()
    network.eval()
    mean = F.normalize(entering[0].mean(dim=(0, 2, 3)), dim=0)
    weight = network.head.weight.data[:, :, 0, 0]  # (K, C)
    weight -= torch.outer(weight @ mean, mean)


def our_oc_cse(options: argparse.Namespace, device: torch.device, precision: str) -> Variant:
    """Return the library's step of OC-CSE."""
    method = make_oc_cse(options)
    method.setup(make_fabric(device.type, precision=precision), TOTAL_STEPS)
    method.train()
    assert method.ordinary is not None
    inputs = make_inputs("oc_cse", options, device)

    def step() -> dict[str, float]:
        return floats(method.update(inputs.images, inputs.labels, inputs.targets))

    return Variant(step, [method.network, method.ordinary.to(device)])


def our_acr(options: argparse.Namespace, device: torch.device, precision: str) -> Variant:
    """Return the library's step of ACR."""
    method = make_acr(options)
    method.setup(make_fabric(device.type, precision=precision), TOTAL_STEPS)
    inputs = make_inputs("acr", options, device)

    def step() -> dict[str, float]:
        return floats(method.update(inputs.images, inputs.labels, inputs.targets, inputs.grid))

    return Variant(step, list(method.networks.values()))


def floats(losses: dict[str, Tensor]) -> dict[str, float]:
    """Return losses as floats, as the training loop does."""
    return {name: float(value) for name, value in losses.items()}


# ----------------------------------------------------------------------------------------------------------- plain


class PlainSGD(torch.optim.SGD):
    """Stochastic gradient descent that also sets its learning rates.

    Args:
        groups: Groups of parameters, each with its first learning rate.
    """

    def __init__(self, groups: list[dict[str, object]]) -> None:
        super().__init__(groups, momentum=MOMENTUM)
        self.first_rates = [group["lr"] for group in self.param_groups]
        self.done = 0

    def step(self) -> None:
        """Do a step with the learning rate of the polynomial schedule."""
        for group, rate in zip(self.param_groups, self.first_rates, strict=True):
            group["lr"] = rate * (1 - self.done / TOTAL_STEPS) ** 0.9
        self.done += 1
        super().step()


class PlainEraser(nn.Module):
    """OC-CSE's erasing network or ordinary classifier.

    Args:
        network: Network whose weights and shapes are used.
    """

    def __init__(self, network: MapClassifier | Classifier) -> None:
        super().__init__()
        self.backbone = PlainResNet38(network.backbone)
        self.head = plain_conv(network.head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the signed maps ``(B, K, h, w)`` and the logits ``(B, K)``."""
        maps = self.head(self.backbone(images)["conv6"])
        return maps, F.adaptive_avg_pool2d(maps, 1).flatten(1)


def plain_oc_cse(options: argparse.Namespace, device: torch.device) -> Variant:
    """Return the plain step of OC-CSE."""
    method = make_oc_cse(options)
    eraser = PlainEraser(method.network).to(device).train()
    ordinary = PlainEraser(method.ordinary).to(device).eval()
    weights = [layer.weight for layer in eraser.modules() if isinstance(layer, nn.Conv2d)]
    optimizer = PlainSGD([{"params": weights, "lr": RATE, "weight_decay": DECAY}])
    inputs = make_inputs("oc_cse", options, device)
    images, labels = inputs.images, inputs.labels

    def step() -> dict[str, float]:
        maps, logits = eraser(images)
        chosen = torch.zeros(len(maps), 1, *maps.shape[2:], device=device)
        remaining = labels.cpu().clone()
        for i in range(len(maps)):
            target = inputs.targets[i].item()
            chosen[i, 0] = maps[i, target]
            remaining[i, target] = 0
        enlarged = F.relu(F.interpolate(chosen, images.shape[2:], mode="bilinear", align_corners=False))
        mask = enlarged / (enlarged.max() + 1e-5)
        _, seen = ordinary(images * (1 - mask))
        classification = F.multilabel_soft_margin_loss(logits, labels)
        erasing = 0.3 * F.multilabel_soft_margin_loss(seen, remaining.to(device))
        loss = classification + erasing
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        target_seen = seen.detach().sigmoid()[range(len(seen)), inputs.targets].mean()
        parts = {"loss": loss, "classification": classification, "erasing": erasing, "target_seen": target_seen}
        return {name: value.item() for name, value in parts.items()}

    return Variant(step, [eraser, ordinary])


class PlainUNet(nn.Module):
    """ACR's decoder.

    Args:
        decoder: Decoder whose layers are used.
    """

    def __init__(self, decoder: UNet) -> None:
        super().__init__()
        self.down = nn.ModuleList([deepcopy(m) for name, m in decoder.named_children() if name.startswith("down")])
        self.up = nn.ModuleList([deepcopy(m) for name, m in decoder.named_children() if name.startswith("up")])
        self.final = deepcopy(decoder.final)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image ``(B, 3, H, W)`` for masked features ``(B, 448, H, W)``."""
        shortcuts = []
        for level, layer in enumerate(self.down, start=1):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if 1 < level < len(self.down) else x, 0.2)
            shortcuts.append(x)
        shortcuts.pop()
        for layer in self.up:
            x = torch.cat([F.relu(F.instance_norm(layer(x))), shortcuts.pop()], dim=1)
        return self.final(F.interpolate(x, scale_factor=2))


class PlainPlayer(nn.Module):
    """ACR's classifier or reconstructor, which are the same network in the authors' code.

    Args:
        classifier: Classifier whose weights are used for ResNet-38 and the two heads.
        reconstructor: Reconstructor whose weights are used for all other layers.
    """

    def __init__(self, classifier: MapClassifier, reconstructor: Reconstructor) -> None:
        super().__init__()
        self.backbone = PlainResNet38(classifier.backbone, frozen=())
        self.hidden, self.head = plain_conv(classifier.hidden), plain_conv(classifier.head)
        self.reductions = nn.ModuleList([plain_conv(layer) for layer in reconstructor.reductions])
        self.decoder = PlainUNet(reconstructor.decoder)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the signed maps ``(B, K, h, w)``, the logits ``(B, K)`` and the features ``(B, 448, h, w)``."""
        taps = self.backbone(images)
        features = torch.cat([layer(tap) for layer, tap in zip(self.reductions, taps.values(), strict=True)], dim=1)
        maps = self.head(F.relu(self.hidden(taps["conv6"])))
        return maps, F.adaptive_avg_pool2d(maps, 1).flatten(1), features

    def optimizer(self) -> PlainSGD:
        """Return an optimiser with the authors' groups."""
        kinds = {nn.Conv2d: [], nn.ConvTranspose2d: []}
        for layer in self.modules():
            if type(layer) in kinds:
                kinds[type(layer)].append(layer.weight)
        return PlainSGD(
            [
                {"params": kinds[nn.Conv2d], "lr": RATE, "weight_decay": DECAY},
                {"params": [self.decoder.final.bias], "lr": 2 * RATE, "weight_decay": 0},
                {"params": kinds[nn.ConvTranspose2d], "lr": 10 * RATE, "weight_decay": DECAY},
            ]
        )


def plain_error(drawn: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the masked error, averaged over all values."""
    return (mask * torch.abs(drawn - images)).mean()


def plain_acr(options: argparse.Namespace, device: torch.device) -> Variant:
    """Return the plain step of ACR."""
    method = make_acr(options)
    main = PlainPlayer(method.classifier, method.reconstructor).to(device)
    recon = PlainPlayer(method.reconstructor.classifier, method.reconstructor).to(device)
    optimizers = {main: main.optimizer(), recon: recon.optimizer()}
    inputs = make_inputs("acr", options, device)
    images, labels, targets, grid = inputs.images, inputs.labels, inputs.targets, inputs.grid
    every = torch.arange(len(images), device=device)

    def enlarge(maps: Tensor) -> Tensor:
        return F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)

    def target_map(maps: Tensor) -> Tensor:
        return enlarge(plain_stretch(maps) * labels[:, :, None, None])[every, targets][:, None]

    def learn(network: PlainPlayer, loss: Tensor) -> None:
        optimizers[network].zero_grad()
        loss.backward()
        if not torch.isnan(loss):
            optimizers[network].step()

    def step_reconstructor() -> dict[str, Tensor]:
        main.eval()
        recon.train()
        with torch.no_grad():
            share = target_map(main(images)[0])
        hidden_target, hidden_rest = share * grid, (1 - share) * grid
        _, logits, features = recon(images)
        large = enlarge(features)
        parts = {
            "classification": F.multilabel_soft_margin_loss(logits, labels),
            "whole": torch.abs(recon.decoder(large.detach()) - images).mean(),
            "hidden_target": plain_error(recon.decoder(large * (1 - hidden_target)), images, hidden_target),
            "hidden_rest": plain_error(recon.decoder(large * (1 - hidden_rest)), images, hidden_rest),
        }
        loss = (
            parts["classification"] + 0.2 * parts["whole"] + 0.3 * parts["hidden_target"] + 0.5 * parts["hidden_rest"]
        )
        learn(recon, loss)
        return {"loss": loss, **parts}

    def step_classifier() -> dict[str, Tensor]:
        main.train()
        recon.eval()
        with torch.no_grad():
            large = enlarge(recon(images)[2])
        maps, logits, _ = main(images)
        share = target_map(maps)
        wins = enlarge(maps).argmax(dim=1, keepdim=True) == targets[:, None, None, None]
        outside, inside = (share == 0).float(), share.detach() * wins
        parts = {
            "classification": F.multilabel_soft_margin_loss(logits, labels),
            "from_target": plain_error(recon.decoder(large * share), images, outside),
            "from_rest": plain_error(recon.decoder(large * (1 - share)), images, inside),
        }
        loss = parts["classification"] - 0.8 * parts["from_target"] - 0.3 * parts["from_rest"]
        learn(main, loss)
        return {"loss": loss, **parts}

    def step() -> dict[str, float]:
        of_recon = step_reconstructor()
        parts = {**step_classifier(), **{f"reconstructor_{name}": value for name, value in of_recon.items()}}
        return {name: value.item() for name, value in parts.items()}

    return Variant(step, [main, recon])


# ----------------------------------------------------------------------------------------------------- first layer


def plain_layer(features: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Enlarge, mask and convolve."""
    enlarged = F.interpolate(features, mask.shape[2:], mode="bilinear", align_corners=False)
    return F.conv2d(enlarged * mask, weight, stride=2, padding=1)


def layer_values(name: str, step: str, options: argparse.Namespace, device: torch.device) -> Callable[[], list[Tensor]]:
    """Return a function that computes the decoder's first layer, and the gradients that a step needs."""
    torch.manual_seed(2)
    batch, side = size_of("acr", options)
    inputs = {
        "features": torch.randn(batch, CHANNELS, side // STRIDE, side // STRIDE),
        "mask": torch.rand(batch, 1, side, side),
        "weight": nn.init.kaiming_normal_(torch.empty(64, CHANNELS, 4, 4)),
    }
    inputs = {key: value.to(device) for key, value in inputs.items()}
    wanted = [inputs[key].requires_grad_() for key in LAYER[step]]
    upstream = torch.randn(batch, 64, side // 2, side // 2).to(device)
    function = plain_layer if name == PLAIN else masked_convolution

    def values() -> list[Tensor]:
        result = function(**inputs)
        return [result.detach(), *torch.autograd.grad(result, wanted, upstream)]

    return values


def compare_layers(options: argparse.Namespace, device: torch.device) -> str:
    """Compare and time the first layer alone, and return the table.

    Raises:
        AssertionError: The variants do not compute the same.
    """
    rows = []
    batch, _ = size_of("acr", options)
    for step in LAYER:
        memory = peaks_within(f"layer-{step}", (PLAIN, OURS))
        functions = {name: layer_values(name, step, options, device) for name in (PLAIN, OURS)}
        for ours, plain in zip(functions[OURS](), functions[PLAIN](), strict=True):
            torch.testing.assert_close(ours, plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))
        times = alternate(functions, options.repeats, device)
        rows += [(f"{row[0]}, step of the {step}", *row[1:]) for row in comparison(times, memory, PLAIN, batch)]
    return table(("decoder's first layer", "ms/image", "ratio", "peak MiB", "ratio"), rows)


# ------------------------------------------------------------------------------------------------------------ main


STEPS: dict[str, Callable[..., Variant]] = {
    f"oc_cse/{PLAIN}": plain_oc_cse,
    f"oc_cse/{OURS}": partial(our_oc_cse, precision="32-true"),
    f"oc_cse/{MIXED}": partial(our_oc_cse, precision="bf16-mixed"),
    f"acr/{PLAIN}": plain_acr,
    f"acr/{OURS}": partial(our_acr, precision="32-true"),
    f"acr/{MIXED}": partial(our_acr, precision="bf16-mixed"),
}


def measure_peak(key: str, options: argparse.Namespace, device: torch.device) -> None:
    """Print the memory of a variant: its networks, and the growth in two steps or in one call of the layer."""
    group, _, name = key.partition("/")
    if group.startswith("layer-"):
        values = layer_values(name, group.removeprefix("layer-"), options, device)
        forget_peak()
        print_peak(peak_of(values, device))
        return
    variant = STEPS[key](options, device)
    forget_peak()
    print_peak(variant.stored() + peak_of(lambda: [variant.step() for _ in range(2)], device))


def assert_change(losses: Losses) -> None:
    """Raise AssertionError if a loss hardly changes over the steps, because it then does not test the gradients."""
    for name in losses[0]:
        change = abs(losses[-1][name] / losses[0][name] - 1)
        assert change > LEAST_CHANGE or not name.endswith("loss"), f"{name} hardly changes: {losses}"


def compare(method: str, options: argparse.Namespace, device: torch.device) -> None:
    """Compare and time the steps of a method, and print its tables."""
    names = [PLAIN, OURS] + [MIXED] * (options.precision == "bf16-mixed")
    memory = peaks_within(method, names)
    variants = {name: STEPS[f"{method}/{name}"](options, device) for name in names}
    losses = {name: [variant.step() for _ in range(options.steps)] for name, variant in variants.items()}
    assert_equal_losses(losses[PLAIN], losses[OURS], TOLERANCE)
    assert_change(losses[PLAIN])
    times = alternate({name: variant.step for name, variant in variants.items()}, options.repeats, device, warm_up=0)
    batch, crop = size_of(method, options)
    rows = comparison(times, memory, PLAIN, batch)
    print(f"\n{TITLES[method]}: ResNet-38 of width {options.width:g}, batch {batch}, crop {crop}; losses of", end=" ")
    print(f"{options.steps} steps agree (relative tolerance {TOLERANCE:g})")
    print(table((TITLES[method], "ms/image", "ratio", "peak MiB", "ratio"), rows))
    print()
    print(loss_table(losses))
    if method == "acr":
        print()
        print(compare_layers(options, device))


def arguments() -> argparse.Namespace:
    """Read the command line; the default sizes depend on the device and the method."""
    options = parser(__doc__, repeats=2)
    options.add_argument("--method", choices=list(TITLES), help="method to measure (default: both)")
    options.add_argument("--width", type=float, help="factor of ResNet-38's channels (default: 0.25, on CUDA 1)")
    options.add_argument("--batch", type=int, help="images per step (default: OC-CSE 2, ACR 1; on CUDA 8)")
    options.add_argument("--crop", type=int, help="side of the images (default: 128; on CUDA the papers' 384 and 256)")
    options.add_argument("--steps", type=int, default=3, help="number of compared steps, at least 2 (default: 3)")
    options.add_argument(
        "--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="bf16-mixed adds a variant"
    )
    return choose_sizes(options.parse_args(), width=(0.25, 1.0))


def main() -> None:
    """Compare, then time, then print the tables."""
    options = arguments()
    device = begin(options)
    compute_exactly(device)
    if options.measure:
        measure_peak(options.measure, options, device)
        return
    print(f"{machine(device)}; {options.repeats} turns")
    for method in [options.method] if options.method else TITLES:
        compare(method, options, device)


if __name__ == "__main__":
    main()
