"""Confusion matrices, the one-pass threshold sweep, and scores."""

import numpy as np
import pytest
import torch

from tests import recipe
from tests.scenes import label_map
from wsss_lib.ops.cam import background_power, cam_label
from wsss_lib.ops.metrics import (
    average_precision,
    class_mean,
    confusion_matrix,
    frequency_weighted_iou,
    intersection_over_union,
    occurring,
    pixel_accuracy,
    precision,
    recall,
    sweep_confusions,
    sweep_histogram,
    top_recall,
)


def sweep_the_slow_way(scores, classes, truth, thresholds, num_classes):
    """The oracle: one seed and one confusion matrix per threshold."""
    return torch.stack([confusion_matrix(truth, cam_label(scores, classes, float(t)), num_classes) for t in thresholds])


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


def test_the_two_metrics_of_msal():
    golden = recipe.golden("msal/metric")
    total = torch.zeros(21, 21, dtype=torch.int64)
    for i in range(2):
        truth = recipe.integers(f"msal/metric/gt/{i}", (9, 7), 0, 18).repeat(5, 0).repeat(5, 1)[:40, :30]
        noise = recipe.integers(f"msal/metric/noise/{i}", (40, 30), 0, 20)
        predicted = np.where(noise < 14, truth, noise)
        void = recipe.integers(f"msal/metric/void/{i}", (40, 30), 0, 10) == 0
        truth = np.where(void, 255, truth).astype(np.uint8)
        total += confusion_matrix(torch.from_numpy(truth), torch.from_numpy(predicted.astype(np.uint8)), 21)
    iou = 100 * intersection_over_union(total)
    np.testing.assert_allclose(class_mean(iou).item(), golden["hist_miou"].item(), rtol=1e-6)
    with_absent = iou.nan_to_num(0.0)
    np.testing.assert_allclose(with_absent.numpy(), golden["calculator_iou"], rtol=1e-6, atol=1e-6)
    means = [with_absent.mean().item(), with_absent[1:].mean().item()]
    np.testing.assert_allclose(means, golden["calculator"][:2], rtol=1e-6)


SCORED = [(40, 52, (0, 14)), (33, 47, (3,)), (50, 30, (6, 8, 14))]
"""Height, width and classes of the images with which OC-CSE's and ACR's code was scored."""


def scored_images(method, top, lowest):
    """Yield maps ``(n, H, W)`` up to ``top``, their classes, and a mask that follows them with noise."""
    for i, (height, width, classes) in enumerate(SCORED):
        maps = []
        for k in classes:
            [v] = recipe.smooth(f"{method}/eval/cam/{i}/{k}", (1, height, width), cells=5)
            maps.append(np.float32(v / (v.max() + 1e-5)) * np.float32(top))
        [noise] = recipe.smooth(f"{method}/eval/gt/{i}", (1, height, width), 5)
        truth = np.zeros((height, width), np.uint8)
        for j, (k, v) in enumerate(zip(classes, maps, strict=True)):
            truth[v + 0.25 * noise > lowest + 0.05 * j] = k + 1
        truth[abs(noise - 0.5) < 0.01] = 255
        yield torch.from_numpy(np.stack(maps)), torch.tensor(classes), torch.from_numpy(truth)


@pytest.mark.parametrize(("method", "top", "lowest"), [("oc_cse", 0.75, 0.38), ("acr", 0.6, 0.34)])
def test_official_sweeps(method, top, lowest):
    golden = recipe.golden(f"{method}/evaluation")
    thresholds = torch.from_numpy(golden["thresholds"])
    images = list(scored_images(method, top, lowest))
    confusions = sweep_confusions(sum(sweep_histogram(*case, thresholds, 21) for case in images))
    mean_iou = class_mean(intersection_over_union(confusions), absent="zero").numpy()
    best = int(mean_iou.argmax())
    np.testing.assert_allclose(100 * mean_iou, golden["miou"], atol=1e-6)
    scores = {"miou": 100 * mean_iou}
    for measure in (precision, recall):
        scores[measure.__name__] = class_mean(measure(confusions), absent="zero").numpy()
    if method == "oc_cse":
        np.testing.assert_allclose(100 * intersection_over_union(confusions).nan_to_num(0), golden["iou"], atol=1e-6)
        wanted = [float(golden["best_miou"]), float(golden["best_threshold"])]
        assert [scores["miou"][best], thresholds[best]] == pytest.approx(wanted)
    else:
        for name in ("precision", "recall"):
            np.testing.assert_allclose(scores[name], golden[name], atol=1e-6)
        row = [scores["miou"][best], thresholds[best], scores["precision"][best], scores["recall"][best]]
        assert row == pytest.approx(golden["best"].tolist(), abs=1e-6)
        thresholds = torch.arange(3, 30, dtype=torch.float64) / 100  # of the other script
        confusions = sweep_confusions(sum(sweep_histogram(*case, thresholds, 21) for case in images))
        mean_iou = 100 * class_mean(intersection_over_union(confusions), absent="zero")
        best = int(mean_iou.argmax())
        assert [mean_iou[best], thresholds[best]] == pytest.approx(golden["best_evaluation_py"].tolist(), abs=1e-6)


def pcss_images():
    """Yield maps ``(n, 30, 41)``, their classes, and a mask that follows them with noise."""
    for i in range(4):
        name = "pcss/evaluation"
        classes = np.unique(recipe.integers(f"{name}/classes{i}", (3,), 0, 20))
        maps = np.stack([recipe.smooth(f"{name}/cam{i}/{c}", (1, 30, 41), cells=5)[0] for c in classes])
        background = 0.45 + recipe.array(f"{name}/gtnoise{i}", (30, 41), 0.05)
        scores = np.concatenate([background[None], maps + 0.1 * recipe.array(f"{name}/gtcls{i}", maps.shape)])
        truth = np.array([0, *(classes + 1)], np.uint8)[scores.argmax(0)]
        truth[recipe.uniform(f"{name}/void{i}", (30, 41)) < 0.05] = 255
        yield torch.from_numpy(maps), torch.from_numpy(classes), torch.from_numpy(truth)


def test_official_sweep_that_stops():
    """The authors of PCSS go up from 0.30 and stop at the first threshold that is no better."""
    golden = recipe.golden("pcss/evaluation")

    def iou_at(thresholds):
        histograms = [sweep_histogram(*case, thresholds.double(), 21) for case in pcss_images()]
        return 100 * intersection_over_union(sweep_confusions(sum(histograms))).nan_to_num(0)

    iou = iou_at(torch.from_numpy(golden["thresholds"]))
    np.testing.assert_allclose(iou, golden["iou"], atol=1e-4)
    np.testing.assert_allclose(iou.mean(-1), golden["miou"], atol=1e-4)
    upwards = iou_at(torch.arange(30, 60) / 100).mean(-1).tolist()
    worse = next((i for i in range(1, 30) if upwards[i] <= upwards[i - 1]), 30)
    assert worse + (worse < 30) == golden["sweep_steps"]
    wanted = golden["sweep_best"].tolist()
    assert [upwards[worse - 1], 0.3 + (worse - 1) / 100] == pytest.approx(wanted, abs=1e-4)


def test_official_scores_of_a_background_power():
    golden = recipe.golden("oc_cse/evaluation")
    confusion = torch.zeros(21, 21, dtype=torch.int64)
    for maps, classes, truth in scored_images("oc_cse", 0.75, 0.38):
        labels = torch.cat([torch.zeros(1, dtype=torch.int64), classes + 1])[background_power(maps, 2).argmax(0)]
        confusion += confusion_matrix(truth, labels.to(torch.uint8), 21)
    iou = intersection_over_union(confusion)
    np.testing.assert_allclose(100 * iou.nan_to_num(0), golden["crf_iou"], atol=1e-6)
    np.testing.assert_allclose(100 * class_mean(iou, absent="zero"), golden["crf_miou"], atol=1e-6)


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
    for wrong in (-1, 2, 255):
        with pytest.raises(ValueError, match=f"prediction holds .*{wrong}.*, not 0 to 1"):
            confusion_matrix(torch.tensor([0, 1]), torch.tensor([1, wrong]), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.nan}, "scores hold negative or non-finite"),
        ({"scores": torch.inf}, "scores hold negative or non-finite"),
        ({"scores": 1.01}, "values above 1"),
        ({"scores": -0.01}, "scores hold negative"),
        ({"truth": 6}, "truth holds values of 6 to 254, which are not classes"),
        ({"truth": 254}, "truth holds values of 6 to 254"),
        ({"classes": torch.tensor([0, 5])}, r"classes \[0, 5\] do not name 2 of 5 classes"),
        ({"classes": torch.tensor([-1, 2])}, r"classes \[-1, 2\]"),
        ({"classes": torch.tensor([2, 2])}, r"classes \[2, 2\]"),
        ({"classes": torch.tensor([2])}, r"classes \[2\]"),
        ({"thresholds": torch.tensor([0.5, 0.2])}, "thresholds do not ascend"),
        ({"thresholds": torch.tensor([torch.nan])}, "thresholds do not ascend"),
    ],
)
def test_a_sweep_refuses_invalid_maps_classes_and_thresholds(change, message):
    scores, truth = torch.full((2, 4, 5), 0.25), torch.zeros(4, 5, dtype=torch.uint8)
    scores[1, 2, 3] = change.get("scores", 1 + 1e-7)
    scores[0, 1, 1] = -1e-7
    truth[1, 1], truth[2, 2] = 255, change.get("truth", 5)
    fine = {"classes": torch.tensor([0, 4]), "thresholds": torch.tensor([0.2, 0.5])}
    assert sweep_histogram(
        scores.clamp(0, 1).nan_to_num(0), fine["classes"], truth.clamp(max=5), fine["thresholds"], 6
    ).sum()
    given = {**fine, **{name: value for name, value in change.items() if name in fine}}
    with pytest.raises(ValueError, match=message):
        sweep_histogram(scores, given["classes"], truth, given["thresholds"], 6)


def test_a_sweep_of_maps_beyond_the_ends_by_rounding():
    scores = torch.tensor([[[1 + 1e-7, -1e-7]]])
    histogram = sweep_histogram(scores, torch.tensor([0]), torch.ones(1, 2, dtype=torch.uint8), torch.tensor([0.5]), 2)
    assert sweep_confusions(histogram).tolist() == [[[0, 0], [1, 1]]]


def test_confusion_matrix_refuses_scores():
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.2, 1.0])
    with pytest.raises(ValueError, match=r"prediction holds torch\.float32, not integers"):
        confusion_matrix(labels, scores, 2)
    with pytest.raises(ValueError, match=r"truth holds torch\.float32, not integers"):
        confusion_matrix(scores, labels, 2)
    with pytest.raises(ValueError, match=r"truth holds torch\.float32, not uint8"):
        sweep_histogram(torch.rand(1, 1, 2), torch.tensor([0]), scores[None], torch.tensor([0.5]), 2)


@pytest.mark.parametrize("rank", [average_precision, top_recall])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_cannot_be_ranked_are_refused(rank, value):
    scores, labels = torch.rand(4, 3), torch.ones(4, 3)
    rank(scores * 1e38, labels)  # although their sum is infinite
    scores[1, 2] = value
    with pytest.raises(ValueError, match="scores hold NaN or infinite values"):
        rank(scores, labels)
    with pytest.raises(ValueError, match=r"scores are \(4, 3\) but labels are \(4, 2\)"):
        rank(scores, labels[:, :2])


def test_values_that_are_not_a_class_do_not_count(device):
    truth = torch.tensor([0, 1, 2, 254, 255, -1], device=device)
    assert confusion_matrix(truth, torch.tensor([1, 1, 0, 0, 99, 99], device=device), 2).tolist() == [[0, 1], [0, 1]]


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


def test_average_precision_counts_images_with_equal_scores(device):
    """Against counting them one by one."""
    scores, labels = (torch.rand(50, 4, device=device) * 9).round(), torch.rand(50, 4, device=device) < 0.3
    expected = []
    for score, label in zip(scores.T.tolist(), labels.T.tolist(), strict=True):
        positive = [s for s, present in zip(score, label, strict=True) if present]
        shares = [sum(p >= s for p in positive) / sum(o >= s for o in score) for s in positive]
        expected.append(sum(shares) / len(shares))
    assert average_precision(scores, labels).tolist() == pytest.approx(expected)


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


def test_the_scores_of_deeplab():
    """Classes 12 and 13 are predicted but never occur: their code leaves them out of the mean, ours does not."""
    golden, name, size = recipe.golden("segmentation/scores"), "segmentation/scores", (30, 40)
    total = torch.zeros(21, 21, dtype=torch.int64)
    for i in range(3):
        truth = label_map(f"{name}/gt{i}", size, 12)
        right = recipe.uniform(f"{name}/keep{i}", size) < 0.7
        wrong = recipe.integers(f"{name}/pr{i}", size, 0, 14)
        guess = np.where(right, np.where(truth == 255, 0, truth), wrong)
        total += confusion_matrix(torch.from_numpy(truth), torch.from_numpy(guess), 21)
    iou = intersection_over_union(total)
    np.testing.assert_allclose(iou.nan_to_num(-1).numpy(), golden["class_iou"], rtol=0, atol=1e-6)
    scalars = [pixel_accuracy(total), class_mean(recall(total)), frequency_weighted_iou(total)]
    scalars.append(class_mean(occurring(iou, total)))
    np.testing.assert_allclose([s.item() for s in scalars], golden["scalars"], rtol=0, atol=1e-6)
    theirs, mctformer, pcss = scalars[-1], class_mean(iou), class_mean(iou, "zero")
    torch.testing.assert_close(theirs * 12, mctformer * 14)
    torch.testing.assert_close(mctformer * 14, pcss * 21)
