"""Time and memory of opening a run: the first time, the second time, and after one picture has changed.

The data are a folder in VOC's layout with labels in a text file, and a fortieth of the pictures in `val`. The pictures
are JPEGs of 64 x 64 pixels: 500 files and hard links to them, so that 82,783 pictures (the number of COCO's training
images) need little space. Files are read from the system's cache. Each opening runs in a separate process; importing
the library and PyTorch does not count.

Columns: seconds of each opening; files whose content was read; MiB: peak of the resident memory above that after the
import; images.json: size of this file in 10^6 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import begin, machine, parser, resident_peak, table
from PIL import Image

from wsss_lib.methods.cam import Config
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.settings import Settings
from wsss_lib.stages import contents

DISTINCT = 500
"""Number of files that are written; the other names are links to them."""
VAL_EVERY = 40
"""Number of pictures of which one belongs to `val`."""


def draw_tree(root: Path, count: int) -> None:
    """Write a folder in VOC's layout."""
    for folder in ("JPEGImages", "ImageSets/Segmentation", "first"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(min(DISTINCT, count)):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "first" / f"{i}.jpg")
    ids = [f"2020_{i:06d}" for i in range(count)]
    for i, name in enumerate(ids):
        os.link(root / "first" / f"{i % DISTINCT}.jpg", root / "JPEGImages" / f"{name}.jpg")
    parts = {"train": [x for i, x in enumerate(ids) if i % VAL_EVERY], "val": ids[::VAL_EVERY]}
    for split, part in parts.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(part) + "\n")
    (root / "image_labels.txt").write_text("".join(f"{x} {'cat' if i % 2 else 'dog'}\n" for i, x in enumerate(ids)))
    time.sleep(2.5)  # files that have just changed are read again; see wsss_lib.stages.contents


def open_once(root: Path, folder: Path) -> dict[str, float]:
    """Open the run in this process."""
    read = 0
    digest = contents.file_digest

    def counted(path: Path) -> str:
        nonlocal read
        read += 1
        return digest(path)

    contents.file_digest = counted
    before, start = resident_peak(), time.perf_counter()
    config = Config.preset("photos", "vgg16").replace(pretrained=False)
    CamRun(Settings("00_cam", "cam", "photos", config, folder, data_root=root, accelerator="cpu", workers=0))
    return {"seconds": time.perf_counter() - start, "read": read, "memory": resident_peak() - before}


def measure(root: Path, folder: Path) -> dict[str, float]:
    """Open the run in a process of its own."""
    command = [sys.executable, __file__, "--within", str(root), str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def row(count: int) -> list[str]:
    """Return the row of the table for a number of pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        root, folder = Path(temporary) / "data", Path(temporary) / "run"
        draw_tree(root, count)
        first, again = measure(root, folder), measure(root, folder)
        (root / "JPEGImages" / "2020_000001.jpg").touch()  # the time of all links to this file changes
        changed = measure(root, folder)
        size = (folder / "images.json").stat().st_size / 1e6
    cells = [f"{count:,}"]
    for one in (first, again, changed):
        cells += [f"{one['seconds']:.2f}", f"{one['read']:,}"]
    return [*cells, f"{max(one['memory'] for one in (first, again, changed)):.0f}", f"{size:.1f}"]


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    device = begin(options)
    head = ["pictures", "first s", "read", "again s", "read", "one changed s", "read", "MiB", "images.json MB"]
    print(machine(device))
    print(table(head, [row(count) for count in options.pictures]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--within"]:
        print(json.dumps(open_once(*map(Path, sys.argv[2:4]))))
    else:
        arguments = parser(__doc__, repeats=1)
        arguments.add_argument("--pictures", type=int, nargs="+", default=[1_000, 10_000, 82_783])
        main(arguments.parse_args())
