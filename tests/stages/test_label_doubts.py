"""Wrong labels that are planted into tiny data, and data that cannot be judged."""

import numpy as np
import pytest
import torch

from tests.runs.small import sentence_of
from wsss_lib.stages import label_doubts
from wsss_lib.stages.label_doubts import (
    LabelDoubt,
    find_label_doubts,
    held_out_probabilities,
    judged_classes,
    label_quality,
    most_doubtful,
)

NAMES = ("cat", "dog", "sofa")
WRONG = {(3, 0), (20, 1), (41, 2), (77, 0)}
"""Images and classes with a planted error."""


@pytest.fixture
def clean():
    """Features that show the classes, and right labels."""
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(90, 3, generator=draw) < 0.4).float()
    features = labels @ torch.randn(3, 8, generator=draw) * 4 + 0.3 * torch.randn(90, 8, generator=draw)
    return features, labels


@pytest.fixture
def wrong(clean):
    features, labels = clean
    for image, label in WRONG:
        labels[image, label] = 1 - labels[image, label]
    return features, labels


class TestRanking:
    @pytest.fixture(autouse=True)
    def packages(self):
        pytest.importorskip("cleanlab")

    def test_planted_errors_come_first(self, wrong):
        features, labels = wrong
        doubts, sentence = find_label_doubts(features, labels, NAMES)
        assert sentence == ""
        assert len(doubts) == labels.numel()
        assert {(one.image, one.label) for one in doubts[: len(WRONG)]} == WRONG
        for one in doubts[: len(WRONG)]:
            assert one.given == bool(labels[one.image, one.label])
            assert one.kind == ("superfluous" if one.given else "missing")
            assert (one.probability < 0.5) == one.given
        assert {one.kind for one in doubts[: len(WRONG)]} == {"missing", "superfluous"}
        qualities = [one.quality for one in doubts]
        assert qualities == sorted(qualities)
        few = find_label_doubts(features, labels, NAMES, most=7)[0]
        for kind in ("missing", "superfluous"):
            assert [one for one in few if one.kind == kind] == [one for one in doubts if one.kind == kind][:7]
        assert few == [one for one in doubts if one in few]

    def test_the_same_seed_gives_the_same_numbers(self, wrong):
        first, again, other = (held_out_probabilities(*wrong, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_a_label_cannot_vouch_for_itself(self):
        """Features without meaning, but enough of them to learn all labels by heart."""
        draw = torch.Generator().manual_seed(0)
        features, labels = torch.randn(60, 200, generator=draw), (torch.arange(60) % 2).float()[:, None]
        found = held_out_probabilities(features, labels, strength=1.0)[:, 0]
        right = (found > 0.5) == labels[:, 0].bool()
        assert 0.2 < right.float().mean() < 0.8

    def test_more_features_than_images(self):
        """A plain version, with all features, of what is computed with turned axes."""
        linear = pytest.importorskip("sklearn.linear_model")
        scaler, model = pytest.importorskip("sklearn.preprocessing"), pytest.importorskip("sklearn.model_selection")
        draw = torch.Generator().manual_seed(0)
        features, given = 5 + torch.randn(40, 90, generator=draw), torch.arange(40) % 3 == 0
        features[:, 7] = 2.5  # the same in all images
        x = scaler.StandardScaler().fit_transform(features.double().numpy())
        plain = model.cross_val_predict(
            linear.LogisticRegression(C=0.01, tol=1e-8),
            x,
            given.numpy(),
            cv=model.StratifiedKFold(5, shuffle=True, random_state=3),
            method="predict_proba",
        )
        found = held_out_probabilities(features, given.float()[:, None], seed=3, strength=0.01)
        np.testing.assert_allclose(found[:, 0], plain[:, 1], rtol=0, atol=1e-3)

    def test_one_class_and_images_without_it(self, clean):
        features, labels = clean
        doubts, _ = find_label_doubts(features, labels[:, :1], NAMES[:1])
        assert len(doubts) == len(labels)

    def test_quality_is_the_probability_of_what_is_given(self):
        labels, probabilities = torch.tensor([[1, 0], [0, 1.0]]), torch.tensor([[0.9, 0.2], [0.3, 0.4]]).double()
        found = label_quality(labels, probabilities)
        torch.testing.assert_close(found, torch.tensor([[0.9, 0.8], [0.7, 0.4]]).double())

    def test_a_class_with_few_images_is_left_out(self, wrong):
        features, labels = wrong
        labels[:, 1] = 0
        labels[:3, 1] = 1
        doubts, sentence = find_label_doubts(features, labels, NAMES)
        assert {one.label for one in doubts} == {0, 2}
        assert sentence == "labels not judged, because fewer than 5 images have or lack the label: 'dog'."
        assert {one.label for one in find_label_doubts(features, labels, NAMES, folds=3)[0]} == {0, 1, 2}

    def test_features_that_are_not_finite(self, wrong):
        features, labels = wrong
        features[4, 2] = torch.nan
        assert "the features of 1 images are not finite" in sentence_of(
            lambda: held_out_probabilities(features, labels)
        )


def test_equal_doubts_keep_the_order_of_images_and_classes():
    labels, same = torch.tensor([[1, 0], [0, 1.0]]), torch.full((2, 2), 0.5).double()
    everything = [LabelDoubt(i, k, i == j, 0.5, 0.5) for i in range(2) for j, k in enumerate((4, 7))]
    assert most_doubtful(labels, same, same, [4, 7]) == everything
    assert most_doubtful(labels, same, same, [4, 7], 1) == everything[:2]


@pytest.mark.parametrize(
    ("counts", "folds", "words"),
    [
        ((0, 0, 0), 5, "none of the 20 images has a label"),
        ((20, 0, 0), 5, "all 20 images have the label cat, so nothing shows what its absence looks like"),
        ((4, 1, 17), 5, "fewer than 5 of the 20 images have or lack it: 'cat', 'dog', 'sofa'; give at most 4 folds or"),
        ((1, 1, 0), 5, "no label can be judged with 5 folds"),
        ((1, 1, 0), 5, "'sofa'; give more images"),
        ((10, 10, 10), 1, "folds is 1; give at least 2"),
    ],
)
def test_labels_that_cannot_be_judged(counts, folds, words):
    labels = torch.stack([(torch.arange(20) < count).float() for count in counts], 1)
    assert words in sentence_of(lambda: judged_classes(labels, NAMES, folds))


@pytest.mark.parametrize(("name", "installed"), [("cleanlab", "cleanlab"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named(name, installed, monkeypatch):
    def find(module):
        if module == name:
            raise ImportError(module)

    monkeypatch.setattr(label_doubts, "import_module", find)
    sentence = sentence_of(label_doubts.require_packages)
    assert f"the package {installed} is missing" in sentence
    assert "pip install cleanlab" in sentence
