"""Trust in masks: its values, its rank correlation with the truth, and the reliability curve."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from wsss_lib.results.trust import agreement_of_counts, rank_correlation, reliability_curve, trust_of_counts

NAN = float("nan")


def test_trust_is_the_agreement_over_the_number_of_classes():
    counts = torch.tensor([[[60, 20, 0], [70, 30, 0], [70, 30, 0]], [[50, 20, 10], [60, 25, 15], [60, 25, 15]]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    agreement = [(60 / 80 + 20 / 40) / 2, (50 / 70 + 20 / 30 + 10 / 20) / 3]
    assert agreement_of_counts(counts, labels).tolist() == pytest.approx(agreement)
    assert trust_of_counts(counts, labels).tolist() == pytest.approx([agreement[0], agreement[1] / 2])


def test_a_class_that_the_labels_alone_show_is_not_trusted():
    counts = torch.tensor([[[100, 0, 0], [100, 0, 0], [100, 0, 0]]] * 3)
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert agreement_of_counts(counts, labels)[:2].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert trust_of_counts(counts, labels)[:2].tolist() == pytest.approx([1 / 2, 1 / 6])
    assert trust_of_counts(counts, labels)[2].isnan()  # nothing is to be found there


def test_the_counts_stay_as_they_are():
    counts = torch.tensor([[[100, 0], [100, 0], [100, 0]]])
    before = counts.clone()
    trust_of_counts(counts, torch.ones(1, 1))
    assert counts.equal(before)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 6, 40).astype(float)  # with equal values
    other = one + rng.normal(0, 2, 40)
    found = rank_correlation(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx(spearmanr(one, other).statistic)
    with_nan = torch.cat([torch.from_numpy(one), torch.tensor([NAN, 1.0])])
    assert rank_correlation(with_nan, torch.cat([torch.from_numpy(other), torch.tensor([1.0, NAN])])) == pytest.approx(
        found
    )


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, NAN], [1.0, 1.0, 1.0]])
def test_correlations_that_cannot_be(values):
    assert np.isnan(rank_correlation(torch.tensor(values), torch.tensor([1.0, 2.0, 3.0])[: len(values)]))


def test_reliability_curve():
    trust = torch.tensor([0.9, 0.1, NAN, 0.5, 0.3, 0.7])
    iou = torch.tensor([0.8, 0.2, 0.5, 0.4, 0.4, NAN])
    curve = reliability_curve(trust, iou, bins=2)
    assert [part.pictures for part in curve] == [2, 2]
    assert [part.trust for part in curve] == pytest.approx([0.2, 0.7])
    assert [part.iou for part in curve] == pytest.approx([0.3, 0.6])
    assert len(reliability_curve(trust, iou, bins=9)) == 4
    assert reliability_curve(trust[2:3], iou[2:3]) == []
