"""The final stage on a data set: from the pseudo masks of a run to scored masks, stopped, continued and refused."""

import random
import shutil

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.data.trees import voc_tree
from tests.runs.small import (
    Pictures,
    assert_same_state,
    open_run,
    sentence_of,
    silent,
    tiny_config,
    without_seconds,
)
from tests.runs.test_affinitynet_run import contents, draw_maps
from wsss_lib.data.label_transforms import UniformScale
from wsss_lib.data.splits import open_splits
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods import cam, pcss
from wsss_lib.methods.segmentation import Config, Segmentation
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.pretrained import find_toy_weights
from wsss_lib.models.resnet101 import CaffeResNet101
from wsss_lib.models.weights import read_state
from wsss_lib.ops.cam import cam_label
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.pcss import PcssRun
from wsss_lib.runs.report import choose_masks
from wsss_lib.runs.segmentation import SegmentationRun, cam_masks, final_stage, segment
from wsss_lib.runs.settings import Settings
from wsss_lib.stages import infer as infer_module
from wsss_lib.stages.context import Context
from wsss_lib.stages.examples import JointlyScaled, PseudoLabelled, TrainingImages
from wsss_lib.stages.refine import label_map
from wsss_lib.stages.segment import WrappedColours, infer_masks
from wsss_lib.stages.store import MaskStore, ScoreStore, read_checkpoint, read_json
from wsss_lib.stages.train import TrainingBatches

LIMIT = 4
"""Images of each split of the toy world."""
SMALL = {"backbone_options": {"width": 0.125}, "epochs": 2, "batch_size": 2, "crop_size": 48}


def tiny(**changes):
    return Config.preset("toy", "resnet101_caffe").replace(**{**SMALL, **changes})


def open_segmentation(folder, masks=None, config=None, **changes):
    fields = {"accelerator": "cpu", "workers": 0, "limit": LIMIT, "preset": "toy", **changes}
    preset = fields.pop("preset")
    return SegmentationRun(
        Settings("06", "segmentation", preset, config or tiny(), folder, pseudo_masks=masks, **fields)
    )


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def masks(tmp_path):
    """A folder with the true masks of the training images."""
    store, data = MaskStore(tmp_path / "given"), open_splits("toy", limit=LIMIT).fit
    for index, image_id in enumerate(data.ids):
        store.write(image_id, torch.from_numpy(data.mask(index)))
    return store.folder


# ------------------------------------------------------------------------------------------------------- the whole run


@pytest.mark.slow
def test_from_the_maps_of_a_run_to_scores(tmp_path, monkeypatch):
    cam_run = open_run(tmp_path / "cams", tiny_config(epochs=1, batch_size=2), limit=LIMIT)
    draw_maps(cam_run, "train")
    masks = cam_masks(cam_run)
    run = segment(
        cam_run, masks, backbone_options={"width": 0.5}, **{k: v for k, v in SMALL.items() if k != "backbone_options"}
    )
    assert run.folder == cam_run.folder / "segmentation" / masks.folder.parent.name
    results = run.complete(silent)
    assert list(results) == ["train", "val"]
    for scores in results.values():
        assert list(scores) == ["segmentation", "segmentation-crf"]
        for row in scores.values():
            assert 0 < row["mean_iou"] < row["pixel_accuracy"] < 1
    assert (
        read_json(run.folder / "metrics.json")["masks"]["val"]["segmentation"].keys()
        == results["val"]["segmentation"].keys()
    )
    assert {"training", "inference train", "crf train", "inference val", "crf val"} <= run.seconds.keys()
    files = {path.parent.relative_to(run.folder).as_posix() for path in run.folder.rglob("*.*")}
    kinds = ("masks/segmentation", "masks/segmentation-crf", "scores/segmentation")
    assert files == {".", *(f"{kind}/{split}" for kind in kinds for split in ("train", "val"))}

    before = contents(run.folder, without=["seconds.json", "metrics.json", "images.json"])
    monkeypatch.setattr(Segmentation, "step", None)
    monkeypatch.setattr(Segmentation, "probabilities", None)
    again = reopen(run.folder)
    assert isinstance(again, SegmentationRun)
    assert without_labels(again.complete(silent)) == without_labels(results)
    assert contents(run.folder, without=["seconds.json", "metrics.json", "images.json"]) == before

    open_run(tmp_path / "cams", tiny_config(epochs=1, batch_size=2), limit=LIMIT, resume=False)
    assert not run.folder.exists()  # its masks are gone, too


@pytest.mark.parametrize("best", ["crf-4", "crf-32"])
def test_the_final_stage_takes_the_masks_that_are_best_on_train(tmp_path, monkeypatch, best):
    cam_run = open_run(tmp_path / "cams", tiny_config(epochs=1, batch_size=2), limit=LIMIT)
    for name in ("crf-4", "crf-32"):
        true_masks(cam_run.folder / "masks" / name / "train", cam_run.data("train"))
    other = {"crf-4": "crf-32", "crf-32": "crf-4"}[best]
    monkeypatch.setattr(CamRun, "infer", lambda *_: None)
    monkeypatch.setattr(CamRun, "begin", lambda *_: None)  # the masks are not from this run
    monkeypatch.setattr(CamRun, "score_masks", lambda *_: {best: {"mean_iou": 0.5}, other: {"mean_iou": 0.4}})
    run = final_stage(cam_run, **SMALL)
    assert run.folder == cam_run.folder / "segmentation" / best
    assert run.settings.pseudo_masks == cam_run.masks(best, "fit").folder


def without_labels(results):
    return {split: {name: row["mean_iou"] for name, row in rows.items()} for split, rows in results.items()}


@pytest.mark.slow
def test_stopped_after_an_epoch_and_continued(tmp_path, masks):
    whole = open_segmentation(tmp_path / "whole", masks)
    history = whole.train(silent)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_segmentation(tmp_path / "stopped", masks).train(stop)
    assert len(read_checkpoint(tmp_path / "stopped" / "checkpoint.pt")["history"]) == 1
    again = open_segmentation(tmp_path / "stopped", masks)
    assert without_seconds(again.train(silent)) == without_seconds(history)
    assert_same_state(again.method.state_dict(), whole.method.state_dict())


def test_several_processes_share_its_stages(tmp_path, masks, monkeypatch):
    launched = []
    monkeypatch.setattr(
        "wsss_lib.runs.run.launch_processes", lambda count, arguments: launched.append((count, *arguments))
    )
    run = open_segmentation(tmp_path / "run", masks, devices=2)
    run.train(silent)
    run.infer("val")
    run.refine("crf", "val")
    here = (2, "-m", "wsss_lib", str(run.folder))
    assert launched == [(*here, "train"), (*here, "infer", "val"), (*here, "refine", "crf", "val")]
    assert {arguments[4] for arguments in launched} == set(run.stages)


def test_a_network_of_the_authors_needs_no_masks(tmp_path):
    root = voc_tree(tmp_path / "data")
    config = Config.preset("photos", "resnet101_caffe").replace(backbone_options={"width": 0.125}, pretrained=False)
    trained = Segmentation(config, 20)
    official = {
        f"base.{key.replace('head.', 'aspp.').replace('backbone.', '')}": value
        for key, value in trained.network.state_dict().items()
    }
    torch.save(official, tmp_path / "official.pth")
    run = open_segmentation(
        tmp_path / "run", None, config, preset="photos", data_root=root, checkpoint=tmp_path / "official.pth"
    )
    assert run.train(silent) == []
    assert_same_state(run.method.network.state_dict(), trained.network.state_dict())
    store = run.infer("val")
    assert set(store.read(run.data("val").ids[0], 20, run.data("val").size(0)).unique().tolist()) <= set(range(21))


def test_its_parameters(project):
    (project / "masks").mkdir()
    settings = read_parameters("06", "segmentation", {"pseudo_masks": "masks", "scales": "0.5,1", "inference": "max"})
    assert settings.pseudo_masks == project / "masks"
    assert (settings.config.scales, settings.config.inference) == ((0.5, 1.0), "max")
    says = sentence_of(lambda: read_parameters("06", "segmentation", {"inference": "median"}))
    assert says == "inference 'median' is unknown; choose one of mirrored, plain, max."


# ----------------------------------------------------------------------------------------------------- what is wrong


def test_without_masks(tmp_path):
    says = sentence_of(lambda: open_segmentation(tmp_path / "run"))
    assert says.startswith("the segmentation stage needs pseudo masks; give their folder as pseudo_masks")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_masks(tmp_path):
    (tmp_path / "empty").mkdir()
    says = sentence_of(lambda: open_segmentation(tmp_path / "run", tmp_path / "empty"))
    assert says.startswith(f"pseudo_masks {tmp_path / 'empty'} holds no mask of ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [0, 255])
def test_masks_that_show_no_class(tmp_path, masks, value):
    data = open_splits("toy", limit=LIMIT).fit
    for index, image_id in enumerate(data.ids):
        mask = np.full(data.size(index), 255, np.uint8)
        mask[:10] = value
        MaskStore(masks).write(image_id, torch.from_numpy(mask))
    says = sentence_of(lambda: open_segmentation(tmp_path / "run", masks))
    values = "255" if value else "0 and 255"
    assert says.startswith(f"pseudo_masks {masks} show no class: every pixel is {values} (0 is background")
    assert not (tmp_path / "run").exists()


def test_a_missing_mask(tmp_path, masks):
    first, *_ = sorted(masks.glob("*.png"))
    first.unlink()
    says = sentence_of(lambda: open_segmentation(tmp_path / "run", masks))
    assert says.startswith(f"pseudo mask {first} is missing, as 1 of {LIMIT} are; finish the stage that makes them")


def test_a_mask_of_another_size(tmp_path, masks):
    first, *_ = sorted(masks.glob("*.png"))
    MaskStore(masks).write(first.stem, torch.zeros(96, 95, dtype=torch.uint8))
    says = sentence_of(lambda: open_segmentation(tmp_path / "run", masks))
    assert says.startswith(f"{first} is 96 x 95 pixels (height x width) but its image is 96 x 96; give a mask")


def test_a_mask_with_a_value_beyond_the_classes(tmp_path, masks):
    """Of which one is enough; no folder is claimed, and training needs not begin."""
    last = max(masks.glob("*.png"))
    MaskStore(masks).write(last.stem, torch.full((96, 96), 9, dtype=torch.uint8))
    says = sentence_of(lambda: open_segmentation(tmp_path / "run", masks))
    assert says.startswith(f"{last} holds the value 9, which is not a class; give a mask that holds 0 (background)")
    assert not (tmp_path / "run").exists()


def test_masks_of_a_run_on_other_data(tmp_path):
    cam_run = open_run(tmp_path / "cams", tiny_config(), limit=LIMIT + 1)
    draw_maps(cam_run, "train")
    masks = cam_masks(cam_run, 0.3)
    says = sentence_of(lambda: open_segmentation(tmp_path / "run", masks.folder))
    assert says.startswith(f"pseudo_masks {masks.folder} are of a run on other data (data fit: {LIMIT + 1} images")


def test_other_masks_make_another_run(tmp_path, masks):
    before = open_segmentation(tmp_path / "run", masks).identity()
    shutil.copytree(masks, tmp_path / "copy")
    assert open_segmentation(tmp_path / "run", tmp_path / "copy").identity() == before
    MaskStore(tmp_path / "copy").write(min(masks.glob("*.png")).stem, torch.zeros(96, 96, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"holds another run \(pseudo masks is '\w{16}' there and '\w{16}' here\)"):
        open_segmentation(tmp_path / "run", tmp_path / "copy")


def test_an_unknown_refinement(tmp_path, masks):
    run = open_segmentation(tmp_path / "run", masks)
    assert sentence_of(lambda: run.refine("walk", "val")) == "refinement 'walk' is unknown; choose crf."


# ---------------------------------------------------------------------------------------------------- training examples


@pytest.fixture
def pictures():
    return Pictures([(40, 56), (33, 41), (40, 56), (56, 40)], [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]])


def true_masks(folder, data):
    store = MaskStore(folder)
    for index, image_id in enumerate(data.ids):
        store.write(image_id, torch.from_numpy(data.mask(index)))
    return store


def test_the_images_of_a_batch_have_one_scale(tmp_path, pictures):
    scales = {True: [], False: []}

    class Watched(UniformScale):
        def cut(self, image, labels, normalise, rng, scale):
            scales[joint].append(scale)
            return super().cut(image, labels, normalise, rng, scale)

    masks = true_masks(tmp_path / "masks", pictures)
    example = PseudoLabelled(pictures, masks, Watched((0.7, 1.3), 32), 0.0, 0.0, Normalisation())
    seen = {}
    for joint, kind in ((True, JointlyScaled), (False, TrainingImages)):
        batches = TrainingBatches(kind(pictures, example, 5), 2, Fabric(accelerator="cpu", devices=1), 5, 0)
        seen[joint] = []
        for epoch in (0, 1, 0):
            batches.begin(epoch)
            seen[joint].append(list(batches))
    first, second = scales[True][:4:2], scales[True][1:4:2]
    assert first == second
    assert len(set(scales[True])) == 4  # two batches in two epochs
    assert len(set(scales[False])) == 8
    for batches in seen.values():
        for one, again in zip(batches[0], batches[2], strict=True):
            assert torch.equal(one.images, again.images)
            assert torch.equal(one.labels, again.labels)
            assert (one.images.shape, one.labels.shape) == ((2, 3, 32, 32), (2, 32, 32))


@pytest.mark.parametrize(("per", "kind"), [("batch", JointlyScaled), ("image", TrainingImages)])
def test_the_scale_of_the_settings(tmp_path, masks, per, kind):
    run = open_segmentation(tmp_path / "run", masks, tiny(one_scale_per=per))
    assert type(run.training_images()) is kind


def test_colours_are_changed_and_labels_are_not(tmp_path, pictures):
    masks = true_masks(tmp_path / "masks", pictures)
    augment = UniformScale((1.0, 1.0), 64)  # the whole picture, so that only the mirroring is drawn
    plain, changed = (
        PseudoLabelled(pictures, masks, augment, colour, 0.0, Normalisation()).at(0, random.Random(3), 1.0)
        for colour in (0.0, 0.5)
    )
    assert not torch.allclose(plain[0].mean((1, 2)), changed[0].mean((1, 2)), atol=1e-3)
    assert torch.equal(changed[1].flatten().bincount(), plain[1].flatten().bincount())


def test_a_run_of_pcss_is_continued_in_its_own_toy_world(tmp_path):
    config = pcss.Config.preset("toy")
    settings = Settings("04_pcss", "pcss", "toy", config, tmp_path / "run", accelerator="cpu", workers=0, limit=LIMIT)
    run = PcssRun(settings)
    draw_maps(run, "train")
    final = segment(run, cam_masks(run, 0.3))
    assert final.toy_world() == pcss.Config.toy_world != Config.toy_world
    for index in range(LIMIT):
        assert final.data("train").image(index).tobytes() == run.data("train").image(index).tobytes()


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_final_network_starts_as_the_run_did(tmp_path, pretrained):
    """A run that was told to start from random weights ends in a network that does so too."""
    config = cam.Config.preset("toy").replace(pretrained=pretrained)
    run = open_run(tmp_path / "run", config, limit=LIMIT)
    draw_maps(run, "train")
    final = segment(run, cam_masks(run, 0.3))
    assert final.settings.config == Config.preset("toy").replace(pretrained=pretrained)
    assert final.settings.config.backbone == config.backbone
    first, state = final.method.backbone.conv1.weight, read_state(find_toy_weights("resnet50"))
    assert torch.equal(first, state["conv1.weight"].float()) == pretrained
    assert first.requires_grad != pretrained


def test_a_method_that_starts_from_random_weights_may_end_in_a_pretrained_network():
    assert not read_parameters("05_msal", "msal", {}).from_scratch
    assert read_parameters("05_msal", "msal", {}).config.pretrained is False
    assert read_parameters("00_cam", "cam", {"pretrained": False}).from_scratch


def test_the_threshold_of_the_masks_is_chosen_on_train(tmp_path):
    run = open_run(tmp_path / "cams", tiny_config(), limit=LIMIT)
    draw_maps(run, "train")
    scores = run.score("train")
    threshold = scores.thresholds[scores.best]
    store = cam_masks(run)
    assert store.folder == run.folder / "masks" / f"cam-{threshold:g}" / "train"
    for image_id in run.data("fit").ids:
        classes, cams = run.cams("fit").read(image_id)
        assert torch.equal(store.read(image_id, 6), cam_label(cams, classes, threshold))


# ---------------------------------------------------------------------------------------------------------- inference


@pytest.fixture
def method():
    return Segmentation(tiny(scales=(1.0, 0.5)), 3)


def inferred(folder, method, data, **options):
    masks, scores = MaskStore(folder / "masks"), ScoreStore(folder / "scores")
    done = {image_id for image_id in data.ids if image_id in masks}
    fabric = Fabric(accelerator="cpu", devices=1)
    infer_masks(method, data, masks, scores, done, Context(fabric, method.backbone.normalisation, **options))
    return masks, scores


def test_the_masks_of_a_data_set_are_those_of_every_image(tmp_path, pictures, method):
    masks, scores = inferred(tmp_path, method, pictures)
    assert not method.network.training
    for index, image_id in enumerate(pictures.ids):
        image = method.backbone.normalisation(to_tensor(pictures.image(index)))[None]
        with torch.inference_mode():
            [expected] = method.probabilities(image)
        agrees = masks.read(image_id, 3, pictures.size(index)) == expected.argmax(0)
        assert agrees.float().mean() > 0.99
        classes, kept = scores.read(image_id)
        torch.testing.assert_close(kept, expected[[0, *(classes + 1).tolist()]], rtol=0, atol=1e-3)
        best = expected.topk(2, dim=0).values
        clear = best[0] - best[1] > 2e-3  # what is kept is kept in half precision
        assert clear.float().mean() > 0.5
        assert torch.equal(label_map(classes, kept)[clear], masks.read(image_id, 3)[clear])
        assert (expected[1:].amax((1, 2)) > 0.02).nonzero().flatten().tolist() <= classes.tolist()


def test_labels_of_images_are_not_used(tmp_path, pictures, method):
    inferred(tmp_path / "with", method, pictures)
    pictures.labels = torch.zeros_like(pictures.labels)
    inferred(tmp_path / "without", method, pictures)
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_a_stopped_inference_leaves_whole_files_and_continues(tmp_path, pictures, method, monkeypatch):
    monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", 1)  # one image at a time
    inferred(tmp_path / "whole", method, pictures)
    plain, calls = Segmentation.probabilities, []

    def stopping(self, images):
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "probabilities", stopping)
        with pytest.raises(KeyboardInterrupt):
            inferred(tmp_path / "stopped", method, pictures)
    assert len(contents(tmp_path / "stopped" / "masks")) == 2
    inferred(tmp_path / "stopped", method, pictures)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_colours_are_wrapped_as_a_cast_to_bytes_does(pictures):
    pixels = np.arange(40 * 56 * 3).reshape(40, 56, 3) % 256
    pictures.pixels[0] = pixels.astype(np.uint8)
    wrapped = WrappedColours(pictures, CaffeResNet101(0.125).normalisation)
    without_mean = pixels - np.array([122.675, 116.669, 104.008])
    expected = np.where(without_mean >= 0, np.floor(without_mean), np.ceil(without_mean)) % 256
    np.testing.assert_array_equal(np.array(wrapped.image(0)), expected[..., ::-1])  # BGR
    assert wrapped.ids == pictures.ids


def test_probabilities_that_were_removed_are_made_again_if_they_are_needed(tmp_path, masks):
    run = open_segmentation(tmp_path / "run", masks, tiny())
    run.complete()
    kept = contents(run.folder / "masks")
    shutil.rmtree(run.folder / "scores")
    run.complete()
    assert not (run.folder / "scores").exists()  # nothing was left to do
    shutil.rmtree(run.folder / "masks" / "segmentation-crf")
    run.complete()
    assert contents(run.folder / "masks") == kept


@pytest.mark.parametrize("image", ["true", "wrapped"])
def test_which_image_the_crf_sees(tmp_path, masks, image):
    run = open_segmentation(tmp_path / "run", masks, tiny(crf_image=image))
    data = run.data("val")
    seen = run.crf_images(data)
    assert (seen.image(0).tobytes() == data.image(0).tobytes()) is (image == "true")


@pytest.mark.parametrize(
    ("scores", "name"),
    [
        ({"crf-4": 0.3, "crf-8": 0.2}, "crf-4"),
        ({"crf-4": None, "crf-8": 0.2}, "crf-8"),
        ({"crf-2": None, "crf-16": None, "crf-32": None}, "crf-16"),
        ({"crf-4": None, "crf-16": None}, "crf-4"),
        ({"walk-crf": None}, "walk-crf"),
    ],
)
def test_which_masks_count(scores, name):
    """The best; without scores those whose power is nearest to 8, as a ratio."""
    assert choose_masks(scores) == name
