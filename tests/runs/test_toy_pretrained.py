"""Runs on the toy world that start from the package's weights, or from scratch."""

import json

import pytest
import torch

from tests.runs.small import settings
from wsss_lib.errors import InputError
from wsss_lib.methods import cam
from wsss_lib.models.pretrained import find_toy_weights
from wsss_lib.models.weights import read_state
from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.folder import RunFolder
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.settings import read_settings
from wsss_lib.runs.with_classifier import WithClassifierRun
from wsss_lib.stages.contents import file_digest

CELLS = {"In": ["preset: str = 'toy'", "# Parameters\npretrained = False"]}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    for name in ("notebooks", "wsss_lib"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(notebook="00_cam", method="cam", **values):
    return read_parameters(notebook, method, {"limit": 8, **values})


def backbone(run):
    return run.method.backbone.state_dict()


def test_the_parameter_chooses():
    usual, started, scratch = CamRun(read()), CamRun(read(pretrained=True)), CamRun(read(**CELLS, pretrained=False))
    assert usual.settings == started.settings
    assert usual.settings.config.pretrained
    assert not scratch.settings.config.pretrained
    assert scratch.folder.name == "toy-limit=8-pretrained=False"
    weights = read_state(find_toy_weights("resnet50"))
    assert all(torch.equal(backbone(started)[key], value.float()) for key, value in weights.items())
    assert not torch.equal(backbone(started)["layer4.0.conv1.weight"], backbone(scratch)["layer4.0.conv1.weight"])


def test_words_of_the_shell_choose_too():
    assert read(pretrained="True").config.pretrained
    assert not read(pretrained="False").config.pretrained
    with pytest.raises(InputError, match="pretrained must be of type bool"):
        read(pretrained="resnet50")


def test_a_run_is_told_by_its_weights():
    run = CamRun(read(pretrained=True))
    assert RunFolder(run.folder).identity()["weights"] == file_digest(find_toy_weights("resnet50"))
    assert RunFolder(CamRun(read(pretrained=False)).folder).identity()["weights"] is None
    with pytest.raises(InputError, match="holds another run"):
        CamRun(read(pretrained=False, out=str(run.folder)))


def test_other_weights_are_another_run(monkeypatch):
    run = CamRun(read(pretrained=True))
    content = json.loads((run.folder / "config.json").read_text())
    assert file_digest(find_toy_weights("resnet50")) in json.dumps(content)
    monkeypatch.setattr("wsss_lib.runs.settings.find_toy_weights", lambda _: find_toy_weights("deit_small"))
    with pytest.raises(InputError, match=r"weights"):
        CamRun(read(pretrained=True))


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_ordinary_classifier_starts_alike(pretrained):
    """Without a run of 00_cam that has started alike, a short one is made."""
    usual = CamRun(read(pretrained=not pretrained, epochs=1))
    run = WithClassifierRun(read("02_oc_cse", "oc_cse", pretrained=pretrained))
    assert run.ordinary_run.folder == run.folder / "classifier" != usual.folder
    assert read_settings(run.ordinary_run.folder).config.pretrained == pretrained


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_usual_run_that_has_started_alike_is_found(pretrained):
    usual, other = CamRun(read(pretrained=pretrained)), CamRun(read(pretrained=not pretrained))
    run = WithClassifierRun(read("02_oc_cse", "oc_cse", pretrained=pretrained))
    assert run.ordinary_run.folder == usual.folder != other.folder


def test_a_network_without_weights_continues_the_usual_run():
    """Nobody has chosen that it trains from scratch, so it does not choose so for the maps."""
    usual = CamRun(read())
    run = AffinityNetRun(read("01_affinitynet", "affinitynet", backbone="vgg16"))
    assert not run.settings.config.pretrained
    assert run.cam_run.folder == usual.folder
    other = AffinityNetRun(read("01_affinitynet", "affinitynet", backbone="vgg16", seed=1))
    assert other.cam_run.folder == other.folder / "cam_run"
    assert other.cam_run.settings.config.pretrained


def test_weights_that_would_not_be_used_are_refused(project):
    (project / "w.pt").touch()
    with pytest.raises(InputError, match="weights is given, but pretrained False trains from scratch"):
        read(preset="photos", weights="w.pt", pretrained=False)


def test_a_backbone_without_weights_is_refused_before_anything_is_made(tmp_path):
    config = cam.Config.preset("toy", "vgg16").replace(pretrained=True)
    with pytest.raises(InputError, match="not of vgg16"):
        CamRun(settings(tmp_path / "run", config))
    assert not (tmp_path / "run").exists()
