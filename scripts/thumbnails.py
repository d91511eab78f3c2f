"""Cut the small pictures of README's course table out of the executed notebooks: docs/pictures/LESSON.jpg.

python scripts/thumbnails.py
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).parent.parent
SIZE = (400, 200)
CELLS = {
    "00_cam": "c26",
    "01_affinitynet": "a36",
    "01b_irn": "b24",
    "02_oc_cse": "cell-21",
    "03_acr": "cell-20",
    "04_pcss": "pcss06",
    "05_msal": "msal08",
    "06_compare": "cmp07",
    "07_use": "c17",
}
"""For each lesson, the cell whose first figure is shown."""


def main() -> None:
    """Write one JPEG for each lesson: the upper left part of its figure, twice as wide as high."""
    for stem, cell_id in CELLS.items():
        notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
        [cell] = [cell for cell in notebook.cells if cell.id == cell_id]
        shown = [output.data for output in cell.outputs if "data" in output]
        encoded = next(data[kind] for data in shown for kind in ("image/jpeg", "image/png") if kind in data)
        figure = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        height = min(290, figure.height, figure.width // 2)
        corner = figure.crop((0, 0, 2 * height, height))
        corner.resize(SIZE, Image.Resampling.LANCZOS).save(ROOT / "docs" / "pictures" / f"{stem}.jpg", quality=85)


if __name__ == "__main__":
    main()
