"""The training loop: the same numbers whatever interrupts it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from tests.data.trees import save_image, write
from tests.runs.small import (
    assert_same_state,
    colour_projection,
    open_run,
    silent,
    tiny_config,
    train_run,
    without_seconds,
)
from wsss_lib.errors import InputError
from wsss_lib.methods import cam
from wsss_lib.methods.cam import Config
from wsss_lib.runs.report import describe, write_metrics
from wsss_lib.stages.store import read_checkpoint, write_checkpoint
from wsss_lib.stages.train import TrainingBatches, fitting_batch_size, run_epoch, smaller_batches

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three epochs in one go: the history and the final state."""
    run = open_run(tmp_path_factory.mktemp("whole"))
    history = run.train(silent)
    return history, run.method.state_dict()


def assert_equals_whole(run, whole):
    history, state = whole
    assert_same_state(run.method.state_dict(), state)
    stored = read_checkpoint(run.folder / "checkpoint.pt")
    assert_same_state(stored["method"], state)
    assert without_seconds(stored["history"]) == without_seconds(history)


def stop_in_step(monkeypatch, number):
    """Have the step of this number stop, after its update, as an impatient user would."""
    step, calls = cam.CAM.step, []

    def stopping(self, batch):
        losses = step(self, batch)
        calls.append(losses)
        if len(calls) == number:
            raise KeyboardInterrupt
        return losses

    monkeypatch.setattr(cam.CAM, "step", stopping)


# ----------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.slow
def test_stopped_after_an_epoch_and_again_within_one(tmp_path, whole, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path).train(stop)
    assert len(read_checkpoint(tmp_path / "checkpoint.pt")["history"]) == 1
    with monkeypatch.context() as patch:
        stop_in_step(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            open_run(tmp_path).train(silent)
    assert len(read_checkpoint(tmp_path / "checkpoint.pt")["history"]) == 1
    run = open_run(tmp_path)
    history = run.train(silent)
    assert without_seconds(history) == without_seconds(whole[0])
    assert_equals_whole(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3])
def test_stopped_and_continued_in_the_same_notebook(tmp_path, whole, monkeypatch, step):
    """The interrupted network is still in memory, in the middle of the first or second epoch of two steps."""
    run = open_run(tmp_path)
    with monkeypatch.context() as patch:
        stop_in_step(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run.train(silent)
    assert without_seconds(run.train(silent)) == without_seconds(whole[0])
    assert_equals_whole(run, whole)


@pytest.mark.slow
def test_a_finished_training_is_not_done_again(tmp_path, whole, monkeypatch):
    run = open_run(tmp_path)
    run.train(silent)
    monkeypatch.setattr(cam.CAM, "step", None)
    again = open_run(tmp_path)
    for finished in (run, again):
        assert without_seconds(finished.train(silent)) == without_seconds(whole[0])
        assert_same_state(finished.method.state_dict()["networks"], whole[1]["networks"])
    assert_equals_whole(run, whole)


SCRIPT = """
import sys
import zipfile
from pathlib import Path
from tests.runs.small import open_run
open_run(Path(sys.argv[1])).train()
"""


@pytest.mark.slow
def test_killed_while_training(tmp_path, whole):
    """SIGKILL leaves no chance to clean up."""
    command = [sys.executable, "-u", "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        line = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert line.startswith("epoch   1  loss ")
    assert process.returncode == -signal.SIGKILL
    run = open_run(tmp_path)
    assert without_seconds(run.train(silent)) == without_seconds(whole[0])
    assert_equals_whole(run, whole)


# ----------------------------------------------------------------------------------------------- what numbers depend on


@pytest.mark.slow
def test_workers_change_nothing(tmp_path, whole):
    run = open_run(tmp_path, workers=2)
    run.train(silent)
    assert_equals_whole(run, whole)


@pytest.mark.slow
def test_the_seed_decides(tmp_path, whole):
    again = open_run(tmp_path / "same")
    again.train(silent)
    assert_equals_whole(again, whole)
    other = open_run(tmp_path / "other", seed=1).train(silent)
    assert [row["loss"] for row in other] != [row["loss"] for row in whole[0]]


@pytest.mark.slow
def test_numbers_drawn_elsewhere_do_not_matter(tmp_path, whole):
    torch.manual_seed(123)
    run = open_run(tmp_path)
    run.method  # noqa: B018 the random weights are drawn now
    torch.rand(100)
    run.train(silent)
    assert_equals_whole(run, whole)


def test_epochs_see_every_image_in_another_order_and_another_way(tmp_path):
    batches = open_run(tmp_path).training_batches()
    orders, images = [], []
    for epoch in (0, 1, 0):
        batches.begin(epoch)
        epoch_batches = list(batches)
        orders.append(torch.cat([b.indices for b in epoch_batches]).tolist())
        images.append({int(i): x for b in epoch_batches for i, x in zip(b.indices, b.images, strict=True)})
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(16))
    assert all(torch.equal(images[0][i], images[2][i]) for i in range(16))
    assert not any(torch.equal(images[0][i], images[1][i]) for i in range(16))


def test_batches_carry_the_labels_of_their_images(tmp_path):
    run = open_run(tmp_path)
    batches = run.training_batches()
    batches.begin(0)
    for batch in batches:
        assert torch.equal(batch.labels, run.splits.fit.labels[batch.indices])
        assert batch.images.is_contiguous()
        assert batch.images.shape == (8, 3, 32, 32)


# ---------------------------------------------------------------------------------------------------------- sentences


def test_batch_size_and_number_of_images(tmp_path, capsys):
    assert len(open_run(tmp_path / "equal", tiny_config(batch_size=16)).training_batches()) == 1
    assert not capsys.readouterr().out
    run = open_run(tmp_path / "more", tiny_config(batch_size=17, epochs=1))
    (batch,) = run.training_batches()
    assert sorted(batch.indices.tolist()) == list(range(16))
    line = "batch_size is lowered from 17 to 16, because the number of training images is 16."
    assert capsys.readouterr().out == f"{line}\n"
    assert f"note: {line}" in describe(run).splitlines()
    assert write_metrics(run, {}, {})["doubts"] == [line]


def test_few_images_train_as_with_a_batch_size_that_fits(tmp_path):
    histories = []
    for name, batch_size in (("fitting", 4), ("too large", 64)):
        run = open_run(tmp_path / name, tiny_config(batch_size=batch_size, epochs=2), limit=4)
        histories.append(without_seconds(run.train(silent)))
    assert histories[0] == histories[1]
    assert len(histories[0]) == 2


@pytest.mark.parametrize(
    ("batch_size", "images", "devices", "fitting"), [(8, 12, 1, 8), (16, 12, 1, 12), (16, 13, 4, 12), (16, 3, 2, 2)]
)
def test_batches_that_fit(batch_size, images, devices, fitting):
    assert fitting_batch_size(batch_size, images, devices) == fitting
    assert bool(smaller_batches(batch_size, images, devices)) == (fitting < batch_size)


def test_more_devices_than_images(tmp_path):
    class ManyDevices:
        world_size = 32

    with pytest.raises(InputError, match="devices 32 are more than the 16 images of toy world train"):
        TrainingBatches(open_run(tmp_path).training_images(), 32, ManyDevices(), 0, 0)


def test_batch_size_and_number_of_devices(tmp_path):
    run = open_run(tmp_path)

    class TwoDevices:
        world_size = 2

    with pytest.raises(InputError, match=r"batch_size 7 is not a multiple of the number of devices, 2"):
        TrainingBatches(run.training_batches().images, 7, TwoDevices(), 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_epoch(tmp_path, whole, monkeypatch, value):
    step, calls = cam.CAM.step, []

    def failing(self, batch):
        calls.append(batch)
        losses = step(self, batch)
        return {"loss": torch.tensor(value)} if len(calls) == 4 else losses

    with monkeypatch.context() as patch:
        patch.setattr(cam.CAM, "step", failing)
        with pytest.raises(
            InputError, match=f"loss became {value} in step 2 of epoch 2; lower learning_rate"
        ) as caught:
            open_run(tmp_path).train(silent)
    assert "now 0.002" in str(caught.value)
    assert len(read_checkpoint(tmp_path / "checkpoint.pt")["history"]) == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    run = open_run(tmp_path)  # and where the failure is gone, it continues
    run.train(silent)
    assert_equals_whole(run, whole)


def test_an_absurd_learning_rate(tmp_path):
    config = tiny_config(optimizer="sgd", learning_rate=1e30)
    with pytest.raises(InputError, match=r"loss became nan in step .* lower learning_rate \(now 1e\+30\)"):
        open_run(tmp_path, config).train(silent)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path, monkeypatch):
    """The last step of an epoch may break the weights after a loss that was a number."""
    step, calls = cam.CAM.step, []

    def breaking(self, batch):
        losses = step(self, batch)
        calls.append(losses)
        if len(calls) == 6:
            self.network.head.weight.data[0] = float("nan")
        return losses

    monkeypatch.setattr(cam.CAM, "step", breaking)
    with pytest.raises(InputError, match=r"head\.weight is no longer finite after epoch 3; lower learning_rate"):
        open_run(tmp_path).train(silent)
    assert len(read_checkpoint(tmp_path / "checkpoint.pt")["history"]) == 2


def test_losses_are_averaged_over_the_steps():
    losses = iter([{"loss": torch.tensor(1.0), "other": torch.tensor(0.0)}, {"loss": 2.0, "other": 5.0}])
    method = colour_projection(3)
    method.step = lambda _: next(losses)
    assert run_epoch(method, [None, None], 0) == {"loss": 1.5, "other": 2.5}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_photograph_is_named(tmp_path, workers):
    data = photographs(tmp_path / "data")
    path = data / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:600])
    run = open_run(tmp_path / "run", photo_config(), preset="photos", data_root=data, workers=workers)
    with pytest.raises(InputError, match=r"a\.jpg cannot be read .*; copy it again, it may be cut off") as caught:
        run.train(silent)
    assert "\n" not in str(caught.value)


def photographs(root):
    """Four photographs of three sizes, one without any class."""
    for seed, (name, size) in enumerate([("a", (40, 50)), ("b", (50, 40)), ("c", (40, 50)), ("d", (33, 61))]):
        save_image(root / "images" / f"{name}.jpg", size, "L" if name == "b" else "RGB", seed)
    write(root / "labels.csv", "image,labels\na.jpg,cat\nb.jpg,dog;cat\nc.jpg,\nd.jpg,dog\n")
    return root


def photo_config():
    config = Config.preset("photos", "vgg16").replace(pretrained=False, backbone_options={"width": 0.125})
    return config.replace(epochs=1, batch_size=2, crop_size=32, min_long_side=32, max_long_side=48)


def test_photographs_of_all_kinds(tmp_path):
    data = photographs(tmp_path / "data")
    run = open_run(tmp_path / "run", photo_config(), preset="photos", data_root=data)
    assert len(run.train(silent)) == 1
    store = run.infer("val")
    assert [store.read(image_id)[1].shape for image_id in "abcd"] == [
        (1, 40, 50),
        (2, 50, 40),
        (0, 40, 50),
        (1, 33, 61),
    ]


# ------------------------------------------------------------------------------------------------------------ the log


@pytest.mark.slow
def test_the_log_is_the_history(tmp_path, whole, capsys):
    run = open_run(tmp_path)
    run.train()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == read_checkpoint(tmp_path / "checkpoint.pt")["history"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert without_seconds(rows) == without_seconds(whole[0])
    printed = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\s+", " ", line).split(" learning")[0] for line in printed] == [
        f"epoch {row['epoch']} loss {row['loss']:.4f}" for row in rows
    ]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("content", [b'{"epoch": 1, "lo', b"\xff\0\n"])
def test_a_damaged_log_is_made_again_from_the_checkpoint(tmp_path, content, capsys):
    config = tiny_config(epochs=1)
    open_run(tmp_path, config).train(silent)
    whole = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(content)
    (tmp_path / "seconds.json").write_bytes(content)
    capsys.readouterr()
    run = open_run(tmp_path, config)
    run.train(silent)
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    assert run.seconds == {}
    printed = capsys.readouterr().out
    assert printed.count("log.jsonl is damaged; it is written again from the checkpoint.") == 1
    assert printed.count("seconds.json is damaged; the times of the stages are counted from 0 again.") == 1
    (tmp_path / "log.jsonl").unlink()
    open_run(tmp_path, config).train(silent)
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    assert not capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_of_weights_that_are_no_numbers(tmp_path, value):
    train_run(open_run(tmp_path, tiny_config(epochs=1)))
    state = read_checkpoint(tmp_path / "checkpoint.pt")
    state["method"]["networks"]["network"]["head.weight"][1, 2] = value
    write_checkpoint(tmp_path / "checkpoint.pt", state)
    run = open_run(tmp_path, tiny_config(epochs=1))
    with pytest.raises(
        InputError, match=r"checkpoint\.pt has NaN or infinite values in head\.weight; remove it to train"
    ):
        run.infer("val")
    assert not (tmp_path / "cams").exists()


def test_a_checkpoint_with_flipped_bits(tmp_path):
    """They lie in the weights, which PyTorch reads all the same."""
    config = tiny_config(epochs=1)
    train_run(open_run(tmp_path, config))
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    rng = random.Random(0)
    for _ in range(20):
        content[rng.randrange(largest.header_offset + 200, largest.header_offset + largest.file_size)] ^= 0x40
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=r"checkpoint\.pt cannot be read \(the checksum of .* is wrong\); remove it"):
        open_run(tmp_path, config).infer("val")


def test_the_learning_rate_falls(whole):
    rates = [row["learning_rate"] for row in whole[0]]
    assert rates == sorted(rates, reverse=True)
    assert 0 <= rates[-1] < rates[0] < 2e-3


def test_the_final_network_is_in_evaluation_mode(tmp_path):
    run = open_run(tmp_path, tiny_config(epochs=1))
    train_run(run)
    assert not run.method.network.training
    assert isinstance(run.fabric, Fabric)
