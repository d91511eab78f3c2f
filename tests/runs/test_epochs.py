"""Networks that are kept after each epoch: the same numbers, the same files after a stop, and their own maps."""

from unittest import mock

import pytest
import torch

from tests.runs.small import TOY_COUNTS, assert_same_state, open_run, sentence_of, silent, tiny_config, without_seconds
from wsss_lib.data import toy
from wsss_lib.errors import InputError
from wsss_lib.runs.epochs import KeptEpochs
from wsss_lib.runs.folder import RunFolder
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.run import Run
from wsss_lib.stages.provenance import source_of
from wsss_lib.stages.store import read_checkpoint, read_json
from wsss_lib.use.chains import open_method, read_words


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Also runs that open others draw a small toy world."""
    for split, count in TOY_COUNTS.items():
        monkeypatch.setitem(toy.COUNTS, split, count)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of three epochs, all of which are kept."""
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        run = open_run(tmp_path_factory.mktemp("kept") / "run", keep_epochs=True)
        run.train(silent)
        return run


def files(folder):
    return sorted(path.name for path in (folder / "epochs").iterdir())


def same_networks(folder, other):
    for name in files(folder):
        one, two = (read_checkpoint(place / "epochs" / name) for place in (folder, other))
        assert_same_state(one["networks"], two["networks"])


def test_numbers_do_not_depend_on_it(kept, tmp_path):
    plain = open_run(tmp_path / "run")
    plain.train(silent)
    assert not (plain.folder / "epochs").exists()
    assert files(kept.folder) == ["001.pt", "002.pt", "003.pt"]
    assert plain.fingerprint() == kept.fingerprint()
    one, two = (read_checkpoint(run.folder / "checkpoint.pt") for run in (plain, kept))
    assert without_seconds(one["history"]) == without_seconds(two["history"])
    assert_same_state(one["method"], two["method"])


def test_each_file_has_the_network_of_its_epoch(kept, tmp_path):
    """A run that was stopped after two epochs has, in its checkpoint, the network that the other keeps as 002."""
    stopped = open_run(tmp_path / "run", keep_epochs=True)
    with (
        mock.patch.object(Run, "_after_epoch", autospec=True, side_effect=stop_in_epoch(3)),
        pytest.raises(KeyboardInterrupt),
    ):
        stopped.train(silent)
    assert files(stopped.folder) == ["001.pt", "002.pt", "003.pt"]  # the last one of an epoch that is not done
    assert KeptEpochs(stopped.folder).numbers() == [1, 2]
    networks = read_checkpoint(stopped.folder / "checkpoint.pt")["method"]["networks"]
    assert_same_state(read_checkpoint(kept.folder / "epochs" / "002.pt")["networks"], networks)

    again = open_run(stopped.folder, keep_epochs=True)
    again.train(silent)
    assert files(stopped.folder) == files(kept.folder)
    same_networks(stopped.folder, kept.folder)


def stop_in_epoch(number):
    plain = Run._after_epoch

    def after_epoch(self, epoch):
        plain(self, epoch)
        if epoch == number:
            raise KeyboardInterrupt

    return after_epoch


def test_networks_of_epochs_that_are_trained_anew_are_removed(tmp_path):
    run = open_run(tmp_path / "run", keep_epochs=True)
    run.train(silent)
    (run.folder / "checkpoint.pt").unlink()
    assert KeptEpochs(run.folder).numbers() == []
    again = open_run(run.folder)  # keeps none
    again.train(silent)
    assert not (run.folder / "epochs").exists()


def test_the_network_of_an_epoch_makes_maps_of_its_own(kept):
    last = kept.infer("val")
    for number in (2, 3):
        view = kept.at_epoch(number)
        assert view.folder == kept.folder / "variants" / f"epoch-00{number}"
        assert view.is_trained
        assert [row["epoch"] for row in view.train(silent)] == [*range(1, number + 1)]  # nothing is trained
        expected = read_checkpoint(kept.folder / "epochs" / f"00{number}.pt")["networks"]
        assert_same_state({name: net.state_dict() for name, net in view.method.networks.items()}, expected)
        store = view.infer("val")
        assert store.folder == view.folder / "cams" / "val"
        equal = [torch.equal(store.read(i)[1], last.read(i)[1]) for i in kept.data("val").ids]
        assert all(equal) == (number == 3)
        assert (source_of(store) == source_of(last)) == (number == 3)
        assert {*view.refine("crf", "val")} == {*kept.refine("crf", "val")}
    assert kept.at_epoch(0) is kept
    assert view.fingerprint() != kept.fingerprint()
    assert reopen(view.folder).is_trained


def test_a_network_that_has_changed_makes_its_maps_anew(tmp_path, capsys):
    run = open_run(tmp_path / "run", keep_epochs=True)
    run.train(silent)
    before = source_of(run.at_epoch(1).infer("val"))
    kept = KeptEpochs(run.folder)
    kept.write(1, run.method, run.fingerprint())  # as if another version had trained it
    store = run.at_epoch(1).infer("val")
    assert source_of(store) != before
    assert "is made again" in capsys.readouterr().out


def test_epochs_that_are_not_kept(kept, tmp_path):
    for number in (4, -1):
        message = sentence_of(lambda: kept.at_epoch(number))  # noqa: B023
        assert f"has not kept the network of epoch {number} but those of 1, 2, 3;" in message
        assert not (kept.folder / "variants" / f"epoch-{number:03d}").exists()
    plain = open_run(tmp_path / "plain", tiny_config(epochs=1))
    plain.train(silent)
    assert "of epoch 1 but none; name a kept epoch, or train" in sentence_of(lambda: plain.at_epoch(1))
    (plain.folder / "epochs").mkdir()
    (plain.folder / "epochs" / "001.pt").write_bytes((kept.folder / "epochs" / "001.pt").read_bytes())
    assert "001.pt is of another run or has changed" in sentence_of(lambda: plain.at_epoch(1))


def test_a_kept_network_without_its_checkpoint_is_not_trained(kept):
    view = kept.at_epoch(1)
    (view.folder / "checkpoint.pt").unlink()
    again = reopen(view.folder)
    assert not again.is_trained
    assert "has lost the network of epoch 1" in sentence_of(lambda: again.train(silent))
    assert kept.at_epoch(1).is_trained


def test_a_run_of_an_epoch_is_another_run(kept):
    view = kept.at_epoch(1)
    with pytest.raises(InputError, match="holds another run"):
        open_run(view.folder)


def test_variants_of_an_epoch(kept):
    other = kept.at_epoch(2).variant("one-scale", scales=(1.0,))
    assert other.is_trained
    assert other.settings.epoch == 2
    trained = kept.at_epoch(2).variant("short", epochs=1)
    assert [row["epoch"] for row in trained.train(silent)] == [1]
    assert not (trained.folder / "epochs").exists()


def test_removal_and_orphans(tmp_path):
    config = tiny_config(epochs=1)
    run = open_run(tmp_path / "run", config, keep_epochs=True)
    run.train(silent)
    run.at_epoch(1).infer("val")
    mine = run.folder / "epochs" / "mine.pt"
    mine.write_text("mine")
    unfinished = run.folder / "epochs" / f".tmp-{0:032x}"
    unfinished.touch()
    open_run(tmp_path / "run", config, keep_epochs=True)
    assert not unfinished.exists()
    again = open_run(tmp_path / "run", config.replace(epochs=2), resume=False)
    left = {path.name for path in again.folder.rglob("*") if path.is_file()}
    assert left - {".lock", ".owner"} <= {"config.json", "images.json", "mine.pt"}
    assert mine.read_text() == "mine"
    again.train(silent)
    assert not (run.folder / "epochs" / "001.pt").exists()

    orphan = tmp_path / "orphan" / "epochs"
    orphan.mkdir(parents=True)
    (orphan / "007.pt").write_bytes(b"")
    message = sentence_of(RunFolder(orphan.parent).refuse_orphans)
    assert "holds epochs/007.pt but not the config.json" in message


def test_as_parameters(tmp_path):
    def read(**values):
        return read_parameters("00_cam", "cam", {"preset": "toy", "out": str(tmp_path), **values})

    assert read(keep_epochs=True).keep_epochs
    assert not read().keep_epochs
    assert "has not kept the network of epoch 2 but none" in sentence_of(lambda: read(epoch=2))
    assert "resume False would remove its network" in sentence_of(lambda: read(epoch=2, resume=False))
    assert "epoch" in sentence_of(lambda: read(epoch=-1))


def test_as_words_of_a_command(tmp_path):
    words = [f"out={tmp_path / 'run'}", "preset=toy", "epochs=2", "crop_size=32", "batch_size=8", "pretrained=False"]
    open_method(read_words([*words, "keep_epochs=True"]), with_final=False).train()
    settings = read_json(tmp_path / "run" / "config.json")["settings"]
    assert settings["keep_epochs"]
    run = open_method(read_words([*words, "epoch=1"]), with_final=False)
    assert run.folder.name == "epoch-001"
    assert run.is_trained
