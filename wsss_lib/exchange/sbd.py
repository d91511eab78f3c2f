"""SBD's masks as PNGs in ``SegmentationClassAug``, with which papers train networks as upper bounds.

Hariharan et al., "Semantic Contours from Inverse Detectors" (ICCV 2011), annotated 11,355 images of VOC 2011 and
store the masks in MATLAB files. In ``SegmentationClassAug`` an image has the official mask of VOC, with its border of
255, if there is one; otherwise it has SBD's mask, which has no border. These masks are for
scores and upper bounds only.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from wsss_lib.data.files import files_by_stem, write_atomically, write_mask
from wsss_lib.data.voc import VOC_CLASSES
from wsss_lib.errors import InputError
from wsss_lib.show.progress import bar
from wsss_lib.stages.evaluate import ahead

_PLACES = ("", "cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")


def read_sbd(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the mask of one image from SBD's folder ``cls``.

    Args:
        path: A ``.mat`` file with ``GTcls.Segmentation``.

    Returns:
        ``(H, W)`` uint8: 0 background, 1..20 VOC's classes.

    Raises:
        InputError: The file is missing, damaged, or does not hold such a mask.
    """
    try:
        content = loadmat(os.fspath(path), variable_names=["GTcls"], squeeze_me=True, struct_as_record=False)
        mask = np.asarray(content["GTcls"].Segmentation)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a file of SBD's folder cls.") from None
    except (KeyError, AttributeError):
        raise InputError(f"{path} has no GTcls.Segmentation; give a file of SBD's folder cls, not of inst.") from None
    except Exception as error:  # SciPy reports damage in many ways
        raise InputError(f"{path} cannot be read as a MATLAB file ({error}); copy it again.") from None
    whole = mask.ndim == 2 and mask.dtype.kind in "biuf" and bool(np.isin(mask, np.arange(len(VOC_CLASSES) + 1)).all())
    if not whole:
        raise InputError(f"{path} does not hold a mask of VOC's 20 classes; give a file of SBD's folder cls.")
    return mask.astype(np.uint8)


def make_sbd_masks(sbd: str | os.PathLike[str], voc: str | os.PathLike[str]) -> tuple[int, int]:
    """Write the missing masks of ``SegmentationClassAug``.

    Args:
        sbd: The folder of SBD: ``benchmark_RELEASE``, the folder around it, or a folder in it that has ``cls``.
        voc: The folder of VOC 2012, with ``SegmentationClass``; ``SegmentationClassAug`` is made in it.

    Returns:
        Number of the masks that were written, and of those that were there already.

    Raises:
        InputError: A folder is missing, or a file is damaged.
    """
    voc = Path(voc)
    mats = next((found for place in _PLACES if (found := files_by_stem(Path(sbd) / place, (".mat",)))), None)
    if mats is None:
        raise InputError(f"{sbd} has no folder cls with .mat files; give the folder of SBD.")
    official = files_by_stem(voc / "SegmentationClass", (".png",))
    if not official:
        raise InputError(f"{voc} has no folder SegmentationClass with masks; give the folder of VOC 2012.")
    target = voc / "SegmentationClassAug"
    target.mkdir(exist_ok=True)
    there = {path.stem for path in target.glob("*.png")}
    todo = sorted((official.keys() | mats.keys()) - there)

    def make(image_id: str) -> None:
        path = target / f"{image_id}.png"
        if image_id not in official:
            write_mask(path, read_sbd(mats[image_id]), durable=False)
            return
        content = official[image_id].read_bytes()
        write_atomically(path, lambda file: file.write(content), durable=False)

    with ThreadPoolExecutor(4) as pool:
        for _ in bar(ahead(pool, make, todo), "masks of SBD", len(todo)):
            pass
    return len(todo), len((official.keys() | mats.keys()) & there)
