"""Masks of new pictures: predict_folder against a plain loop, its peak memory by size, and ONNX against PyTorch.

The network is EfficientNet-Lite0's segmentation network of the preset photos with random weights and 20 classes. Both
ways read JPEGs of mixed sizes, look at each at the model's three sizes and mirrored, and write palette PNGs. The plain
way takes one picture after the other and every view in a pass of its own. The masks of both may differ in one pixel of
a thousand. The second table has what memory grows by while one picture passes, in a process of its own. In the third,
both compute probabilities and labels of one picture of 375 × 500 pixels at its own size; they may differ by 1e-3.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import alternate, begin, forget_peak, machine, parser, peak_of, peaks, print_peak, table
from PIL import Image

from wsss_lib.data.files import voc_palette, write_mask
from wsss_lib.data.transforms import to_tensor
from wsss_lib.methods.segmentation import Config, create_network
from wsss_lib.use.model import About, Model
from wsss_lib.use.onnx import Portable, export_onnx
from wsss_lib.use.predict import predict_folder

SIZES = ((375, 500), (333, 500), (500, 375), (375, 500), (281, 500), (500, 333))
MEGAPIXELS = ("0.2", "1", "12")


def random_model() -> Model:
    """Return a model with random weights."""
    torch.manual_seed(0)
    config = Config.preset("photos", "efficientnet_lite0").replace(pretrained=False)
    classes = tuple(f"class {k}" for k in range(20))
    network = create_network(config, len(classes))
    about = About(config, classes, voc_palette(), network.backbone.normalisation, {}, {}, [], "random weights")
    return Model(network, about, "cpu")


def write_pictures(folder: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Write JPEGs of blobs, each of a height and a width."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i, (height, width) in enumerate(sizes):
        blobs = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        blobs.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.jpg", quality=90)


@torch.inference_mode()
def plain_loop(model: Model, folder: Path, out: Path) -> None:
    """Write the masks of a folder, one picture and one view at a time."""
    out.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        images = model.about.normalisation(to_tensor(Image.open(path).convert("RGB")))[None]
        height, width = images.shape[2:]
        total = torch.zeros(1 + len(model.classes), height, width)
        for scale in model.about.config.scales:
            size = int(height * scale), int(width * scale)
            view = F.interpolate(images, size, mode="bilinear", align_corners=False)
            for mirrored in (False, True):
                logits = model.network.logits(view.flip(-1) if mirrored else view)
                logits = logits.flip(-1) if mirrored else logits
                found = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
                total += found[0].softmax(0)
        write_mask(out / f"{path.stem}.png", total.argmax(0).to(torch.uint8).numpy())


def assert_equal_masks(one: Path, other: Path) -> None:
    """Check that two folders hold the same masks, but for one pixel of a thousand."""
    paths = sorted(one.glob("*.png"))
    different = [(np.array(Image.open(p)) != np.array(Image.open(other / p.name))).mean() for p in paths]
    if not paths or not max(different) < 1e-3:
        raise SystemExit(f"masks differ in {max(different, default=1):.2%} of the pixels.")


def folders(model: Model, count: int, repeats: int) -> str:
    """Return the table of pictures per second."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_pictures(root / "pictures", [SIZES[i % len(SIZES)] for i in range(count)])
        turn = iter(range(10**6))
        variants: dict[str, Callable[[], object]] = {
            "plain": lambda: plain_loop(model, root / "pictures", root / "plain"),
            "ours": lambda: predict_folder(model, root / "pictures", root / f"ours{next(turn)}"),  # or all is there
        }
        times = alternate(variants, repeats, torch.device("cpu"), warm_up=0)
        assert_equal_masks(root / "plain", root / "ours0")
    rows = []
    for way, values in times.items():
        faster = statistics.median(p / v for p, v in zip(times["plain"], values, strict=True))
        rows.append([way, f"{count / statistics.median(values):.2f}", f"{faster:.2f}"])
    return table([f"{count} pictures", "pictures per second", "ratio"], rows)


def measure(megapixels: float, model: Model) -> float:
    """Return by how many MiB memory grows at its peak while a picture passes."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
        write_pictures(root / "pictures", [(height, round(height * 4 / 3))])
        forget_peak()
        return peak_of(lambda: predict_folder(model, root / "pictures", root / "out"), torch.device("cpu"))


def runtimes(model: Model, repeats: int) -> str:
    """Return the table of ONNX and PyTorch."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as name:
        about = model.about
        path = export_onnx(model.network, about.normalisation, about.classes, Path(name) / "network.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    portable = Portable(model.network, about.normalisation)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 375, 500, 3), dtype=np.uint8)

    def of_pytorch() -> np.ndarray:
        with torch.inference_mode():
            return portable(torch.from_numpy(pixels))[0].numpy()

    def of_onnx() -> np.ndarray:
        return session.run(None, {"pixels": pixels})[0]

    apart = float(np.abs(of_pytorch() - of_onnx()).max())
    if not apart < 1e-3:
        raise SystemExit(f"ONNX and PyTorch differ by {apart:.2g}.")
    times = alternate({"PyTorch": of_pytorch, "onnxruntime": of_onnx}, max(5, repeats), torch.device("cpu"))
    rows = []
    for way, values in times.items():
        faster = statistics.median(p / v for p, v in zip(times["PyTorch"], values, strict=True))
        rows.append([way, f"{1000 * statistics.median(values):.0f}", f"{faster:.2f}"])
    return table([f"one picture, apart by {apart:.1e}", "milliseconds", "ratio"], rows)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--pictures", type=int, default=24, help="how many pictures of mixed sizes (default: 24)")
    return options.parse_args()


def main() -> None:
    """Print the tables."""
    options = arguments()
    device = begin(options)
    if device.type != "cpu":
        raise SystemExit("this benchmark is about the CPU; leave --device out.")
    model = random_model()
    if options.measure:
        print_peak(measure(float(options.measure), model))
        return
    print(machine(device))
    print(folders(model, options.pictures, options.repeats))
    rows = [[f"{size} megapixels", f"{peak:,.0f}"] for size, peak in peaks(MEGAPIXELS).items()]
    print(f"\n{table(['one picture', 'peak MiB'], rows)}")
    print(f"\n{runtimes(model, options.repeats)}")


if __name__ == "__main__":
    main()
