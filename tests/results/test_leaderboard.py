"""Entries of the leaderboard, its statistics and its page."""

import json
from dataclasses import replace

import numpy as np
import pytest

import wsss_lib
from wsss_lib.errors import InputError
from wsss_lib.results.code_digest import code_digest
from wsss_lib.results.leaderboard import Entry, Seed, collect_entry, read_entry, write_entry
from wsss_lib.results.leaderboard_page import difference, page
from wsss_lib.results.paired_difference import mean_iou, paired_difference


def counts(seed, pictures=20, better=0.0):
    """Return counts of pictures of which at least half of each class is right."""
    generator = np.random.default_rng(seed)
    true = generator.integers(50, 100, (pictures, 3))
    right = (true * np.minimum(1, generator.uniform(0.5, 0.8, true.shape) + better)).astype(np.int64)
    return np.stack([right, true, true.copy()], -1)


def plain_mean_iou(pictures):
    """Return the mean IoU by definition."""
    values = []
    for k in range(pictures[0].shape[0]):
        right, true, predicted = (sum(int(picture[k, i]) for picture in pictures) for i in range(3))
        if true + predicted - right:
            values.append(right / (true + predicted - right))
    return sum(values) / len(values)


def plain_interval(ours, control, repetitions):
    """Return the interval of the bootstrap by its description, with other draws."""
    generator = np.random.default_rng(99)
    means = []
    for _ in range(repetitions):
        drawn = generator.integers(len(ours[0]), size=len(ours[0]))
        differences = [plain_mean_iou(a[drawn]) - plain_mean_iou(b[drawn]) for a, b in zip(ours, control, strict=True)]
        means.append(np.mean([differences[i] for i in generator.integers(len(ours), size=len(ours))]))
    return np.quantile(means, [0.025, 0.975])


def test_mean_iou_by_definition_and_without_absent_classes():
    some = counts(0)
    some[:, 2] = 0
    assert mean_iou(some.sum(0)) == pytest.approx(plain_mean_iou(some))
    assert np.isnan(mean_iou(np.zeros((3, 3))))


def test_difference_agrees_with_a_plain_bootstrap():
    ours, control = [counts(s, better=0.03 * s) for s in (1, 2, 3)], [counts(s) for s in (11, 12, 13)]
    found = paired_difference(ours, control, repetitions=2000)
    wanted = np.mean([plain_mean_iou(a) - plain_mean_iou(b) for a, b in zip(ours, control, strict=True)])
    assert found.mean == pytest.approx(wanted)
    low, high = plain_interval(ours, control, 500)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.012), pytest.approx(high, abs=0.012))
    assert found.high - found.low > 0.02


def test_no_difference_of_a_run_to_itself_and_the_opposite_the_other_way_round():
    ours, control = [counts(1), counts(2)], [counts(3), counts(4)]
    same = paired_difference(ours, ours)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    there, back = paired_difference(ours, control), paired_difference(control, ours)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_interval_covers_the_true_difference_about_as_often_as_it_says():
    """Both methods are equally good, so the true difference is 0."""
    covered = 0
    for trial in range(100):
        found = paired_difference([counts(1000 + trial, 40)], [counts(5000 + trial, 40)], repetitions=400)
        covered += found.low <= 0 <= found.high
    assert 88 <= covered <= 99


def test_pairing_refuses_other_pictures():
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference([counts(1, 20)], [counts(1, 21)])
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference([], [])


def made_up(name="mine", control="", seeds=(0, 1), better=0.0, **more):
    def one(seed):
        both = {split: {"CAM seed": counts(seed, better=better)} for split in ("train", "val")}
        values = {"version": wsss_lib.__version__, "at": "2026-01-01T00:00:00+00:00", "device": "CPU"}
        return Seed(
            seed,
            **values,
            seconds=60.0,
            memory=500,
            threshold=0.3,
            counts=both,
            best_threshold={"val": 0.012},
            choice={},
        )

    values = {"method": "cam", "preset": "toy", "classes": ("background", "a", "b"), "settings": {"epochs": 2}}
    values |= {
        "data": {"data val": "20 images, 1"},
        "code": code_digest("methods/cam.py"),
        "sources": ("methods/cam.py",),
    }
    return Entry(**{**values, "name": name, "control": control, "seeds": tuple(map(one, seeds)), **more})


def test_an_entry_survives_its_file(tmp_path):
    path = write_entry(made_up(), tmp_path)
    again = read_entry(path)
    assert again.seeds[1].counts["val"]["CAM seed"].tolist() == counts(1).tolist()
    first = path.read_bytes()
    assert write_entry(again, tmp_path).read_bytes() == first


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has the format 9"),
        (lambda text: text.replace('"seeds"', '"other"'), "damaged or incomplete"),
        (lambda text: text.replace('"name": "mine"', '"name": "x"'), "damaged or incomplete"),
        (lambda text: json.dumps([text]), "has the format None"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    path = write_entry(made_up(), tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_entry(path)


def test_unfit_controls_are_refused(tmp_path):
    write_entry(made_up("cam", data={"data val": "20 images, 2"}), tmp_path)
    with pytest.raises(InputError, match="other data"):
        write_entry(made_up(control="cam"), tmp_path)
    write_entry(made_up("cam", seeds=(5,)), tmp_path)
    with pytest.raises(InputError, match="no seed in common"):
        write_entry(made_up(control="cam"), tmp_path)
    with pytest.raises(InputError, match=r"absent.json is missing"):
        write_entry(made_up(control="absent"), tmp_path)
    assert not (tmp_path / "mine.json").exists()
    with pytest.raises(InputError, match="has no entry"):
        page([made_up(control="absent")])


def test_page_shows_mean_spread_difference_and_old_code():
    control = made_up("cam")
    text = page([control, made_up(control="cam", better=0.1), made_up("old", code="0"), made_up("one", "cam", (1,))])
    rows = {line.split("`")[1]: line for line in text.splitlines() if "CAM seed |" in line}
    values = [100 * plain_mean_iou(counts(seed)) for seed in (0, 1)]
    assert f"| {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} |" in rows["cam"]
    found = paired_difference([counts(s, better=0.1) for s in (0, 1)], [counts(s) for s in (0, 1)])
    assert f"| {100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}] | 1.0 | 500 |" in rows["mine"]
    assert "+0.0 [+0.0, +0.0] (1 seed: pictures only)" in rows["one"]
    assert "(older code)" in rows["old"]
    assert "(older code)" not in rows["cam"]
    assert "| `cam` | +1.2 |  |  | 0 |" in text


def test_a_walk_is_compared_with_what_it_refines():
    walked, control = made_up("walk", "cam", better=0.05), made_up("cam")
    names = {"CAM seed": "walk", "CRF": "walk, CRF"}
    later = [replace(one, counts={"val": {names[k]: v for k, v in one.counts["val"].items()}}) for one in walked.seeds]
    walked = replace(walked, seeds=tuple(later))
    for stage in walked.seeds[0].counts["val"]:
        found = difference(walked, control, stage)
        assert found.seeds == 2
        assert found.mean == difference(made_up("cam", better=0.05), control, "CAM seed").mean > 0.01
    assert difference(control, walked, "CAM seed") is None


def test_page_marks_another_version_and_shows_kept_epochs():
    entry = made_up("cam")
    seeds = [replace(one, version="0.0.1", choice={"epoch_adds": 0.01, "both_add": 0.02}) for one in entry.seeds]
    text = page([replace(entry, seeds=tuple(seeds))])
    assert "`cam` (older code)" in text
    assert "| `cam` | +1.2 | +1.0 | +2.0 | 2 |" in text


def test_code_digest_differs_between_methods():
    assert code_digest("methods/cam.py") != code_digest("methods/acr.py")


def finished(folder, seed=0, metrics=True, **identity):
    folder.mkdir()
    whole = {"method": "cam", "seed": seed, "epochs": 2, "data val": "4 images, 1", **identity}
    (folder / "config.json").write_text(json.dumps({"format": 2, "identity": whole, "settings": {}}))
    if metrics:
        (folder / "metrics.json").write_text("{}")
    return folder


def test_unfit_runs_are_refused(tmp_path):
    one = finished(tmp_path / "one")
    cases = {
        "same": (finished(tmp_path / "same"), "has the seed 0, as .*one has"),
        "settings": (finished(tmp_path / "settings", 1, epochs=3), "other settings .*epochs is 3 and 2"),
        "data": (finished(tmp_path / "data", 1, **{"data val": "5 images, 2"}), "other data"),
        "unfinished": (finished(tmp_path / "unfinished", 1, metrics=False), "is not finished"),
        "absent": (tmp_path / "absent", "is not a folder"),
    }
    for folder, message in cases.values():
        with pytest.raises(InputError, match=message):
            collect_entry([one, folder], "mine")
    for name in ("", "../x", "Mine"):
        with pytest.raises(InputError, match="is unfit"):
            collect_entry([one], name)
    with pytest.raises(InputError, match="no run is given"):
        collect_entry([], "mine")
    with pytest.raises(InputError, match="is the entry itself"):
        collect_entry([one], "mine", "mine")
