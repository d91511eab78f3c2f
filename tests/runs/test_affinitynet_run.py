"""AffinityNet on a data set: its labels, its walk, and the run from maps to scored masks."""

import random
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from tests import recipe
from tests.data.trees import VOC_IDS, voc_tree, write
from tests.runs.small import (
    Pictures,
    assert_same_state,
    open_run,
    sentence_of,
    settings,
    silent,
    smooth_cams,
    tiny_config,
)
from wsss_lib import __main__ as command
from wsss_lib.data.splits import Splits
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods import cam
from wsss_lib.methods.affinitynet import AffinityNet, Config, enlarge
from wsss_lib.models.backbone import Normalisation
from wsss_lib.ops.affinity import pair_labels
from wsss_lib.runs import earlier
from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.report import refinement_table
from wsss_lib.runs.settings import Settings
from wsss_lib.stages import infer as infer_module
from wsss_lib.stages.context import Context
from wsss_lib.stages.examples import LabelledCells
from wsss_lib.stages.store import ScoreStore, read_checkpoint, read_json
from wsss_lib.stages.walk import WalkedScores, walk

SIZES = [(40, 56), (33, 41), (40, 56), (56, 40)]
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
    """The smallest VGG-16, which also draws random numbers in training (dropout)."""
    small = {
        "epochs": 2,
        "batch_size": 2,
        "crop_size": 48,
        "walk_steps": 8,
        "alphas": (4.0,),
        "low_alpha": 4.0,
        "high_alpha": 32.0,
    }
    return Config.preset("toy", "vgg16").replace(**{**small, **changes})


def open_affinity(folder, config=None, **changes):
    fields = {"accelerator": "cpu", "workers": 0, "limit": LIMIT, **changes}
    return AffinityNetRun(Settings("01_affinitynet", "affinitynet", "toy", config or tiny(), folder, **fields))


def draw_maps(run, *splits):
    """Write maps that know where the objects are, and blur their outlines."""
    for split in splits:
        data, store = run.data(split), run.cams(split)
        for index, image_id in enumerate(data.ids):
            classes = data.labels[index].nonzero().flatten()
            mask = torch.from_numpy(data.mask(index))
            objects = torch.stack([(mask == k + 1).float() for k in classes])
            store.write(image_id, classes, 0.9 * F.avg_pool2d(objects[None], 9, 1, 4)[0])


@pytest.fixture
def cam_folder(tmp_path):
    """The folder of a run of 00_cam with maps of both splits."""
    run = open_run(tmp_path / "cams of 00", tiny_config(epochs=1, batch_size=2), limit=LIMIT)
    draw_maps(run, "train", "val")
    return run.folder


def contents(folder, without=()):
    """Return what lies in a folder, without what says when it was made and who works there."""
    without = (*without, "made.json", ".lock")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -------------------------------------------------------------------------------------------------- training examples


def labelled_cells(folder, data, low, high, crop, classes=None, stride=8):
    """Examples of a data set from scores given as arrays."""
    stores = []
    for name, scores in (("low", low), ("high", high)):
        store = ScoreStore(folder / name, half=False)
        for image_id, values in zip(data.ids, scores, strict=True):
            values = torch.as_tensor(values)
            store.write(image_id, torch.arange(len(values) - 1) if classes is None else classes, values)
        stores.append(store)
    return LabelledCells(data, *stores, crop, stride, 0.0, 0.0, Normalisation())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_official_examples(tmp_path, number):
    golden = recipe.golden("psa/aff_item")
    size, keys = golden["img"].shape[:2], golden["keys"]
    labels = torch.zeros(1, 20)
    labels[0, keys[1:] - 1] = 1
    data = Pictures([size], labels.tolist(), [golden["img"]])
    classes = torch.from_numpy(keys[1:] - 1)
    examples = labelled_cells(tmp_path, data, golden["la"][None], golden["ha"][None], 96, classes)
    image, cells = examples(0, random.Random(number))
    assert (image.shape, image.dtype) == ((3, 96, 96), torch.float32)
    np.testing.assert_allclose(image[:, ::4, ::4].numpy(), golden[f"img_{number}"], rtol=0, atol=1e-5)
    assert cells.dtype == torch.uint8
    np.testing.assert_array_equal(cells.numpy(), golden[f"label_{number}"])
    pairs = pair_labels(cells[None], 5, "official")
    for ours, name in zip(pairs, ("bg", "fg", "neg"), strict=True):
        np.testing.assert_array_equal(ours[0].numpy(), golden[f"{name}_{number}"].astype(bool))


def white_on_grey(size):
    """A picture of white blobs on grey, and the same as certain scores of one class."""
    white = recipe.smooth(f"cells/{size}", (1, *size), cells=12)[0] > 0.5
    pixels = np.where(white, 255, 160).astype(np.uint8)[..., None].repeat(3, 2)
    return pixels, np.stack([~white, white]).astype(np.float32)


@pytest.mark.parametrize("size", [(60, 40), (120, 150), (70, 130)])
@pytest.mark.parametrize("crop", [88, 90, 95])
def test_image_and_labels_are_cut_and_mirrored_together(tmp_path, size, crop):
    """What a cell is called follows from the pixels that come with it, wherever they were cut out."""
    pixels, scores = white_on_grey(size)
    data = Pictures([size], [[1]], [pixels])
    examples = labelled_cells(tmp_path, data, [scores], [scores], crop)
    seen = set()
    for number in range(6):
        image, cells = examples(0, random.Random(number))
        assert image.shape == (3, crop, crop)
        assert cells.shape == (-(-crop // 8),) * 2
        canvas = np.full((8 * cells.shape[0],) * 2, "beside")  # the image, where the network sees black
        canvas[:crop, :crop] = np.array(["beside", "grey", "white"])[np.digitize(image[0].numpy(), (0, 1.5))]
        blocks = canvas.reshape(cells.shape[0], 8, cells.shape[1], 8)
        white, grey = ((blocks == name).sum((1, 3)) for name in ("white", "grey"))
        expected = np.where(white > grey, 1, np.where(white + grey > 0, 0, 255))
        np.testing.assert_array_equal(cells.numpy(), expected)
        seen.add(cells.numpy().tobytes())
    assert len(seen) > 3


def test_scores_of_another_size_are_named(tmp_path):
    pixels, scores = white_on_grey((40, 56))
    data = Pictures([(40, 56)], [[1]], [pixels])
    examples = labelled_cells(tmp_path, data, [scores], [scores[:, :-1]], 48)
    with pytest.raises(InputError, match=r"high/picture0\.npz is \(39, 56\) pixels but the image is \(40, 56\)"):
        examples(0, random.Random(0))


# ----------------------------------------------------------------------------------------------------------- the walk


@pytest.fixture
def pictures():
    return Pictures(SIZES, LABELS)


@pytest.fixture
def cams(tmp_path, pictures):
    return smooth_cams(tmp_path / "cams", pictures)


@pytest.fixture
def method():
    return AffinityNet(tiny(), 3)


def walked(folder, method, data, cams, fabric, **options):
    store = ScoreStore(folder, half=False)
    walk(method, data, cams, store, Context(fabric, method.backbone.normalisation, **options))
    return store


def test_an_image_too_small_for_any_pair_is_named(tmp_path, pictures, cams, fabric):
    method = AffinityNet(tiny(border="official"), 3)
    with pytest.raises(InputError, match=r"image picture\d of pictures: a grid of \d+ × \d+ features is too small"):
        walked(tmp_path / "walk", method, pictures, cams, fabric)


def test_the_walk_of_a_data_set_is_that_of_every_image(tmp_path, pictures, cams, method, fabric):
    store = walked(tmp_path / "walk", method, pictures, cams, fabric)
    assert not method.network.training
    for index, image_id in enumerate(pictures.ids):
        classes, maps = cams.read(image_id)
        image = method.backbone.normalisation(to_tensor(pictures.image(index)))[None]
        with torch.inference_mode():
            [expected] = method.walk(image, [maps])
        read_classes, scores = store.read(image_id)
        assert torch.equal(read_classes, classes)
        assert scores.shape == (1 + len(classes), *(-(-length // 8) for length in SIZES[index]))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_walks_do_not_depend_on_workers(tmp_path, pictures, cams, method, fabric):
    for workers in (0, 2):
        walked(tmp_path / f"{workers}", method, pictures, cams, fabric, workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_walks_that_are_done_are_not_done_again(tmp_path, pictures, cams, method, fabric, monkeypatch):
    store = walked(tmp_path / "walk", method, pictures, cams, fabric)
    before = contents(tmp_path / "walk")
    monkeypatch.setattr(AffinityNet, "walk", None)  # calling it would raise
    walked(tmp_path / "walk", method, pictures, cams, fabric)
    monkeypatch.undo()
    store.path(pictures.ids[2]).unlink()
    walked(tmp_path / "walk", method, pictures, cams, fabric)
    assert contents(tmp_path / "walk") == before


def test_a_stopped_walk_leaves_whole_files_and_continues(tmp_path, pictures, cams, method, fabric, monkeypatch):
    monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", 1)
    walked(tmp_path / "whole", method, pictures, cams, fabric)
    plain, calls = AffinityNet.walk, []

    def stopping(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AffinityNet, "walk", stopping)
        with pytest.raises(KeyboardInterrupt):
            walked(tmp_path / "stopped", method, pictures, cams, fabric)
    whole, stopped = contents(tmp_path / "whole"), contents(tmp_path / "stopped")
    assert len(stopped) == 2
    assert stopped.items() <= whole.items()
    walked(tmp_path / "stopped", method, pictures, cams, fabric)
    assert contents(tmp_path / "stopped") == whole


def test_a_walk_without_maps(tmp_path, pictures, cams, method, fabric):
    cams.path(pictures.ids[1]).unlink()
    with pytest.raises(InputError, match=r"^\S*picture1\.npz is missing; run the inference first\.$"):
        walked(tmp_path / "walk", method, pictures, cams, fabric)


def test_enlarged_walks_are_probabilities(tmp_path, pictures, cams, method, fabric):
    store = walked(tmp_path / "walk", method, pictures, cams, fabric)
    read = WalkedScores(store, 8)
    for index, image_id in enumerate(pictures.ids):
        classes, scores = read(pictures, index)
        assert torch.equal(classes, cams.read(image_id)[0])
        assert scores.shape == (1, 1 + len(classes), *SIZES[index])
        torch.testing.assert_close(scores.sum(1), torch.ones(1, *SIZES[index]), rtol=0, atol=1e-5)
        enlarged = enlarge(store.read(image_id)[1], 8, SIZES[index])
        torch.testing.assert_close(scores[0], enlarged / enlarged.sum(0), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- the whole run


def test_from_maps_to_scores(tmp_path, cam_folder, monkeypatch):
    run = open_affinity(tmp_path / "run", cams=cam_folder)
    run.label()
    history = run.train(silent)
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[0].keys() >= {"loss", "background", "object", "different", "learning_rate"}
    results = {}
    for split in ("train", "val"):
        run.infer(split)
        stores = run.refine("crf", split) | run.refine("walk", split) | run.refine("walk-crf", split)
        assert list(stores) == ["crf-4", "walk", "walk-crf"]
        results[split] = run.score_masks(stores, split)
    data = run.splits.scored["val"]
    for scores in (*results["train"].values(), *results["val"].values()):
        assert scores["classes"].keys() == {"background", *data.classes}
        assert 0 < scores["mean_iou"] < 1
        assert 0 < scores["mean_precision"] <= 1
        assert 0 < scores["mean_recall"] <= 1
    assert all(scores["crf-4"]["mean_iou"] > 0.4 for scores in results.values())  # the maps know the objects
    files = {path.parent.relative_to(run.folder).as_posix() for path in run.folder.rglob("*.*")}
    assert files == {
        ".",
        *(f"scores/{what}/train" for what in ("crf-4", "crf-32", "walk")),
        "scores/walk/val",
        *(f"masks/{what}/{split}" for what in ("crf-4", "walk", "walk-crf") for split in ("train", "val")),
    }
    assert {"labels", "training", "walk val", "crf val", "walk-crf val"} <= run.seconds.keys()

    table = refinement_table(
        results, {"crf-4": "CRF", "walk": "the walk"}, {"crf-4": "crf", "walk": "walk"}, run.seconds
    )
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(f"| CRF | {100 * results['train']['crf-4']['mean_iou']:.1f} | ")
    assert f" {100 * results['val']['walk']['mean_precision']:.1f} " in lines[3]

    before = contents(run.folder, without=["seconds.json"])
    monkeypatch.setattr(AffinityNet, "walk", None)
    monkeypatch.setattr(AffinityNet, "step", None)
    again = reopen(run.folder)
    again.label()
    again.train(silent)
    again.infer("val")
    again.refine("walk-crf", "val")
    assert contents(run.folder, without=["seconds.json"]) == before


def test_the_scores_of_labels_are_probabilities_with_both_alphas(tmp_path, cam_folder):
    run = open_affinity(tmp_path / "run", tiny(low_alpha=2.0, high_alpha=16.0), cams=cam_folder)
    run.label()
    assert sorted(path.name for path in (run.folder / "scores").iterdir()) == ["crf-16", "crf-2"]
    low, high = (run.scores(f"crf-{alpha}", "fit") for alpha in (2, 16))
    for image_id in run.splits.fit.ids:
        assert low.read(image_id)[1][0].mean() >= high.read(image_id)[1][0].mean()
        torch.testing.assert_close(low.read(image_id)[1].sum(0), torch.ones(96, 96), rtol=0, atol=2e-3)


def test_stopped_after_an_epoch_and_continued(tmp_path, cam_folder):
    whole = open_affinity(tmp_path / "whole", cams=cam_folder)
    whole.label()
    whole.train(silent)
    open_affinity(tmp_path / "stopped", cams=cam_folder)
    shutil.copytree(tmp_path / "whole" / "scores", tmp_path / "stopped" / "scores")

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_affinity(tmp_path / "stopped", cams=cam_folder).train(stop)
    assert len(read_checkpoint(tmp_path / "stopped" / "checkpoint.pt")["history"]) == 1
    again = open_affinity(tmp_path / "stopped", cams=cam_folder)
    assert len(again.train(silent)) == 2
    assert_same_state(again.method.state_dict(), whole.method.state_dict())


def test_training_without_labels(tmp_path, cam_folder):
    with pytest.raises(InputError, match=r"scores/crf-4/train/train_\d+\.npz is missing"):
        open_affinity(tmp_path / "run", cams=cam_folder).train(silent)


def test_how_many_processes_refine(tmp_path, cam_folder, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert open_affinity(tmp_path / "run", cams=cam_folder, workers=-1).refine_workers == 6
    assert open_affinity(tmp_path / "run", cams=cam_folder, workers=3).refine_workers == 3
    assert open_affinity(tmp_path / "run", cams=cam_folder, workers=0).refine_workers == 0


# ------------------------------------------------------------------------------------------------------------ the maps


def test_a_given_folder_of_seeds(tmp_path, cam_folder):
    run = open_affinity(tmp_path / "run", cams=cam_folder)
    assert run.cam_run.folder == cam_folder
    assert not run.has_short_cam_run
    assert run.cam_run.settings.config == tiny_config(epochs=1, batch_size=2)
    assert not (tmp_path / "run" / "cam_run").exists()
    again = reopen(run.folder)
    assert isinstance(again, AffinityNetRun)
    assert again.cam_run.folder == cam_folder
    assert again.identity() == run.identity()


def test_the_default_folder_of_maps(tmp_path, cam_folder):
    usual = tmp_path / "runs" / "00_cam" / f"toy-limit={LIMIT}"
    shutil.copytree(cam_folder, usual)
    run = open_affinity(tmp_path / "run")
    assert run.cam_run.folder == usual
    assert not run.has_short_cam_run


def test_without_seeds_it_makes_short_ones(tmp_path, cam_folder):
    run = open_affinity(tmp_path / "run")
    own = tmp_path / "run" / "cam_run"
    assert run.has_short_cam_run
    assert run.cam_run.folder == own
    made, usual = run.cam_run.settings, cam.Config.preset("toy")
    assert (made.method, made.notebook) == ("cam", "00_cam")
    assert made.config == usual.replace(epochs=usual.epochs // 2, batch_size=2)
    assert read_json(own / "config.json")["settings"]["method"] == "cam"
    shutil.copytree(cam_folder, tmp_path / "runs" / "00_cam" / f"toy-limit={LIMIT}")  # somebody runs 00_cam later
    for again in (reopen(run.folder), open_affinity(tmp_path / "run")):
        assert again.has_short_cam_run
        assert again.cam_run.folder == own
        assert again.identity() == run.identity()


def test_short_seeds_move_with_their_run(tmp_path):
    before = open_affinity(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    after = reopen(tmp_path / "moved")
    assert after.has_short_cam_run
    assert after.cam_run.folder == tmp_path / "moved" / "cam_run"
    assert after.identity() == before.identity()


def test_seeds_on_other_data_are_refused(tmp_path, cam_folder):
    with pytest.raises(InputError) as caught:
        open_affinity(tmp_path / "run", cams=cam_folder, limit=LIMIT + 1)
    message = str(caught.value)
    assert message.startswith(f"cams {cam_folder} is a run on other data (data fit: {LIMIT} images, ")
    assert f"here data fit: {LIMIT + 1} images, " in message
    assert message.endswith("; give one on the same data.")
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("limit", "short"), [(LIMIT, False), (LIMIT + 1, True)])
def test_the_usual_run_is_continued_if_it_is_on_the_same_data(tmp_path, cam_folder, monkeypatch, limit, short):
    monkeypatch.setattr(earlier, "default_folder", lambda *_: cam_folder)
    run = open_affinity(tmp_path / "run", limit=limit)
    assert run.has_short_cam_run is short
    assert run.cam_run.folder == (tmp_path / "run" / "cam_run" if short else cam_folder)


def test_a_folder_without_seeds_is_named(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"nothing/config\.json is missing"):
        open_affinity(tmp_path / "run", cams=tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


def test_other_seeds_make_another_run(tmp_path, cam_folder):
    other = open_run(tmp_path / "others", tiny_config(epochs=1, batch_size=2), limit=LIMIT, seed=1).folder
    run = open_affinity(tmp_path / "run", cams=cam_folder)
    theirs = open_affinity(tmp_path / "other run", cams=other).identity()
    mine = run.identity()
    assert {name for name in mine if mine[name] != theirs[name]} == {"cams"}
    with pytest.raises(InputError, match=r"holds another run \(cams is '\w{8}' there and '\w{8}' here\)"):
        open_affinity(tmp_path / "run", cams=other)


def test_the_same_seeds_elsewhere_make_the_same_run(tmp_path, cam_folder):
    before = open_affinity(tmp_path / "run", cams=cam_folder)
    shutil.copytree(cam_folder, tmp_path / "copy")
    assert open_affinity(tmp_path / "run", cams=tmp_path / "copy").identity() == before.identity()


def test_starting_over_leaves_seeds_elsewhere_alone(tmp_path, cam_folder):
    write(cam_folder / "checkpoint.pt", "weights")
    write(cam_folder / "metrics.json", "{}")
    run = open_affinity(tmp_path / "run", cams=cam_folder)
    run.label()
    write(tmp_path / "run" / "notes.txt", "mine")
    before = contents(cam_folder)
    over = open_affinity(tmp_path / "run", tiny(epochs=3), cams=cam_folder, resume=False)
    assert contents(cam_folder) == before
    assert over.cam_run.folder == cam_folder
    assert sorted(path.name for path in (tmp_path / "run").glob("[!.]*")) == ["config.json", "images.json", "notes.txt"]


def test_starting_over_removes_seeds_of_its_own(tmp_path):
    run = open_affinity(tmp_path / "run")
    write(run.cam_run.folder / "checkpoint.pt", "weights")
    over = open_affinity(tmp_path / "run", resume=False)
    assert over.has_short_cam_run
    files = ["cam_run/config.json", "cam_run/images.json", "config.json", "images.json"]
    assert sorted(contents(tmp_path / "run")) == files
    assert not reopen(tmp_path / "run").cam_run.settings.folder.joinpath("checkpoint.pt").exists()


def test_a_refused_run_makes_no_seeds(tmp_path):
    open_run(tmp_path / "run", tiny_config(epochs=1), limit=LIMIT)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="holds another run"):
        open_affinity(tmp_path / "run")
    assert contents(tmp_path / "run") == before


# --------------------------------------------------------------------------------------------- the split `training`


def voc_run(folder, root):
    config = cam.Config.preset("photos", "vgg16").replace(
        pretrained=False,
        backbone_options={"width": 0.125},
        scales=(1.0,),
        view_multiple=0,
        epochs=1,
        batch_size=1,
        crop_size=32,
        min_long_side=32,
        max_long_side=48,
    )
    return CamRun(settings(folder, config, preset="photos", data_root=root))


def list_for_training(root, ids):
    write(root / "ImageSets/Segmentation/train_aug.txt", "\n".join(ids) + "\n")


def test_the_split_that_is_trained_on(tmp_path, cam_folder):
    toy = open_affinity(tmp_path / "run", cams=cam_folder)
    assert toy.data("fit") is toy.splits.fit
    assert [toy.split_folder(name) for name in ("fit", "train", "val")] == ["train", "train", "val"]
    with pytest.raises(InputError, match="split 'test' is unknown; choose one of train, val, fit"):
        toy.data("test")

    root = voc_tree(tmp_path / "data")
    list_for_training(root, VOC_IDS[:3])
    assert voc_run(tmp_path / "same", root).split_folder("fit") == "train"
    list_for_training(root, VOC_IDS[:4])
    more = voc_run(tmp_path / "more", root)
    assert more.data("fit").ids == VOC_IDS[:4]
    assert [more.split_folder(name) for name in ("fit", "train", "val")] == ["fit", "train", "val"]
    assert more.cams("fit").folder == tmp_path / "more" / "cams" / "fit"


def test_maps_that_another_split_has_are_taken_over(tmp_path, monkeypatch):
    monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", 1)  # one image at a time
    root = voc_tree(tmp_path / "data")
    list_for_training(root, VOC_IDS[1:])
    run = voc_run(tmp_path / "run", root)
    train = run.infer("train")
    classes, maps = train.read(VOC_IDS[1])
    train.write(VOC_IDS[1], classes, 0 * maps + 0.25)  # recognisable
    training = run.infer("fit")
    assert training.folder.name == "fit"
    assert {path.stem for path in training.folder.glob("*.npz")} == set(VOC_IDS[1:])
    assert training.path(VOC_IDS[1]).read_bytes() == train.path(VOC_IDS[1]).read_bytes()
    assert training.path(VOC_IDS[2]).read_bytes() == train.path(VOC_IDS[2]).read_bytes()
    assert not run.cams("val").folder.exists()
    val = run.infer("val")  # which takes nothing from `training`
    for image_id in VOC_IDS[3:]:
        assert training.path(image_id).read_bytes() == val.path(image_id).read_bytes()


def test_maps_of_other_labels_are_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", 1)
    sizes, cat, dog = [(40, 48)] * 3, [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]
    run = open_run(tmp_path / "run", limit=LIMIT)
    run.splits = Splits(Pictures(sizes, [cat, dog, dog]), {"train": Pictures(sizes[:2], [cat, cat])})
    run.infer("train")
    store = run.infer("fit")
    assert [store.read(image_id)[0].tolist() for image_id in store_ids(store)] == [[0], [1], [1]]
    assert store.path("picture0").read_bytes() == run.cams("train").path("picture0").read_bytes()


def store_ids(store):
    return sorted(path.stem for path in store.folder.glob(f"*{store.suffix}"))


# ------------------------------------------------------------------------------------------------------- the command


def said(monkeypatch, capsys, folder, *arguments):
    """Status and last line of ``python -m wsss_lib``."""
    monkeypatch.setattr("sys.argv", ["wsss_lib", str(folder), *arguments])
    status = command.main()
    return status, [line for line in capsys.readouterr().out.splitlines() if line]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("score",), "stage 'score' is unknown; choose one of label, train, infer, refine."),
        (("__init__",), "stage '__init__' is unknown; choose one of label, train, infer, refine."),
        (("label", "train"), "the arguments of stage label do not fit ("),
        (("refine", "crf"), "the arguments of stage refine do not fit ("),
        (("refine", "crf", "val", "more"), "the arguments of stage refine do not fit ("),
        (("refine", "cfr", "val"), "refinement 'cfr' is unknown; choose one of crf, walk, walk-crf."),
        (("refine", "crf", "test"), "split 'test' is unknown; choose one of train, val, fit."),
        (("infer", "test"), "split 'test' is unknown; choose one of train, val, fit."),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path, cam_folder, monkeypatch, capsys, arguments, says):
    run = open_affinity(tmp_path / "run", cams=cam_folder)
    status, lines = said(monkeypatch, capsys, run.folder, *arguments)
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"InputError: {says}")
    assert lines[0].endswith(".")
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == []


def test_the_command_runs_stages(tmp_path, cam_folder, monkeypatch, capsys):
    run = open_affinity(tmp_path / "run", cams=cam_folder)
    assert said(monkeypatch, capsys, run.folder, "label") == (0, [])
    assert len(store_ids(run.scores("crf-32", "fit"))) == LIMIT
    assert said(monkeypatch, capsys, run.folder, "refine", "crf", "val") == (0, [])
    assert len(store_ids(run.masks("crf-4", "val"))) == LIMIT
    run.cam_run.cams("val").path(run.splits.scored["val"].ids[0]).unlink()
    status, lines = said(monkeypatch, capsys, run.folder, "infer", "val")
    assert status == 1
    assert "is not trained to the end" in lines[0]
    assert lines[1].endswith(".npz is missing; run the inference first.")
    status, lines = said(monkeypatch, capsys, run.folder, "refine", "walk", "val")
    assert status == 1
    assert "scores/walk/val/" in lines[0]


# -------------------------------------------------------------------------------------------------------- parameters


def read(**values):
    return read_parameters("01_affinitynet", "affinitynet", values)


def sentence(**values):
    return sentence_of(lambda: read(**values))


def test_parameters_reach_the_settings(tmp_path):
    (tmp_path / "mine").mkdir()
    given = read(cams="mine", alphas="4,8", border="official", walk_steps=16, low_alpha=3)
    assert given.cams == (tmp_path / "mine").resolve()
    assert given.folder == tmp_path / "runs/01_affinitynet/toy-alphas=4,8-border=official-low_alpha=3-walk_steps=16"
    config = given.config
    assert (config.alphas, config.border, config.walk_steps, config.low_alpha) == ((4.0, 8.0), "official", 16, 3.0)
    assert read(alphas=8).config.alphas == (8.0,)  # papermill reads a number
    assert read(cams="", alphas="", border="", walk_steps=-1, beta=-1.0) == read()
    off = read(walk_steps=0, beta=0.0).config
    assert (off.walk_steps, off.beta) == (0, 0.0)
    assert read().cams is None
    assert read().config == Config.preset("toy")


def test_parameters_that_do_not_fit():
    assert sentence(border="half") == "border 'half' is unknown; choose one of official, full."
    assert sentence(optimizer="adam") == "optimizer 'adam' is unknown; choose one of sgd, adamw."
    assert sentence(preset="voc12", low_alpha=33) == "low_alpha is 33, more than high_alpha 32; make it smaller."
    assert sentence(preset="voc12", high_alpha=2).startswith("low_alpha is 4, more than high_alpha 2;")
    assert read(low_alpha=8, high_alpha=8).config.low_alpha == 8
    assert sentence(walk_steps=-2) == "parameter walk_steps must be at least 0, not -2."
    assert sentence(radius=1) == "parameter radius must be at least 2, not 1."
    assert sentence(beta=-0.5) == "parameter beta must be at least 0, not -0.5."
    assert sentence(cams="no/such/run").startswith("cams no/such/run does not exist (looked for from ")
    assert sentence(cams=None).startswith("cams arrived as None; ")


@pytest.mark.parametrize("value", ["0,4", "-1", "1001", "4,nan", "inf"])
def test_alphas_out_of_range(value):
    assert sentence(alphas=value) == f"parameter alphas must hold numbers above 0 and up to 1000, not {value!r}."


@pytest.mark.parametrize("value", ["4;8", "four", "4,", None])
def test_alphas_that_are_no_numbers(value):
    assert sentence(alphas=value).startswith("parameter alphas must be numbers with commas")


def test_unknown_settings_of_the_field_are_refused_at_once():
    """Not after hours of training."""
    assert "deeplap" in sentence(walk_crf="deeplap")
    assert read(walk_crf="psa").config.walk_crf == "psa"
