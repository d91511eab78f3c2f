"""Scores of the same maps with given and with predicted classes."""

import pytest
import torch

from tests.runs.small import sentence_of
from wsss_lib.data.dataset import DatasetView
from wsss_lib.data.toy import ToyWorld
from wsss_lib.results.label_help import LabelHelp, label_help, label_help_table


class PerfectMaps:
    """What `label_help` needs of a run: maps that are 1 on an object, and logits that a test chooses."""

    def __init__(self, world, logits):
        self.world, self.logits = world, logits
        self.pictures = {world.image(i).tobytes(): i for i in range(len(world))}

    def classify(self, data):
        return self.logits[: len(data)]

    def cam(self, picture, labels):
        mask = torch.from_numpy(self.world.mask(self.pictures[picture.tobytes()]))
        classes = torch.arange(len(labels))
        maps = (mask == classes[:, None, None] + 1).float()
        maps[maps.amax((1, 2)) == 0] = 0.4  # a class that is not there is seen everywhere
        return classes, maps


@pytest.fixture(scope="module")
def world():
    return ToyWorld("val", 5, seed=1)


def test_right_predictions_need_no_labels(world):
    found = label_help(PerfectMaps(world, 2 * world.labels - 1), world, 0.5)
    assert found == LabelHelp(given=1.0, predicted=1.0, right=1.0, pictures=5)


def test_a_wrong_class_costs_its_pixels(world):
    logits = 2 * world.labels - 1
    absent = int((world.labels[0] == 0).nonzero()[0])
    logits[0, absent] = 1
    found = label_help(PerfectMaps(world, logits), world, 0.3)
    assert found.given == 1
    assert found.predicted < 1
    assert found.right == pytest.approx(4 / 5)


def test_without_a_positive_logit_the_highest_counts(world):
    logits = torch.full_like(world.labels, -2)
    logits[world.labels.bool()] = -1  # ties: every shown class has the highest logit
    assert label_help(PerfectMaps(world, logits), world, 0.5).right == 1


def test_only_the_first_pictures_count(world):
    assert label_help(PerfectMaps(world, 2 * world.labels - 1), world, 0.5, most=2).pictures == 2


def test_pictures_without_masks_are_refused(world):
    unmasked = DatasetView(world, "pictures", range(len(world)))
    unmasked.has_mask = lambda _: False
    assert "pictures have no masks" in sentence_of(lambda: label_help(PerfectMaps(world, world.labels), unmasked, 0.5))


def test_the_table_is_in_percent_and_points():
    table = label_help_table({"00_cam": LabelHelp(0.5, 0.4, 0.9, 120)})
    assert table.splitlines()[-1] == "| `00_cam` | 50.0 | 40.0 | 10.0 | 90.0 |"
