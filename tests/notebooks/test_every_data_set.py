"""Every notebook comes to its end on every data set that may be given, however odd, and leaves its results.

The cells are executed in this process one after the other, as a kernel would do it, and every figure is drawn.
"""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import trees
from wsss_lib.methods import load_method
from wsss_lib.models import create_backbone
from wsss_lib.models.deit import DeiT
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.runs import with_classifier as adversarial
from wsss_lib.runs.kinds import reopen
from wsss_lib.show import figures, widgets

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
METHODS = {
    "00_cam": "cam",
    "01_affinitynet": "affinitynet",
    "01b_irn": "irn",
    "02_oc_cse": "oc_cse",
    "03_acr": "acr",
    "04_pcss": "pcss",
    "05_msal": "msal",
}
NARROW = {"width": 0.25}
LONG = 5 * "abcdefghijklmnopqrstuvwxyz0123456789 /+-" + "!"
FORMULA = r"a$\b$c"


def execute(name, show, **parameters):
    """Execute the cells of a notebook with those of the parameters that it has.

    Args:
        name: Name of the notebook.
        show: Called with whatever a kernel would display.
        parameters: Values of parameters.
    """
    names = {"display": show}
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type != "code":
            continue
        body, where = ast.parse(cell.source), f"{name} {cell.id}"
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, where, "exec"), names)  # noqa: S102, RUF100  # what a kernel does
        if last is not None:
            show(eval(compile(ast.Expression(last.value), where, "eval"), names))  # noqa: S307, RUF100
        if "parameters" in cell.metadata.get("tags", []):
            names.update({key: value for key, value in parameters.items() if key in names})


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: the bytes of figures, the text of tables."""
    kept = []

    def show(thing):
        if isinstance(thing, figures.Plot):
            thing.set_dpi(16)  # drawing takes most of the time
        for kind in ("_repr_png_", "_repr_jpeg_", "_repr_markdown_"):
            made = getattr(thing, kind, lambda: None)()
            if made is not None:
                kept.append(made[0] if isinstance(made, tuple) else made)  # a figure has its words beside it

    monkeypatch.setattr(widgets, "display", show)
    return show, kept


def save(root, name, labels, classes, mask=None):
    """A picture with a block of one colour for each class; `mask` is None, "true", or a value for all pixels."""
    size = (40, 56)
    pixels, truth = np.random.default_rng(ord(name[-1])).integers(0, 120, (*size, 3)), np.zeros(size, np.uint8)
    for n, label in enumerate(labels):
        block = slice(6, 30), slice(4 + 26 * n, 24 + 26 * n)
        pixels[block] += [[130, 0, 0], [0, 130, 0], [0, 0, 130]][classes.index(label)]
        truth[block] = 1 + classes.index(label)
    path = root / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    if mask is not None:
        trees.save_mask(root / "masks" / f"{name}.png", truth if mask == "true" else np.full(size, mask, np.uint8))


def tree(root, classes, rows):
    """A folder of one's own pictures; a row has the labels, the split and the mask of one."""
    lines = ["image,labels,split"]
    for i, (labels, split, mask) in enumerate(rows):
        save(root, f"p{i}", labels, classes, mask)
        lines.append(f"p{i}.png,{';'.join(labels)},{split}")
    trees.write(root / "labels.csv", "\n".join(lines) + "\n")
    trees.write(root / "classes.txt", "\n".join(classes) + "\n")
    return root


def odd_names(folder):
    """Odd names; the first pictures show no class, none of val just one, and some have masks."""
    a, b, c = FORMULA, LONG, "_c"
    rows = [([], "train", None), ([a], "train", "true"), ([b], "train", None), ([c, a], "train", "true")]
    rows += [([], "val", None), ([a, b], "val", "true"), ([c, b], "val", None)]
    return tree(Path(os.fsdecode(os.fsencode(folder) + b"/runs\xff/data\xfe")), [a, b, c], rows)


def three_pictures(folder):
    """Three pictures of one class, one of which shows nothing; neither val nor masks."""
    return tree(folder / "three", ["thing"], [([], "train", None), *2 * [(["thing"], "train", None)]])


def nothing_in_val(folder):
    """No picture of val shows a class, only those have masks, and of one of these all pixels are ignored."""
    rows = [(["a"], "train", None), (["b", "a"], "train", None), ([], "train", None)]
    return tree(folder / "nothing", ["a", "b"], [*rows, ([], "val", 255), ([], "val", "true")])


def masks_of_train(folder):
    """Only pictures of train have masks, one of them."""
    rows = [(["b"], "train", None), (["a"], "train", "true"), (["a"], "val", None)]
    return tree(folder / "masks", ["a", "b"], rows)


EXPECTED = {
    odd_names: (
        ("train", "val"),
        1,
        [
            "2 of the 4 images of train have masks; the others count in no score.",
            "1 of the 3 images of val have masks; the others count in no score.",
        ],
    ),
    three_pictures: (
        (),
        -1,
        ["Every image of val: also among the training images, so the scores of val say little about new images."],
    ),
    nothing_in_val: (
        ("val",),
        -1,
        ["train has no masks; the background threshold is 0.2, not the best on train."],
    ),
    masks_of_train: (("train",), 1, ["1 of the 2 images of train have masks; the others count in no score."]),
}
"""For each data set: the splits that are scored, whether more is trained to compare with, and what is said of it."""


def network_files(folder):
    """Networks with random weights, by notebook."""
    plain, mobile, transformer, pieces = (folder / name for name in ("net.pth", "mob.pth", "deit.pth", "pieces.tar"))
    torch.save(create_backbone("mobilenet_v2").state_dict(), mobile)
    torch.save(create_backbone("efficientnet_lite0", **NARROW).state_dict(), plain)
    head = {"head.weight": torch.zeros(1000, 384), "head.bias": torch.zeros(1000)}
    torch.save({"model": {**DeiT(1).state_dict(), **head}}, transformer)
    torch.save({"state_dict": SuperpixelNet().state_dict()}, pieces)
    return {
        **{name: {"weights": str(plain)} for name in METHODS},
        "01b_irn": {"weights": str(mobile)},
        "04_pcss": {"weights": str(transformer)},
        "05_msal": {"weights": str(plain), "superpixels": str(pieces)},
    }


@pytest.fixture
def narrow(monkeypatch):
    """The networks of the preset photos, thinner; and nobody asks whether one epoch has taught them anything."""
    for method in ("cam", "affinitynet", "oc_cse", "acr", "msal"):
        config = load_method(method).Config

        def for_preset(cls, name, backbone, usual=config.for_preset.__func__):
            return usual(cls, name, backbone).replace(backbone_options=NARROW)

        monkeypatch.setattr(config, "for_preset", classmethod(for_preset))
    monkeypatch.setattr(adversarial, "_MARGIN", -2.0)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)
def test_every_notebook(make, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (show, kept), root, files = shown, make(tmp_path), network_files(tmp_path)
    splits, ablations, said = EXPECTED[make]
    for name in METHODS:
        out = root.parent / "runs" / name / "photos"
        if name == "01b_irn":  # its weights are of a wider network than a short run of 00_cam has here
            files[name]["cams"] = str(root.parent / "runs" / "00_cam" / "photos")
        execute(
            name, show, preset="photos", data_root=str(root), epochs=1, batch_size=2, scales="1.0", workers=0,
            accelerator="cpu", crop_size=64, out=str(out), ablations=ablations, **files[name],
        )  # fmt: skip
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["notebook"] == name
        assert set(metrics["doubts"]) >= set(said)
        assert tuple(metrics["cams"]) == splits
        how = "best on train" if "train" in splits else "fixed"
        assert all(row["swept"]["threshold_chosen"] == how for row in metrics["cams"].values())
        assert reopen(out).folder == out
    execute("06_compare", show, preset="photos", runs=str(root.parent / "runs"))
    printed = capsys.readouterr().out
    printed.encode()  # all of it can be written to a notebook
    for sentence in said:
        assert printed.count(sentence) == len(METHODS)
    assert "There is a run of every notebook." in printed
    tables = [text for text in kept if isinstance(text, str)]
    assert sum("| `05_msal` | 1 |" in text for text in tables) == len(splits)
    assert sum(isinstance(thing, bytes) for thing in kept) > 40
