"""IRN on a data set: its labels, its walk, and the run from class activation maps to scored masks."""

import random

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.runs.small import Pictures, assert_same_state, open_run, sentence_of, silent, smooth_cams, tiny_config
from tests.runs.test_affinitynet_run import contents, draw_maps
from wsss_lib.data.scaled_crop import ScaledCrop
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods import affinitynet, irn, pcss
from wsss_lib.methods import method as methods
from wsss_lib.methods.irn import IRN, Config, final_scores
from wsss_lib.models.backbone import Normalisation
from wsss_lib.ops.affinity import pair_offsets
from wsss_lib.ops.paths import official_order, path
from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.irn import IRNRun
from wsss_lib.runs.kinds import open_run as open_any
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.refiners import check_refiner, refiner_config
from wsss_lib.runs.segmentation import final_stage
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.confident import ConfidentCells, ConfidentLabels, Corners, ThresholdLabels
from wsss_lib.stages.context import Context
from wsss_lib.stages.refine import refine
from wsss_lib.stages.store import MaskStore, ScoreStore, read_checkpoint
from wsss_lib.stages.walk import WalkedScoresOverBackground, walk

SIZES = [(40, 56), (33, 41), (40, 56), (11, 7)]
LABELS = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]
LIMIT = 4
"""Images of each split of the toy world."""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project, so that there is no usual run of 00_cam."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def tiny(**changes):
    small = {"epochs": 2, "batch_size": 2, "crop_size": 48, "canvas": 48, "walk_steps": 8, "alphas": (4.0,)}
    options = {"width": 0.125, "output_stride": 16, "dilated": False}
    return Config.preset("toy").replace(**{"pretrained": False, "backbone_options": options, **small, **changes})


def open_irn(folder, config=None, **changes):
    fields = {"accelerator": "cpu", "workers": 0, "limit": LIMIT, **changes}
    return IRNRun(Settings("01b_irn", "irn", "toy", config or tiny(), folder, **fields))


@pytest.fixture
def cam_run(tmp_path):
    """The folder of a run of 00_cam with maps of both splits."""
    run = open_run(tmp_path / "cams of 00", tiny_config(epochs=1, batch_size=2), limit=LIMIT)
    draw_maps(run, "train", "val")
    return run.folder


@pytest.fixture
def pictures():
    return Pictures(SIZES, LABELS)


# ------------------------------------------------------------------------------------------------------------- labels


def labelled(folder, data, maps, fabric, config):
    """The confident labels of a data set as the stage makes them."""
    stores = MaskStore(folder / "objects"), MaskStore(folder / "background")
    thresholds = config.object_threshold, config.background_threshold
    refine(data, ThresholdLabels(maps, thresholds, config.label_confidence), stores, fabric, config.label_crf)
    return ConfidentLabels(data, *stores)


def test_labels_of_a_data_set_are_those_of_the_method(tmp_path, pictures, fabric):
    maps, config = smooth_cams(tmp_path / "cams", pictures), tiny(object_threshold=0.6, background_threshold=0.4)
    labels = labelled(tmp_path, pictures, maps, fabric, config)
    images = [to_tensor(pictures.image(i)) for i in range(len(pictures))]
    classes, values = zip(*(maps.read(image_id) for image_id in pictures.ids), strict=True)
    expected = irn.label(images, values, classes, config)
    for index in range(len(pictures)):
        assert labels[index].dtype == torch.uint8
        assert torch.equal(labels[index], expected[index])
    seen = torch.cat([label.flatten() for label in expected]).unique().tolist()
    assert {0, 255} < set(seen)  # all three kinds occur
    assert (expected[2] == 0).all()  # an image without classes


def test_image_and_labels_are_cut_and_mirrored_together(tmp_path):
    """A cell has the label of the pixel in its middle, wherever the picture was cut out."""
    white = np.zeros((60, 44), bool)
    white[10:40, 5:30] = True
    data = Pictures([(60, 44)], [[1]], [np.where(white, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)])
    stores = MaskStore(tmp_path / "objects"), MaskStore(tmp_path / "background")
    for store in stores:
        store.write(data.ids[0], torch.from_numpy(white.astype(np.uint8)))
    examples = ConfidentCells(ConfidentLabels(data, *stores), ScaledCrop(1.0, 1.0, 48), Normalisation())
    seen = set()
    for number in range(8):
        image, cells = examples(0, random.Random(number))
        assert image.shape == (3, 48, 48)
        assert cells.shape == (12, 12)
        middle = image[0, 2::4, 2::4]
        inside = middle != 0  # the canvas is 0, black and white are not
        expected = torch.where(inside, (middle > 0).to(torch.uint8), 255)
        assert torch.equal(cells, expected)
        seen.add(cells.numpy().tobytes())
    assert len(seen) > 3


def constant_maps(run, value):
    for split in ("train", "val"):
        data, store = run.data(split), run.cams(split)
        for index, image_id in enumerate(data.ids):
            classes = data.labels[index].nonzero().flatten()
            store.write(image_id, classes, torch.full((len(classes), *data.size(index)), value))


def test_maps_without_any_confident_pixel(tmp_path):
    source = open_run(tmp_path / "cams of 00", tiny_config(epochs=1, batch_size=2), limit=LIMIT)
    constant_maps(source, 0.2)
    run = open_irn(tmp_path / "run", cams=source.folder)
    run.label()
    assert sentence_of(lambda: run.train(silent)) == (
        "no pixel of the 4 images of toy world train is confident object or confident background, so there is nothing "
        "to learn from; lower object_threshold, raise background_threshold, or give better maps."
    )
    assert not (run.folder / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("value", "kind", "change"),
    [(0.0, "object", "lower object_threshold"), (0.9, "background", "raise background_threshold")],
)
def test_maps_with_one_kind_of_confident_pixels(tmp_path, value, kind, change, capsys):
    source = open_run(tmp_path / "cams of 00", tiny_config(epochs=1, batch_size=2), limit=LIMIT)
    constant_maps(source, value)
    run = open_irn(tmp_path / "run", tiny(epochs=1), cams=source.folder)
    run.label()
    [row] = run.train(silent)
    assert row["different"] == 0
    said = f"confident {kind}, so no boundary can be learned; {change}."
    assert said in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- the walk


def test_the_walk_of_a_data_set_is_that_of_every_image(tmp_path, pictures, fabric):
    """One picture is smaller than a cell's neighbourhood, one has no class."""
    method, maps = IRN(tiny(), 3), smooth_cams(tmp_path / "cams", pictures)
    store = ScoreStore(tmp_path / "walk", half=False, background=False)
    walk(method, pictures, maps, store, Context(fabric, method.backbone.normalisation))
    assert not method.network.training
    read = WalkedScoresOverBackground(store, 4, 0.3)
    for index, image_id in enumerate(pictures.ids):
        classes, values = maps.read(image_id)
        image = method.backbone.normalisation(to_tensor(pictures.image(index)))[None]
        with torch.inference_mode():
            [expected] = method.walk(image, [values])
        read_classes, scores = store.read(image_id)
        assert torch.equal(read_classes, classes)
        assert scores.shape == (len(classes), *(-(-length // 4) for length in SIZES[index]))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
        which, fields = read(pictures, index)
        assert torch.equal(which, classes)
        assert fields.shape == (1, 1 + len(classes), *SIZES[index])
        assert (fields[0, 0] == 0.3).all()
        torch.testing.assert_close(fields[0, 1:], final_scores(scores, 4, SIZES[index]))


def test_corners_are_cut_or_filled(pictures):
    corners = Corners(pictures, 36, Normalisation())
    for index, (height, width) in enumerate(SIZES):
        pixels = Normalisation()(to_tensor(pictures.image(index)))
        assert corners[index].shape == (3, 36, 36)
        assert torch.equal(corners[index][:, :height, :width], pixels[:, :36, :36])
        assert not corners[index][:, height:].any()
        assert not corners[index][:, :, width:].any()


# ------------------------------------------------------------------------------------------------------------ the run


def complete(run):
    run.label()
    history = run.train(silent)
    masks = {}
    for split in ("train", "val"):
        run.infer(split)
        for refinement in ("crf", "walk", "walk-crf"):
            masks |= {f"{name} {split}": store for name, store in run.refine(refinement, split).items()}
    return history, masks


def test_a_run_from_maps_to_masks(tmp_path, cam_run):
    run = open_irn(tmp_path / "run", cams=cam_run)
    history, masks = complete(run)
    assert [row["epoch"] for row in history] == [1, 2]
    assert {"loss", "background", "object", "different", "displacement_background", "displacement_object"} <= set(
        history[0]
    )
    assert sorted(masks) == [f"{name} {split}" for name in ("crf-4", "walk", "walk-crf") for split in ("train", "val")]
    data = run.data("val")
    read = run.walked(run.walk_store("val"))
    for index, image_id in enumerate(data.ids):
        classes, [scores] = read(data, index)
        values = torch.cat([torch.zeros(1), classes + 1]).to(torch.uint8)
        assert torch.equal(masks["walk val"].read(image_id, 6), values[scores.argmax(0)])
    assert isinstance(reopen(run.folder), IRNRun)
    records = run.place.store_records()
    assert records["scores/walk/val"]["source"].startswith("network ")
    assert records["masks/walk/val"]["source"] == records["scores/walk/val"]["source"]
    assert records["masks/confident-objects/train"]["source"] == records["masks/confident-background/train"]["source"]


def test_a_run_that_is_done_is_not_done_again(tmp_path, cam_run, monkeypatch):
    run = open_irn(tmp_path / "run", cams=cam_run)
    complete(run)
    before = contents(run.folder, ("seconds.json",))
    for name in ("step", "walk", "boundaries"):
        monkeypatch.setattr(IRN, name, None)  # calling it would raise
    complete(open_irn(tmp_path / "run", cams=cam_run))
    assert contents(run.folder, ("seconds.json",)) == before


def test_a_stopped_run_continues_as_if_it_had_not_been(tmp_path, cam_run):
    whole = open_irn(tmp_path / "whole", cams=cam_run)
    whole.label()
    whole.train(silent)

    def stop(_row):
        raise KeyboardInterrupt

    stopped = open_irn(tmp_path / "stopped", cams=cam_run)
    stopped.label()
    with pytest.raises(KeyboardInterrupt):
        stopped.train(stop)
    again = open_irn(tmp_path / "stopped", cams=cam_run)
    again.train(silent)
    one, other = (read_checkpoint(run.folder / "checkpoint.pt")["method"]["networks"] for run in (whole, again))
    assert_same_state(one, other)


def test_the_mean_displacement_is_that_of_the_training_images(tmp_path, cam_run):
    run = open_irn(tmp_path / "run", cams=cam_run)
    run.label()
    run.train(silent)
    found = reopen(run.folder).method.network.mean_shift.running_mean  # kept in the checkpoint
    assert found.abs().min() > 0
    method, data = run.method, run.data("train")
    corners = torch.stack([Corners(data, 48, run.normalise)[i] for i in range(len(data))])
    method.train(False)
    method.network.mean_shift.running_mean.zero_()
    with torch.inference_mode():
        expected = method.network.displacements(method.backbone(corners)).mean((0, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_run_without_displacements(tmp_path, cam_run):
    run = open_irn(tmp_path / "run", tiny(displacements=False, epochs=1), cams=cam_run)
    run.label()
    assert "displacement_object" not in run.train(silent)[0]
    assert len(list(run.infer("val").folder.glob("*.npz"))) == LIMIT


def test_the_final_stage_learns_from_the_walk(tmp_path, cam_run):
    run = open_irn(tmp_path / "run", tiny(epochs=1), cams=cam_run)
    run.label()
    run.train(silent)
    last = final_stage(run)
    assert last.pseudo_masks.folder == run.masks(run.final_masks, "fit").folder
    assert last.folder == run.folder / "segmentation" / run.final_masks


def test_a_variant_that_walks_otherwise_is_not_trained_again(tmp_path, cam_run, monkeypatch):
    run = open_irn(tmp_path / "run", tiny(epochs=1), cams=cam_run)
    run.label()
    run.train(silent)
    run.infer("val")
    other = run.variant("beta 1", beta=1.0)
    monkeypatch.setattr(IRN, "step", None)
    assert other.is_trained
    assert other.cam_run.folder == cam_run
    other.infer("val")
    name = run.data("val").ids[0]
    assert not torch.equal(other.walk_store("val").read(name)[1], run.walk_store("val").read(name)[1])


def test_both_refinements_share_their_stages():
    for name in ("label", "infer", "refine", "prepare", "identity", "training_sources"):
        assert getattr(IRNRun, name) is getattr(AffinityNetRun, name)


# ---------------------------------------------------------------------------------------------------------- bad input


def read(**values):
    return read_parameters("01b_irn", "irn", values)


def test_parameters_reach_the_settings(tmp_path):
    given = read(object_threshold=0.4, walk_steps=16, alphas="4,8", backbone="mobilenet_v2")
    config = given.config
    assert (config.object_threshold, config.walk_steps, config.alphas) == (0.4, 16, (4.0, 8.0))
    named = "toy-alphas=4,8-backbone=mobilenet_v2-object_threshold=0.4-walk_steps=16"
    assert given.folder == tmp_path / "runs/01b_irn" / named
    assert read(object_threshold=-1.0, beta=-1.0, radius=0, alphas="") == read()
    assert read(beta=0.0).config.beta == 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"radius": 25}, "radius is 25, more than the 24 × 24 cells of crop_size 96; make it at most 24, or "),
        ({"radius": 14, "border": "official"}, "radius is 14, too large for crop_size 96, which gives 24 × 24 cells; "),
        ({"radius": 1}, "parameter radius must be at least 2, not 1."),
        ({"walk_radius": 1}, "walk_radius is 1, which leaves no pairs; give at least 2."),
        (
            {"object_threshold": 0.1, "background_threshold": 0.2},
            "background_threshold is 0.2, more than object_threshold 0.1; make it smaller.",
        ),
        ({"background": 1.5}, "parameter background must be at most 1, not 1.5."),
        ({"backbone": "vgg16"}, "backbone 'vgg16' cannot be used; choose one of resnet50, mobilenet_v2."),
    ],
)
def test_parameters_that_do_not_fit(values, says):
    assert sentence_of(lambda: read(**values)).startswith(says)


def official_state(method, radius):
    """The tensors of a network by the authors' keys, with the indices of the paths of a radius."""
    state = {}
    for name, value in method.network.state_dict().items():
        state[name.replace("backbone.", "resnet50.", 1)] = value
    lengths = sorted({len(path(pair_offsets(radius)[k])) for k in official_order(radius)})
    return state | {f"path_indices{i}": torch.zeros(1) for i in range(len(lengths))}


def open_checkpoint(tmp_path, cam_run, state, **changes):
    file = tmp_path / "res50_irn.pth"
    torch.save(state, file)
    return open_irn(tmp_path / "run", tiny(**changes), cams=cam_run, checkpoint=file)


def test_a_network_of_the_authors_is_used_instead_of_training(tmp_path, cam_run):
    torch.manual_seed(1)
    theirs = IRN(tiny(), 6)
    run = open_checkpoint(tmp_path, cam_run, official_state(theirs, 5))
    assert run.train(silent) == []
    assert_same_state(dict(run.method.network.state_dict()), dict(theirs.network.state_dict()))
    assert len(list(run.infer("val").folder.glob("*.npz"))) == LIMIT


def test_a_network_of_the_authors_with_another_radius(tmp_path, cam_run):
    state = official_state(IRN(tiny(), 6), 10)
    says = sentence_of(lambda: open_checkpoint(tmp_path, cam_run, state))
    assert says.startswith(f"{tmp_path / 'res50_irn.pth'} was trained with pairs of radius 10, not 5; set the radius ")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_network_of_the_authors_with_another_head(tmp_path, cam_run):
    state = official_state(IRN(tiny(), 6), 5)
    without = {name: value for name, value in state.items() if not name.startswith("fc_edge6")}
    says = sentence_of(lambda: open_checkpoint(tmp_path, cam_run, without))
    assert "res50_irn.pth" in says
    assert "fc_edge6" in says
    wider = {**state, "fc_edge6.weight": torch.zeros(1, 320, 1, 1)}
    says = sentence_of(lambda: open_checkpoint(tmp_path, cam_run, wider))
    assert "fc_edge6.weight" in says
    assert not (tmp_path / "run" / "config.json").exists()


def test_scores_on_boundaries_walk_if_the_settings_say_so():
    boundaries, maps = torch.full((1, 6, 6), 0.5), [torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))]
    [erased], [whole] = (IRN(tiny(erase_boundaries=erase), 3).walk_on(boundaries, maps) for erase in (True, False))
    torch.testing.assert_close(2 * erased, whole)


# ------------------------------------------------------------------------------------- a refiner before the final stage


@pytest.mark.parametrize("refiner", ["irn", "affinitynet"])
def test_the_final_network_learns_from_refined_maps(tmp_path, refiner, monkeypatch):
    monkeypatch.setattr(methods, "TOY_PRETRAINED", False)  # the weights are for larger networks
    monkeypatch.setattr(Config, "for_preset", classmethod(lambda cls, *_: tiny_fields(cls)))
    affinity = affinitynet.Config.preset("toy", "vgg16").replace(epochs=1, batch_size=2, crop_size=48, walk_steps=8)
    monkeypatch.setattr(affinitynet.Config, "for_preset", classmethod(lambda *_: affinity))
    run = open_run(tmp_path / "run", tiny_config(epochs=1, batch_size=2), limit=LIMIT, refiner=refiner)
    run.begin(run.cams("train"), "train", run.source())
    draw_maps(run, "train")
    last = final_stage(run)
    other = reopen(tmp_path / "run" / "refined" / refiner)
    assert other.settings.method == refiner
    assert other.cam_run.folder == run.folder
    assert last.pseudo_masks.folder == other.masks(other.final_masks, "fit").folder
    assert last.folder.is_relative_to(other.folder)
    monkeypatch.setattr(type(other.method), "step", None)  # calling it would raise
    assert final_stage(run).folder == last.folder
    afresh = open_run(tmp_path / "run", tiny_config(epochs=1, batch_size=2), limit=LIMIT, resume=False)
    assert not (afresh.folder / "refined").exists()


def tiny_fields(cls):
    return cls(**{**vars(TINY), "epochs": 1})


TINY = tiny()


def test_a_refiner_that_is_not_one():
    says = sentence_of(lambda: read_parameters("00_cam", "cam", {"refiner": "crf"}))
    assert says == "refiner 'crf' is unknown; choose one of affinitynet, irn."
    assert read_parameters("00_cam", "cam", {"refiner": "irn"}).refiner == "irn"


def test_a_refiner_on_photographs_needs_its_weights(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="mobilenet_v2"):
        check_refiner("irn", "photos", "efficientnet_lite0", True)
    check_refiner("irn", "photos", "mobilenet_v2", True)
    check_refiner("irn", "photos", "efficientnet_lite0", False, from_scratch=True)
    assert refiner_config("irn", "voc12", "resnet38d").backbone == "resnet50"
    assert refiner_config("irn", "toy", "resnet50").pretrained
    assert not refiner_config("irn", "toy", "resnet50", from_scratch=True).pretrained
    assert refiner_config("affinitynet", "photos", "mobilenet_v2").backbone == "mobilenet_v2"


def test_maps_of_another_toy_world_are_refined_in_that_world(tmp_path):
    other = pcss.Config.preset("toy")
    source = open_any(Settings("04_pcss", "pcss", "toy", other, tmp_path / "pcss", limit=LIMIT, accelerator="cpu"))
    run = open_irn(tmp_path / "run", cams=source.folder)
    assert run.splits.fit.options == other.toy_world != Config.toy_world
