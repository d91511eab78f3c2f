"""The list of what is refused: every bad input gives one sentence that names it and says what to do.

The rows are run in this process, and some of them again as users would, with papermill.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.data import trees
from tests.notebooks.test_headless import ROOT, papermill
from tests.runs.small import open_run as open_cam
from tests.runs.small import sentence_of, silent, tiny_config
from tests.stages.test_evaluate import binary, scored_run
from wsss_lib import __main__ as command
from wsss_lib.data.dataset import Dataset
from wsss_lib.data.folder import load_folder
from wsss_lib.models import create_backbone
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.ops import dense_crf
from wsss_lib.runs import kinds
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.provenance import network_digest
from wsss_lib.stages.store import CamStore, ScoreStore, read_checkpoint, write_checkpoint

METHODS = {
    "00_cam": "cam",
    "01_affinitynet": "affinitynet",
    "01b_irn": "irn",
    "02_oc_cse": "oc_cse",
    "03_acr": "acr",
    "04_pcss": "pcss",
    "05_msal": "msal",
}
LONG = "x" * 300
FEW = {"accelerator": "cpu", "limit": 4}


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        act: Function that uses the bad input, in a folder.
        words: Words that the sentence must contain; ``{}`` is the folder.
        make: Makes the input in the folder.
        claims: Whether there may be a run in the folder.
        notebook: The notebook in which it can also be tried.
        values: Its parameters there.
    """

    act: Callable[[Path], object]
    words: tuple[str, ...]
    make: Callable[[Path], object] | None = None
    claims: bool = False
    notebook: str = ""
    values: tuple[tuple[str, object], ...] = ()


def filled(values, folder: Path) -> dict[str, object]:
    """Put the folder for ``{}``."""
    return {name: v.replace("{}", str(folder)) if isinstance(v, str) else v for name, v in values}


def opening(notebook: str, *words: str, make: Callable[[Path], object] | None = None, **values: object) -> Case:
    """Parameters of a notebook, and the opening of the run."""

    def act(folder: Path) -> object:
        given = {**FEW, "out": f"{folder}/run", **filled(values.items(), folder)}
        return kinds.open_run(read_parameters(notebook, METHODS[notebook], given))

    return Case(act, words, make, notebook=notebook, values=tuple(values.items()))


def injected(notebook: str, line: str, *words: str) -> Case:
    """A parameter that papermill puts into a notebook."""
    cells = ["", 'preset: str = "toy"  # which', f"# Parameters\n{line}"]
    return Case(lambda _: read_parameters(notebook, METHODS[notebook], {"In": cells}), words)


def stage(name: str, *words: str, make: Callable[[Path], object], arguments: tuple[str, ...] = ()) -> Case:
    """A stage of a run that has been opened before something happened to its files."""
    return Case(lambda folder: getattr(kinds.reopen(folder / "run"), name)(*arguments), words, make, claims=True)


def reopening(*words: str, make: Callable[[Path], object]) -> Case:
    """A folder that ought to hold a run."""
    return Case(lambda folder: kinds.reopen(folder / "run"), words, make, claims=True)


# ------------------------------------------------------------------------------------------------------ how it is made


def voc(change: Callable[[Path], object], labels: str = "txt") -> Callable[[Path], object]:
    return lambda folder: change(trees.voc_tree(folder / "data", labels))


def coco(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: change(trees.coco_splits_tree(folder / "data"))


def own(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: change(trees.folder_tree(folder / "data"))


def text(name: str, content: str) -> Callable[[Path], object]:
    """Write a file."""
    return lambda root: trees.write(root / name, content)


def gone(name: str) -> Callable[[Path], object]:
    """Remove a file or folder."""
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def cut(name: str) -> Callable[[Path], object]:
    """Keep the first half of a file."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[: (root / name).stat().st_size // 2])


def saved(name: str, content: Callable[[], object]) -> Callable[[Path], object]:
    return lambda folder: torch.save(content(), folder / name)


def halved_file(folder: Path) -> None:
    saved("net.pth", lambda: {"weight": torch.zeros(100)})(folder)
    cut("net.pth")(folder)


def photos_with_weights(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        trees.voc_tree(folder / "data")
        change(folder)

    return make


def imagenet(folder: Path) -> None:
    """Weights, though random ones, of the backbone that the preset ``photos`` has."""
    saved("net.pth", lambda: create_backbone("efficientnet_lite0").state_dict())(folder)


def other_seed(folder: Path) -> None:
    open_cam(folder / "other", tiny_config(epochs=1), seed=1, limit=4)


def run_with(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A run of 00_cam to which something happens."""

    def make(folder: Path) -> None:
        open_cam(folder / "run", tiny_config(epochs=1), limit=4)
        change(folder / "run")

    return make


def maps(change: Callable[[CamStore, object], object]) -> Callable[[Path], object]:
    """Maps of all images of ``val``, one of which is spoilt."""

    def make(folder: Path) -> None:
        run = open_cam(folder / "run", tiny_config(epochs=1, scales=(1.0,)), limit=4)
        data, store = run.data("val"), run.cams("val")
        for index, image_id in enumerate(data.ids):
            classes = data.labels[index].nonzero().flatten()
            store.write(image_id, classes, torch.zeros(len(classes), *data.size(index)))
        change(store, data)

    return make


def broken_maps(store: CamStore, data: Dataset, value: float = math.nan) -> None:
    """Write maps as the library itself would not."""
    classes = data.labels[0].nonzero().flatten().numpy()
    np.savez(store.path(data.ids[0]), classes=classes, cams=np.full((len(classes), *data.size(0)), value, np.float16))


def trained(folder: Path) -> dict:
    open_cam(folder / "run", tiny_config(epochs=1, batch_size=4, scales=(1.0,)), limit=4).train(silent)
    (folder / "run" / "seconds.json").unlink()  # what is tried next takes its time, too
    return read_checkpoint(folder / "run" / "checkpoint.pt")


def flip_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def spoilt_checkpoint(folder: Path) -> None:
    trained(folder)
    flip_middle(folder / "run" / "checkpoint.pt")


def broken_checkpoint(folder: Path) -> None:
    state = trained(folder)
    state["method"]["networks"]["network"]["head.weight"][0] = math.nan
    write_checkpoint(folder / "run" / "checkpoint.pt", state)


def overflowing(folder: Path) -> None:
    """All weights are finite, what they make of an image is not."""
    state = trained(folder)
    for value in state["method"]["networks"]["network"].values():
        if value.ndim > 1:
            value.mul_(1e12)
    state["networks"] = network_digest(state["method"]["networks"])  # as if training had ended so
    write_checkpoint(folder / "run" / "checkpoint.pt", state)


def flipped_weights(folder: Path) -> None:
    imagenet(folder)
    flip_middle(folder / "net.pth")


def half_safetensors(folder: Path) -> None:
    safetensors.torch.save_file(
        create_backbone("efficientnet_lite0").to(memory_format=torch.contiguous_format).state_dict(), folder / "net.pth"
    )
    cut("net.pth")(folder)


def spoilt_mask(folder: Path) -> None:
    run = open_cam(folder / "run", tiny_config(epochs=1), limit=4)
    for index, image_id in enumerate(run.data("val").ids):
        run.masks("crf-4", "val").write(image_id, torch.full(run.data("val").size(index), 3 + 200 * (index > 1)).byte())


def score_crf(folder: Path) -> object:
    run = kinds.reopen(folder / "run")
    return run.score_masks({"crf-4": run.masks("crf-4", "val")}, "val")


def drawn_masks(folder: Path, value: int) -> None:
    """A folder of one class, with maps of a run on it, whose masks show the class with a value."""
    binary(folder / "data", value)
    scored_run(folder / "data", folder / "run")
    (folder / "run" / "seconds.json").unlink()  # which changes with every try
    (folder / "run" / "images.json").unlink()  # which gets the time of files only when they are old enough


def bare_ids(root: Path) -> None:
    text("image_labels.txt", "\n".join(trees.VOC_IDS))(root)


def annotations(*names: str) -> Callable[[Path], object]:
    """Give every image an object of each name."""
    return lambda root: [
        trees.write(root / "Annotations" / f"{image_id}.xml", trees.voc_xml(*names)) for image_id in trees.VOC_IDS
    ]


def table(*labels: str) -> Callable[[Path], object]:
    """Give the three images of a folder of one's own these labels."""
    names = ("a cat.jpg", "b.png", "c.bmp")
    rows = [f'{name},"{cell}",{s}' for name, cell, s in zip(names, labels, ("train", "val", "train"), strict=True)]
    return text("labels.csv", "\n".join(["image,labels,split", *rows]))


def turned_photo(root: Path) -> None:
    """A photograph that a camera was turned for, and a mask of the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(root / "images" / "b.png", exif=exif)
    trees.save_mask(root / "masks" / "b.png", np.ones((20, 30), np.uint8))


def other_category(root: Path) -> None:
    path = root / "annotations/instances_train2014.json"
    content = json.loads(path.read_text()) | {"categories": [{"id": 18, "name": "helmet"}, {"id": 90, "name": "vest"}]}
    path.write_text(json.dumps(content))


PHOTOS = {"preset": "photos", "data_root": "{}/data"}
COCO = {"preset": "coco14", "data_root": "{}/data"}
WEIGHTS = {**PHOTOS, "weights": "{}/net.pth"}

# ------------------------------------------------------------------------------------------------------------- the list

CASES = {
    # values of parameters
    "00 a name that is none": injected("00_cam", "epoch = 3", "parameter epoch is unknown", "perhaps epochs is meant"),
    "00 a path that it does not use": injected("00_cam", 'cams = "x"', "parameter cams is unknown"),
    "00 a word for a number": opening("00_cam", "parameter epochs must be of type int", epochs="three"),
    "00 half an epoch": opening("00_cam", "parameter epochs must be of type int", epochs=0.5),
    "00 negative epochs": opening("00_cam", "parameter epochs must be at least 1", epochs=-1),
    "00 an unknown preset": opening("00_cam", "preset 'voc'", "choose one of toy", preset="voc"),
    "00 an unknown backbone": opening("00_cam", "backbone 'vgg19'", "choose one of", backbone="vgg19"),
    "00 scales that are not numbers": opening("00_cam", "parameter scales must be numbers", scales="large"),
    "00 too large scales": opening("00_cam", "parameter scales must hold numbers above 0 and up to 4", scales="1,40"),
    "00 too small crops": opening("00_cam", "parameter crop_size must be at least 32", crop_size=8),
    "00 crops beyond all memory": opening("00_cam", "parameter crop_size must be at most 4096", crop_size=10**6),
    "00 resized beyond all memory": opening("00_cam", "max_long_side must be at most 4096", max_long_side=10**9),
    "00 an infinite learning rate": opening("00_cam", "parameter learning_rate", learning_rate=float("inf")),
    "00 a seed that is too large": opening("00_cam", "parameter seed must be at most", seed=2**40),
    "00 an unknown accelerator": opening("00_cam", "accelerator 'tpu'", "choose one of auto", accelerator="tpu"),
    "00 an unknown precision": opening("00_cam", "precision '8'", "choose one of 32-true", precision="8"),
    "00 half precision on a CPU": opening("00_cam", "precision '16-mixed' needs CUDA", precision="16-mixed"),
    "00 no device": opening("00_cam", "parameter devices must be at least 1", devices=0),
    "00 too many devices": opening("00_cam", "parameter devices must be at most 64", devices=10**6),
    "00 too many workers": opening("00_cam", "parameter workers must be at most 256", workers=10**6),
    "00 weights for the toy world": opening("00_cam", "weights is given, but preset toy", weights="{}"),
    "00 no data": opening("00_cam", "preset 'photos' needs data", "data_root", preset="photos"),
    "01 a radius without neighbours": opening("01_affinitynet", "radius must be at least 2", radius=1),
    "01 an endless walk": opening("01_affinitynet", "walk_steps must be at most", walk_steps=10**9),
    "01 alphas in the wrong order": opening("01_affinitynet", "low_alpha is 50", "make it smaller", low_alpha=50.0),
    "01 an unknown border": opening("01_affinitynet", "border 'none'", "choose one of", border="none"),
    "01 an alpha of 0": opening("01_affinitynet", "parameter alphas must hold numbers above 0", alphas="0,4"),
    "01b a radius larger than the map": opening("01b_irn", "radius is 25", "24 × 24 cells", radius=25),
    "01b thresholds in the wrong order": opening("01b_irn", "more than object_threshold", background_threshold=0.5),
    "01b a score of the background above 1": opening("01b_irn", "background must be at most 1", background=1.5),
    "02 an unknown norm": opening("02_oc_cse", "mask_norm 'max'", "choose one of batch, image", mask_norm="max"),
    "02 an unknown optimiser": opening("02_oc_cse", "optimizer 'adam'", "choose one of", optimizer="adam"),
    "03 crops that cannot be halved": opening("03_acr", "crop_size 33", "give a multiple of", crop_size=33),
    "03 more than everything hidden": opening("03_acr", "grid_share must be at most 1", grid_share=1.5),
    "04 an unknown network": opening("04_pcss", "network 'v3'", "choose one of pcss", network="v3"),
    "04 phases for MCTformer": opening("04_pcss", "network v1 is MCTformer's", "set", network="v1", phase_weight=1.0),
    "04 a crop of half a patch": opening("04_pcss", "crop_size 100 is not a multiple of a patch, 8", crop_size=100),
    "04 a mirror that is none": opening("04_pcss", "mirror 'none'", "choose one of", mirror="none"),
    "04 shares of crops in the wrong order": opening("04_pcss", "crop_scale", "smaller one first", crop_scale="1,0.5"),
    "04 a block behind the last": opening("04_pcss", "merge_block 9 must leave a block of 4", merge_block=9),
    "05 crops between the cells": opening("05_msal", "crop_size 100 is not a multiple of 16", crop_size=100),
    "05 crops without cells": opening("05_msal", "crop_size 32", "give at least 48", crop_size=32),
    "05 patches that are not square": opening("05_msal", "patches 5 is not a square number", patches=5),
    "05 a backbone it cannot use": opening("05_msal", "backbone 'vgg16' cannot be used", "resnet50", backbone="vgg16"),
    "05 saliency without maps": opening("05_msal", "target saliency needs saliency maps", "name", target="saliency"),
    "05 maps without their use": opening("05_msal", "saliency is given, but target image", saliency="{}"),
    "05 maps of no image": opening(
        "05_msal", "{}/", "4 of 4 saliency maps", "give a folder", saliency="{}", target="saliency"
    ),
    # paths
    "data that are not there": opening(
        "00_cam", "data_root no/such does not exist", preset="photos", data_root="no/such"
    ),
    "data under an endless name": opening("00_cam", "data_root 'xxx", "too long", preset="photos", data_root=LONG),
    "data in a file": opening(
        "00_cam", "{}/file is not a folder", make=text("file", ""), preset="voc12", data_root="{}/file"
    ),
    "out under an endless name": opening("00_cam", "out 'xxx", "too long", out=LONG),
    "out with a zero in its name": opening("00_cam", "out 'a\\x00b' cannot be used", out="a\0b"),
    "out is a file": opening("00_cam", "out {}/file is a file", "give a folder", make=text("file", ""), out="{}/file"),
    "out lies in a file": opening(
        "00_cam", "{}/file/run", "cannot be written", make=text("file", ""), out="{}/file/run"
    ),
    "out of a stranger": opening("00_cam", "out ~nobody-at-all/x", "correct it", out="~nobody-at-all/x"),
    "out is the data": opening(
        "00_cam", "out {}/data is the folder of the data", make=own(lambda _: None), **{**PHOTOS, "out": "{}/data"}
    ),
    "out holds another run": opening("00_cam", "{}/other holds another run (", make=other_seed, out="{}/other"),
    "out holds something else": opening(
        "00_cam",
        "config.json is not the configuration of a run",
        "give another folder as out",
        out="{}/mine",
        resume=False,
        make=text("mine/config.json", '{"model_type": "bert"}'),
    ),
    # data in VOC's layout
    "VOC without images": opening("00_cam", "{}/data has no folder JPEGImages", make=voc(gone("JPEGImages")), **PHOTOS),
    "VOC without a list": opening(
        "00_cam", "train.txt does not exist", make=voc(gone("ImageSets/Segmentation/train.txt")), **PHOTOS
    ),
    "VOC with an empty list": opening(
        "00_cam", "val.txt lists no image", make=voc(text("ImageSets/Segmentation/val.txt", "\n")), **PHOTOS
    ),
    "VOC with an image twice": opening(
        "00_cam",
        "line 2: '2008_000004' is there already",
        **PHOTOS,
        make=voc(text("ImageSets/Segmentation/val.txt", "2008_000004\n2008_000004\n")),
    ),
    "VOC without one image": opening(
        "00_cam", "2008_000004.jpg is missing", make=voc(gone("JPEGImages/2008_000004.jpg")), **PHOTOS
    ),
    "VOC without labels": opening("00_cam", "no image-level labels", make=voc(lambda _: None, labels=""), **PHOTOS),
    "VOC with labels for others": opening(
        "00_cam", "image_labels.txt has no labels for", make=voc(text("image_labels.txt", "1 cat\n")), **PHOTOS
    ),
    "VOC with an unknown class": opening(
        "00_cam", "line 1: 'unicorn' is not a class", make=voc(text("image_labels.txt", "1 unicorn\n")), **PHOTOS
    ),
    "VOC with half an annotation": opening(
        "00_cam", "2007_000001.xml is not valid XML", make=voc(cut("Annotations/2007_000001.xml"), "xml"), **PHOTOS
    ),
    "VOC with half a dictionary": opening(
        "00_cam", "cls_labels.npy is not a dictionary", make=voc(cut("cls_labels.npy"), "npy"), **PHOTOS
    ),
    "VOC with labels that are none": opening(
        "00_cam",
        "labels.doc is not a source of labels",
        make=voc(text("labels.doc", "")),
        labels="{}/data/labels.doc",
        **PHOTOS,
    ),
    "VOC 2012 without train_aug": opening(
        "01_affinitynet", "has no train_aug.txt", make=voc(lambda _: None), **{**PHOTOS, "preset": "voc12"}
    ),
    # data in COCO's layout
    "COCO without annotations": opening(
        "04_pcss", "instances_train2014.json does not exist", make=coco(gone("annotations")), **COCO
    ),
    "COCO with half a file": opening(
        "04_pcss",
        "instances_val2014.json is not valid JSON",
        make=coco(cut("annotations/instances_val2014.json")),
        **COCO,
    ),
    "COCO with captions": opening(
        "05_msal",
        "not an instances file",
        "not that of captions",
        **COCO,
        make=coco(text("annotations/instances_val2014.json", '{"images": [{"id": 1}], "annotations": [{"id": 1}]}')),
    ),
    "COCO without a folder of images": opening(
        "05_msal", "neither a folder val2014 nor JPEGImages", make=coco(gone("val2014")), **COCO
    ),
    # a folder of one's own
    "folder with another table": opening(
        "02_oc_cse", "labels.csv begins with 'name;class'", make=own(text("labels.csv", "name;class\n")), **PHOTOS
    ),
    "folder with one row too long": opening(
        "02_oc_cse", "labels.csv, line 2", make=own(text("labels.csv", "image,labels\nb.png,cat,sofa\n")), **PHOTOS
    ),
    "folder without an image": opening("03_acr", "names 'b.png'", make=own(gone("images/b.png")), **PHOTOS),
    "folder without images": opening("03_acr", "images does not exist", make=own(gone("images")), **PHOTOS),
    "folder with an unknown class": opening(
        "03_acr", "is not in classes.txt", make=own(text("classes.txt", "dog\n")), **PHOTOS
    ),
    "folder without a split": opening(
        "00_cam",
        "no image of the split 'train'",
        **PHOTOS,
        make=own(
            lambda root: [
                gone("images/b.png")(root),
                gone("images/c.bmp")(root),
                text("labels.csv", "image,labels,split\na cat.jpg,cat,val\n")(root),
            ]
        ),
    ),
    # labels and masks that do not mean what they seem to
    "VOC with annotations of other classes": opening(
        "00_cam",
        "the 3 images of data train have no labels",
        "{}/data/Annotations holds the names 'helmet', 'vest'",
        "'aeroplane'",
        make=voc(annotations("helmet", "vest"), "xml"),
        **PHOTOS,
    ),
    "VOC with bare ids for labels": opening(
        "01_affinitynet", "{}/data/image_labels.txt names no class behind their ids", make=voc(bare_ids), **PHOTOS
    ),
    "VOC with a class in two spellings": opening(
        "02_oc_cse", "names the classes 'dog' and 'Dog'", make=voc(text("classes.txt", "dog\nDog\n")), **PHOTOS
    ),
    "VOC with masks under other names": opening(
        "03_acr",
        "{}/data/SegmentationClass holds no mask of any image, but",
        make=voc(
            lambda root: [
                path.rename(path.with_name(f"{path.stem}_mask.png")) for path in root.glob("Segmentation*/*.png")
            ]
        ),
        **PHOTOS,
    ),
    "folder without any label": opening(
        "04_pcss",
        "labels.csv names no class in their rows",
        make=own(lambda root: [text("classes.txt", "cat\n")(root), table("", "cat", "")(root)]),
        **PHOTOS,
    ),
    "folder with a class in two spellings": opening(
        "05_msal", "labels.csv names the classes 'Cat' and 'cat'", make=own(table("cat", "Cat", "sofa")), **PHOTOS
    ),
    "folder with a class in two Unicode forms": opening(
        "05_msal", "in case, blanks or Unicode form", make=own(table("k\u00e4fer", "ka\u0308fer", "sofa")), **PHOTOS
    ),
    "folder with labels behind commas": opening(
        "00_cam", "'cat,sofa' of 'a cat.jpg' looks like several", make=own(table("cat,sofa", "cat", "sofa")), **PHOTOS
    ),
    "folder with labels behind strokes": opening(
        "00_cam", "semicolons, cat;sofa", make=own(table("cat|sofa", "", "")), **PHOTOS
    ),
    "folder with labels behind slashes": opening(
        "00_cam", "semicolons, cat;sofa", make=own(table("cat/sofa", "cat", "sofa")), **PHOTOS
    ),
    "folder with labels behind blanks": opening(
        "00_cam", "semicolons, sofa;cat", make=own(table("sofa cat", "cat", "sofa")), **PHOTOS
    ),
    "folder with masks under other names": opening(
        "01_affinitynet",
        "{}/data/masks holds no mask of any image, but a cat_mask.png",
        make=own(lambda root: (root / "masks/a cat.png").rename(root / "masks/a cat_mask.png")),
        **PHOTOS,
    ),
    "folder with masks in another format": opening(
        "01_affinitynet",
        "{}/data/masks holds no mask of any image, but a cat.jpg",
        make=own(
            lambda root: [gone("masks/a cat.png")(root), trees.save_image(root / "masks/a cat.jpg", (20, 30), "L")]
        ),
        **PHOTOS,
    ),
    "folder with masks among the images": opening(
        "01_affinitynet",
        "images/b_mask.png has no labels",
        "if it is a mask, move it",
        make=own(lambda root: trees.save_image(root / "images/b_mask.png", (20, 30), "L")),
        **PHOTOS,
    ),
    "folder with labels from elsewhere": opening(
        "02_oc_cse",
        "labels {}/data/labels.csv is given, but",
        "leave labels out",
        make=own(lambda _: None),
        labels="{}/data/labels.csv",
        **PHOTOS,
    ),
    "COCO with labels from elsewhere": opening(
        "03_acr", "labels {}/data is given, but", make=coco(lambda _: None), labels="{}/data", **COCO
    ),
    "COCO with categories of other classes": opening(
        "03_acr", "category 18 ('helmet'), which is not one of the 80", make=coco(other_category), **COCO
    ),
    "00 masks of values that are none": opening(
        "00_cam",
        "mask_values '255=1' cannot be used",
        '"0:0,255:1"',
        make=own(lambda _: None),
        mask_values="255=1",
        **PHOTOS,
    ),
    "00 values of masks for the toy world": opening("00_cam", "mask_values is given, but", mask_values="255:1"),
    "a mask of an image that is turned": Case(
        lambda folder: load_folder(folder / "data", "val").mask(0),
        ("{}/data/masks/b.png is 20 x 30", "because the EXIF orientation of b.png turns it; turn the mask"),
        own(turned_photo),
    ),
    "masks of 0 and 255": stage(
        "score",
        "the masks of data val ({}/data/masks) cannot be scored",
        "mask_values",
        make=lambda folder: drawn_masks(folder, 255),
        arguments=("val",),
    ),
    # files of networks
    "weights that are cut off": opening(
        "00_cam", "{}/net.pth is damaged", make=photos_with_weights(halved_file), **WEIGHTS
    ),
    "weights that are a web page": opening(
        "03_acr", "{}/net.pth is a web page", make=photos_with_weights(text("net.pth", "<html></html>")), **WEIGHTS
    ),
    "weights with code": opening(
        "05_msal",
        "{}/net.pth contains code",
        "not executed",
        **WEIGHTS,
        make=photos_with_weights(saved("net.pth", lambda: {"hook": os.getcwd})),
    ),
    "weights in a folder": opening(
        "00_cam",
        "{}/net.pth is missing",
        **WEIGHTS,
        make=photos_with_weights(lambda folder: (folder / "net.pth").mkdir()),
    ),
    "weights of another network": opening(
        "00_cam",
        "{}/net.pth is probably for another network",
        **WEIGHTS,
        make=photos_with_weights(saved("net.pth", lambda: {"x": torch.zeros(1)})),
    ),
    "a checkpoint that is none": opening(
        "02_oc_cse",
        "{}/mine.pth is not a weight file",
        checkpoint="{}/mine.pth",
        **WEIGHTS,
        make=photos_with_weights(lambda folder: [imagenet(folder), text("mine.pth", "net")(folder)]),
    ),
    "an official network that is another": opening(
        "01_affinitynet",
        "{}/mine.pth is probably for another network",
        checkpoint="{}/mine.pth",
        **WEIGHTS,
        make=photos_with_weights(
            lambda folder: [imagenet(folder), saved("mine.pth", lambda: {"x": torch.zeros(1)})(folder)]
        ),
    ),
    "a superpixel network of another width": opening(
        "05_msal",
        "{}/net.pth is probably for another network",
        superpixels="{}/net.pth",
        make=saved("net.pth", lambda: SuperpixelNet(0.5).state_dict()),
    ),
    "superpixels of another run": opening(
        "05_msal", "superpixels {}/other is a run of cam", make=other_seed, superpixels="{}/other"
    ),
    "a classifier that is none": opening(
        "02_oc_cse", "{}/file is not a weight file", make=text("file", "net"), classifier="{}/file"
    ),
    "a classifier of a backbone": opening(
        "02_oc_cse",
        "{}/net.pth is probably for another network",
        classifier="{}/net.pth",
        make=saved("net.pth", lambda: create_backbone("mobilenet_v2").state_dict()),
    ),
    "a classifier in an empty folder": opening(
        "03_acr", "{}/config.json is missing", "give the folder of a run", classifier="{}"
    ),
    "a classifier of other data": opening(
        "03_acr", "classifier {}/other is a run on other data", make=other_seed, classifier="{}/other", limit=3
    ),
    "cams in a file": opening(
        "01_affinitynet", "{}/file is not a folder", "give the folder of a run", make=text("file", ""), cams="{}/file"
    ),
    "maps of other data": opening(
        "01_affinitynet", "cams {}/other is a run on other data", make=other_seed, cams="{}/other", limit=3
    ),
    "maps of a damaged run": opening(
        "01_affinitynet", "config.json is not valid JSON", make=text("s/config.json", "{"), cams="{}/s"
    ),
    # what happens to the files of a run
    "a folder without a run": reopening("config.json is missing", make=lambda folder: (folder / "run").mkdir()),
    "a configuration of a later version": reopening(
        "config.json does not fit wsss_lib",
        "unknown field drop",
        make=run_with(
            lambda run: text("config.json", (run / "config.json").read_text().replace("dropout", "drop"))(run)
        ),
    ),
    "a configuration with a word for a number": reopening(
        "(epochs is 'many'",
        make=run_with(
            lambda run: text(
                "config.json", (run / "config.json").read_text().replace('"epochs": 1', '"epochs": "many"')
            )(run)
        ),
    ),
    "a setting with a word for a number": reopening(
        "(workers is not of type int",
        make=run_with(
            lambda run: text(
                "config.json", (run / "config.json").read_text().replace('"workers": 0', '"workers": "few"')
            )(run)
        ),
    ),
    "a checkpoint that is cut off": stage(
        "train", "checkpoint.pt cannot be read", "remove it", make=run_with(text("checkpoint.pt", "PK"))
    ),
    "a checkpoint of another network": stage(
        "train",
        "checkpoint.pt is not one of this run",
        make=run_with(saved("checkpoint.pt", lambda: {"method": {"networks": [1]}, "history": []})),
    ),
    "a split that is none": stage(
        "infer", "split 'test'", "choose one of", make=run_with(lambda _: 0), arguments=("test",)
    ),
    "a refinement that is none": stage(
        "refine", "refinement 'walk'", "choose crf", make=run_with(lambda _: 0), arguments=("walk", "val")
    ),
    "maps that are missing": stage(
        "score",
        "val_0002.npz is missing",
        "run the inference",
        make=maps(lambda store, _: store.path("val_0002").unlink()),
        arguments=("val",),
    ),
    "maps that are cut off": stage(
        "score",
        "val_0001.npz is damaged",
        "remove it",
        make=maps(lambda store, _: cut("val_0001.npz")(store.folder)),
        arguments=("val",),
    ),
    "maps of another size": stage(
        "refine",
        "val_0000.npz is (5, 4) pixels",
        "remove it",
        arguments=("crf", "val"),
        make=maps(
            lambda store, data: store.write(
                "val_0000", data.labels[0].nonzero().flatten(), torch.zeros(int(data.labels[0].sum()), 5, 4)
            )
        ),
    ),
    "maps of other classes": stage(
        "score",
        "val_0000.npz has maps of the classes []",
        "remove it",
        arguments=("val",),
        make=maps(lambda store, _: store.write("val_0000", torch.zeros(0, dtype=torch.int64), torch.zeros(0, 96, 96))),
    ),
    "masks with values that are not classes": Case(
        score_crf, ("val_0002.png holds the value 203", "not a class"), spoilt_mask, claims=True
    ),
    # functions
    "more devices than there are": Case(
        lambda _: make_fabric("cuda", 10**6), ("cuda", "use 'cpu'") if not torch.cuda.is_available() else ("devices",)
    ),
    "scores of nothing": Case(lambda folder: ScoreStore(folder).read("x"), ("{}/x.npz is missing", "run")),
    # files of a run, and operators
    "a checkpoint with flipped bits": stage(
        "train", "checkpoint.pt cannot be read (the checksum", "remove it to train again", make=spoilt_checkpoint
    ),
    "a checkpoint of numbers that are none": stage(
        "infer", "NaN or infinite values in head.weight", "remove it", arguments=("val",), make=broken_checkpoint
    ),
    "maps that are not numbers": stage(
        "score",
        "val_0000.npz holds values that are not finite",
        "remove it",
        arguments=("val",),
        make=maps(broken_maps),
    ),
    "maps above 1": stage(
        "refine",
        "val_0000.npz holds values",
        "in [0, 1]",
        arguments=("crf", "val"),
        make=maps(partial(broken_maps, value=2.0)),
    ),
    "weights with flipped bits": opening(
        "00_cam", "net.pth is damaged", "download it again", make=photos_with_weights(flipped_weights), **WEIGHTS
    ),
    "safetensors that are cut off": opening(
        "00_cam", "net.pth is damaged", "download it again", make=photos_with_weights(half_safetensors), **WEIGHTS
    ),
    "a network that overflows": stage(
        "infer", "image val_0000", "is not kept", "precision 32-true", arguments=("val",), make=overflowing
    ),
    "pictures of 0-1 for a CRF": Case(
        lambda _: dense_crf.dense_crf([torch.rand(3, 4, 5)], [torch.rand(2, 4, 5)]),
        ("image 0 has", "give the image as uint8"),
    ),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """There are no usual runs and weights."""
    monkeypatch.chdir(tmp_path)


def test_the_list_is_long():
    assert len(CASES) >= 60
    assert {case.notebook for case in CASES.values()} >= METHODS.keys()


@pytest.mark.parametrize("name", CASES)
def test_refused(name, tmp_path):
    case = CASES[name]
    if case.make is not None:
        case.make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    message = sentence_of(lambda: case.act(tmp_path))
    for words in case.words:
        assert words.replace("{}", str(tmp_path)) in message
    assert re.search("; | must |choose|give", message), f"what is to be done? {message}"
    assert case.claims or not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob(".tmp-*"))
    assert all(path.read_bytes() == content for path, content in before.items())


COMMANDS = {
    "a folder without a run": (("nowhere", "train"), "nowhere is not a folder"),
    "a stage that is none": (("run", "trian"), "stage 'trian' is unknown; choose one of train, infer, refine."),
    "a stage without its split": (("run", "infer"), "the arguments of stage infer do not fit"),
    "a stage with too much": (("run", "train", "val"), "the arguments of stage train do not fit"),
    "maps before training data": (("run", "refine", "crf", "val"), ".npz is missing; run the inference first."),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_fails_with_a_sentence(name, tmp_path, monkeypatch, capsys):
    arguments, words = COMMANDS[name]
    open_cam(tmp_path / "run", tiny_config(epochs=1), limit=4)
    monkeypatch.setattr("sys.argv", ["wsss_lib", *arguments])
    assert command.main() == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("InputError: ")
    assert words in lines[0]
    assert lines[0].endswith(".")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("action", ["opening", "training"])
def test_a_folder_that_is_read_only(action, tmp_path):
    run = open_cam(tmp_path / "run", tiny_config(epochs=1), limit=8)
    run.folder.chmod(0o500)
    act = {"opening": lambda: kinds.reopen(run.folder), "training": lambda: run.train(silent)}[action]
    try:
        assert "choose a folder that you may write to" in sentence_of(act)
    finally:
        run.folder.chmod(0o700)


HEADLESS = (
    "weights that are cut off",
    "maps of other data",
    "01b a radius larger than the map",
    "a classifier of a backbone",
    "03 crops that cannot be halved",
    "04 phases for MCTformer",
    "a superpixel network of another width",
)
"""One for each notebook."""


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADLESS)
def test_refused_by_papermill(name, tmp_path):
    case = CASES[name]
    if case.make is not None:
        case.make(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    values = {**FEW, "out": f"{tmp_path}/run", **filled(case.values, tmp_path)}
    given = [part for key, value in values.items() for part in ("-p", key, str(value))]
    result = papermill(ROOT, f"notebooks/{case.notebook}.ipynb", tmp_path / "out.ipynb", *given)
    assert result.returncode != 0
    assert "InputError: " in result.stderr
    for words in case.words:
        assert words.replace("{}", str(tmp_path)) in result.stderr
    assert "wsss_lib/" not in result.stderr, "the stack of calls is shown"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {tmp_path / "out.ipynb"}


def test_every_notebook_refuses_headless():
    assert {CASES[name].notebook for name in HEADLESS} == METHODS.keys()
