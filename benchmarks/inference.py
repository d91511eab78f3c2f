"""Multi-scale class activation maps: the library's inference against one image, one view and all classes at a time.

Ours is wsss_lib.stages.infer.infer. It puts images of one size in one batch, passes a view together with its mirror
image, adds their maps before enlarging, and enlarges only the classes that an image shows. The plain version does what
AffinityNet's infer_cls.py does. It takes one image at a time, passes each view and each mirrored view separately,
enlarges the maps of all classes to the image's size, copies them to NumPy, multiplies them by the labels, mirrors them
back and adds them. Both use the same network with random weights and the same resizing, and write no files. The maps,
before rounding to 16 bits, must agree within 1e-3 (they are in [0, 1)).

Columns: images per second, from the median of the turns; ratio: speed-up over plain in the same turn, median; peak MiB:
growth of memory above network and images, measured in a separate process (memory allocated by PyTorch on CUDA, resident
memory on a CPU); ratio: peak of plain over this peak.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    Blobs,
    alternate,
    begin,
    choose_sizes,
    machine,
    parser,
    peak_of,
    peaks,
    print_peak,
    speed_up,
    statistics_of_a_batch,
    table,
)
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import view
from wsss_lib.methods.cam import CAM, Config
from wsss_lib.models import BACKBONES
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.infer import infer
from wsss_lib.stages.store import CamStore

PLAIN, OURS = "plain", "ours"

Maps = dict[str, np.ndarray]
"""``(n, H, W)`` float32 maps of the classes that an image shows, by its id."""


class MemoryStore(CamStore):
    """A store that keeps the maps in memory without rounding, and writes no file."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.maps: Maps = {}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.maps

    def write(self, image_id: str, classes: Tensor, cams: Tensor) -> None:  # noqa: ARG002
        """Keep the maps of one image."""
        self.maps[image_id] = cams.cpu().numpy()


class SingleViews(TorchDataset[list[Tensor]]):
    """The views of each image, each followed by its mirror image, as batches of one.

    Args:
        data: Data set with the images.
        method: Method that the views are for.
    """

    def __init__(self, data: Dataset, method: CAM) -> None:
        self.data = data
        self.normalise = method.backbone.normalisation
        self.config = method.config

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> list[Tensor]:
        multiple = self.config.view_multiple or None
        views = [view(self.data.image(index), scale, self.normalise, multiple) for scale in self.config.scales]
        return [x[None] for plain in views for x in (plain, plain.flip(-1))]


def run_plain(method: CAM, data: Dataset, fabric: Fabric, workers: int) -> Maps:
    """Return the maps of all images, computed one image and one view at a time."""
    method.train(False)
    loader = DataLoader(SingleViews(data, method), batch_size=None, num_workers=workers)
    results = {}
    for index, views in enumerate(loader):
        label = data.labels[index].numpy()[:, None, None]
        total = sum(one_view(method, x, i % 2 == 1, data.size(index), label, fabric) for i, x in enumerate(views))
        normalised = total / (total.max(axis=(1, 2), keepdims=True) + 1e-5)
        results[data.ids[index]] = normalised[label.ravel() > 0]
    return results


@torch.no_grad()
def one_view(
    method: CAM, image: Tensor, mirrored: bool, size: Sequence[int], label: np.ndarray, fabric: Fabric
) -> np.ndarray:
    """Return the ``(K, H, W)`` maps of one view at the size of the image; maps of absent classes are 0."""
    with fabric.autocast():
        maps = method.cam(fabric.to_device(image)).float()
    full = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)[0]
    values = full.cpu().numpy() * label
    return np.flip(values, axis=-1) if mirrored else values


def run_ours(method: CAM, data: Dataset, fabric: Fabric, workers: int) -> Maps:
    """Return the maps of all images, computed by the library."""
    store = MemoryStore()
    infer(method, data, store, Context(fabric, method.backbone.normalisation, workers))
    return store.maps


RUN = {PLAIN: run_plain, OURS: run_ours}


def make_method(options: argparse.Namespace) -> CAM:
    """Build the method with random weights and statistics that keep its activations in bounds."""
    torch.manual_seed(0)
    config = Config(
        backbone=options.backbone,
        backbone_options={} if options.width == 1 else {"width": options.width},
        pretrained=False,
        scales=tuple(options.scales),
        view_multiple=options.view_multiple,
    )
    method = CAM(config, options.classes)
    with statistics_of_a_batch(method.network):
        method.network(torch.randn(2, 3, 96, 96))
    method.backbone.freeze()
    method.network.to(options.device)
    return method


def assert_equal(ours: Maps, plain: Maps) -> None:
    """Raise AssertionError unless both have the same images, with maps that agree within 1e-3."""
    assert ours.keys() == plain.keys()
    for image_id, maps in ours.items():
        np.testing.assert_allclose(maps, plain[image_id], rtol=0, atol=1e-3, err_msg=image_id)


def arguments() -> argparse.Namespace:
    """Read the command line; some defaults depend on the device."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--images", type=int, help="number of images (default: 8, on CUDA 32)")
    options.add_argument("--height", type=int, help="height of landscape images (default: 141, on CUDA 375)")
    options.add_argument("--width-pixels", type=int, help="width of landscape images (default: 188, on CUDA 500)")
    options.add_argument("--classes", type=int, default=20, help="K (default: 20)")
    options.add_argument("--backbone", choices=sorted(BACKBONES), help="(default: mobilenet_v2, on CUDA resnet38d)")
    options.add_argument("--width", type=float, default=1.0, help="factor of the backbone's channels (default: 1)")
    options.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0, 0.5, 1.5, 2.0],
        help="scales of the views (default: 1 0.5 1.5 2)",
    )
    options.add_argument("--view-multiple", type=int, default=0, help="see wsss_lib's setting (default: 0)")
    options.add_argument("--precision", default="32-true", help="32-true (default), or bf16-mixed, for both versions")
    options.add_argument("--tf32", action="store_true", help="let CUDA round the factors of fp32 products to 10 bits")
    options.add_argument("--workers", type=int, default=0, help="processes that resize images, for both (default: 0)")
    return choose_sizes(
        options.parse_args(),
        images=(8, 32),
        height=(141, 375),
        width_pixels=(188, 500),
        backbone=("mobilenet_v2", "resnet38d"),
    )


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device = begin(options)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = options.tf32
    data = Blobs(options.images, options.height, options.width_pixels, options.classes)
    method = make_method(options)
    fabric = make_fabric(device.type, precision=options.precision)
    if options.measure:
        run = RUN[options.measure]
        print_peak(peak_of(lambda: run(method, data, fabric, options.workers), device))
        return

    memory = peaks(list(RUN))
    variants = {name: lambda run=run: run(method, data, fabric, options.workers) for name, run in RUN.items()}
    if options.precision == "32-true":
        assert_equal(variants[OURS](), variants[PLAIN]())
        agreed = "the maps are equal (absolute tolerance 1e-3)"
    else:
        agreed = "the maps were not compared: they are, with 32-true"
    times = alternate(variants, options.repeats, device, warm_up=0 if options.precision == "32-true" else 1)

    rows = []
    for name in variants:
        speed = len(data) / statistics.median(times[name])
        saved = f"{memory[PLAIN] / max(memory[name], 1e-3):.2f}x"
        rows.append((name, f"{speed:.2f}", f"{speed_up(times, PLAIN, name):.2f}x", f"{memory[name]:.0f}", saved))
    size = f"{options.width_pixels}x{options.height}"
    print(f"Multi-scale CAMs: {options.backbone}, {len(data)} images of {size}, {options.classes} classes")
    print(f"{machine(device)}, {options.precision}; {options.repeats} turns; {agreed}")
    print(table(("variant", "images/s", "ratio", "peak MiB", "ratio"), rows))


if __name__ == "__main__":
    main()
