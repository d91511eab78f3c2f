"""A run of PCSS: the census in the middle of the training, stopping and continuing, several processes, COCO."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.data import trees
from tests.runs.small import sentence_of, silent, without_seconds
from wsss_lib.methods.pcss import Config, choose_census_images
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.pcss import PcssRun
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.engine import launch_processes
from wsss_lib.stages.store import read_checkpoint
from wsss_lib.stages.train import History

OPTIONS = {"channels": 24, "depth": 3, "heads": 2, "patch": 8, "grid": 4}


def tiny(**changes):
    small = {
        "backbone_options": OPTIONS,
        "pretrained": False,
        "epochs": 3,
        "batch_size": 4,
        "crop_size": 32,
        "merge_block": 1,
        "plain_share": 0.0,
        "shortcut_start": 0,
        "shortcut_interval": 1,
        "probed_images": 3,
    }
    return Config.preset("toy").replace(**{**small, **changes})


def open_pcss(folder, config=None, **changes) -> PcssRun:
    fields = {"preset": "toy", "accelerator": "cpu", "workers": 0, "limit": 16, **changes}
    preset = fields.pop("preset")
    return PcssRun(Settings("04_pcss", "pcss", preset, config or tiny(), folder, **fields))


def trained(folder, **changes) -> tuple[PcssRun, History]:
    run = open_pcss(folder, **changes)
    return run, run.train(silent)


@pytest.mark.slow
def test_from_the_toy_world_to_scores(tmp_path):
    run, history = trained(tmp_path / "run")
    always = {"epoch", "loss", "classification", "mixed", "mixed_maps", "learning_rate", "seconds"}
    assert set(history[0]) == always
    assert set(history[1]) == set(history[2]) == always | {"suppressed", "suppressed_maps"}
    assert run.method.influence.table.amax(dim=(1, 2)).min() > 0
    run.infer("val")
    assert 0 < run.score("val").mean_iou.max() < 1
    assert set(run.refine("crf", "val")) == {"crf-6", "crf-10", "crf-24"}
    assert isinstance(reopen(tmp_path / "run"), PcssRun)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_numbers(tmp_path):
    whole, history = trained(tmp_path / "whole")

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pcss(tmp_path / "parts").train(stop)
    parts, continued = trained(tmp_path / "parts")
    assert without_seconds(continued) == without_seconds(history)
    for key, value in whole.method.state_dict()["networks"]["influence"].items():
        assert torch.equal(value, parts.method.state_dict()["networks"]["influence"][key])


def test_only_images_that_count_are_looked_at(tmp_path):
    run = open_pcss(tmp_path / "run")
    batches = list(run.census_images(1))
    used = torch.cat([some for _, some in batches])
    assert used.any(1).all()
    assert (used.sum(0) == choose_census_images(run.splits.fit.labels, 3).sum(0)).all()
    assert all(images.shape[1:] == (3, 32, 32) for images, _ in batches)
    again, other = list(run.census_images(1)), list(run.census_images(2))
    assert torch.equal(again[0][0], batches[0][0])
    assert not torch.equal(other[0][0][:3], batches[0][0][:3])


@pytest.mark.slow
def test_two_processes_hold_one_census(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = tiny(epochs=2, batch_size=4, phase_weight=0.0)
    run = open_pcss(tmp_path / "two", config)
    alone = sum(len(used) for _, used in run.census_images(1))
    launch_processes(2, ["-m", "wsss_lib", str(run.folder), "train"])
    capfd.readouterr()
    state = read_checkpoint(run.folder / "checkpoint.pt")
    assert alone > 3
    assert len(state["history"]) == 2
    assert state["method"]["networks"]["influence"]["table"].amax(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("network", ["v1", "v2", "plus"])
def test_the_mctformers_need_no_census(tmp_path, network):
    options = {**OPTIONS, "grid": 2} if network == "plus" else OPTIONS
    config = tiny(network=network, phase_weight=0.0, shortcut_weight=0.0, epochs=1, backbone_options=options)
    run, history = trained(tmp_path / "run", config=config)
    assert len(history) == 1
    run.infer("val")
    assert 0 < run.score("val").mean_iou.max() < 1


# --------------------------------------------------------------------------------------------------------------- COCO


@pytest.fixture
def coco(tmp_path):
    return trees.coco_splits_tree(tmp_path / "COCO2014")


def test_the_whole_path_on_coco(tmp_path, coco):
    config = tiny(batch_size=3, epochs=2)
    run, history = trained(tmp_path / "run", config=config, preset="coco14", data_root=coco)
    assert len(run.splits.classes) == 80
    assert "suppressed_maps" in history[1]
    for split, shown in {"train": [[16], [79], []], "val": [[16]]}.items():
        store = run.infer(split)
        data = run.data(split)
        assert [store.read(image_id)[0].tolist() for image_id in data.ids] == shown
        assert run.score(split).confusions.shape[1:] == (81, 81)
    masks = run.refine("crf", "train")
    assert not masks["crf-6"].read(run.data("train").ids[2], 80, (40, 48)).any()


def test_without_the_transformers_weights(tmp_path, coco):
    def open_it():
        open_pcss(tmp_path / "run", tiny(pretrained=True), preset="coco14", data_root=coco, pretrained_folder=tmp_path)

    with mock.patch("torch.hub.download_url_to_file", side_effect=OSError("no network")):
        message = sentence_of(open_it)
    assert "deit_small_patch16_224-cd65a155.pth" in message
    assert not (tmp_path / "run").exists()
