"""A run's folder: one owner, what made it, what is removed from it, and folders of earlier versions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import write
from tests.runs.small import open_run, sentence_of, settings, silent, tiny_config, without_seconds
from tests.runs.test_run import photo_run, photographs
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import Config
from wsss_lib.runs import report
from wsss_lib.runs.folder import RunFolder
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.segmentation import final_stage
from wsss_lib.stages import provenance
from wsss_lib.stages.store import read_json, write_json

SHORT = tiny_config(epochs=1)
GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


def finished(folder, config=SHORT, **changes):
    """A run of a toy world that has all that a run makes."""
    run = open_run(folder, config, **changes)
    run.train(silent)
    for split in ("train", "val"):
        run.infer(split)
    run.refine("crf", "val")
    report.write_metrics(run, {s: run.score(s) for s in ("train", "val")}, {})
    return run


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -------------------------------------------------------------------------------------------------- what made a run


def test_files_without_a_configuration_belong_to_nobody(tmp_path):
    finished(tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    for resume in (True, False):
        message = sentence_of(lambda: open_run(tmp_path / "run", SHORT, seed=1, resume=resume))  # noqa: B023
        assert "holds checkpoint.pt but not the config.json" in message
        assert "remove" not in message
    for name in ("checkpoint.pt", "log.jsonl", "metrics.json", "seconds.json", "training.json", "images.json"):
        (tmp_path / "run" / name).unlink()
    for name in ("cams", "growth", "masks"):
        assert f"holds {name}/" in sentence_of(lambda: open_run(tmp_path / "run", SHORT))
        shutil.rmtree(tmp_path / "run" / name)
    open_run(tmp_path / "run", SHORT)


@pytest.mark.parametrize("keep_times", [False, True])
def test_other_pictures_under_the_same_names(tmp_path, keep_times):
    data = photographs(tmp_path / "data")
    run = photo_run(tmp_path / "run", data, epochs=1)
    run.train(silent)
    picture = data / "images" / "3.png"
    times = picture.stat()
    pixels = np.asarray(Image.open(picture)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(picture)
    if keep_times:
        os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    message = sentence_of(lambda: photo_run(tmp_path / "run", data, epochs=1))
    assert "3.png has changed since, as 1 of 8" in message
    assert "resume=False" in message
    assert photo_run(tmp_path / "run", data, epochs=1, resume=False).train(silent)


def test_pictures_that_only_moved_are_the_same(tmp_path):
    data = photographs(tmp_path / "data")
    photo_run(tmp_path / "run", data, epochs=1).train(silent)
    shutil.copytree(data, tmp_path / "elsewhere")
    assert photo_run(tmp_path / "run", tmp_path / "elsewhere", epochs=1).is_trained


def test_unchanged_pictures_are_not_read_again(tmp_path, monkeypatch):
    data = photographs(tmp_path / "data")
    for path in (data / "images").iterdir():
        os.utime(path, (1, 1))
    time.sleep(2.1)  # the time at which the entry was changed cannot be set
    photo_run(tmp_path / "run", data)
    monkeypatch.setattr("wsss_lib.stages.contents._of_this_process", {})
    monkeypatch.setattr("wsss_lib.stages.contents.file_digest", None)  # calling it would raise
    photo_run(tmp_path / "run", data)
    (data / "images" / "3.png").touch()
    with pytest.raises(TypeError):
        photo_run(tmp_path / "run", data)


def test_a_checkpoint_of_another_run(tmp_path):
    for seed in (0, 1):
        open_run(tmp_path / str(seed), SHORT, seed=seed).train(silent)
    shutil.copy(tmp_path / "1" / "checkpoint.pt", tmp_path / "0" / "checkpoint.pt")
    run = open_run(tmp_path / "0", SHORT)
    assert "checkpoint.pt is of another run" in sentence_of(lambda: run.train(silent))


def test_a_network_that_has_changed_in_its_file(tmp_path):
    open_run(tmp_path, SHORT).train(silent)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    network = state["method"]["networks"]["network"]
    network[next(iter(network))].view(-1)[0] += 1
    torch.save(state, tmp_path / "checkpoint.pt")
    assert "checkpoint.pt has changed since it was written" in sentence_of(
        lambda: open_run(tmp_path, SHORT).infer("val")
    )


def test_maps_of_a_network_that_was_trained_further(tmp_path, capsys):
    config = tiny_config(epochs=2)
    run, fresh = (open_run(tmp_path / name, config) for name in ("run", "fresh"))

    def stop(_row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(stop)
    run.infer("val")
    run.refine("crf", "val")
    run = open_run(tmp_path / "run", config)
    run.train(silent)
    assert re_message(lambda: run.score("val")).startswith(str(run.cams("val").folder))
    assert re_message(lambda: run.refine("crf", "val")).startswith(str(run.cams("val").folder))
    run.infer("val")
    run.refine("crf", "val")
    assert capsys.readouterr().out.count("is made again: it was made from network") == 1 + len(config.alphas)
    fresh.train(silent)
    fresh.infer("val")
    fresh.refine("crf", "val")
    for kind in ("cams", "masks"):
        files = {k: v for k, v in tree(tmp_path / "run" / kind).items() if not k.endswith(".json")}
        assert files == {k: v for k, v in tree(tmp_path / "fresh" / kind).items() if not k.endswith(".json")}


def re_message(call):
    message = sentence_of(call)
    assert "was made from network" in message
    assert "run the stage that makes this folder again" in message
    return message


def test_masks_of_other_maps(tmp_path):
    one, other = (finished(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    shutil.rmtree(one.folder / "cams")
    shutil.copytree(other.folder / "cams", one.folder / "cams")
    re_message(lambda: one.refine("crf", "val"))
    one.infer("val")
    assert one.is_complete(one.cams("val"), "val", one.source())


def test_files_of_the_user_in_a_store(tmp_path):
    run = open_run(tmp_path, SHORT)
    run.train(silent)
    mine = run.cams("val").path(run.data("val").ids[0])
    write(mine, "mine")
    assert f"{mine} was not written by this run" in sentence_of(lambda: run.infer("val"))
    assert mine.read_text() == "mine"


def test_a_seed_network_that_was_replaced(tmp_path):
    """The final network keeps to the masks that it was opened with."""
    run = finished(tmp_path)
    stage = final_stage(run, epochs=1, batch_size=4, crop_size=32)
    assert stage.pseudo_masks is not None
    path = stage.pseudo_masks.path(stage.data("training").ids[0])
    mask = np.asarray(Image.open(path)).copy()
    mask[:] = 0
    stage.pseudo_masks.write(path.stem, torch.from_numpy(mask))
    with pytest.raises(InputError, match="pseudo masks is '"):
        reopen(stage.folder)


def test_numbers_keep_the_versions_that_made_them(tmp_path, monkeypatch):
    finished(tmp_path)
    before = read_json(tmp_path / "metrics.json")
    monkeypatch.setattr(provenance, "version", lambda _name: "99.0")
    after = report.write_metrics(finished(tmp_path), {}, {})
    assert after["versions"] == before["versions"]
    assert after["made"]["training"] == before["made"]["training"]
    assert after["made"]["cams/val"] == before["made"]["cams/val"]
    assert after["made"]["numbers"][0]["versions"]["torch"] == "99.0"
    for split in ("train", "val"):
        (tmp_path / "cams" / split / "made.json").unlink()
        shutil.rmtree(tmp_path / "cams" / split)
    made = report.write_metrics(finished(tmp_path), {}, {})["made"]
    assert made["cams/val"][0]["versions"]["torch"] == "99.0"
    assert made["training"] == before["made"]["training"]


# ------------------------------------------------------------------------------------------------- versions of runs


def old_run(folder):
    """A run that version 0.1.0 made: two epochs of a small network on six pictures, maps in float16, masks, scores."""
    zipfile.ZipFile(GOLDEN / "format1.zip").extractall(folder)
    config = json.loads((folder / "run" / "config.json").read_text())
    config["settings"] |= {"folder": str(folder / "run"), "data_root": str(folder / "data")}
    write_json(folder / "run" / "config.json", config)
    return folder / "run"


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    folder = old_run(tmp_path)
    before, metrics = tree(folder), read_json(folder / "metrics.json")
    run = reopen(folder)
    assert run.is_trained
    assert len(run.train(silent)) == 2
    for split in ("train", "val"):
        run.infer(split)
    stores = run.refine("crf", "val")
    after = tree(folder)
    assert all(after[name] == content for name, content in before.items() if name.endswith((".npz", ".png", ".pt")))
    scores = {split: run.score(split) for split in ("train", "val")}
    written = report.write_metrics(run, scores, {}, refinements={"val": run.score_masks(stores, "val")})
    for part in ("seeds", "refinements", "versions"):
        assert written[part] == metrics[part]
    assert reopen(folder).is_trained  # what was added to config.json fits as well


def test_a_run_of_an_earlier_version_does_not_hide_a_change(tmp_path):
    folder = old_run(tmp_path)
    reopen(folder)  # from now on the pictures are known
    picture = tmp_path / "data" / "images" / "p0.png"
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert "p0.png has changed since" in sentence_of(lambda: reopen(folder))


def test_a_field_that_is_new_takes_its_default(tmp_path):
    run = open_run(tmp_path, SHORT)
    run.train(silent)
    config = read_json(tmp_path / "config.json")
    for part in (config["identity"], config["settings"]["config"]):
        del part["momentum"]
    del config["settings"]["workers"]
    write_json(tmp_path / "config.json", config)
    assert open_run(tmp_path, SHORT).is_trained
    other = SHORT.replace(momentum=0.5)
    assert f"momentum is {Config().momentum} there and 0.5 here" in sentence_of(lambda: open_run(tmp_path, other))


@pytest.mark.parametrize("where", ["config", "settings"])
def test_a_field_that_is_unknown(tmp_path, where):
    open_run(tmp_path)
    config = read_json(tmp_path / "config.json") | {"version": "7.8.9"}
    (config["settings"]["config"] if where == "config" else config["settings"])["sharpness"] = 3
    write_json(tmp_path / "config.json", config)
    message = sentence_of(lambda: reopen(tmp_path))
    assert "sharpness" in message
    assert "wsss_lib 7.8.9 wrote the file: use that version" in message


def test_a_format_that_is_newer(tmp_path):
    open_run(tmp_path)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | {"format": 99, "version": "7.8.9"})
    for opening in (reopen, open_run):
        assert "has the format 99, written by wsss_lib 7.8.9" in sentence_of(lambda: opening(tmp_path))  # noqa: B023


# -------------------------------------------------------------------------------------------------------- one owner

HOLD = """
import sys, time
from pathlib import Path
from wsss_lib.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of a folder."""
    run = open_run(tmp_path / "run", SHORT)
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield run, process
        process.kill()


def test_a_folder_that_another_process_works_in(holder):
    run, process = holder
    temporary = run.folder / f".tmp-{0:032x}"
    temporary.touch()
    before = tree(run.folder)
    who = rf"is in use \(process {process.pid} on .*, since .*\); wait for its end"
    for call in (
        lambda: open_run(run.folder, SHORT),
        lambda: open_run(run.folder, SHORT, seed=1, resume=False),
        lambda: run.train(silent),
        lambda: report.write_metrics(run, {}, {}),
    ):
        with pytest.raises(InputError, match=who):
            call()
    assert tree(run.folder) == before  # the unfinished file of the living process, too
    reopen(run.folder, guest=True)  # looking on is allowed
    process.send_signal(signal.SIGKILL)
    process.wait()
    open_run(run.folder, SHORT).train(silent)
    assert not temporary.exists()


def test_a_folder_that_another_run_has_taken(tmp_path):
    first = open_run(tmp_path, SHORT)
    first.train(silent)
    open_run(tmp_path, SHORT, seed=1, resume=False)
    assert "seed is 1 there and 0 here" in sentence_of(lambda: first.infer("val"))
    shutil.rmtree(tmp_path / "cams", ignore_errors=True)
    (tmp_path / "config.json").unlink()
    assert "holds this run no longer" in sentence_of(lambda: first.infer("val"))


def test_the_lock_is_free_after_an_error(tmp_path):
    place = RunFolder(tmp_path)
    with pytest.raises(KeyError), place.locked(), place.locked():
        raise KeyError
    code = HOLD.replace("time.sleep(60)", "pass")
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": root})


# --------------------------------------------------------------------------------------------------------- removing


def with_files_of_the_user(folder):
    """Put files of a user's own everywhere into a run's folder, and return them."""
    run = finished(folder)
    run.variant("other", alphas=(2.0,)).train(silent)
    final_stage(run, epochs=1, batch_size=4, crop_size=32).train(silent)
    first = run.data("val").ids[0]
    places = ["", "cams", "cams/val", "masks", "masks/crf-4/val", "masks/mine", "masks/mine/val", "variants"]
    places += ["variants/other", "segmentation", "growth/001", "scores/deep/er", "seeds", "data"]
    mine = [folder / place / name for place in places for name in ("notes.txt", "my picture.png")]
    mine += [folder / "masks" / f"{first}.png", folder / "masks" / "mine" / "val" / f"{first}.png"]
    for path in mine:
        write(path, "mine")
    return mine


def test_starting_over_removes_what_the_run_has_written_and_nothing_else(tmp_path):
    mine = with_files_of_the_user(tmp_path)
    open_run(tmp_path, SHORT, seed=1, resume=False)
    assert {
        p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("config.json", "images.json", ".lock")
    } == {*mine}
    assert {path.read_text() for path in mine} == {"mine"}


def test_an_earlier_version_s_run_is_removed_likewise(tmp_path):
    folder = old_run(tmp_path)
    write(folder / "masks" / "mine" / "val" / "p4.png", "mine")
    run = reopen(folder)
    type(run)(settings(folder, run.settings.config, preset="photos", data_root=tmp_path / "data", resume=False))
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"config.json", "images.json", ".lock", "masks/mine/val/p4.png"}


def test_a_removal_that_is_killed(tmp_path, monkeypatch):
    """Wherever it stops, the folder is afterwards empty, or refused until it is: never taken for a run."""
    finished(tmp_path / "whole")
    plain, count = Path.unlink, 0
    for stop in range(0, 200, 7):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        count = 0

        def unlink(path, missing_ok=False):
            nonlocal count
            if path.name not in (".owner", ".lock"):
                count += 1
                if count > stop:  # noqa: B023
                    raise KeyboardInterrupt
            plain(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", unlink)
            try:
                open_run(tmp_path / "run", SHORT, seed=1, resume=False)
                break
            except KeyboardInterrupt:
                pass
        run = open_run(tmp_path / "run", SHORT, seed=1)
        assert not run.is_trained
        assert sorted(p.name for p in run.folder.glob("[!.]*")) == ["config.json", "images.json"]
    assert 0 < stop < 199


def test_an_own_file_that_is_garbled_does_not_end_the_run(tmp_path):
    data = photographs(tmp_path / "data")
    run = photo_run(tmp_path / "run", data, epochs=1)
    history = run.train(silent)
    for name in ("images.json", "training.json"):
        (run.folder / name).write_text("{")
    run = photo_run(tmp_path / "run", data, epochs=1)
    assert without_seconds(run.train(silent)) == without_seconds(history)
