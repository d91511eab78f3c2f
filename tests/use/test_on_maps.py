"""Scores, refinement and comparison of foreign maps, against the plain way of the authors and against our own runs."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.exchange import foreign
from tests.runs.small import sentence_of
from wsss_lib.exchange.maps import open_maps
from wsss_lib.exchange.paired import bootstrap, difference, image_counts, iou_of_counts
from wsss_lib.ops import dense_crf
from wsss_lib.ops.cam import background_power
from wsss_lib.ops.metrics import class_mean
from wsss_lib.stages.evaluate import THRESHOLDS
from wsss_lib.stages.store import CamStore, MaskStore
from wsss_lib.use.on_maps import HardLabels, compare_maps, refine_maps, score_maps, score_refined


@pytest.fixture
def one(tmp_path):
    pictures = foreign.pictures(tmp_path)
    return open_maps(
        foreign.as_psa(tmp_path / "maps"), pictures, masks=tmp_path / "masks", classes=tmp_path / "classes.txt"
    )


def authors_confusion(threshold, seed=0, ids=foreign.SIZES):
    """Argmax over the background and all planes in float32, then a bincount: as psa's and IRN's evaluators do."""
    total = np.zeros((5, 5), np.int64)
    for image_id in ids:
        classes, maps = foreign.expected(image_id, seed)
        planes = np.zeros((5, *maps.shape[1:]), np.float32)
        planes[0] = threshold
        planes[[k + 1 for k in classes]] = maps
        truth = foreign.truth(image_id)
        counted = truth != 255
        cells = 5 * truth[counted].astype(np.int64) + planes.argmax(0)[counted]
        total += np.bincount(cells, minlength=25).reshape(5, 5)
    return total


def mean_iou(confusion):
    hits = confusion.diagonal()
    with np.errstate(invalid="ignore"):
        return np.nanmean(hits / (confusion.sum(0) + confusion.sum(1) - hits))


def test_scores_are_those_of_a_pass_per_threshold(one):
    found = score_maps(one, 0.35)
    for position, threshold in enumerate(THRESHOLDS):
        np.testing.assert_array_equal(found.scores.confusions[position], authors_confusion(threshold))
    assert (found.threshold, found.chosen) == (0.35, "given")
    assert found.summary()["mean_iou"] == pytest.approx(mean_iou(authors_confusion(0.35)))
    assert found.summary()["curve"]["0.5"] == pytest.approx(mean_iou(authors_confusion(0.5)))


def test_policies_of_the_threshold(one, tmp_path):
    means = [mean_iou(authors_confusion(t)) for t in THRESHOLDS]
    assert score_maps(one).threshold == 0.2
    best = score_maps(one, "best")
    assert best.threshold == THRESHOLDS[int(np.argmax(means))]
    assert best.chosen == "best on these masks"
    (tmp_path / "tune.txt").write_text("b\n")
    tuned = score_maps(one, str(tmp_path / "tune.txt"))
    alone = [mean_iou(authors_confusion(t, ids=["b"])) for t in THRESHOLDS]
    assert tuned.threshold == THRESHOLDS[int(np.argmax(alone))]
    assert tuned.chosen == "best on tune"
    rest = authors_confusion(tuned.threshold, ids=["2007_000001", "2007_000002"])
    np.testing.assert_array_equal(tuned.scores.confusions[tuned.position], rest)


def test_only_pictures_with_a_mask_are_scored(one, tmp_path):
    (tmp_path / "masks" / "b.png").unlink()
    again = open_maps(one.store.folder, tmp_path / "pictures", masks=tmp_path / "masks", classes=foreign.CLASSES)
    found = score_maps(again)
    rest = authors_confusion(0.2, ids=["2007_000001", "2007_000002"])
    np.testing.assert_array_equal(found.scores.confusions[found.position], rest)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("often", "threshold 'often' is not a policy; choose fixed, best"),
        ("1.5", "threshold 1.5 is out of range"),
        ("nan", "threshold nan is out of range"),
        ("0.123", "threshold 0.123 is not one of the sweep"),
    ],
)
def test_policies_that_are_refused(one, policy, sentence):
    assert sentence in sentence_of(lambda: score_maps(one, policy))


def test_a_list_of_all_pictures_leaves_none_to_score(one, tmp_path):
    (tmp_path / "tune.txt").write_text("\n".join(foreign.SIZES))
    assert "lists 3 of the 3 pictures" in sentence_of(lambda: score_maps(one, str(tmp_path / "tune.txt")))


def test_without_masks_nothing_is_scored(tmp_path):
    one = open_maps(foreign.as_psa(tmp_path / "maps"), foreign.pictures(tmp_path), classes=foreign.CLASSES)
    assert "have no masks, so they cannot be scored" in sentence_of(lambda: score_maps(one))
    assert "have no masks, so there is nothing to compare" in sentence_of(lambda: image_counts(one, 0.2))
    assert score_refined(one, {}) == {}


def image_of(one, index):
    return torch.from_numpy(np.asarray(one.data.image(index)).copy()).permute(2, 0, 1)


def test_refined_masks_are_those_of_the_crf(one, tmp_path):
    stores = refine_maps(one, tmp_path / "out", alphas=(4, 16), workers=0)
    assert [*stores] == ["crf-4", "crf-16"]
    for index, image_id in enumerate(foreign.SIZES):
        classes, maps = foreign.expected(image_id)
        for alpha in (4, 16):
            scores = background_power(torch.from_numpy(maps), alpha)
            [q] = dense_crf.dense_crf([image_of(one, index)], [dense_crf.unary_from_scores(scores)], "psa")
            wanted = np.array([0, *(k + 1 for k in classes)])[q.argmax(0)]
            with Image.open(tmp_path / "out" / f"crf-{alpha}" / f"{image_id}.png") as mask:
                assert mask.mode == "P"
                np.testing.assert_array_equal(np.asarray(mask), wanted)
    scores = score_refined(one, stores)
    assert set(scores) == {"crf-4", "crf-16"}
    assert 0 < scores["crf-4"]["mean_iou"] < 1


def test_hard_labels_are_those_of_irn(one, tmp_path):
    [store] = refine_maps(one, tmp_path / "out", preset="irn", hard=0.3, workers=0).values()
    for index, image_id in enumerate(foreign.SIZES):
        classes, maps = foreign.expected(image_id)
        labels = np.concatenate([np.full((1, *maps.shape[1:]), 0.3, np.float32), maps]).argmax(0)
        unary = dense_crf.unary_from_labels(torch.from_numpy(labels), 1 + len(classes), 0.7)
        [q] = dense_crf.dense_crf([image_of(one, index)], [unary], "irn")
        wanted = np.array([0, *(k + 1 for k in classes)])[q.argmax(0)]
        np.testing.assert_array_equal(store.read(image_id, 4), wanted)


def test_hard_labels_without_a_class(one):
    one.data.labels[1] = 0
    classes, scores = HardLabels(one.store, 0.3)(one.data, 1)
    assert not len(classes)
    assert (scores == 1).all()
    assert scores.shape == (1, 1, 30, 18)


def test_a_refinement_goes_on_and_is_made_again_from_other_maps(one, tmp_path, capsys):
    out = tmp_path / "out"
    refine_maps(one, out, workers=0)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "crf-8").glob("*.png")}
    (out / "crf-8" / "b.png").unlink()
    refine_maps(one, out, workers=0)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "crf-8").glob("*.png")}
    assert {name for name in before if before[name] == after[name]} == {"2007_000001.png", "2007_000002.png"}
    assert "made again" not in capsys.readouterr().out
    foreign.as_psa(tmp_path / "maps", seed=1)
    again = open_maps(tmp_path / "maps", tmp_path / "pictures", classes=foreign.CLASSES)
    refine_maps(again, out, workers=0)
    assert "made again" in capsys.readouterr().out


def test_the_same_masks_as_from_our_own_store(one, tmp_path):
    """Maps that are carried over into a store of ours, whose steps are 1/65,535, are refined to the same labels."""
    ours = CamStore(tmp_path / "ours")
    for image_id in one.data.ids:
        ours.write(image_id, *one.store.read(image_id))
    again = open_maps(tmp_path / "ours", tmp_path / "pictures", classes=foreign.CLASSES)
    first = refine_maps(one, tmp_path / "a", workers=0)["crf-8"]
    second = refine_maps(again, tmp_path / "b", workers=0)["crf-8"]
    for image_id in one.data.ids:
        assert (first.read(image_id, 4) == second.read(image_id, 4)).float().mean() > 0.999


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alphas": (0,)}, "alphas 0 are out of range"),
        ({"alphas": ()}, "are out of range"),
        ({"hard": 1.0}, "hard 1.0 is out of range"),
        ({"confidence": 1}, "confidence 1 is out of range"),
        ({"workers": -2}, "workers -2 is out of range"),
        ({"preset": "crf"}, "crf"),
    ],
)
def test_refinements_that_are_refused(one, tmp_path, options, sentence):
    assert sentence in sentence_of(lambda: refine_maps(one, tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_not_overwritten(one, tmp_path):
    MaskStore(tmp_path / "out" / "crf-8").write("b", torch.zeros(16, 16, dtype=torch.uint8))
    assert "was not written by this run" in sentence_of(lambda: refine_maps(one, tmp_path / "out", workers=0))
    assert "is the folder of the pictures" in sentence_of(lambda: refine_maps(one, tmp_path / "pictures", workers=0))


# ------------------------------------------------------------------------------------------------------- comparisons


def test_counts_add_up_to_the_scores(one):
    counts = image_counts(one, 0.3)
    confusion = authors_confusion(0.3)
    np.testing.assert_array_equal(counts.sum(0), [confusion.diagonal(), confusion.sum(0), confusion.sum(1)])
    assert float(class_mean(iou_of_counts(counts.sum(0)))) == pytest.approx(mean_iou(confusion))


def random_counts(seed, images=200, quality=0.5):
    rng = np.random.default_rng(seed)
    true = rng.integers(50, 100, (images, 4))
    right = (true * np.clip(quality + 0.1 * rng.standard_normal(true.shape), 0, 1)).astype(np.int64)
    return torch.from_numpy(np.stack([right, true, true], axis=1))


def test_a_set_against_itself():
    found = difference(random_counts(0), random_counts(0), ("a", "b"))
    assert (found.difference, found.interval, found.images) == (0.0, (0.0, 0.0), 200)
    assert np.isnan(found.better)


def test_a_clear_difference():
    found = difference(random_counts(0, quality=0.6), random_counts(1, quality=0.5), ("a", "b"))
    assert found.mean_iou[0] - found.mean_iou[1] == pytest.approx(found.difference)
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.better > 0.8
    mirrored = difference(random_counts(1, quality=0.5), random_counts(0, quality=0.6), ("b", "a"))
    assert mirrored.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_the_interval_is_that_of_drawn_pictures():
    """Against drawing the pictures one by one, in the same seeded way."""
    counts = random_counts(3, images=30)
    drawn = bootstrap([counts], 500, seed=4)[0]
    weights = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), 500)
    one_by_one = []
    for row in weights:
        chosen = counts[np.repeat(np.arange(30), row)].sum(0)
        one_by_one.append(float(class_mean(iou_of_counts(chosen))))
    np.testing.assert_allclose(drawn, one_by_one)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Two sets of equal quality: 0 lies in 95 % of the intervals; 200 trials with a deviation of 1.5 %."""
    inside = 0
    for trial in range(200):
        found = difference(random_counts(2 * trial, 60), random_counts(2 * trial + 1, 60), ("a", "b"), 200, trial)
        inside += found.interval[0] <= 0 <= found.interval[1]
    assert 0.88 <= inside / 200 <= 0.99


def test_comparing_folders(one, tmp_path):
    other = open_maps(
        foreign.as_irn(tmp_path / "irn"), tmp_path / "pictures", masks=tmp_path / "masks", classes=foreign.CLASSES
    )
    worse = open_maps(
        foreign.as_psa(tmp_path / "worse", seed=5),
        tmp_path / "pictures",
        masks=tmp_path / "masks",
        classes=foreign.CLASSES,
    )
    found = compare_maps([one, other, worse], "best", repetitions=50)
    assert set(found.thresholds) == {"maps", "irn", "worse"}
    assert [pair.names for pair in found.differences] == [("maps", "irn"), ("maps", "worse"), ("irn", "worse")]
    assert found.differences[0].difference == 0
    means = [
        mean_iou(authors_confusion(found.thresholds[name], seed)) for name, seed in {"maps": 0, "worse": 5}.items()
    ]
    assert found.differences[1].mean_iou == pytest.approx(means)
    assert (
        compare_maps([one, worse], "best", repetitions=50).to_dict()
        == compare_maps([one, worse], "best", repetitions=50).to_dict()
    )
    (tmp_path / "tune.txt").write_text("b\n")
    tuned = compare_maps([one, worse], str(tmp_path / "tune.txt"), repetitions=50)
    assert (tuned.chosen, tuned.differences[0].images) == ("best on tune", 2)


def test_comparisons_that_are_refused(one):
    assert "only one set of maps is given" in sentence_of(lambda: compare_maps([one]))
    assert "is given twice" in sentence_of(lambda: compare_maps([one, one]))
    assert "repetitions 5 is out of range" in sentence_of(lambda: compare_maps([one, one], repetitions=5))
