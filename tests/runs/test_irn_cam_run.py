"""Runs of IRN's classifier, which the shell makes: trained, or with the authors' network; IRN refines their maps."""

from pathlib import Path

import pytest
import torch

from tests.runs.small import assert_same_state, sentence_of
from tests.runs.test_irn_run import open_irn
from tests.use.test_chains import draw_pictures
from wsss_lib import __main__ as command
from wsss_lib.methods import cam
from wsss_lib.methods import method as methods
from wsss_lib.methods.irn_cam import Config, IRNCam
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.stages.store import read_json
from wsss_lib.use.chains import open_method, read_words

LIMIT = 4
SMALL = {"epochs": 1, "batch_size": 2, "crop_size": 32, "min_long_side": 32, "max_long_side": 48, "scales": (1.0,)}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch):
    """Make the network tiny, whatever the preset."""
    monkeypatch.setattr(methods, "TOY_PRETRAINED", False)  # the weights are for larger networks
    config = Config.preset("toy").replace(pretrained=False, alphas=(4.0,), **SMALL)
    config = config.replace(backbone_options={"width": 0.125, "output_stride": 16, "dilated": False})
    monkeypatch.setattr(Config, "for_preset", classmethod(lambda *_: config))
    return config


def official_file(path, config):
    """Write a network with the keys of the authors' files, which name every tensor several times; return it."""
    torch.manual_seed(3)
    network = IRNCam(config, 6).network
    state = {}
    for key, value in network.state_dict().items():
        if key.startswith("backbone."):
            names = ("resnet50.", "stage1.", "backbone.0.")
            state |= {name + key.removeprefix("backbone."): value for name in names}
        else:
            state |= {key.replace("head.", "classifier."): value, key.replace("head.", "newly_added.0."): value}
    torch.save(state, path)
    return network


@pytest.mark.usefixtures("small")
def test_the_shell_makes_a_run_whose_maps_irn_refines(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wsss", "run", "irn_cam", f"limit={LIMIT}", "workers=0", "accelerator=cpu"])
    assert command.main() == 0
    folder = Path("runs/irn_cam") / f"toy-limit={LIMIT}"
    assert f"results in {folder}" in capsys.readouterr().out
    assert set(read_json(folder / "metrics.json")["refinements"]["val"]) == {"cam", "crf-4"}
    run = reopen(folder)
    assert isinstance(run.method, IRNCam)
    refiner = open_irn(Path("irn"), cams=folder.resolve(), limit=LIMIT)
    assert refiner.cam_run.folder == folder.resolve()
    refiner.label()
    refiner.train(lambda _row: None)
    assert len(list(refiner.infer("val").folder.glob("*.npz"))) == LIMIT


def test_the_authors_network_is_used_instead_of_training(tmp_path, small, monkeypatch):
    network = official_file(tmp_path / "res50_cam.pth.pth", small)
    data = draw_pictures(tmp_path / "data", val=False)
    words = ["preset=photos", f"data_root={data}", "out=run", "workers=0", "accelerator=cpu"]
    run = open_method(read_words([*words, "checkpoint=res50_cam.pth.pth"], "irn_cam"), with_final=False)
    monkeypatch.setattr(IRNCam, "step", None)  # calling it would raise
    assert run.train() == []
    assert_same_state(dict(run.method.network.state_dict()), dict(network.state_dict()))
    assert set(run.infer("val").read("train1")[0].tolist()) <= set(range(6))


def test_00_cam_refuses_the_authors_file(tmp_path, small, monkeypatch):
    """Its tensors fit, but the last stage of the ResNet-50 of 00_cam is dilated, so that its maps would be others."""
    official_file(tmp_path / "res50_cam.pth.pth", small)
    assert "dilated" not in cam.Config.preset("voc12", "resnet50").backbone_options  # True by default
    monkeypatch.setattr(cam.Config, "for_preset", classmethod(lambda *_: small))
    data = draw_pictures(tmp_path / "data", val=False)
    words = ["preset=photos", f"data_root={data}", "checkpoint=res50_cam.pth.pth", "out=run", "accelerator=cpu"]
    parameters = read_words(words, "cam")
    assert "is probably for another network" in sentence_of(lambda: open_method(parameters, with_final=False))


def test_its_settings_are_those_of_the_paper():
    Path("data").mkdir()
    settings = read_parameters("irn_cam", "irn_cam", {"preset": "voc12", "data_root": "data"})
    assert settings.config == Config.preset("voc12") == Config()
    assert settings.folder == Path.cwd() / "runs" / "irn_cam" / "voc12"
