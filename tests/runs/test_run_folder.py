"""A run's folder: one owner, what made it, what is removed from it, and folders of earlier versions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import write
from tests.runs.small import TOY_COUNTS, open_run, sentence_of, settings, silent, tiny_config, without_seconds
from tests.runs.test_run import photo_run, photographs
from wsss_lib.data import toy
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


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Also runs that open others draw a small toy world."""
    for split, count in TOY_COUNTS.items():
        monkeypatch.setitem(toy.COUNTS, split, count)


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
    run, fresh = interrupted(tmp_path / "run", config), open_run(tmp_path / "fresh", config)
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
    path = stage.pseudo_masks.path(stage.data("fit").ids[0])
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
    assert written["cams"] == metrics["seeds"]
    for part in ("refinements", "versions"):
        assert written[part] == metrics[part]
    assert reopen(folder).is_trained  # what was added to config.json fits as well


def test_a_run_of_an_earlier_version_does_not_hide_a_change(tmp_path):
    folder = old_run(tmp_path)
    reopen(folder)  # from now on the pictures are known
    picture = tmp_path / "data" / "images" / "p0.png"
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert "p0.png has changed since" in sentence_of(lambda: reopen(folder))


def test_a_field_that_is_new_takes_its_default(tmp_path):
    open_run(tmp_path, SHORT)
    config = read_json(tmp_path / "config.json")
    for part in (config["identity"], config["settings"]["config"]):
        del part["momentum"]
    del config["settings"]["workers"]
    write_json(tmp_path / "config.json", config)
    open_run(tmp_path, SHORT).train(silent)
    assert reopen(tmp_path).is_trained
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


@contextmanager
def held(folder):
    """Have another process hold the lock of a folder; yields the process."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_that_another_process_works_in(tmp_path):
    run = open_run(tmp_path / "run", SHORT)
    temporary = run.folder / f".tmp-{0:032x}"
    with held(run.folder) as process:
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
    mine += [folder / place / f"{first}.png" for place in ("masks", "masks/mine/val", "cams/val", "growth/001")]
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
    mine = ["masks/mine/val/p4.png", "masks/crf-by-hand/train/p0.png", "masks/walk_my/x/p0.png", "cams/mine/p0.npz"]
    for name in mine:
        write(folder / name, "mine")
    run = reopen(folder)
    type(run)(settings(folder, run.settings.config, preset="photos", data_root=tmp_path / "data", resume=False))
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"config.json", "images.json", ".lock", *mine}


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


def test_runs_of_the_user_within_a_run_s_folder_stay(tmp_path):
    open_run(tmp_path / "run", SHORT)
    for place in ("seeds", "variants/mine"):
        open_run(tmp_path / "run" / place, SHORT).train(silent)
    open_run(tmp_path / "run", SHORT, seed=1, resume=False)
    for place in ("seeds", "variants/mine"):
        assert open_run(tmp_path / "run" / place, SHORT).is_trained


def test_what_is_needed_must_not_lie_in_what_is_removed(tmp_path):
    data = photographs(tmp_path / "run" / "pictures")
    photo_run(tmp_path / "run", data, epochs=1)
    assert "pictures lies in out" in sentence_of(lambda: photo_run(tmp_path / "run", data, epochs=2, resume=False))


def test_a_removal_that_is_refused_has_not_begun(tmp_path):
    run = finished(tmp_path / "run")
    variant = run.variant("v", alphas=(2.0,))
    with held(variant.folder):
        before = tree(tmp_path / "run")
        assert "in use" in sentence_of(lambda: open_run(tmp_path / "run", SHORT, seed=1, resume=False))
        assert tree(tmp_path / "run") == before
    assert open_run(tmp_path / "run", SHORT).is_trained


def test_unfinished_files_of_a_process_in_a_variant_stay(tmp_path):
    variant = finished(tmp_path / "run").variant("v", alphas=(2.0,))
    temporary = variant.folder / f".tmp-{0:032x}"
    with held(variant.folder):
        temporary.touch()
        open_run(tmp_path / "run", SHORT)
        assert temporary.exists()


def test_a_run_that_is_half_removed_is_of_no_use_to_others(tmp_path):
    finished(tmp_path / "run")
    config = read_json(tmp_path / "run" / "config.json")
    write_json(tmp_path / "run" / "config.json", {**config, "state": "removing"})
    assert "is half removed" in sentence_of(lambda: reopen(tmp_path / "run", guest=True))
    assert not open_run(tmp_path / "run", SHORT).is_trained


# -------------------------------------------------------------------------------------------------- several at once


def interrupted(folder, config):
    """A run that was stopped after its first epoch."""
    run = open_run(folder, config)

    def stop(_row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(stop)
    return run


def test_several_runs_can_use_a_finished_one_at_a_time(tmp_path):
    run = finished(tmp_path / "run")
    with held(run.folder):
        other = reopen(run.folder, guest=True)
        assert other.train(silent)
        assert len(list(other.infer("val").folder.glob("*.npz"))) == TOY_COUNTS["val"]


def test_another_process_has_trained_further(tmp_path):
    """Networks in memory are those of the checkpoint, whoever wrote it."""
    config = tiny_config(epochs=2)
    first = interrupted(tmp_path / "run", config)
    first.infer("val")
    second = open_run(tmp_path / "run", config)
    second.train(silent)
    second.infer("val")
    maps = tree(tmp_path / "run" / "cams")
    first.infer("val")
    assert tree(tmp_path / "run" / "cams") == maps


def test_training_again_begins_with_the_first_weights(tmp_path):
    run = open_run(tmp_path, SHORT)
    history = run.train(silent)
    (tmp_path / "checkpoint.pt").unlink()
    assert without_seconds(run.train(silent)) == without_seconds(history)


def test_pictures_that_change_while_a_run_is_open(tmp_path):
    data = photographs(tmp_path / "data")
    run = photo_run(tmp_path / "run", data, epochs=1)
    picture = data / "images" / "3.png"
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert "have changed since" in sentence_of(lambda: run.train(silent))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


# ------------------------------------------------------------------------------------------------ own files, damaged


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"from": 5}', '{"from": {}, "made": [1]}', '{"from": {}, "made": [{}]}']
)
def test_a_damaged_record_of_training(tmp_path, content):
    config = tiny_config(epochs=2)
    interrupted(tmp_path, config)
    (tmp_path / "training.json").write_text(content)
    assert len(open_run(tmp_path, config).train(silent)) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"source": 3}', '{"source": "x", "made": 5}'])
def test_a_damaged_record_of_a_store(tmp_path, content, capsys):
    run = open_run(tmp_path, SHORT)
    run.train(silent)
    run.infer("val")
    maps = {name: file for name, file in tree(tmp_path / "cams").items() if name.endswith(".npz")}
    (tmp_path / "cams" / "val" / "made.json").write_text(content)
    assert "run the stage that makes this folder again" in sentence_of(lambda: run.score("val"))
    run.infer("val")
    assert "is made again" in capsys.readouterr().out
    assert {name: file for name, file in tree(tmp_path / "cams").items() if name.endswith(".npz")} == maps


@pytest.mark.parametrize("damage", ['"ids": 5', '"files": 5', "digest"])
def test_damaged_digests_are_made_again(tmp_path, damage):
    data = photographs(tmp_path / "data")
    photo_run(tmp_path / "run", data, epochs=1).train(silent)
    path = tmp_path / "run" / "images.json"
    content = read_json(path)
    if damage == "digest":
        for name, entry in content["files"].items():
            content["files"][name] = ["0" * 16, *signature(name)] if len(entry) == 1 else ["0" * 16, *entry[1:]]
    else:
        content |= json.loads("{" + damage + "}")
    write_json(path, content)
    with mock.patch("wsss_lib.stages.contents._of_this_process", {}):
        assert photo_run(tmp_path / "run", data, epochs=1).is_trained


def signature(name):
    found = Path(name).stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def test_a_damaged_configuration_is_not_to_be_removed(tmp_path):
    finished(tmp_path)
    (tmp_path / "config.json").write_text("{")
    for resume in (True, False):
        message = sentence_of(lambda: open_run(tmp_path, SHORT, resume=resume))  # noqa: B023
        assert "put back a copy of this file" in message
        assert "remove" not in message
