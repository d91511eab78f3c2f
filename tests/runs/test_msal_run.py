"""Runs of MSAL and of its superpixels: training one for the other, files, continuing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs.small import sentence_of, silent
from wsss_lib.data.toy import ToyWorld
from wsss_lib.methods import msal, superpixels
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.superpixel_net import SPIXEL_FCN, SuperpixelNet
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.msal import MsalRun, SuperpixelRun
from wsss_lib.runs.settings import Settings

TINY = superpixels.Config.preset("toy").replace(epochs=1, width=0.125, batch_size=8)


@pytest.fixture(autouse=True)
def small_superpixels(monkeypatch):
    monkeypatch.setattr(superpixels.Config, "preset", lambda *_: TINY)


def open_msal(folder, **changes):
    config = msal.Config.for_preset("toy", "").replace(
        epochs=2, batch_size=8, scales=(1.0,), **changes.pop("config", {})
    )
    fields = {"accelerator": "cpu", "workers": 0, "limit": 16, **changes}
    return MsalRun(Settings("05_msal", "msal", "toy", config, folder, **fields))


@pytest.mark.slow
def test_from_the_toy_world_to_scores(tmp_path):
    run = open_msal(tmp_path / "run")
    assert not (tmp_path / "run" / "superpixels" / "checkpoint.pt").exists()
    history = run.train(silent)
    assert set(history[0]) == {"epoch", "loss", "classification", "ipc", "gradient", "learning_rate", "seconds"}
    assert (tmp_path / "run" / "superpixels" / "checkpoint.pt").exists()
    store = run.infer("val")
    classes, maps = store.read(run.data("val").ids[0])
    assert maps.shape == (len(classes), 96, 96)
    assert 0 < run.score("val").mean_iou.max() < 1
    again = reopen(tmp_path / "run")
    assert isinstance(again, MsalRun)
    assert isinstance(again.superpixel_run, SuperpixelRun)
    assert again.identity() == run.identity()
    assert again.is_trained
    before = {k: v for k, v in run.superpixels.state_dict().items() if "running" in k}
    assert all(torch.equal(v, again.superpixels.state_dict()[k]) for k, v in before.items())


def test_variants_share_the_superpixels(tmp_path):
    run = open_msal(tmp_path / "run")
    variant = run.variant("no-ipc", ipc_weight=0.0)
    assert variant.superpixel_run.folder == tmp_path / "run" / "superpixels"
    differing = {k for k, v in variant.identity().items() if v != run.identity()[k]}
    assert differing == {"ipc_weight"}


def test_superpixels_are_trained_with_no_larger_batches(tmp_path):
    config = msal.Config.for_preset("toy", "").replace(batch_size=4)
    run = MsalRun(Settings("05_msal", "msal", "toy", config, tmp_path / "run", accelerator="cpu", limit=4))
    assert run.superpixel_run.settings.config.batch_size == 4
    assert open_msal(tmp_path / "usual").superpixel_run.settings.config.batch_size == TINY.batch_size


def test_a_file(tmp_path):
    torch.save({"state_dict": SuperpixelNet().state_dict()}, tmp_path / "SpixelNet_bsd_ckpt.tar")
    run = open_msal(tmp_path / "run", superpixels=tmp_path / "SpixelNet_bsd_ckpt.tar")
    assert run.superpixel_run is None
    assert not any(p.requires_grad for p in run.method.superpixels.parameters())
    assert run.method.superpixels.training is False


def test_the_published_network_gets_images_as_it_wants_them(tmp_path):
    """By what its checkpoint holds beside the weights, or by what stands beside the file."""
    torch.manual_seed(0)
    network, image = SuperpixelNet().eval(), torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    file = tmp_path / "net.tar"
    for name, beside, described in (
        ("plain", {}, {}),
        ("published", {"best_EPE": 1.0, "arch": "SpixelNet1l_bn"}, {}),
        ("described", {}, {"mean": SPIXEL_FCN.mean, "std": SPIXEL_FCN.std}),
    ):
        torch.save({"state_dict": network.state_dict(), **beside}, file)
        file.with_suffix(".json").write_text(json.dumps(described))
        method = open_msal(tmp_path / name, superpixels=file).method
        wanted = Normalisation() if name == "plain" else SPIXEL_FCN
        with torch.inference_mode():
            expected = network(wanted(image))["association"]
        torch.testing.assert_close(method.associate(method.backbone.normalisation(image)), expected)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_file(tmp_path, share):
    torch.save({"state_dict": SuperpixelNet().state_dict(), "best_EPE": 1.0}, tmp_path / "x.tar")
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: int(share * len(whole))])
    assert "x.tar" in sentence_of(lambda: open_msal(tmp_path / "run", superpixels=tmp_path / "x.tar"))
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_size(tmp_path):
    torch.save(SuperpixelNet(0.5).state_dict(), tmp_path / "x.tar")
    message = sentence_of(lambda: open_msal(tmp_path / "run", superpixels=tmp_path / "x.tar"))
    assert "probably for another network" in message
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_method(tmp_path):
    other = open_msal(tmp_path / "other")
    message = sentence_of(lambda: open_msal(tmp_path / "run", superpixels=other.folder))
    assert message == f"superpixels {other.folder} is a run of msal; give one of superpixels."
    assert not (tmp_path / "run").exists()


def saliency_of(folder, world):
    folder.mkdir()
    for index, image_id in enumerate(world.ids):
        mask = world.mask(index)
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(folder / f"{image_id}.png")
    return folder


@pytest.mark.slow
def test_saliency_is_rebuilt(tmp_path):
    folder = saliency_of(tmp_path / "saliency", ToyWorld("train", 16))
    run = open_msal(tmp_path / "run", saliency=folder, config={"target": "saliency", "patches": 1, "gate": 0.01})
    images = next(iter(run.training_batches())).images
    assert images.shape == (8, 4, 176, 176)
    assert 0 <= images[:, 3].min() < images[:, 3].max() <= 1
    history = run.train(silent)
    assert history[0]["ipc"] > 0
    assert run.infer("val").read(run.data("val").ids[0])[1].shape[1:] == (96, 96)
    assert run.identity()["saliency"] == run.saliency.fingerprint()


def test_saliency_that_is_missing_or_not_used(tmp_path):
    target = {"target": "saliency"}
    assert "name their folder as saliency" in sentence_of(lambda: open_msal(tmp_path / "run", config=target))
    (tmp_path / "empty").mkdir()
    message = sentence_of(lambda: open_msal(tmp_path / "run", config=target, saliency=tmp_path / "empty"))
    assert "16 of 16 saliency maps" in message
    message = sentence_of(lambda: open_msal(tmp_path / "run", saliency=tmp_path / "empty"))
    assert message == "saliency is given, but target image does not use it; choose target saliency."
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_matters_after_training_only_needs_no_training(tmp_path):
    run = open_msal(tmp_path / "run", config={"dcr": "off", "ipc_weight": 0.0})
    run.train(silent)
    assert run.variant("bilinear", along_superpixels=False).is_trained
    assert not run.variant("slower", learning_rate=1e-5).is_trained
