"""The script that measures regrets."""

import pytest
import torch

from tests.scripts import load_script
from wsss_lib.data.toy import ToyWorld
from wsss_lib.results.choose import Candidate
from wsss_lib.stages.store import CamStore


@pytest.fixture(scope="module")
def script():
    return load_script("threshold_regrets")


class FakeRun:
    """Maps that are right at the thresholds from 0.5 to 0.7 on ``train`` and from 0.3 to 0.7 on ``val``."""

    def __init__(self, folder):
        self.folder = folder
        for split, low in (("train", 0.5), ("val", 0.3)):
            data, store = self.data(split), self.cams(split)
            for index, image_id in enumerate(data.ids):
                classes = data.labels[index].nonzero().flatten()
                true = data.mask(index) == classes.numpy()[:, None, None] + 1
                store.write(image_id, classes, torch.from_numpy(low - 0.005 + (0.7 - low) * true))

    def data(self, split):
        return ToyWorld(split, 4)

    def cams(self, split):
        return CamStore(self.folder / split)


def test_regrets(script, tmp_path, monkeypatch):
    chosen = [Candidate("low", 0.4), Candidate("right", 0.6), Candidate("high", 0.8)]
    monkeypatch.setattr(script, "candidates", lambda store, data, other, sample: chosen)  # noqa: ARG005
    rows = script.regrets(FakeRun(tmp_path), None, 1)
    assert rows[script.TRAIN] == (0.5, 0, 0)
    assert rows["right"] == (0.6, 0, 0)
    low, high = rows["low"], rows["high"]
    assert low[1] > 10
    assert low[2] == 0
    assert min(high[1:]) > 10
    assert rows[script.FIXED][1] == low[1]
