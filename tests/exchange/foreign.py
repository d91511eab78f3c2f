"""Maps of three pictures, written by hand in the form of each repository."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from tests.data.trees import save_image, save_mask

CLASSES = ("cat", "dog", "sofa", "boat")
SIZES = {"2007_000001": (20, 24), "2007_000002": (30, 18), "b": (16, 16)}
SHOWN = {"2007_000001": [0, 2], "2007_000002": [1], "b": [0, 1, 3]}


def expected(image_id, seed=0):
    """Classes and maps ``(n, H, W)`` float32 of a picture: multiples of 1/255 in [0, 1)."""
    rng = np.random.default_rng([seed, *image_id.encode()])
    values = rng.integers(0, 255, (len(SHOWN[image_id]), *SIZES[image_id]))
    return SHOWN[image_id], (values / 255).astype(np.float32)


def truth(image_id):
    """A mask of a picture: the first class in the left half, one row ignored."""
    mask = np.zeros(SIZES[image_id], np.uint8)
    mask[:, : mask.shape[1] // 2] = SHOWN[image_id][0] + 1
    mask[0] = 255
    return mask


def pictures(root):
    """Write pictures, masks and the names of the classes; return the folder of the pictures."""
    for number, (image_id, size) in enumerate(SIZES.items()):
        save_image(root / "pictures" / f"{image_id}.png", size, seed=number)
        save_mask(root / "masks" / f"{image_id}.png", truth(image_id))
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root / "pictures"


def _each(folder, write, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in SIZES:
        write(image_id, *expected(image_id, seed))
    return folder


def as_psa(folder, first=0, seed=0, dtype=np.float32):
    def write(image_id, classes, maps):
        np.save(folder / f"{image_id}.npy", {k + first: m.astype(dtype) for k, m in zip(classes, maps, strict=True)})

    return _each(folder, write, seed)


def as_psa_crf(folder):
    """Probabilities with a background under 0, as ``infer_cls.py`` writes after a CRF; maps are halved."""

    def write(image_id, classes, maps):
        maps = maps / len(maps)
        content = {0: 1 - maps.sum(0)} | {k + 1: m for k, m in zip(classes, maps, strict=True)}
        np.save(folder / f"{image_id}.npy", content)

    return _each(folder, write)


def as_irn(folder, background="none", tensors=True):
    """``keys`` and ``high_res`` at full and ``cam`` at stride 4; a background may be among the keys, or the maps."""

    def write(image_id, classes, maps):
        keys = torch.tensor(classes)
        if background in ("keys", "both"):
            keys = torch.nn.functional.pad(keys + 1, (1, 0))
        if background in ("maps", "both"):
            maps = np.concatenate([np.full((1, *maps.shape[1:]), 0.25, np.float32), maps])
        small = torch.from_numpy(maps[:, ::4, ::4].copy())
        np.save(
            folder / f"{image_id}.npy",
            {
                "keys": keys if tensors else keys.numpy(),
                "cam": small if tensors else small.numpy(),
                "high_res": maps,
            },
        )

    return _each(folder, write)


def as_irn_strided(folder, stride=4):
    def write(image_id, classes, maps):
        np.save(folder / f"{image_id}.npy", {"keys": np.array(classes), "cam": maps[:, ::stride, ::stride].copy()})

    return _each(folder, write)


def as_msal(folder):
    """All classes, with a map of the background that means nothing; those that are not shown are 0."""

    def write(image_id, classes, maps):
        planes = np.zeros((1, len(CLASSES) + 1, *maps.shape[1:]), np.float32)
        planes[0, 0] = 0.5
        planes[0, [k + 1 for k in classes]] = maps
        np.save(folder / f"{image_id}.npy", planes)

    return _each(folder, write)


def as_npz(folder):
    def write(image_id, classes, maps):
        np.savez(folder / f"{image_id}.npz", classes=np.array(classes), cams=(maps * 65_535).round().astype(np.uint16))

    return _each(folder, write)


def as_pictures(folder, bits=8, name=lambda k: CLASSES[k]):
    def write(image_id, classes, maps):
        for k, values in zip(classes, maps, strict=True):
            whole = (values * (255 if bits == 8 else 65_535)).round().astype(np.uint8 if bits == 8 else np.uint16)
            Image.fromarray(whole).save(folder / f"{image_id}_{name(k)}.png")

    return _each(folder, write)


def as_labels(folder):
    def write(image_id, classes, maps):
        labels = np.where(maps.max(0) > 0.5, np.array(classes)[maps.argmax(0)] + 1, 0).astype(np.uint8)
        save_mask(folder / f"{image_id}.png", labels)

    return _each(folder, write)
