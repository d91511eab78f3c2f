"""One training step of the CAM classifier with ResNet-38, against a plain version of AffinityNet's step.

The plain version does what AffinityNet's code does. It has nn.BatchNorm2d in evaluation mode with frozen scale and
shift, a ReLU that keeps its input, the blocks of the paper, PyTorch's autograd, and the same four parameter groups,
momentum and polynomial schedule. Ours is wsss_lib's method `cam` through Lightning Fabric. Both versions start from the
same weights, get the same batch and draw the same dropout; both read the loss after each step.

Before the timing, the losses of `--steps` steps must agree within a relative tolerance of 1e-3, since rounding errors
grow from step to step. The row with bf16-mixed precision has no tolerance; its losses are only printed.

Columns: milliseconds per step, median of the turns; ratio: speed-up over plain in the same turn, median; peak MiB:
growth of memory during two steps, above network and batch, measured in a separate process (memory allocated by PyTorch
on CUDA, resident memory on a CPU); ratio: peak of plain over this peak; the losses.

The full size is `--device cuda --width 1 --crop 448 --batch 16`, which is the default on CUDA.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import (
    PlainResNet38,
    alternate,
    begin,
    choose_sizes,
    draw_labels,
    machine,
    parser,
    peak_of,
    peaks,
    plain_conv,
    print_peak,
    speed_up,
    statistics_of_a_batch,
    table,
)
from torch import Tensor, nn

from wsss_lib.methods.cam import CAM, Config
from wsss_lib.methods.method import Batch
from wsss_lib.models.resnet38d import ResNet38d
from wsss_lib.stages.engine import make_fabric

PLAIN, OURS, MIXED = "plain, fp32", "ours, fp32", "ours, bf16-mixed"
CLASSES, TOTAL_STEPS = 20, 10_000
LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 0.01, 5e-4, 5e-4

Step = Callable[[int], float]


# ----------------------------------------------------------------------------------------------------------- plain


class PlainClassifier(nn.Module):
    """ResNet-38 with its classifier, without the library's optimisations.

    Args:
        backbone: Network whose weights and shapes are copied.
        head: Head of the classifier, whose weights and shapes are copied.
        dropout: Probability of dropping a channel of the last features.
    """

    def __init__(self, backbone: ResNet38d, head: nn.Conv2d, dropout: float) -> None:
        super().__init__()
        self.backbone = PlainResNet38(backbone)
        self.dropout = nn.Dropout2d(dropout)
        self.head = plain_conv(head)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        x = self.dropout(self.backbone(images)["conv6"])
        x = F.avg_pool2d(x, kernel_size=x.shape[2:])
        return self.head(x).flatten(1)


def plain_groups(network: PlainClassifier) -> list[dict[str, object]]:
    """Return the authors' four groups: old and new weights, old and new biases; there are no biases here."""
    new = list(network.head.parameters())
    old = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer is not network.head]
    return [
        {"params": old, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": [], "lr": 2 * LEARNING_RATE, "weight_decay": 0},
        {"params": new, "lr": 10 * LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": [], "lr": 20 * LEARNING_RATE, "weight_decay": 0},
    ]


# ----------------------------------------------------------------------------------------------------------- steps


def make_method(width: float) -> CAM:
    """Build the method with random weights and statistics that keep its activations in bounds; on the CPU."""
    torch.manual_seed(0)
    config = Config(
        backbone="resnet38d",
        backbone_options={"width": width},
        pretrained=False,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        momentum=MOMENTUM,
    )
    method = CAM(config, CLASSES)
    with statistics_of_a_batch(method.network):
        method.network(torch.randn(2, 3, 64, 64))
    method.backbone.freeze()
    return method


def make_batch(options: argparse.Namespace, device: torch.device) -> Batch:
    """Make a batch of noise with one to three classes per image."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(options.batch, 3, options.crop, options.crop, generator=generator)
    labels = draw_labels(options.batch, CLASSES, generator)
    return Batch(images.to(device), labels.to(device), torch.arange(options.batch, device=device))


def plain_step(options: argparse.Namespace, device: torch.device) -> Step:
    """Return a function that does step t of the plain version and returns its loss."""
    method = make_method(options.width)
    network = PlainClassifier(method.backbone, method.network.head, method.config.dropout).to(device)
    network.train()
    optimizer = torch.optim.SGD(plain_groups(network), lr=LEARNING_RATE, momentum=MOMENTUM)
    rates = [group["lr"] for group in optimizer.param_groups]
    batch = make_batch(options, device)

    def step(t: int) -> float:
        torch.manual_seed(t)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - t / TOTAL_STEPS) ** 0.9
        loss = F.multilabel_soft_margin_loss(network(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(options: argparse.Namespace, device: torch.device, precision: str) -> Step:
    """Return a function that does step t with the library and returns its loss."""
    method = make_method(options.width)
    method.setup(make_fabric(device.type, precision=precision), TOTAL_STEPS)
    method.train()
    batch = make_batch(options, device)

    def step(t: int) -> float:
        torch.manual_seed(t)
        return float(method.step(batch)["loss"])

    return step


def make_step(name: str, options: argparse.Namespace, device: torch.device) -> Step:
    """Return the step function of a variant."""
    if name == PLAIN:
        return plain_step(options, device)
    return our_step(options, device, "bf16-mixed" if name == MIXED else "32-true")


def measure_peak(name: str, options: argparse.Namespace, device: torch.device) -> None:
    """Print the growth of memory in two steps of a variant; the first step makes the state of the optimiser."""
    step = make_step(name, options, device)
    print_peak(peak_of(lambda: [step(t) for t in range(2)], device))


# ------------------------------------------------------------------------------------------------------------ main


def arguments() -> argparse.Namespace:
    """Read the command line; the default sizes depend on the device."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--width", type=float, help="factor of all channels (default: 0.25, on CUDA 1)")
    options.add_argument("--crop", type=int, help="side of the images (default: 224, on CUDA 448)")
    options.add_argument("--batch", type=int, help="images per step (default: 4, on CUDA 16)")
    options.add_argument("--steps", type=int, default=3, help="number of compared steps (default: 3)")
    options.add_argument("--tf32", action="store_true", help="let CUDA round the factors of fp32 products to 10 bits")
    options.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="add a row with bf16-mixed (default: on CUDA only)"
    )
    return choose_sizes(options.parse_args(), width=(0.25, 1.0), crop=(224, 448), batch=(4, 16), bf16=(False, True))


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device = begin(options)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = options.tf32
    if options.measure:
        measure_peak(options.measure, options, device)
        return

    names = [PLAIN, OURS] + [MIXED] * options.bf16
    memory = peaks(names)
    steps = {name: make_step(name, options, device) for name in names}
    losses = {name: [step(t) for t in range(options.steps)] for name, step in steps.items()}
    tolerance = 1e-3
    torch.testing.assert_close(torch.tensor(losses[OURS]), torch.tensor(losses[PLAIN]), rtol=tolerance, atol=0)
    times = alternate({n: lambda s=s: s(options.steps) for n, s in steps.items()}, options.repeats, device)

    rows = []
    for name in names:
        milliseconds = f"{1000 * statistics.median(times[name]) / options.steps:.1f}"
        saved = f"{memory[PLAIN] / max(memory[name], 1e-3):.2f}x"
        shown = " ".join(f"{loss:.5f}" for loss in losses[name])
        rows.append((name, milliseconds, f"{speed_up(times, PLAIN, name):.2f}x", f"{memory[name]:.0f}", saved, shown))
    print(f"Training step: ResNet-38, width {options.width:g}, crop {options.crop}, batch {options.batch}")
    print(f"{machine(device)}; {options.repeats} turns; fp32 losses are equal (relative tolerance {tolerance:g})")
    print(table(("variant", "ms/step", "ratio", "peak MiB", "ratio", f"losses of {options.steps} steps"), rows))


if __name__ == "__main__":
    main()
