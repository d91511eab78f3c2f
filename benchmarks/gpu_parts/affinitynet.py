"""One training step of AffinityNet with ResNet-38: the library and a plain version of the authors' step.

The plain version gathers the features of both pixels of all pairs, and has a plain ResNet-38 and the authors' groups.
Both start from the same weights and draw the same dropout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from adversarial_step import DECAY, MOMENTUM, TOTAL_STEPS, PlainSGD
from common import PlainResNet38, plain_conv, statistics_of_a_batch
from pair_affinity import Inputs, pair_loss, plain_affinities
from torch import Tensor, nn

from wsss_lib.methods.affinitynet import AffinityNet, Config
from wsss_lib.models.affinity_net import AffinityNet as Network
from wsss_lib.ops.affinity import UNKNOWN, pair_labels
from wsss_lib.stages.engine import make_fabric

STRIDE, RADIUS = 8, 5
RATE = 3e-4
"""Learning rate at which rounding errors hardly grow in some steps, although the weights are random."""


class PlainNetwork(nn.Module):
    """AffinityNet without the library's optimisations.

    Args:
        network: Network whose weights and shapes are copied.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone = PlainResNet38(network.backbone)
        *reductions, last = (plain_conv(layer) for layer in network.new_layers)
        self.reductions, self.last = nn.ModuleList(reductions), last

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``(B, C, h, w)``."""
        taps = self.backbone(images).values()
        reduced = [F.elu(layer(tap)) for layer, tap in zip(self.reductions, taps, strict=True)]
        return F.elu(self.last(torch.cat(reduced, dim=1)))


def make_method(options: argparse.Namespace) -> AffinityNet:
    """Build the method with random weights and statistics that keep its activations in bounds; on the CPU."""
    torch.manual_seed(0)
    width = {"width": options.width}
    config = Config(
        backbone_options=width,
        network_options={"group_norm": False, **width},
        pretrained=False,
        crop_size=options.crop,
        learning_rate=RATE,
        weight_decay=DECAY,
        momentum=MOMENTUM,
    )
    method = AffinityNet(config, 20)
    with statistics_of_a_batch(method.network):
        method.network(torch.randn(2, 3, 64, 64))
    method.backbone.freeze()
    return method


def make_inputs(options: argparse.Namespace, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw noise ``(B, 3, S, S)`` and labels ``(B, S / 8, S / 8)`` uint8 in patches, a quarter of them unknown."""
    torch.manual_seed(1)
    images = torch.randn(options.batch, 3, options.crop, options.crop)
    labels = torch.tensor([0, 1, 2, UNKNOWN], dtype=torch.uint8)[torch.randint(0, 4, (options.batch, 8, 8))]
    side = options.crop // STRIDE
    where = torch.arange(side) * 8 // side
    return images.to(device), labels[:, where][:, :, where].contiguous().to(device)


def plain_step(options: argparse.Namespace, device: torch.device) -> Callable[[], dict[str, float]]:
    """Return the plain step."""
    network = PlainNetwork(make_method(options).network).to(device).train()
    new = [*(layer.weight for layer in network.reductions), network.last.weight]
    old = [layer.weight for layer in network.backbone.modules() if isinstance(layer, nn.Conv2d)]
    optimizer = PlainSGD(
        [
            {"params": old, "lr": RATE, "weight_decay": DECAY},
            {"params": new, "lr": 10 * RATE, "weight_decay": DECAY},
        ]
    )
    images, labels = make_inputs(options, device)

    def step() -> dict[str, float]:
        masks = [mask.float() for mask in pair_labels(labels, RADIUS)]
        features = network(images)
        loss = pair_loss(plain_affinities(features), Inputs(features, *masks))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    return step


def our_step(options: argparse.Namespace, device: torch.device, precision: str) -> Callable[[], dict[str, float]]:
    """Return the library's step."""
    method = make_method(options)
    method.setup(make_fabric(device.type, precision=precision), TOTAL_STEPS)
    method.train()
    images, labels = make_inputs(options, device)

    def step() -> dict[str, float]:
        masks = pair_labels(labels, RADIUS)
        return {"loss": float(method.update(images, *masks)["loss"])}

    return step
