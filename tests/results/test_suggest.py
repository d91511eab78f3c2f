"""Pictures chosen at random, and estimates from them: probabilities, bias and intervals on made-up counts."""

import json

import numpy as np
import pytest
import torch

from tests.runs.small import sentence_of
from wsss_lib.exchange.paired import iou_of_counts
from wsss_lib.ops.metrics import class_mean
from wsss_lib.results.suggest import (
    by_class,
    class_shares,
    digest_of,
    draw,
    estimate,
    probabilities,
    read_suggestion,
)
from wsss_lib.stages.store import write_json

DRAWS = 2000


def population(n=60, classes=3, seed=0):
    """Labels, one class rare, and counts ``(n, 3, C)`` of pictures of 1,000 pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, classes)) < np.array([0.7, 0.4, 0.1])
    labels[~labels.any(1), 0] = True
    areas = labels * rng.integers(50, 300, (n, classes))
    found = (areas * rng.uniform(0.4, 1.4, (n, classes))).astype(int)
    right = (np.minimum(areas, found) * rng.uniform(0.6, 1, (n, classes))).astype(int)
    outside = 1000 - areas.sum(1), 1000 - found.sum(1)
    background = np.stack([np.minimum(*outside) * 0.9, outside[1], outside[0]]).astype(int)
    counts = np.concatenate([background.T[:, :, None], np.stack([right, found, areas], 1)], 2)
    return torch.from_numpy(labels).float(), torch.from_numpy(counts)


def true_mean(counts):
    return float(class_mean(iou_of_counts(counts.sum(0))))


def test_rare_classes_have_equal_shares():
    labels, _ = population()
    sizes = class_shares(labels)
    assert sizes.sum() == pytest.approx(4)  # one for each class and one for the background
    assert sizes[labels[:, 2] == 1].min() > sizes[labels[:, 2] == 0].max()
    assert class_shares(torch.zeros(5, 2)).tolist() == pytest.approx([0.2] * 5)


def test_pictures_of_a_class_stand_together():
    labels, _ = population()
    order = by_class(labels, np.random.default_rng(0))
    assert sorted(order) == [*range(60)]
    rarest = [max(k for k in range(3) if row[k]) for row in labels[order]]  # the last class is the rarest
    assert rarest == sorted(rarest, reverse=True)
    assert by_class(labels, np.random.default_rng(1)) != order
    assert sorted(by_class(torch.zeros(4, 2), np.random.default_rng(0))) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [2, 7, 19, 20])
def test_probabilities_add_up(count):
    sizes = torch.tensor([1000.0, 300.0, *range(1, 19)])
    chances = probabilities(sizes, count)
    assert chances.sum() == pytest.approx(count)
    assert 0 < chances.min() <= chances.max() <= 1
    below = chances < 1
    torch.testing.assert_close(chances[below] / sizes[below], (chances[below] / sizes[below])[:1].expand(below.sum()))


def test_pictures_are_drawn_with_their_probability():
    chances, rng = probabilities(torch.tensor([50.0, *range(1, 20)]), 6), np.random.default_rng(0)
    times = torch.zeros(20)
    for _ in range(DRAWS):
        chosen = draw(chances, rng.permutation(20).tolist(), rng)
        assert len({*chosen}) == 6
        times[chosen] += 1
    errors = (times / DRAWS - chances) / (chances * (1 - chances) / DRAWS).sqrt().clamp(min=1e-9)
    assert errors.abs().max() < 4
    assert times[0] == DRAWS


def test_sums_are_unbiased_and_the_mean_nearly():
    labels, counts = population()
    chances, rng = probabilities(class_shares(labels), 20), np.random.default_rng(0)
    sums, means = [], []
    for _ in range(DRAWS):
        chosen = draw(chances, rng.permutation(60).tolist(), rng)
        sums.append((counts[chosen] / chances[chosen, None, None]).sum(0))
        means.append(true_mean(counts[chosen] / chances[chosen, None, None]))
    drawn = torch.stack(sums)
    error = (drawn.mean(0) - counts.sum(0)) / (drawn.std(0) / DRAWS**0.5)
    assert error.abs().max() < 4
    bias, spread = np.mean(means) - true_mean(counts), np.std(means)
    assert abs(bias) < 0.2 * spread


def test_the_estimate_is_that_of_weighted_counts():
    labels, counts = population()
    chances = probabilities(class_shares(labels), 15)
    chosen = draw(chances, range(60), np.random.default_rng(1))
    found = estimate(counts[chosen], chances[chosen], 60)
    assert found.mean_iou == pytest.approx(true_mean(counts[chosen] / chances[chosen, None, None]))
    assert (found.drawn, found.pictures, len(found.iou)) == (15, 60, 4)
    assert 0 <= found.interval[0] < found.mean_iou < found.interval[1] <= 1
    assert estimate(counts[chosen], chances[chosen], 60) == found


def test_the_interval_is_that_of_the_jackknife():
    _, counts = population()
    weighted = counts[:12] / 0.2
    left = [true_mean(torch.cat([weighted[:i], weighted[i + 1 :]])) for i in range(12)]
    error = (0.8 * 11 / 12 * np.square(left - np.mean(left)).sum()) ** 0.5
    found = estimate(counts[:12], torch.full((12,), 0.2), 60)
    half = 2.20099 * error  # Student's t with 11 degrees of freedom
    assert found.interval == pytest.approx((found.mean_iou - half, found.mean_iou + half), abs=1e-5)


def test_masks_of_all_pictures_leave_no_doubt():
    _, counts = population()
    found = estimate(counts, torch.ones(60), 60)
    assert found.mean_iou == pytest.approx(true_mean(counts))
    assert found.interval == pytest.approx((found.mean_iou,) * 2)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    labels, counts = population()
    chances, rng, held = probabilities(class_shares(labels), 20), np.random.default_rng(0), []
    for _ in range(300):
        chosen = draw(chances, rng.permutation(60).tolist(), rng)
        low, high = estimate(counts[chosen], chances[chosen], 60).interval
        held.append(low <= true_mean(counts) <= high)
    assert 0.88 < np.mean(held) < 1


def test_a_class_that_no_drawn_picture_shows_is_left_out():
    _, counts = population()
    counts[:, :, 3] = 0
    found = estimate(counts[:9], torch.full((9,), 0.15), 60)
    assert np.isnan(found.iou[3])
    assert found.mean_iou == pytest.approx(np.mean(found.iou[:3]))


@pytest.mark.parametrize("chances", [torch.ones(1), torch.zeros(2), torch.full((2,), 1.5), torch.ones(3)])
def test_estimates_that_cannot_be(chances):
    _, counts = population()
    with pytest.raises(ValueError, match="give no estimate"):
        estimate(counts[: min(2, len(chances))], chances, 60)


def test_digests():
    assert digest_of(["a", "b"]) == digest_of(["b", "a"]) != digest_of(["ab"])


GOOD = {"drawn": ["a", "b"], "probabilities": [0.5, 1], "pictures": 3, "digest": "0", "seed": 0}


def test_a_suggestion_is_read(tmp_path):
    write_json(tmp_path / "s.json", GOOD)
    assert read_suggestion(tmp_path / "s.json").probabilities == (0.5, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"drawn": ["a", "a"]},
        {"drawn": ["a"]},
        {"drawn": "ab"},
        {"drawn": ["a", 1]},
        {"probabilities": [0, 1]},
        {"probabilities": [0.5, float("inf")]},
        {"probabilities": [0.5, "1"]},
        {"pictures": "3"},
        {"more": 1},
    ],
)
def test_files_that_are_no_suggestion(tmp_path, change):
    (tmp_path / "s.json").write_text(json.dumps(GOOD | change))
    assert "was not written by wsss suggest" in sentence_of(lambda: read_suggestion(tmp_path / "s.json"))
