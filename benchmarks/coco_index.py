"""Reading COCO's annotations: `json.load`, our first reading, and our second reading, which uses an index.

The file is random data with as many images and annotations as COCO 2014's training set, and polygons of twenty points.
All three ways must give the same labels.

Column: seconds of one reading.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import begin, machine, parser, seconds, table
from torch import Tensor

from wsss_lib.data.coco_annotations import CATEGORY_IDS, read_instances

IMAGES, ANNOTATIONS = 82_783, 604_907


def write_annotations(path: Path, images: int, annotations: int) -> None:
    """Write an instances JSON with random polygons."""
    rng = np.random.default_rng(0)
    owners, kinds = rng.integers(0, images, annotations), rng.integers(0, 80, annotations)
    points = rng.uniform(0, 640, (annotations, 40)).round(2)
    with path.open("w") as stream:
        stream.write('{"info": {}, "images": [')
        stream.write(", ".join(json.dumps({"id": i, "file_name": f"{i:012d}.jpg"}) for i in range(images)))
        stream.write('], "annotations": [')
        for i, (owner, kind, polygon) in enumerate(zip(owners.tolist(), kinds.tolist(), points.tolist(), strict=True)):
            annotation = {
                "segmentation": [polygon],
                "area": 100.0,
                "iscrowd": 0,
                "image_id": owner,
                "bbox": [0, 0, 1, 1],
            }
            stream.write(", " * (i > 0) + json.dumps({**annotation, "category_id": CATEGORY_IDS[kind], "id": i}))
        stream.write("]}")


def labels_of_json(path: Path) -> Tensor:
    """Return the labels ``(n, 80)`` with `json.load`."""
    content = json.loads(path.read_text())
    rows = {number: row for row, number in enumerate(sorted(image["id"] for image in content["images"]))}
    columns = {number: column for column, number in enumerate(CATEGORY_IDS)}
    labels = torch.zeros(len(rows), len(columns))
    for annotation in content["annotations"]:
        labels[rows[annotation["image_id"]], columns[annotation["category_id"]]] = 1.0
    return labels


READERS: dict[str, Callable[[Path], Tensor]] = {
    "json.load and a loop": labels_of_json,
    "read_instances, first": lambda path: read_instances(path).labels,
    "read_instances, again": lambda path: read_instances(path).labels,
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--images", type=int, default=IMAGES, help=f"images in the file (default: {IMAGES})")
    options.add_argument(
        "--annotations", type=int, default=ANNOTATIONS, help=f"annotations in the file (default: {ANNOTATIONS})"
    )
    return options.parse_args()


def main() -> None:
    """Make the file, read it in three ways, and print the table."""
    options = arguments()
    device = begin(options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train2014.json"
        write_annotations(path, options.images, options.annotations)
        rows, found = [], []
        for name, reader in READERS.items():
            labels: list[Tensor] = []
            time = seconds(lambda: labels.append(reader(path)), device)  # noqa: B023
            found += labels
            rows.append((name, f"{time:.1f}"))
        assert all(torch.equal(found[0], other) for other in found[1:]), "the labels differ"
        print(f"{machine(device)}; {path.stat().st_size / 2**20:.0f} MiB, {options.annotations} annotations")
        print(table(("labels of all images", "seconds"), rows))


if __name__ == "__main__":
    main()
