"""OC-CSE and ACR on a data set: the ordinary classifier, interruptions, and the run up to scored masks."""

import hashlib
import shutil
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import VOC_IDS, save_mask, voc_tree, write
from tests.runs.small import (
    TOY_COUNTS,
    assert_same_state,
    open_run,
    sentence_of,
    settings,
    silent,
    tiny_config,
    without_seconds,
)
from wsss_lib import __main__ as command
from wsss_lib.data import toy
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods import acr, affinitynet, cam, oc_cse
from wsss_lib.methods.oc_cse import OCCSE
from wsss_lib.models import BACKBONES
from wsss_lib.models.backbone import BatchNorm2d
from wsss_lib.models.resnet38d import ResNet38d
from wsss_lib.ops.metrics import top_recall
from wsss_lib.runs import cam as cam_runs
from wsss_lib.runs import earlier
from wsss_lib.runs import with_classifier as adversarial
from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.settings import Settings
from wsss_lib.runs.with_classifier import WithClassifierRun
from wsss_lib.stages.engine import launch_processes
from wsss_lib.stages.store import read_checkpoint
from wsss_lib.stages.train import write_training

METHODS = {"oc_cse": oc_cse, "acr": acr}
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
TRAIN = ["red", "green", "blue", "red green", "", "blue", "green", "red"]
VAL = ["green blue", "red", "blue", "green", "", "red", "blue"]
"""What the pictures show."""
WATCHED = ["v1", "v2", "v3", "v5"]
"""The first four pictures of ``val`` that show one class."""

SMALL = {
    "pretrained": False,
    "epochs": 2,
    "batch_size": 4,
    "crop_size": 32,
    "min_long_side": 32,
    "max_long_side": 48,
    "scales": (1.0, 0.5),
    "view_multiple": 0,
    "alphas": (4.0,),
    "learning_rate": 1e-3,
}
WIDTHS = {
    "resnet38d": {"backbone_options": {"width": 0.0625, "dropout": [0.3, 0.5]}},
    "vgg16": {"backbone_options": {"width": 0.125}},
}
"""The smallest networks, which draw random numbers in training."""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project, so that there is no usual run of 00_cam."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def coloured(root, train, val):
    """Pictures of coloured blocks on grey noise, and their masks."""
    lines = ["image,labels,split"]
    for split, shows in (("train", train), ("val", val)):
        for i, names in enumerate(shows):
            name, rng = f"{split[0]}{i}", np.random.default_rng([i, len(split)])
            pixels, mask = rng.integers(90, 150, (40, 48, 3)), np.zeros((40, 48), np.uint8)
            for n, colour in enumerate(names.split()):
                block = slice(8, 32), slice(4 + 24 * n, 22 + 24 * n)
                pixels[block] = COLOURS[colour] + rng.integers(-30, 30, (24, 18, 3))
                mask[block] = [*COLOURS].index(colour) + 1
            (root / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{name}.png")
            save_mask(root / "masks" / f"{name}.png", mask)
            lines.append(f"{name}.png,{names.replace(' ', ';')},{split}")
    write(root / "classes.txt", "\n".join(COLOURS))
    write(root / "labels.csv", "\n".join(lines) + "\n")
    return root


def open_cam(folder, data, backbone="resnet38d", **changes):
    """Open a run of 00_cam on the coloured pictures."""
    config = cam.Config.preset("photos", backbone).replace(**{**SMALL, **WIDTHS[backbone], "epochs": 1, **changes})
    return CamRun(settings(folder, config, preset="photos", data_root=data))


def teach(run):
    """Have a run of 00_cam know the training images by heart, as after long training, and return its folder."""
    run.train(silent)
    network, data = run.method.network, run.splits.fit
    images = torch.stack([run.normalise(to_tensor(data.image(i))) for i in range(len(data))])
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # which means the mean over all batches
        network.train()(images)
        pooled = network.eval().features(images).mean(dim=(2, 3))
        network.head.weight.copy_(torch.linalg.lstsq(pooled, 20 * data.labels - 10).solution.T[..., None, None])
    path = run.folder / "checkpoint.pt"
    write_training(path, run.method, read_checkpoint(path)["history"], run.fingerprint())
    return run.folder


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def data(module_folder):
    return coloured(module_folder / "data", TRAIN, VAL)


@pytest.fixture(scope="module")
def taught(module_folder, data):
    """The folder of a run of 00_cam that classifies well; not to be written to."""
    return teach(open_cam(module_folder / "00", data))


@pytest.fixture
def classifier(tmp_path, taught):
    """A copy of it, which may be changed."""
    return shutil.copytree(taught, tmp_path / "cams of 00")


def tiny(method, backbone="resnet38d", **changes):
    own = {
        "oc_cse": {"mask_norm": "batch", "erasing_weight": 0.3, "erasing_slope": 0.05},
        "acr": {"hidden": 16, "reconstructor": {"width": 0.125}, "warm_up": 1},
    }[method]
    small = {**SMALL, **WIDTHS[backbone], "start": "imagenet", **own}
    return METHODS[method].Config.preset("photos", backbone).replace(**{**small, **changes})


def open_adversarial(folder, method, data, config=None, **changes):
    """Open a run of OC-CSE or ACR on the coloured pictures, or without data on a toy world."""
    fields = {"accelerator": "cpu", "workers": 0, "data_root": data, **changes}
    preset = fields.pop("preset", "toy" if data is None else "photos")
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        return WithClassifierRun(Settings("02_oc_cse", method, preset, config or tiny(method), folder, **fields))


def contents(folder, without=()):
    """Return what lies in a folder, without what says when it was made and who works there."""
    without = (*without, "made.json", ".lock")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def some_images(run):
    return torch.stack([run.normalise(to_tensor(run.data("val").image(i))) for i in range(3)])


# ------------------------------------------------------------------------------------------------------- the whole run


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_from_a_classifier_to_scores(tmp_path, data, classifier, method, monkeypatch):
    given = {"classifier": classifier} if method == "oc_cse" else {}
    run = open_adversarial(tmp_path / "run", method, data, **given)
    history = run.train(silent)
    assert [row["epoch"] for row in history] == [1, 2]
    parts = {"oc_cse": {"erasing", "target_seen"}, "acr": {"from_target", "from_rest", "reconstructor_whole"}}
    assert history[1].keys() >= {"loss", "classification", "learning_rate", *parts[method]}
    results = {}
    for split in ("train", "val"):
        store = run.infer(split)
        maps = [store.read(image_id)[1] for image_id in run.data(split).ids]
        assert max(x.max() for x in maps if len(x)) > 0.9
        summary = run.score(split).summary(0, "some")
        assert 0 < summary["mean_iou"] < 1
        stores = run.refine("crf", split)
        assert list(stores) == ["crf-4"]
        results[split] = run.score_masks(stores, split)["crf-4"]
        assert 0 < results[split]["mean_iou"] < 1
    files = {path.parent.relative_to(run.folder).as_posix() for path in run.folder.rglob("*.*")}
    folders = [f"{what}/{split}" for what in ("cams", "masks/crf-4") for split in ("train", "val")]
    assert files == {".", "growth/001", "growth/002", *folders}
    assert set(run.seconds) >= {"training", "inference val", "scoring val", "crf val"}

    before = contents(run.folder, without=["seconds.json", "images.json"])
    monkeypatch.setattr(METHODS[method].METHOD, "step", None)
    monkeypatch.setattr(METHODS[method].METHOD, "cam", None)
    monkeypatch.setattr(adversarial, "classify", None)  # what is trained needs no check
    again = reopen(run.folder)
    assert isinstance(again, WithClassifierRun)
    assert without_seconds(again.train(silent)) == without_seconds(history)
    for split in ("train", "val"):
        again.infer(split)
        assert str(again.score_masks(again.refine("crf", split), split)["crf-4"]) == str(results[split])  # some are NaN
    assert contents(run.folder, without=["seconds.json", "images.json"]) == before


def test_the_command_trains_and_infers(tmp_path, data, classifier, monkeypatch, capsys):
    open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    for arguments in (["train"], ["infer", "val"]):
        monkeypatch.setattr("sys.argv", ["wsss_lib", str(tmp_path / "run"), *arguments])
        assert command.main() == 0
    assert capsys.readouterr().out.count("epoch ") == 2
    assert len(list((tmp_path / "run" / "cams" / "val").glob("*.npz"))) == len(VAL)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_images_without_labels_are_trained_on(tmp_path, method, batch_size):
    mixed = coloured(tmp_path / "data", ["", "red green", "", "blue"], VAL)
    given = {"classifier": teach(open_cam(tmp_path / "00", mixed))} if method == "oc_cse" else {}
    run = open_adversarial(tmp_path / "run", method, mixed, tiny(method, batch_size=batch_size), **given)
    history = run.train(silent)
    assert len(history) == 2
    assert all(np.isfinite(value) for row in history for value in row.values())
    classes, maps = run.infer("train").read("t0")
    assert (classes.shape, maps.shape) == ((0,), (0, 40, 48))


# --------------------------------------------------------------------------------------------- stopping and continuing


def stop(_row):
    raise KeyboardInterrupt


def opened_for(start, method, folder, data, classifier, **changes):
    given = {"classifier": classifier} if method == "oc_cse" or start == "classifier" else {}
    return open_adversarial(folder, method, data, tiny(method, start=start, **changes), **given)


@pytest.mark.parametrize(
    ("method", "start"),
    [
        pytest.param("oc_cse", "imagenet", marks=pytest.mark.slow),
        ("oc_cse", "classifier"),
        pytest.param("acr", "imagenet", marks=pytest.mark.slow),
        pytest.param("acr", "classifier", marks=pytest.mark.slow),
    ],
)
def test_stopped_and_continued(tmp_path, data, classifier, method, start, monkeypatch):
    """After the first epoch, and again in the first step of the second."""
    whole = opened_for(start, method, tmp_path / "whole", data, classifier, epochs=3)
    history = whole.train(silent)

    def opened():
        return opened_for(start, method, tmp_path / "stopped", data, classifier, epochs=3)

    with pytest.raises(KeyboardInterrupt):
        opened().train(stop)
    with monkeypatch.context() as patch:
        patch.setattr(METHODS[method].METHOD, "step", stopping_after(METHODS[method].METHOD.step))
        with pytest.raises(KeyboardInterrupt):
            opened().train(silent)
    assert len(read_checkpoint(tmp_path / "stopped" / "checkpoint.pt")["history"]) == 1
    run = opened()
    assert without_seconds(run.train(silent)) == without_seconds(history)
    assert_same_state(run.method.state_dict(), whole.method.state_dict())
    stored = read_checkpoint(tmp_path / "stopped" / "checkpoint.pt")
    assert_same_state(stored["method"], whole.method.state_dict())
    for name, network in reopen(run.folder).method.networks.items():  # what inference uses later
        assert_same_state(network.state_dict(), whole.method.networks[name].state_dict())
    assert contents(run.folder / "growth") == contents(whole.folder / "growth")
    assert len(contents(run.folder / "growth")) == 3 * len(WATCHED)


def stopping_after(step):
    """The same, but the user stops it when it is done."""

    def stopping(self, batch):
        step(self, batch)
        raise KeyboardInterrupt

    return stopping


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_random_numbers_are_drawn_in_training(tmp_path, data, classifier, method, monkeypatch):
    """So that the test above would notice if they were others after a stop."""
    plain, losses = torch.manual_seed, []
    for shift in (0, 1):
        run = opened_for("imagenet", method, tmp_path / str(shift), data, classifier)
        run.method  # noqa: B018 the weights are drawn before
        monkeypatch.setattr(torch, "manual_seed", lambda number, shift=shift: plain(number + shift))
        losses.append(run.train(silent)[0]["loss"])
        monkeypatch.setattr(torch, "manual_seed", plain)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_ordinary_classifier_stays_as_it_is(tmp_path, data, classifier, method):
    before = contents(classifier, without=["config.json"])
    weights = dict(read_checkpoint(classifier / "checkpoint.pt")["method"]["networks"]["network"])
    run = open_adversarial(tmp_path / "run", method, data, tiny(method, start="classifier"), classifier=classifier)
    run.train(silent)
    network = run.ordinary.network
    assert_same_state(dict(network.state_dict()), weights)
    assert not any(module.training for module in network.modules())
    assert all(weight.grad is None and not weight.requires_grad for weight in network.parameters())
    assert contents(classifier, without=["config.json"]) == before
    stored = read_checkpoint(tmp_path / "run" / "checkpoint.pt")["method"]
    names = {"oc_cse": ["network"], "acr": ["classifier", "reconstructor"]}[method]
    assert all(list(stored[part]) == names for part in ("networks", "optimizers", "schedules"))
    for name in names:
        assert_same_state(dict(run.method.networks[name].state_dict()), dict(stored["networks"][name]))
    assert not any(
        torch.equal(value, weights.get(key, value + 1))
        for key, value in stored["networks"][names[0]].items()
        if key.endswith("conv_branch2a.weight")
    )
    if method == "acr":
        assert any(key.startswith("decoder.") for key in stored["networks"]["reconstructor"])


# ---------------------------------------------------------------------------------------------------------- the growth


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_kept_after_every_epoch(tmp_path, data, classifier, method):
    run = opened_for("imagenet", method, tmp_path / "run", data, classifier)
    reported = []
    run.train(
        lambda row: reported.append(
            (row["epoch"], sorted(p.stem for p in run.growth(row["epoch"])[1].folder.glob("*.npz")))
        )
    )
    assert reported == [(1, WATCHED), (2, WATCHED)]
    pictures, last = run.growth(2)
    assert list(pictures.ids) == WATCHED
    first, maps = run.growth(1)[1], run.infer("val")
    for index, image_id in enumerate(WATCHED):
        classes, now = last.read(image_id)
        assert classes.tolist() == pictures.labels[index].nonzero().flatten().tolist()
        assert torch.equal(classes, first.read(image_id)[0])
        torch.testing.assert_close(now, maps.read(image_id)[1], rtol=0, atol=2e-3)
    assert any(not torch.equal(first.read(image_id)[1], last.read(image_id)[1]) for image_id in WATCHED)


def test_starting_over_removes_the_growth(tmp_path, data):
    run = open_adversarial(tmp_path / "run", "acr", data)
    run.train(silent)
    open_adversarial(tmp_path / "run", "acr", data, tiny("acr", epochs=1), resume=False)
    assert sorted(contents(run.folder)) == ["config.json", "images.json"]


def test_without_any_image_of_one_class(tmp_path):
    root = coloured(tmp_path / "data", TRAIN, ["red green", "", "green blue"])
    run = open_adversarial(tmp_path / "run", "acr", root)
    assert len(run.train(silent)) == 2
    assert len(list((tmp_path / "run" / "growth" / "002").glob("*.npz"))) > 0  # of images with several classes


def test_without_any_label(tmp_path):
    root = coloured(tmp_path / "data", TRAIN, ["", ""])
    run = open_adversarial(tmp_path / "run", "acr", root)
    assert len(run.train(silent)) == 2
    assert run.growth(2)[1].read("v0")[1].shape == (0, 40, 48)


def test_stopped_while_maps_are_kept(tmp_path, data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cam_runs, "infer_some", lambda *_: stop(None))
        with pytest.raises(KeyboardInterrupt):
            open_adversarial(tmp_path / "run", "acr", data).train(silent)
    open_adversarial(tmp_path / "run", "acr", data).train(silent)
    assert len(contents(tmp_path / "run" / "growth")) == 2 * len(WATCHED)


# ---------------------------------------------------------------------------------------- starting from the classifier


def test_oc_cse_starts_from_the_classifier(tmp_path, data, classifier):
    run = opened_for("classifier", "oc_cse", tmp_path / "run", data, classifier)
    run.method.train(False)
    images, ordinary = some_images(run), run.ordinary
    with torch.no_grad():
        assert torch.equal(run.method.cam(images), ordinary.network.head(ordinary.network.features(images)))
        assert torch.equal(run.method.cam(images).relu(), ordinary.cam(images))
        torch.testing.assert_close(run.method.logits(images), ordinary.logits(images))
    assert_same_state(dict(run.method.network.state_dict()), dict(ordinary.network.state_dict()))
    assert ordinary.cam(images).max() > 0


def test_acr_starts_from_the_classifiers_backbone(tmp_path, data, classifier):
    run = opened_for("classifier", "acr", tmp_path / "run", data, classifier)
    for backbone in run.method.backbones:
        assert_same_state(dict(backbone.state_dict()), dict(run.ordinary.backbone.state_dict()))
    assert run.method.classifier.hidden.weight.shape[0] == 16
    one, other = (network.head.weight for network in (run.method.classifier, run.method.reconstructor.classifier))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_otherwise_it_does_not(tmp_path, data, classifier, method):
    run = opened_for("imagenet", method, tmp_path / "run", data, classifier)
    theirs = read_checkpoint(classifier / "checkpoint.pt")["method"]["networks"]["network"]["backbone.conv1a.weight"]
    assert not any(torch.equal(backbone.conv1a.weight, theirs) for backbone in run.method.backbones)


def test_acr_by_itself_knows_no_classifier(tmp_path, data, classifier, monkeypatch):
    monkeypatch.setattr(earlier, "default_folder", lambda *_: classifier)
    monkeypatch.setattr(adversarial, "earlier_run", None)  # calling it would raise
    run = open_adversarial(tmp_path / "run", "acr", data)
    assert (run.ordinary_run, run.file, run.needs_classifier) == (None, None, False)
    assert "classifier" not in run.identity()
    run.train(silent)
    assert not (tmp_path / "run" / "classifier").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_classifier_with_another_backbone_is_no_start(tmp_path, data, method):
    other = open_cam(tmp_path / "vgg", data, "vgg16")
    message = sentence_of(lambda: opened_for("classifier", method, tmp_path / "run", data, other.folder))
    assert message.startswith(f"classifier {other.folder} has the backbone vgg16, and nothing with the backbone resnet")
    assert not (tmp_path / "run").exists()


def test_the_judge_may_have_another_backbone(tmp_path, data):
    other = open_cam(tmp_path / "vgg", data, "vgg16")
    run = opened_for("imagenet", "oc_cse", tmp_path / "run", data, other.folder)
    assert run.ordinary_run.folder == other.folder


# ---------------------------------------------------------------------------------------------- which classifier it is


def test_a_given_run(tmp_path, data, classifier):
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    assert (run.ordinary_run.folder, run.file, run.classifier_name) == (classifier, None, classifier)
    assert not (tmp_path / "run" / "classifier").exists()
    again = reopen(run.folder)
    assert isinstance(again, WithClassifierRun)
    assert again.ordinary_run.folder == classifier
    assert again.identity() == run.identity()
    before = contents(run.folder)
    shutil.copytree(classifier, tmp_path / "copy")
    same = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=tmp_path / "copy")
    assert same.identity() == run.identity()
    assert contents(run.folder, ["config.json"]) == {name: x for name, x in before.items() if name != "config.json"}


def test_another_classifier_makes_another_run(tmp_path, data, classifier):
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    other = open_cam(tmp_path / "other", data, epochs=3).folder
    theirs, mine = open_adversarial(tmp_path / "2", "oc_cse", data, classifier=other).identity(), run.identity()
    assert {name for name in mine if mine[name] != theirs[name]} == {"classifier"}
    with pytest.raises(InputError, match=r"holds another run \(classifier is '\w{8}' there and '\w{8}' here\)"):
        open_adversarial(tmp_path / "run", "oc_cse", data, classifier=other)


def test_an_untrained_run_is_trained_first(tmp_path, data, classifier, monkeypatch):
    monkeypatch.setattr(adversarial, "_MARGIN", -1.0)
    (classifier / "checkpoint.pt").unlink()
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    assert not (classifier / "checkpoint.pt").exists()
    run.train(silent)
    assert len(read_checkpoint(classifier / "checkpoint.pt")["history"]) == 1
    assert CamRun(run.ordinary_run.settings).is_trained


def toy_run(folder, **changes):
    config = tiny("oc_cse", batch_size=2)
    return open_adversarial(folder, "oc_cse", None, config, limit=4, **changes)


@pytest.mark.slow
def test_without_any_it_trains_a_short_one(tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "_MARGIN", -1.0)  # of four images little is learned
    run, own = toy_run(tmp_path / "run"), tmp_path / "run" / "classifier"
    made = run.ordinary_run.settings
    assert (made.method, made.notebook, made.folder, made.classifier) == ("cam", "00_cam", own, None)
    usual = cam.Config.preset("toy", "resnet38d")  # the network's backbone
    assert made.config == usual.replace(epochs=usual.epochs // 2, batch_size=2)
    assert run.settings.classifier is None
    run.train(silent)
    assert len(read_checkpoint(own / "checkpoint.pt")["history"]) == usual.epochs // 2
    trained = (own / "checkpoint.pt").read_bytes()

    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.setattr(cam.CAM, "step", None)
    monkeypatch.setattr(earlier, "default_folder", lambda *_: open_run(tmp_path / "later", limit=4).folder)
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        again = reopen(tmp_path / "moved")
    assert again.ordinary_run.folder == tmp_path / "moved" / "classifier"
    assert again.identity() == run.identity()
    assert again.is_trained
    assert again.check_ordinary()[0] > 0
    assert (tmp_path / "moved" / "classifier" / "checkpoint.pt").read_bytes() == trained
    assert sorted(path.name for path in (tmp_path / "moved").glob("[!.]*")) == [
        *("checkpoint.pt", "classifier", "config.json", "growth", "images.json"),
        *("log.jsonl", "seconds.json", "training.json"),
    ]
    monkeypatch.undo()
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        toy_run(tmp_path / "moved", resume=False)
    files = ["config.json", "images.json"]
    assert sorted(contents(tmp_path / "moved")) == [*(f"classifier/{name}" for name in files), *files]


@pytest.mark.parametrize(("limit", "short"), [(4, False), (5, True)])
def test_the_usual_run_is_taken_if_it_is_on_the_same_data(tmp_path, monkeypatch, limit, short):
    config = cam.Config.preset("toy", "resnet38d").replace(epochs=1, batch_size=2)
    usual = open_run(tmp_path / "usual", config, limit=limit).folder
    monkeypatch.setattr(earlier, "default_folder", lambda *_: usual)
    run = toy_run(tmp_path / "run")
    assert run.ordinary_run.folder == (tmp_path / "run" / "classifier" if short else usual)
    assert run.settings.classifier == (None if short else usual)
    assert reopen(tmp_path / "run").ordinary_run.folder == run.ordinary_run.folder


def test_a_usual_run_that_nothing_can_start_from_is_left_alone(tmp_path, monkeypatch):
    usual = open_run(tmp_path / "usual", tiny_config(epochs=1, batch_size=2), limit=4).folder  # a ResNet-50
    monkeypatch.setattr(earlier, "default_folder", lambda *_: usual)
    config = tiny("acr", "vgg16", start="classifier", batch_size=2)
    run = open_adversarial(tmp_path / "run", "acr", None, config, limit=4)
    assert run.ordinary_run.folder == tmp_path / "run" / "classifier"


def test_a_refused_run_makes_no_classifier(tmp_path):
    open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    before = contents(tmp_path / "run")
    assert "holds another run" in sentence_of(lambda: toy_run(tmp_path / "run"))
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("method", METHODS)
def test_the_short_one_suits_the_network(tmp_path, method):
    config = METHODS[method].Config.preset("toy", "vgg16")  # which starts from the classifier
    run = open_adversarial(tmp_path / "run", method, None, config, limit=4)
    assert run.ordinary_run.settings.config.backbone == "vgg16"


# --------------------------------------------------------------------------------------------- what is not a classifier


def on_other_data(folder, _data):
    other = open_cam(folder / "other", coloured(folder / "other data", VAL, TRAIN)).folder
    return other, f"classifier {other} is a run on other data (data fit: 7 images, "


def affinitynet_run(folder, data, own):
    """Open a run of AffinityNet on the coloured pictures, with the maps of a run of ours."""
    config = affinitynet.Config.preset("photos", "vgg16").replace(pretrained=False, backbone_options={"width": 0.125})
    fields = {"data_root": data, "accelerator": "cpu", "workers": 0, "cams": own}
    return AffinityNetRun(Settings("01_affinitynet", "affinitynet", "photos", config, folder, **fields))


def of_affinitynet(folder, data):
    other = affinitynet_run(folder / "01", data, open_cam(folder / "its maps", data).folder).folder
    return other, f"classifier {other} is a run of affinitynet, which makes no CAMs; give one of 00_cam."


def an_empty_folder(folder, _data):
    (folder / "nothing").mkdir()
    return folder / "nothing", f"{folder / 'nothing' / 'config.json'} is missing; give the folder of a run."


def of_another_method(folder, data):
    other = open_adversarial(folder / "acr", "acr", data).folder
    return other, f"classifier {other} is a run of another method; give one of 00_cam."


def no_network(folder, _data):
    path = write(folder / "classes.txt", "cat\ndog\n")
    return path, f"{path} is not a weight file; give a PyTorch, safetensors, MXNet or Caffe weight file."


def cut_off(folder, _data):
    path = folder / "od_cam.pth"
    torch.save({"fc8.weight": torch.zeros(3, 256, 1, 1)}, path)
    path.write_bytes(path.read_bytes()[:-200])
    return path, f"{path} is damaged or incomplete"


def of_another_network(folder, data):
    path = folder / "vgg16_cls.pth"
    save_official(path, open_cam(folder / "vgg", data, "vgg16").method.network)
    return path, f"{path} is probably for another network: "


def save_official(path, network):
    """Save a network under the names that the authors of AffinityNet and OC-CSE give to its tensors."""
    renamed = {f"{key.replace('backbone.', '').replace('head.', 'fc8.')}": x for key, x in network.state_dict().items()}
    torch.save(renamed, path)


@pytest.fixture
def narrow(monkeypatch):
    """The paper's network, but as narrow as that of the other tests."""
    monkeypatch.setitem(BACKBONES, "resnet38d", partial(ResNet38d, width=0.0625))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "wrong",
    [on_other_data, of_affinitynet, an_empty_folder, of_another_method, no_network, cut_off, of_another_network],
)
def test_what_cannot_be_the_classifier_is_refused_at_once(tmp_path, data, wrong):
    path, says = wrong(tmp_path, data)
    before = contents(path) if path.is_dir() else path.read_bytes()
    assert sentence_of(lambda: open_adversarial(tmp_path / "run", "oc_cse", data, classifier=path)).startswith(says)
    assert not (tmp_path / "run").exists()
    assert before == (contents(path) if path.is_dir() else path.read_bytes())


@pytest.mark.parametrize("use", ["classifier", "cams"])
def test_a_run_that_is_read_stays_as_it_is(tmp_path, data, classifier, use):
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    before = contents(run.folder)
    if use == "cams":
        affinitynet_run(tmp_path / "01", data, run.folder)
    else:
        wrong = partial(open_adversarial, tmp_path / "other", "oc_cse", data, classifier=run.folder)
        assert "another method" in sentence_of(lambda: wrong().train(silent))
    assert reopen(run.folder).identity() == run.identity()
    assert contents(run.folder) == before


# --------------------------------------------------------------------------------------------------- the authors' file


@pytest.fixture
def official(tmp_path, classifier, data):
    """``od_cam.pth``, and the network in it."""
    run = open_cam(tmp_path / "source", data)
    (tmp_path / "source" / "checkpoint.pt").write_bytes((classifier / "checkpoint.pt").read_bytes())
    save_official(tmp_path / "od_cam.pth", run.method.network)
    return tmp_path / "od_cam.pth", run.method.network


@pytest.mark.usefixtures("narrow")
def test_a_file_of_the_authors(tmp_path, data, official):
    path, network = official
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=path)
    assert (run.file, run.ordinary_run, run.classifier_name) == (path, None, path)
    assert run.identity()["classifier"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_same_state(dict(run.ordinary.network.state_dict()), dict(network.state_dict()))
    assert run.check_ordinary()[0] == 1
    assert len(run.train(silent)) == 2
    assert not (tmp_path / "run" / "classifier").exists()
    again = reopen(run.folder)
    assert again.file == path
    assert again.is_trained

    identity = run.identity()
    path.rename(tmp_path / "renamed.pth")
    moved = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=tmp_path / "renamed.pth")
    assert moved.identity() == identity
    torch.save({"fc8.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"holds another run \(classifier is '\w{64}' there and '\w{64}' here\)"):
        open_adversarial(tmp_path / "run", "oc_cse", data, classifier=path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("narrow")
def test_starting_from_a_file_of_the_authors(tmp_path, data, official, method):
    path, network = official
    run = open_adversarial(tmp_path / "run", method, data, tiny(method, start="classifier"), classifier=path)
    assert_same_state(dict(run.method.backbone.state_dict()), dict(network.backbone.state_dict()))


def voc_run(folder, root, pretrained, backbone="resnet38d", **changes):
    config = oc_cse.Config.preset("voc12", backbone).replace(pretrained=False, batch_size=1)
    fields = {"preset": "voc12", "pretrained_folder": pretrained, **changes}
    return open_adversarial(folder, "oc_cse", root, config, **fields)


@pytest.mark.usefixtures("narrow")
def test_the_usual_file_of_the_authors(tmp_path, monkeypatch):
    root = voc_tree(tmp_path / "data")
    write(root / "ImageSets/Segmentation/train_aug.txt", "\n".join(VOC_IDS[:3]) + "\n")
    network = cam.CAM(cam.Config(), 20).network
    (tmp_path / "pretrained").mkdir()
    save_official(tmp_path / "pretrained" / "od_cam.pth", network)

    usual = cam.Config.preset("voc12").replace(pretrained=False)
    other = CamRun(settings(tmp_path / "other", usual, preset="voc12", data_root=root)).folder
    monkeypatch.setattr(earlier, "default_folder", lambda *_: other)
    run = voc_run(tmp_path / "run", root, tmp_path / "pretrained")
    assert run.file == tmp_path / "pretrained" / "od_cam.pth"
    assert_same_state(dict(run.ordinary.network.state_dict()), dict(network.state_dict()))
    assert reopen(run.folder).file == run.file

    given = voc_run(tmp_path / "given", root, tmp_path / "pretrained", classifier=other)
    assert (given.file, given.ordinary_run.folder) == (None, other)
    for folder, changes in {
        "elsewhere": {"pretrained": tmp_path / "nowhere"},
        "photos": {"preset": "photos"},
    }.items():
        run = voc_run(tmp_path / folder, root, **{"pretrained": tmp_path / "pretrained", **changes})
        assert (run.file, run.ordinary_run.folder) == (None, other)


@pytest.mark.usefixtures("narrow")
def test_a_usual_file_that_comes_later_changes_nothing(tmp_path, monkeypatch):
    root = voc_tree(tmp_path / "data")
    write(root / "ImageSets/Segmentation/train_aug.txt", "\n".join(VOC_IDS[:3]) + "\n")
    monkeypatch.setattr(earlier, "_short", lambda *_: cam.Config().replace(pretrained=False))
    run = voc_run(tmp_path / "run", root, tmp_path / "pretrained")
    (tmp_path / "pretrained").mkdir()
    save_official(tmp_path / "pretrained" / "od_cam.pth", cam.CAM(cam.Config(), 20).network)
    assert reopen(run.folder).identity() == run.identity()


# ---------------------------------------------------------------------------------- the classifier must know something


@pytest.mark.slow
def test_a_classifier_that_knows_nothing_is_refused(tmp_path, data):
    """It has been trained, for one epoch of a few images."""
    poor = open_cam(tmp_path / "poor", data)
    poor.train(silent)
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=poor.folder)
    share = 100 * float(top_recall(poor.classify(poor.splits.fit), poor.splits.fit.labels))
    assert share <= 60
    assert sentence_of(lambda: run.train(silent)) == (
        f"the ordinary classifier {poor.folder} puts {share:.0f} % of the labels of 8 training images first, and the "
        "mere frequency of classes 50 %; give one that is trained on this data."
    )
    assert sorted(contents(tmp_path / "run")) == ["config.json", "images.json"]
    start = tiny("acr", start="classifier")  # which nobody asks anything
    assert len(open_adversarial(tmp_path / "acr", "acr", data, start, classifier=poor.folder).train(silent)) == 2


def test_a_classifier_that_knows_passes(tmp_path, data, classifier):
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    assert run.check_ordinary() == (1.0, 0.5)


def says(monkeypatch, mistaken):
    """Have any classifier put the labels of some images last, and those of all others first."""

    def logits(_method, images, *_):
        signs = torch.tensor([-1.0 if image_id in mistaken else 1.0 for image_id in images.ids])
        return signs[:, None] * images.labels

    monkeypatch.setattr(adversarial, "classify", logits)


@pytest.mark.parametrize("mistaken", [["t0", "t1", "t2"], ["t0", "t1", "t2", "t5"]])
def test_how_much_is_enough(tmp_path, data, classifier, monkeypatch, mistaken):
    says(monkeypatch, mistaken)
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=classifier)
    if len(mistaken) == 3:
        assert run.check_ordinary() == (5 / 8, 0.5)
    else:
        assert "puts 50 % of the labels of 8 training images first" in sentence_of(run.check_ordinary)
        monkeypatch.setattr(adversarial, "_CHECKED_IMAGES", 2)
        says(monkeypatch, ["t2", "t3", "t4", "t5", "t6", "t7"])  # it is asked about the first two alone
        assert run.check_ordinary()[0] == 1


@pytest.mark.parametrize("mistaken", [[], ["t2"]])
def test_where_frequency_says_it_all_nearly_everything_must_be_right(tmp_path, monkeypatch, mistaken):
    root = coloured(tmp_path / "data", ["red"] * 4, VAL)
    says(monkeypatch, mistaken)
    run = open_adversarial(
        tmp_path / "run", "oc_cse", root, classifier=open_cam(tmp_path / "00", root, epochs=1).folder
    )
    if mistaken:
        assert "puts 75 % of the labels of 4 training images first" in sentence_of(run.train)
    else:
        assert run.check_ordinary() == (1.0, 1.0)


def test_a_classifier_that_wants_other_inputs(tmp_path, data):
    other = open_cam(tmp_path / "vgg", data, "vgg16")
    run = open_adversarial(tmp_path / "run", "oc_cse", data, classifier=other.folder)
    message = sentence_of(lambda: run.train(silent))
    assert message.startswith(f"classifier {other.folder} wants images normalised by ")
    assert message.endswith("; give one with the same backbone.")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


# ---------------------------------------------------------------------------------------------------------- divergence


def spoiled(step, number, spoil):
    """A step that spoils the method or its losses when it is called the ``number``-th time."""
    calls = []

    def spoiling(self, batch):
        losses = step(self, batch)
        calls.append(batch)
        return spoil(self, losses) or losses if len(calls) == number else losses

    return spoiling


def with_loss(name, value):
    return lambda _, losses: {**losses, name: torch.tensor(value)}


def break_decoder(method, _losses):
    method.reconstructor.decoder.final.weight.data[0] = float("nan")


NO_IMAGE = "the classifier's adversarial error from_rest is 11, more than two images can differ"


@pytest.mark.parametrize(
    ("method", "number", "spoil", "problem"),
    [
        ("acr", 3, with_loss("from_rest", 11.0), f"in step 1 of epoch 2 {NO_IMAGE}"),
        pytest.param(
            *("acr", 4, with_loss("from_target", float("nan")), "from_target became nan in step 2 of epoch 2"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("acr", 4, break_decoder, "decoder.final.weight is no longer finite after epoch 2"),
            marks=pytest.mark.slow,
        ),
        ("oc_cse", 3, with_loss("erasing", float("inf")), "erasing became inf in step 1 of epoch 2"),
    ],
)
def test_what_diverges_is_stopped(tmp_path, data, classifier, monkeypatch, method, number, spoil, problem):
    def opened(folder):
        return opened_for("imagenet", method, tmp_path / folder, data, classifier)

    with pytest.raises(KeyboardInterrupt):
        opened("one epoch").train(stop)
    with monkeypatch.context() as patch:
        patch.setattr(METHODS[method].METHOD, "step", spoiled(METHODS[method].METHOD.step, number, spoil))
        message = sentence_of(lambda: opened("run").train(silent))
    assert message == (f"{problem}; lower learning_rate (now 0.001). The checkpoint holds the last whole epoch.")
    expected, found = (read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("one epoch", "run"))
    assert len(found["history"]) == 1
    assert_same_state(found["method"], expected["method"])
    assert len(opened("run").train(silent)) == 2  # and where the failure is gone, it continues


@pytest.mark.slow
def test_an_adversary_that_wins_is_noticed(tmp_path, data):
    config = tiny("acr", adversarial_target_weight=1e4, learning_rate=0.1, epochs=8)
    run = open_adversarial(tmp_path / "run", "acr", data, config)
    message = sentence_of(lambda: run.train(silent))
    assert "the classifier's adversarial error from_" in message
    state = read_checkpoint(tmp_path / "run" / "checkpoint.pt")["method"]["networks"]
    assert all(torch.isfinite(value).all() for network in state.values() for value in network.values())


# -------------------------------------------------------------------------------------- what the authors' code trained


def authors_file(path, network):
    """Save a network under the names that its authors give to its tensors."""
    first = {"hidden.": "fc8.", "head.": "fc9."} if hasattr(network, "hidden") else {"head.": "fc8."}
    names = {"backbone.": "", **first}
    state = {}
    for key, value in network.state_dict().items():
        ours = next(name for name in names if key.startswith(name))
        state[names[ours] + key.removeprefix(ours)] = value
    torch.save(state, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_the_authors_is_used_as_it_is(tmp_path, data, classifier, method, monkeypatch):
    source = opened_for("imagenet", method, tmp_path / "source", data, classifier)
    source.train(silent)
    network = next(iter(source.method.networks.values()))
    given = {"checkpoint": authors_file(tmp_path / "official.pth", network), "classifier": classifier}
    monkeypatch.setattr(METHODS[method].METHOD, "step", None)
    run = open_adversarial(tmp_path / "run", method, data, **given)
    assert run.is_trained
    assert run.train(silent) == []
    assert sorted(contents(tmp_path / "run")) == ["config.json", "images.json"]
    for store in (run.infer("val"), reopen(run.folder).infer("train")):
        expected = source.infer(store.folder.name)
        assert contents(store.folder) == contents(expected.folder)
    assert run.identity()["checkpoint"] == hashlib.sha256(given["checkpoint"].read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"holds another run \(checkpoint is None there and '\w{64}' here\)"):
        open_adversarial(tmp_path / "source", method, data, **given)
    with pytest.raises(InputError, match=r"official\.pth is probably for another network"):
        open_adversarial(tmp_path / "3", method, data, tiny(method, "vgg16"), **given).infer("val")


def test_a_checkpoint_needs_no_classifier(tmp_path):
    network = OCCSE(tiny("oc_cse"), 6).network
    run = toy_run(tmp_path / "run", checkpoint=authors_file(tmp_path / "014net_er.pth", network))
    assert run.train(silent) == []
    assert not (tmp_path / "run" / "classifier").exists()


# ------------------------------------------------------------------------------------------------------------ variants


@pytest.mark.slow
def test_variants_share_the_classifier(tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "_MARGIN", -1.0)  # of four images little is learned
    monkeypatch.setattr(earlier, "_short", lambda *_: tiny_config(epochs=1, batch_size=2))
    run = toy_run(tmp_path / "run")
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        variant = run.variant("nothing erased", erasing_weight=0.0, erasing_slope=0.0)
    assert isinstance(variant, WithClassifierRun)
    assert variant.ordinary_run.folder == tmp_path / "run" / "classifier"
    assert {k for k, value in variant.identity().items() if value != run.identity()[k]} == {
        "erasing_weight",
        "erasing_slope",
    }
    [first, second] = variant.train(silent)
    assert first.keys() == second.keys()
    assert "erasing" not in first
    assert first["loss"] == first["classification"]
    assert not (variant.folder / "classifier").exists()
    assert not run.is_trained
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        assert run.variant("nothing erased", erasing_weight=0.0, erasing_slope=0.0).is_trained
    toy_run(tmp_path / "run", resume=False)
    files = ["config.json", "images.json"]
    assert sorted(contents(tmp_path / "run")) == [*(f"classifier/{name}" for name in files), *files]


def test_without_weights_acr_has_no_adversary(tmp_path, data):
    run = open_adversarial(tmp_path / "run", "acr", data)
    alone = run.variant("alone", adversarial_target_weight=0.0, adversarial_rest_weight=0.0)
    before = {name: value.clone() for name, value in alone.method.reconstructor.state_dict().items()}
    [first, _] = alone.train(silent)
    assert {name for name in first if "reconstructor" in name or "from" in name} == set()
    assert_same_state(dict(alone.method.reconstructor.state_dict()), before)


@pytest.mark.slow
def test_a_reconstructor_that_does_not_learn_is_another_run(tmp_path, data):
    """The classifier works against it all the same, and ends as another one than ACR's and than one without."""
    run = open_adversarial(tmp_path / "run", "acr", data)
    run.train(silent)
    frozen = run.variant("frozen", train_reconstructor=False)
    assert not frozen.is_trained
    before = {name: value.clone() for name, value in frozen.method.reconstructor.state_dict().items()}
    [_, last] = frozen.train(silent)
    assert last["from_target"] > 0
    assert [name for name in last if "reconstructor" in name] == []
    assert_same_state(dict(frozen.method.reconstructor.state_dict()), before)
    alone = run.variant("alone", adversarial_target_weight=0.0, adversarial_rest_weight=0.0)
    alone.train(silent)
    ends = [one.method.classifier.state_dict()["head.weight"] for one in (run, frozen, alone)]
    assert not any(torch.equal(ends[i], ends[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({}, "none is named"), ({"grid_cell": 16, "scales": (1.0, 0.5)}, "grid_cell is 16 already, scales is")],
)
def test_a_variant_that_changes_nothing_is_refused(tmp_path, data, changes, reason):
    """It would be a copy of the run itself under another name."""
    run = open_adversarial(tmp_path / "run", "acr", data)
    message = sentence_of(lambda: run.variant("same", **changes))
    assert message.startswith(f"variant 'same' changes no setting ({reason}")
    assert not (run.folder / "variants").exists()
    assert run.variant("same", grid_cell=8, scales=(1.0, 0.5)).settings.config.grid_cell == 8


# ---------------------------------------------------------------------------------------------------------- parameters


def read(method="oc_cse", **values):
    return read_parameters("02_oc_cse", method, values)


def test_parameters_reach_the_settings(tmp_path):
    write(tmp_path / "od_cam.pth", "weights")
    given = read(classifier="od_cam.pth", start="classifier", mask_norm="image", erasing_weight=0.5, erasing_slope=1)
    assert given.classifier == tmp_path / "od_cam.pth"
    config = given.config
    assert (config.start, config.mask_norm) == ("classifier", "image")
    assert (config.erasing_weight, config.erasing_slope) == (0.5, 1.0)
    assert given.folder.name == "toy-erasing_slope=1-erasing_weight=0.5-mask_norm=image-start=classifier"
    assert read(start="", mask_norm="", classifier="", checkpoint="") == read()
    assert read("acr", warm_up=5, hidden=8, grid_cell=4).config == acr.Config.preset("toy").replace(
        warm_up=5, hidden=8, grid_cell=4
    )


def test_parameters_that_do_not_fit():
    for method in METHODS:
        assert sentence_of(lambda method=method: read(method, start="classifer")) == (
            "start 'classifer' is unknown; choose one of imagenet, classifier."
        )
    assert sentence_of(lambda: read(mask_norm="max")) == "mask_norm 'max' is unknown; choose one of batch, image."
    assert sentence_of(lambda: read("acr", crop_size=100)).startswith("crop_size 100 can be halved 2 times only")


# ------------------------------------------------------------------------------------------------------- two processes


@pytest.mark.slow
def test_two_processes_make_the_same_updates_as_one(tmp_path, monkeypatch):
    """Where nothing is drawn in the network, and batch normalisation is fixed."""
    monkeypatch.chdir(Path(__file__).parents[2])  # the processes import the library from where the tests do
    root = coloured(tmp_path / "data", ["red", "green", "blue", "red", "green", "blue", "red", "green"], VAL)
    classifier = open_cam(tmp_path / "00", root)
    teach(classifier)
    torch.save(classifier.method.backbone.state_dict(), tmp_path / "weights.pt")
    options = {"backbone_options": {"width": 0.0625, "dropout": [0.0, 0.0]}}
    options |= {"optimizer": "sgd", "learning_rate": 1e-4, "erasing_weight": 5.0}
    config = tiny("oc_cse", pretrained=True, epochs=3, **options)
    histories, states = [], []
    for devices in (1, 2):
        fields = {"devices": devices, "weights": tmp_path / "weights.pt", "classifier": classifier.folder}
        run = open_adversarial(tmp_path / str(devices), "oc_cse", root, config, **fields)
        histories.append(without_seconds(run.train(silent)))
        states.append(reopen(run.folder).method.network.state_dict())
        assert len(contents(run.folder / "growth")) == 3 * len(WATCHED)
    for one, two in zip(*histories, strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)
    assert histories[0][0]["loss"] != pytest.approx(histories[0][-1]["loss"], rel=1e-2)


@pytest.mark.slow
def test_a_classifier_that_two_processes_train_is_the_same_in_both(tmp_path, monkeypatch, capfd):
    """Asked at once, and asked by a run that finds it trained."""
    monkeypatch.chdir(Path(__file__).parents[2])
    root, losses = coloured(tmp_path / "data", 4 * TRAIN, VAL), []
    classifier = open_cam(tmp_path / "00", root, epochs=6, learning_rate=1e-2).folder
    for name in ("first", "second"):
        run = open_adversarial(tmp_path / name, "oc_cse", root, classifier=classifier)
        launch_processes(2, ["-m", "wsss_lib", str(run.folder), "train"])
        losses.append([row["loss"] for row in read_checkpoint(run.folder / "checkpoint.pt")["history"]])
    capfd.readouterr()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
