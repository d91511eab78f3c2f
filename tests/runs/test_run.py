"""A run and its folder: what belongs together, what is refused, and several processes."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.trees import save_image, write
from tests.runs.small import (
    assert_same_state,
    open_run,
    sentence_of,
    settings,
    silent,
    tiny_config,
    without_seconds,
)
from wsss_lib import __main__ as command
from wsss_lib.data.transforms import view
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import CAM, Config
from wsss_lib.models import create_backbone, pretrained
from wsss_lib.models.weights import read_state
from wsss_lib.ops.cam import merge_mirrored, normalise_maximum, upsample
from wsss_lib.runs import cam as seeds_module
from wsss_lib.runs import identity as identity_module
from wsss_lib.runs import run as run_module
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.settings import Settings
from wsss_lib.stages.contents import file_digest
from wsss_lib.stages.engine import launch_processes
from wsss_lib.stages.store import read_json, write_json
from wsss_lib.stages.train import resume

SHORT = tiny_config(epochs=1)


def photographs(root):
    """Eight photographs of two sizes, which several processes can open quickly."""
    for i in range(8):
        save_image(root / "images" / f"{i}.png", (40, 48) if i % 2 else (33, 40), seed=i)
    write(
        root / "labels.csv", "image,labels\n" + "".join(f"{i}.png,{'cat;dog' if i % 3 else 'dog'}\n" for i in range(8))
    )
    return root


def photo_run(folder, data, devices=1, backbone="vgg16", weights=None, resume=True, **changes):
    small = {"epochs": 2, "batch_size": 4, "crop_size": 32, "min_long_side": 32, "max_long_side": 48} | changes
    small = {"pretrained": weights is not None, "backbone_options": {"width": 0.125}} | small
    config = Config.preset("photos", backbone).replace(**small)
    fields = {"data_root": data, "devices": devices, "weights": weights, "resume": resume}
    return CamRun(settings(folder, config, preset="photos", **fields))


# --------------------------------------------------------------------------------------------------------- settings


def test_settings_come_back(tmp_path):
    files = {name: tmp_path / name for name in ("weights", "cams", "classifier", "checkpoint", "data_root", "labels")}
    before = settings(tmp_path / "run", tiny_config(), seed=3, workers=2, **files)
    write_json(tmp_path / "s.json", before.to_dict())
    assert Settings.from_dict(read_json(tmp_path / "s.json")) == before


@pytest.mark.slow
def test_reopened_elsewhere(tmp_path):
    before = open_run(tmp_path / "run", SHORT, limit=8)
    before.train(silent)
    (tmp_path / "run").rename(tmp_path / "moved")
    after = reopen(tmp_path / "moved")  # the images of the world are drawn anew
    assert after.folder == tmp_path / "moved"
    assert after.settings.config == before.settings.config
    assert_same_state(after.method.network.state_dict(), before.method.network.state_dict())


def test_a_picture_as_input(tmp_path):
    run = open_run(tmp_path / "run", limit=4)
    picture = run.splits.fit.image(0)
    found = run.as_input(picture)
    assert found.shape == (1, 3, picture.height, picture.width)
    assert torch.equal(found[0], run.normalise(torch.from_numpy(np.array(picture)).permute(2, 0, 1)))


def test_reopening_what_is_none(tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        reopen(tmp_path)
    for content in ("{}", "[1]", '{"identity": {}, "settings": 3}'):
        (tmp_path / "config.json").write_text(content)
        for opening in (reopen, open_run):
            with pytest.raises(
                InputError, match=r"config\.json is not the configuration of a run; give another folder"
            ):
                opening(tmp_path)
    (tmp_path / "config.json").write_text('{"identity": {}, "settings": {"method": "cam"}}')
    with pytest.raises(InputError, match=r"config\.json does not fit wsss_lib .* wrote the file: use that version"):
        reopen(tmp_path)


# ------------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"config": tiny_config(epochs=4)}, "epochs is 3 there and 4 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"precision": "bf16-mixed"}, "precision is '32-true' there and 'bf16-mixed' here"),
        ({"limit": 8}, "limit is 0 there and 8 here"),
        ({"config": tiny_config(scales=(1.0,))}, r"scales is \[1.0, 0.5\] there and \[1.0\] here"),
    ],
)
def test_another_run_in_the_folder(tmp_path, changes, difference):
    open_run(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match=rf"holds another run \({difference}\); give another folder as out"):
        open_run(tmp_path, **changes)
    assert (tmp_path / "config.json").read_bytes() == before
    open_run(tmp_path, workers=2)  # decides no number


def test_other_data_in_the_folder(tmp_path):
    data = photographs(tmp_path / "data")
    photo_run(tmp_path / "run", data)
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("0.png,dog", "0.png,cat"))
    with pytest.raises(InputError, match=r"another run \(data fit is '8 images"):
        photo_run(tmp_path / "run", data)


def test_starting_over_removes_the_files_of_the_run_alone(tmp_path):
    run = open_run(tmp_path, SHORT)
    run.train(silent)
    run.infer("val")
    write(tmp_path / "notes.txt", "mine")
    write(tmp_path / "metrics.json", "{}")
    open_run(tmp_path, tiny_config(epochs=2), resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json", "images.json", "notes.txt"]
    assert read_json(tmp_path / "config.json")["identity"]["epochs"] == 2


def test_starting_over_in_a_folder_without_a_run_removes_nothing(tmp_path):
    write(tmp_path / "cams" / "mine.txt", "mine")
    open_run(tmp_path, SHORT, resume=False)
    assert (tmp_path / "cams" / "mine.txt").is_file()


def test_out_is_a_file_or_lies_in_one(tmp_path):
    write(tmp_path / "file", "")
    with pytest.raises(InputError, match="file is a file; give a folder"):
        open_run(tmp_path / "file")
    with pytest.raises(InputError, match=r"config\.json cannot be written"):
        open_run(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"config\.json cannot be written .*choose a folder that you may write to"):
        open_run(tmp_path / "run")
    tmp_path.chmod(0o700)


def test_a_refused_run_leaves_no_folder(tmp_path):
    for changes in ({"preset": "photos"}, {"accelerator": "tpu"}, {"precision": "8"}):
        with pytest.raises(InputError):
            open_run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.pt is missing"):
        open_run(tmp_path / "run", tiny_config(pretrained=True), weights=tmp_path / "no.pt")
    with pytest.raises(InputError, match="preset 'photos' needs data; give its folder as data_root"):
        open_run(tmp_path / "run", preset="photos")
    with pytest.raises(InputError, match=r"data_root .*nowhere is not a folder"):
        open_run(tmp_path / "run", preset="voc12", data_root=tmp_path / "nowhere")
    config = tiny_config(pretrained=True, backbone="resnet38d")
    with pytest.raises(InputError, match=r"preset toy has pre-trained weights of .*, not of resnet38d"):
        open_run(tmp_path / "run", config, pretrained_folder=tmp_path / "pretrained")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", r"w\.pt"), (b"no weights", r"w\.pt"), ({"other.weight": torch.zeros(3)}, "probably for another network")],
)
def test_weights_that_do_not_fit(tmp_path, content, says):
    """They claim no folder, and have none removed."""
    path, config = tmp_path / "w.pt", tiny_config(pretrained=True)
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert re.search(says, sentence_of(lambda: open_run(tmp_path / "run", config, weights=path)))
    assert not (tmp_path / "run").exists()
    open_run(tmp_path / "run")
    sentence_of(lambda: open_run(tmp_path / "run", config, weights=path, resume=False))
    assert open_run(tmp_path / "run").settings.weights is None


def test_weights_are_read_once(tmp_path, monkeypatch):
    config, read, hashed = tiny_config(pretrained=True), [], []
    torch.save(create_backbone(config.backbone, **config.backbone_options).state_dict(), tmp_path / "w.pt")
    for module in (pretrained, run_module):
        monkeypatch.setattr(module, "read_state", lambda path: read.append(path) or read_state(path))
    monkeypatch.setattr(identity_module, "file_digest", lambda path: hashed.append(path) or file_digest(path))
    run = open_run(tmp_path / "run", config, weights=tmp_path / "w.pt")
    run.train(silent)
    assert read == hashed == [tmp_path / "w.pt"]
    assert run.weights_report.loaded


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_absent(tmp_path):
    with pytest.raises(InputError, match="'cuda' was asked for, but PyTorch finds no CUDA device; use 'cpu'"):
        open_run(tmp_path, accelerator="cuda")
    with pytest.raises(InputError, match="'16-mixed' needs CUDA"):
        open_run(tmp_path, accelerator="auto", precision="16-mixed")


def test_a_checkpoint_of_something_else(tmp_path):
    open_run(tmp_path)
    for content in ({"weights": torch.zeros(3)}, {"method": {"networks": {"network": {}}}, "history": []}, [1]):
        torch.save(content, tmp_path / "checkpoint.pt")
        with pytest.raises(InputError, match=r"checkpoint\.pt .*; remove it"):
            open_run(tmp_path).train(silent)


# ----------------------------------------------------------------------------------- what somebody else has trained


def official_checkpoint(path, seed, classes=6):
    """A classifier under the names of AffinityNet's code; return its configuration, too."""
    torch.manual_seed(seed)
    config = tiny_config(backbone="resnet38d", backbone_options={"width": 0.0625, "dropout": [0.0, 0.0]}, epochs=1)
    network = CAM(config, classes).network
    network.head.weight.data.abs_()
    names = {key: key.removeprefix("backbone.").replace("head.", "fc8.") for key in network.state_dict()}
    torch.save({names[key]: value for key, value in network.state_dict().items()}, path)
    return config, network


def test_a_checkpoint_is_used_instead_of_training(tmp_path, monkeypatch):
    config, network = official_checkpoint(tmp_path / "res38_cls.pth", 1)
    run = open_run(tmp_path / "run", config, checkpoint=tmp_path / "res38_cls.pth")
    assert_same_state(dict(run.method.network.state_dict()), dict(network.state_dict()))
    monkeypatch.setattr(CAM, "step", None)  # calling it would raise
    assert run.is_trained
    reported = []
    assert run.train(reported.append) == reported == []
    assert sorted(path.name for path in (tmp_path / "run").glob("[!.]*")) == ["config.json", "images.json"]
    store, data = run.infer("val"), run.splits.scored["val"]
    for index, image_id in enumerate(data.ids[:3]):
        classes, cams = store.read(image_id)
        views = [view(data.image(index), scale, run.normalise)[None] for scale in config.scales]
        with torch.no_grad():
            maps = [network.eval().cam(torch.cat([x, x.flip(-1)]))[:, classes] for x in views]
        total = sum(upsample(merge_mirrored(x), data.size(index))[0] for x in maps)
        torch.testing.assert_close(cams, normalise_maximum(total), rtol=0, atol=2e-3)


def test_a_checkpoint_needs_no_pretrained_weights(tmp_path):
    config, _ = official_checkpoint(tmp_path / "res38_cls.pth", 1, classes=2)
    fields = {"preset": "photos", "data_root": photographs(tmp_path / "data")}
    config = config.replace(pretrained=True)
    assert "weights of resnet38d are missing" in sentence_of(
        lambda: CamRun(settings(tmp_path / "run", config, pretrained_folder=tmp_path, **fields))
    )
    fields |= {"pretrained_folder": tmp_path, "checkpoint": tmp_path / "res38_cls.pth"}
    assert CamRun(settings(tmp_path / "run", config, **fields)).is_trained


def test_a_checkpoint_decides_the_numbers(tmp_path):
    config, _ = official_checkpoint(tmp_path / "one.pth", 1)
    official_checkpoint(tmp_path / "two.pth", 2)
    run = open_run(tmp_path / "run", config, checkpoint=tmp_path / "one.pth")
    assert run.identity()["checkpoint"] == hashlib.sha256((tmp_path / "one.pth").read_bytes()).hexdigest()
    assert "checkpoint" not in open_run(tmp_path / "trained", config).identity()
    for folder, other, difference in (
        ("run", tmp_path / "two.pth", r"checkpoint is '\w{64}' there and '\w{64}' here"),
        ("trained", tmp_path / "one.pth", r"checkpoint is None there and '\w{64}' here"),
    ):
        with pytest.raises(InputError, match=rf"holds another run \({difference}\)"):
            open_run(tmp_path / folder, config, checkpoint=other)
    with pytest.raises(InputError, match=r"holds another run \(checkpoint is '\w{64}' there and None here\)"):
        open_run(tmp_path / "run", config)
    (tmp_path / "one.pth").rename(tmp_path / "moved.pth")
    open_run(tmp_path / "run", config, checkpoint=tmp_path / "moved.pth")
    with pytest.raises(InputError, match=r"nowhere\.pth does not exist"):
        open_run(tmp_path / "other", config, checkpoint=tmp_path / "nowhere.pth")
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_of_another_network(tmp_path):
    config, _ = official_checkpoint(tmp_path / "one.pth", 1)
    message = sentence_of(lambda: open_run(tmp_path / "run", SHORT, checkpoint=tmp_path / "one.pth"))
    assert re.search(r"one\.pth is probably for another network", message)
    open_run(tmp_path / "run", config, checkpoint=tmp_path / "one.pth")  # the folder is still free


# ------------------------------------------------------------------------------------------------------- the stages


def test_limit_takes_the_first_images(tmp_path):
    run = open_run(tmp_path, SHORT, limit=9)
    assert len(run.splits.fit) == len(run.splits.scored["train"]) == 9
    assert len(run.splits.scored["val"]) == 8
    run.train(silent)
    run.infer("train")
    assert sorted(p.stem for p in run.cams("train").folder.glob("*.npz")) == [f"train_{i:04d}" for i in range(9)]


def test_an_unknown_split(tmp_path):
    run = open_run(tmp_path)
    for stage in (run.infer, run.score):
        with pytest.raises(InputError, match="split 'test' is unknown; choose one of train, val"):
            stage("test")


def test_seconds_add_up_over_starts(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(run_module, "train", lambda *_: [])
    monkeypatch.setattr(seeds_module, "infer", lambda *_: None)
    open_run(tmp_path).train(silent)
    run = open_run(tmp_path)
    run.train(silent)
    run.infer("val")
    assert run.seconds == {"training": 10.0, "inference val": 5.0}


def test_the_command_runs_one_stage(tmp_path, monkeypatch, capsys):
    data = photographs(tmp_path / "data")
    photo_run(tmp_path / "run", data)
    for arguments in (["train"], ["infer", "val"], ["infer", "test"]):
        monkeypatch.setattr("sys.argv", ["wsss_lib", str(tmp_path / "run"), *arguments])
        assert command.main() == (arguments[-1] == "test")
    assert capsys.readouterr().out.splitlines()[-1].startswith("InputError: split 'test' is unknown")
    assert len(list((tmp_path / "run" / "cams" / "val").glob("*.npz"))) == 8


# ----------------------------------------------------------------------------------------------------- two processes


@pytest.fixture
def at_root(monkeypatch):
    """The processes import the library from where the tests do."""
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_two_processes_train_and_infer(tmp_path, capfd):
    data = photographs(tmp_path / "data")
    run = photo_run(tmp_path / "two", data, devices=2)
    history = run.train(silent)
    assert [row["epoch"] for row in history] == [1, 2]
    lines = (tmp_path / "two" / "log.jsonl").read_text().splitlines()
    assert without_seconds(map(json.loads, lines)) == without_seconds(history)
    assert len(re.findall(r"^epoch ", capfd.readouterr().out, re.MULTILINE)) == 2  # once, not once per process

    store = run.infer("val")
    alone = photo_run(tmp_path / "one", data)
    (tmp_path / "one" / "checkpoint.pt").write_bytes((tmp_path / "two" / "checkpoint.pt").read_bytes())
    expected = alone.infer("val")
    for image_id in run.splits.scored["val"].ids:
        assert torch.equal(store.read(image_id)[0], expected.read(image_id)[0])
        torch.testing.assert_close(store.read(image_id)[1], expected.read(image_id)[1], rtol=0, atol=2e-3)
    refined, alone_refined = (r.refine("crf", "val") for r in (run, alone))
    for name, masks in alone_refined.items():
        for image_id in run.splits.scored["val"].ids:
            assert (refined[name].read(image_id, 2) == masks.read(image_id, 2)).float().mean() > 0.99
    assert set(run.seconds) == {"training", "inference val", "crf val"}


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_two_processes_have_the_losses_of_one_with_the_same_batch(tmp_path, capfd):
    """Without dropout, which each process draws for itself; batch normalisation is fixed in a pre-trained network."""
    data, file = photographs(tmp_path / "data"), tmp_path / "weights.pt"
    options = {"width": 0.0625, "dropout": (0.0, 0.0)}
    torch.save(create_backbone("resnet38d", **options).state_dict(), file)
    changes = {"backbone_options": options, "dropout": 0.0, "epochs": 3}
    runs = [photo_run(tmp_path / str(n), data, n, "resnet38d", file, **changes) for n in (1, 2)]
    one, two = (without_seconds(run.train(silent)) for run in runs)
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    assert one[0]["loss"] != pytest.approx(one[-1]["loss"], rel=1e-3)
    capfd.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_two_nodes_are_two_processes(tmp_path, capfd):
    """Each node has a torchrun of its own, as on a cluster, and all see one folder."""
    data, runs = photographs(tmp_path / "data"), {}
    for name in ("nodes", "processes"):
        runs[name] = photo_run(tmp_path / name, data)
    launch_processes(2, ["-m", "wsss_lib", str(runs["processes"].folder), "train"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    for stage in (["train"], ["infer", "val"]):
        what = ["-m", "wsss_lib", str(runs["nodes"].folder), *stage]
        nodes = [subprocess.Popen([*command, f"--node-rank={rank}", *what]) for rank in range(2)]
        assert [node.wait(120) for node in nodes] == [0, 0]
    nodes, processes = (without_seconds(resume(run.method, run.folder)) for run in runs.values())
    assert nodes == processes
    assert len(list((runs["nodes"].folder / "cams" / "val").glob("*.npz"))) == 8
    capfd.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_a_sentence_from_a_process(tmp_path, capfd):
    run = photo_run(tmp_path / "run", photographs(tmp_path / "data"), devices=2, batch_size=3)
    with pytest.raises(InputError, match=r"^batch_size 3 is not a multiple of the number of devices, 2\.$"):
        run.train(silent)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    capfd.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_a_process_that_breaks(capfd):
    with pytest.raises(RuntimeError, match=r"a training process failed:(.|\n)*no_such_module"):
        launch_processes(1, ["-m", "no_such_module"])
    capfd.readouterr()


def test_files_of_a_killed_writer_are_removed(tmp_path):
    leftover = tmp_path / "run" / "cams" / "train" / f".tmp-{0:032x}"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    others = [tmp_path / "run" / "cams" / ".tmp-mine", tmp_path / "run" / "data" / leftover.name]
    for other in others:
        write(other, "mine")
    open_run(tmp_path / "run")
    assert not leftover.exists()
    assert all(other.exists() for other in others)


def test_a_method_that_is_first_used_in_inference_mode_can_be_trained(tmp_path):
    run = open_run(tmp_path / "run", SHORT)
    with torch.inference_mode():
        _ = run.normalise
    assert len(run.train(silent)) == 1


def test_maps_of_an_untrained_network_are_announced(tmp_path, capsys):
    run = open_run(tmp_path / "run", SHORT)
    run.infer("val")
    assert "is not trained to the end; its maps come from the network as it is" in capsys.readouterr().out
    run.train(silent)
    run.infer("val")
    assert "not trained" not in capsys.readouterr().out
