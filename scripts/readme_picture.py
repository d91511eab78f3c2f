"""Draw README's picture: from a drawn image of `val` to the mask of the final network, each step beside the truth.

wsss fit preset=toy out=runs/readme        # about four minutes on two cores; any run with a final network will do
python scripts/readme_picture.py runs/readme docs/pictures/chain.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from wsss_lib.ops.cam import cam_label
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.report import choose_threshold
from wsss_lib.show import figures
from wsss_lib.stages.store import MaskStore


def main() -> None:
    """Read the arguments, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of 00_cam with a final network")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 1], help="positions of the images in val")
    arguments = parser.parse_args()
    run = reopen(arguments.run, guest=True)
    assert isinstance(run, CamRun)
    data = run.data("val")
    threshold, _ = choose_threshold({split: run.score(split) for split in ("train", "val")})
    network = min((run.folder / "segmentation").glob("crf-*"))
    crf = MaskStore(run.folder / "masks" / network.name / "val")
    final = MaskStore(network / "masks" / "segmentation-crf" / "val")
    rows = {}
    for index in arguments.images:
        image, image_id = data.image(index), data.ids[index]
        classes, maps = run.cams("val").read(image_id)
        masks = [
            cam_label(maps, classes, threshold),
            *(store.read(image_id, len(data.classes)) for store in (crf, final)),
        ]
        masks.append(torch.from_numpy(data.mask(index)))
        names = ", ".join(data.classes[k] for k in classes)
        shown = [figures.overlay(image, maps.amax(0).numpy()), *(figures.overlay_mask(image, m.numpy()) for m in masks)]
        rows[f"labels: {names}"] = [image, *shown]
    titles = ["picture", "class activation maps", "CAM seed", "after the CRF", "final network", "true mask"]
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    arguments.picture.write_bytes(figures.table_of_pictures(rows, titles, classes=data.classes).png())


if __name__ == "__main__":
    main()
