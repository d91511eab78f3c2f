"""Confusion matrices, the one-pass threshold sweep, and scores."""

import numpy as np
import pytest
import torch

from tests import recipe
from wsss_lib.ops.cam import seed
from wsss_lib.ops.metrics import (
    average_precision,
    class_mean,
    confusion_matrix,
    intersection_over_union,
    precision,
    recall,
    sweep_confusions,
    sweep_histogram,
    top_recall,
)


def sweep_the_slow_way(scores, classes, truth, thresholds, num_classes):
    """The oracle: one seed and one confusion matrix per threshold."""
    return torch.stack([confusion_matrix(truth, seed(scores, classes, float(t)), num_classes) for t in thresholds])


def random_case(n, device, size=(23, 31), num_classes=6):
    truth = torch.randint(0, num_classes, size)
    truth[torch.rand(size) < 0.1] = 255
    scores = (torch.rand(n, *size) * 20).round() / 20  # many ties, with each other and with thresholds
    classes = torch.randperm(num_classes - 1)[:n].sort().values
    return scores.to(device), classes.to(device), truth.to(torch.uint8).to(device)


def test_against_the_standard_definition():
    golden = recipe.golden("psa/miou")
    count = sum(name.startswith("gt") for name in golden)
    total = sum(
        confusion_matrix(torch.from_numpy(golden[f"gt{i}"]), torch.from_numpy(golden[f"pred{i}"]), 21)
        for i in range(count)
    )
    np.testing.assert_array_equal(total.numpy(), golden["confusion"])
    iou = intersection_over_union(total)
    np.testing.assert_allclose(iou.numpy(), golden["iou"], rtol=1e-12)
    np.testing.assert_allclose(class_mean(iou).item(), golden["miou"].item(), rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_sweep_counts_what_one_seed_per_threshold_counts(n, device):
    thresholds = torch.arange(0, 1, 0.05, device=device)
    scores, classes, truth = random_case(n, device)
    ours = sweep_confusions(sweep_histogram(scores, classes, truth, thresholds, 6))
    assert torch.equal(ours, sweep_the_slow_way(scores, classes, truth, thresholds, 6))


def test_histograms_of_images_add_up(device):
    thresholds = torch.linspace(0, 0.9, 10, device=device)
    cases = [random_case(n, device) for n in (1, 2, 0)]
    total = sum(sweep_histogram(*case, thresholds, 6) for case in cases)
    slow = sum(sweep_the_slow_way(*case, thresholds, 6) for case in cases)
    assert torch.equal(sweep_confusions(total), slow)


def test_permuting_the_classes_permutes_the_confusion():
    scores, classes, truth = random_case(2, "cpu")
    thresholds = torch.tensor([0.3])
    order = torch.tensor([0, 3, 1, 5, 2, 4])  # new name of every class
    renamed = torch.where(truth == 255, truth, order.to(torch.uint8)[truth.long().clamp(max=5)])
    permuted = sweep_histogram(scores, order[classes + 1] - 1, renamed, thresholds, 6)
    plain = sweep_histogram(scores, classes, truth, thresholds, 6)
    assert torch.equal(permuted[order][:, order], plain)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        sweep_histogram(torch.rand(1, 3, 4), torch.tensor([0]), torch.zeros(3, 5), torch.tensor([0.5]), 2)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        confusion_matrix(torch.zeros(2), torch.zeros(3), 2)


def test_scores_of_a_known_matrix():
    confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    nan = float("nan")
    expected = {
        intersection_over_union: [6 / 9, 3 / 6, nan],
        precision: [6 / 7, 3 / 5, nan],
        recall: [6 / 8, 3 / 4, nan],
    }
    for function, values in expected.items():
        torch.testing.assert_close(
            function(confusion), torch.tensor(values, dtype=torch.float64), equal_nan=True, rtol=1e-12, atol=0
        )
    iou = intersection_over_union(confusion)
    assert class_mean(iou).item() == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert class_mean(iou, absent="zero").item() == pytest.approx((6 / 9 + 3 / 6) / 3)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0], 1.0),
        ([3.0, 2.0, 1.0, 0.0], [0, 1, 0, 1], (1 / 2 + 2 / 4) / 2),
        ([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0], 1 / 4),
    ],
)
def test_average_precision(scores, labels, expected):
    result = average_precision(torch.tensor(scores)[:, None], torch.tensor(labels)[:, None])
    assert result.item() == pytest.approx(expected)


def test_average_precision_of_an_absent_class_is_nan():
    assert average_precision(torch.rand(4, 1), torch.zeros(4, 1)).isnan().all()


def test_top_recall(device):
    """The slow way: for every image, the highest of its scores, as many as it has labels."""
    scores, labels = torch.randn(40, 5, device=device), (torch.rand(40, 5, device=device) < 0.4).float()
    hits = 0
    for score, label in zip(scores, labels, strict=True):
        present = set(label.nonzero().flatten().tolist())
        hits += len(present & set(score.topk(len(present)).indices.tolist()))
    assert (labels.sum(1) == 0).any()
    assert (labels.sum(1) > 2).any()
    result = top_recall(scores, labels)
    assert (result.dtype, result.shape) == (torch.float64, ())
    assert result.item() == pytest.approx(hits / labels.sum().item())


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[3.0, 2.0, 1.0]], [[1, 0, 0]], 1.0),
        ([[-3.0, -1.0, -2.0]], [[1, 0, 0]], 0.0),
        ([[3.0, 2.0, 1.0]], [[1, 0, 1]], 0.5),
        ([[1.0, 2.0, 3.0]], [[1, 1, 1]], 1.0),
        ([[3.0, 2.0, 1.0], [9.0, 9.5, 9.0], [1.0, 2.0, 3.0]], [[1, 1, 0], [0, 0, 0], [1, 0, 0]], 2 / 3),
    ],
)
def test_top_recall_of_known_rankings(scores, labels, expected):
    assert top_recall(torch.tensor(scores), torch.tensor(labels)).item() == pytest.approx(expected)


def test_top_recall_without_any_label_is_nan():
    assert top_recall(torch.randn(3, 4), torch.zeros(3, 4)).isnan()
