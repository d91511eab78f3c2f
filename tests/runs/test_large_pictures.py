"""Pictures above the limit, from maps to scores: computed at the working size, written and scored at their own."""

import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from tests.runs.small import ColourProjection, colour_projection, sentence_of
from wsss_lib.data import large
from wsss_lib.data.folder import load_folder
from wsss_lib.methods import affinitynet, segmentation
from wsss_lib.ops.cam import cam_label, upsample
from wsss_lib.ops.metrics import confusion_matrix
from wsss_lib.results.boundaries import NearBoundaries
from wsss_lib.show import figures
from wsss_lib.stages import evaluate
from wsss_lib.stages import infer as infer_module
from wsss_lib.stages.context import Context
from wsss_lib.stages.evaluate import score_cams, score_images, score_masks
from wsss_lib.stages.examples import LabelledCells, PseudoLabelled
from wsss_lib.stages.infer import infer, multi_scale_cam
from wsss_lib.stages.refine import PowerBackgrounds, Threshold, refine
from wsss_lib.stages.segment import infer_masks, probabilities_of
from wsss_lib.stages.store import CamStore, MaskStore, ScoreStore, read_cams
from wsss_lib.stages.walk import WalkedScores, walk

OWN, WORKING = [(94, 126), (30, 40)], [(47, 63), (30, 40)]
"""Sizes of a picture above the lowered limit and of one below it."""


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "WORKING_PIXELS", 2961)
    monkeypatch.setattr(evaluate, "_PIXELS", 1000)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for name, size in zip("ab", OWN, strict=True):
        colours = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        colours.resize(size[::-1], Image.Resampling.BILINEAR).save(tmp_path / "images" / f"{name}.png")
        mask = Image.fromarray(rng.integers(0, 3, (6, 8), dtype=np.uint8))
        mask.resize(size[::-1], Image.Resampling.NEAREST).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat;dog\nb.png,dog\n")
    return load_folder(tmp_path, "all")


@pytest.fixture
def cams(tmp_path, data, fabric):
    """Their maps by a projection of the colours."""
    store, method = CamStore(tmp_path / "cams"), colour_projection(2, scales=(1.0, 2.0))
    infer(method, data, store, Context(fabric, ColourProjection.normalise))
    return store


def at_own_size(cams, data, index):
    """Classes and maps of an image, enlarged as a whole."""
    classes, maps = cams.read(data.ids[index])
    return classes, maps if data.own_size(index) == data.size(index) else upsample(maps[None], data.own_size(index))[0]


def seeds_of(cams, data, threshold):
    return [
        cam_label(maps, classes, threshold) for classes, maps in (at_own_size(cams, data, i) for i in range(len(data)))
    ]


def test_maps_have_the_working_size(data, cams):
    assert [tuple(read_cams(cams, data, i)[1].shape[1:]) for i in range(2)] == WORKING
    assert all((read_cams(cams, data, i)[1] > 0.5).any() for i in range(2))


def test_maps_of_another_size_are_named_with_both_sizes(data, cams):
    cams.write("a", torch.tensor([0, 1]), torch.zeros(2, *OWN[0]))
    cams.write("b", torch.tensor([1]), torch.zeros(1, 31, 40))
    message = sentence_of(lambda: score_cams(cams, data))
    assert (
        "a.npz is (94, 126) pixels but the image is (94, 126), of which maps are made at (47, 63); remove it" in message
    )
    assert "b.npz is (31, 40) pixels but the image is (30, 40); remove it" in sentence_of(
        lambda: read_cams(cams, data, 1)
    )


def test_maps_are_scored_at_the_own_size(data, cams):
    levels = (0.1, 0.3, 0.5, 0.7)
    scores = score_cams(cams, data, levels)
    pixels = sum(height * width for height, width in OWN)
    for threshold, confusion in zip(levels, scores.confusions, strict=True):
        expected = sum(
            confusion_matrix(torch.from_numpy(data.own_mask(i)), mask, 3)
            for i, mask in enumerate(seeds_of(cams, data, threshold))
        )
        assert confusion.sum() == pixels
        assert (confusion - expected).abs().sum() <= 2 * pixels // 10000  # where rounding decides
        assert (confusion > 50).sum() >= 4
    single = score_images(cams, data, 0.3)
    assert single.shape == (2,)
    assert (single > 0).all()


def test_seed_masks_have_the_own_size_and_the_scores_of_their_maps(tmp_path, data, cams, fabric):
    store = MaskStore(tmp_path / "seeds")
    refine(data, Threshold(cams, 0.3), [store], fabric, None)
    for index, mask in enumerate(seeds_of(cams, data, 0.3)):
        found = store.read(data.ids[index], 2)
        assert tuple(found.shape) == OWN[index]
        assert (found != mask).float().mean() < 1e-3
    assert torch.equal(score_masks(store, data), score_cams(cams, data, [0.3]).confusions[0])


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
def test_masks_of_a_crf_have_the_own_size(tmp_path, data, cams, fabric, backend):
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf")
    stores = [MaskStore(tmp_path / f"crf-{alpha}") for alpha in (4, 32)]
    refine(data, PowerBackgrounds(cams, (4.0, 32.0)), stores, fabric, "psa", backend)
    for store in stores:
        assert [tuple(store.read(data.ids[i], 2).shape) for i in range(2)] == OWN
        assert score_masks(store, data).sum() == sum(height * width for height, width in OWN)
    probabilities = ScoreStore(tmp_path / "probabilities")
    refine(data, PowerBackgrounds(cams, (4.0,)), [probabilities], fabric, "psa", backend)
    _, scores = probabilities.read("a")
    assert tuple(scores.shape) == (3, *WORKING[0])
    enlarged = upsample(scores[None], OWN[0])[0].argmax(0)
    assert (stores[0].read("a", 2) != enlarged).float().mean() < 5e-3  # the stored probabilities are rounded


def test_the_walk_from_examples_to_masks(tmp_path, data, cams, fabric):
    method = affinitynet.AffinityNet(affinitynet.Config.preset("toy"), 2)
    stores = [ScoreStore(tmp_path / "scores" / str(alpha)) for alpha in (2, 16)]
    refine(data, PowerBackgrounds(cams, (2.0, 16.0)), stores, fabric)
    normalise, stride = method.backbone.normalisation, method.network.stride
    examples = LabelledCells(data, *stores, 32, stride, 0.3, 0.0, normalise)
    assert tuple(examples(0, random.Random(0))[0].shape) == (3, 32, 32)
    stores[0].write("a", torch.tensor([0, 1]), torch.zeros(3, *OWN[0]))
    message = sentence_of(lambda: examples(0, random.Random(0)))
    assert "is (94, 126) pixels but the image is (94, 126), of which labels are made at (47, 63)" in message

    walked, masks = ScoreStore(tmp_path / "walk", half=False), MaskStore(tmp_path / "masks")
    walk(method, data, cams, walked, Context(fabric, normalise))
    refine(data, WalkedScores(walked, stride), [masks], fabric, None)
    assert tuple(walked.read("a")[1].shape[1:]) == tuple(-(-side // stride) for side in WORKING[0])
    assert [tuple(masks.read(data.ids[i], 2).shape) for i in range(2)] == OWN


def test_the_final_network_learns_from_and_writes_masks_of_the_own_size(tmp_path, data, fabric):
    method = segmentation.Segmentation(segmentation.Config.preset("toy"), 2)
    given, masks, refined = (MaskStore(tmp_path / name) for name in ("given", "own", "crf"))
    for index, name in enumerate(data.ids):
        given.write(name, torch.from_numpy(data.own_mask(index)))
    normalise = method.backbone.normalisation
    examples = PseudoLabelled(data, given, method.config.augmentation(), 0.0, 0.0, normalise)
    _, labels = examples.at(0, random.Random(0), 1.0)
    values = labels[labels != 255]
    assert values.bincount().tolist() == np.bincount(data.mask(0).ravel()).tolist()  # the crop holds all of it

    scores = ScoreStore(tmp_path / "scores")
    infer_masks(method, data, masks, scores, set(), Context(fabric, normalise))
    refine(data, partial(probabilities_of, scores), [refined], fabric, "deeplab")
    for index, name in enumerate(data.ids):
        classes, found = scores.read(name)
        assert tuple(found.shape[1:]) == WORKING[index]
        own = found if index else upsample(found[None], OWN[index])[0]
        labels = torch.cat([torch.zeros(1, dtype=torch.int64), classes + 1])[own.argmax(0)]
        assert (masks.read(name, 2, OWN[index]) != labels).float().mean() < 0.02  # the stored scores are rounded
        refined.read(name, 2, OWN[index])
    assert score_masks(masks, data).sum() == sum(height * width for height, width in OWN)


def test_boundaries_are_scored_at_the_own_size(data, cams):
    near = NearBoundaries(data, radius=2)
    for index in range(2):
        band, mask = near.own_mask(index), data.own_mask(index)
        assert band.shape == OWN[index]
        assert (band == mask)[band != 255].all()
        assert 0.1 < (band != 255).mean() < 0.9
        edges = mask[:, 1:] != mask[:, :-1]
        assert (band[:, 1:] != 255)[edges].all()
    assert score_cams(cams, near, [0.3]).confusions.sum() == sum((near.own_mask(i) != 255).sum() for i in range(2))


def test_figures_lay_a_mask_of_the_own_size_over_the_picture(data):
    image = data.image(0)
    assert np.array_equal(figures.overlay_mask(image, data.own_mask(0)), figures.overlay_mask(image, data.mask(0)))


def test_large_views_pass_one_after_the_other(monkeypatch):
    """A picture and its mirror image together are what takes the memory; their maps do not depend on it."""
    method, views, labels = colour_projection(3), [torch.rand(1, 3, 24, 40)], torch.tensor([[1.0, 1.0, 0.0]])
    [(_, together)] = multi_scale_cam(method, views, labels, (24, 40))
    passed, cam = [], method.cam
    monkeypatch.setattr(method, "cam", lambda images: passed.append(len(images)) or cam(images))
    for most, expected in ((2 * 24 * 40, [2]), (2 * 24 * 40 - 1, [1, 1])):
        monkeypatch.setitem(infer_module._PIXELS_AT_ONCE, "cpu", most)
        passed.clear()
        [(_, maps)] = multi_scale_cam(method, views, labels, (24, 40))
        assert passed == expected
        assert torch.equal(maps, together)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of single stages need Linux")
def test_twelve_megapixels_need_less_than_two_gibibytes():
    script = Path(__file__).parents[2] / "benchmarks" / "large_pictures.py"
    command = [sys.executable, str(script), "--measure", "12"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    stages = json.loads(answer.stdout.splitlines()[-1])
    assert len(stages) == 8
    for stage, (_, mebibytes) in stages.items():
        assert mebibytes < 2048, stage
    assert stages["training example"][1] < 256  # each worker of a loader needs this
