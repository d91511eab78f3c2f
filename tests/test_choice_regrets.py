"""The script that measures what choices without masks lose."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.scripts import load_script
from wsss_lib.data.toy import ToyWorld
from wsss_lib.ops.cam import cam_label
from wsss_lib.ops.dense_crf import PRESETS, make_kernel
from wsss_lib.results import choose
from wsss_lib.stages.evaluate import score_cams
from wsss_lib.stages.store import CamStore, MaskStore, write_json


@pytest.fixture(scope="module")
def script():
    return load_script("choice_regrets")


@pytest.fixture
def picture():
    draw = torch.Generator().manual_seed(0)
    return torch.rand(2, 12, 13, generator=draw), (255 * torch.rand(3, 12, 13, generator=draw)).to(torch.uint8)


def test_ratings_of_label_maps_are_those_of_the_thresholds(script, picture):
    cams, image = picture
    grid, classes = torch.tensor([0.0, 0.3, 0.6, 0.99]), torch.tensor([0, 2])
    labels = torch.stack([cam_label(cams, classes, float(threshold)) for threshold in grid])
    for ours, theirs in zip(script.contrasts(labels, image), choose.boundary_contrast(cams, image, grid), strict=True):
        torch.testing.assert_close(ours.double(), theirs)
    ours = script.explained((labels > 0).flatten(1), image)
    torch.testing.assert_close(ours, choose.explained_colour(cams, image, grid))


def test_a_cut_along_an_edge_is_cheap(script):
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[:, :, 8:] = 200
    kernel = make_kernel([image], PRESETS["psa"].kernels[-1])
    objects = torch.zeros(4, 16, 16, dtype=torch.bool)
    objects[0, :, 8:], objects[1, :, 4:], objects[3] = True, True, True
    edge, beside, nothing, everything = script.cuts(objects.flatten(1), kernel).tolist()
    assert edge < 0.1 < 0.3 < beside
    assert nothing == everything == 1


def test_kappa_is_zero_by_chance(script):
    counts = torch.tensor([[[8, 2], [4, 1]], [[9, 0], [0, 6]], [[15, 0], [0, 0]]])
    torch.testing.assert_close(script.kappa(counts), torch.tensor([0.0, 1.0, 0.0]).double())


def test_the_threshold_of_a_power(script):
    for alpha in script.ALPHAS:
        threshold = script.crossing(alpha) / 100
        assert (1 - threshold) ** alpha >= threshold
        assert (1 - threshold - 0.01) ** alpha < threshold + 0.01
        assert script.ALPHAS[script.nearest_power(threshold)] == alpha


class FakeRun:
    """Maps that are right at the thresholds from 0.3 to 0.7, and noise around them."""

    fabric = SimpleNamespace(device=torch.device("cpu"))
    method = SimpleNamespace(scales_itself=True)

    def __init__(self, folder):
        self.folder = folder
        draw = np.random.default_rng(0)
        for split in ("train", "val"):
            data, store = self.data(split), self.cams(split)
            for index, image_id in enumerate(data.ids):
                classes = data.labels[index].nonzero().flatten()
                true = data.mask(index) == classes.numpy()[:, None, None] + 1
                store.write(image_id, classes, torch.from_numpy(0.1 + 0.6 * true + 0.2 * draw.random(true.shape)))
                MaskStore(folder / "walk" / split).write(image_id, torch.from_numpy(data.mask(index) % 255))
        write_json(folder / "metrics.json", {"classification": {"train": {"mean_average_precision": 0.5}}})

    def data(self, split):
        return ToyWorld(split, 4)

    def cams(self, split):
        return CamStore(self.folder / "cams" / split)


@pytest.fixture(scope="module")
def measured(script, tmp_path_factory):
    """Three methods with the random seed 0, of which the first has a walk whose masks are the true ones."""
    place, sets = tmp_path_factory.mktemp("work"), []
    for name in ("cam", "acr", "msal"):
        run = FakeRun(place / name)
        walks = {"irn walk": MaskStore(run.folder / "walk" / "train")} if name == "cam" else {}
        found = script.measure(script.Job(run, "train", {"other seed": run.cams("train")}, walks), 2, 100)
        np.savez(place / f"{name}-0-train.npz", **found)
        sets.append(script.Measured(place / f"{name}-0-train.npz"))
    return sets


def test_a_set_is_scored_like_its_run(measured, tmp_path):
    one, run = measured[0], FakeRun(tmp_path)
    assert (one.name, one.seed, one.split) == ("cam", 0, "train")
    scores = score_cams(run.cams("train"), run.data("train"))
    torch.testing.assert_close(one.thresholds, 100 * scores.mean_iou)
    assert one.scores["seed"] == pytest.approx(100 * float(scores.mean_iou[20]))
    assert one.scores["irn walk"] == 100  # ignored pixels do not count
    assert one.about["precision"] == 0.5
    assert one.arrays["in_sample"].sum() == 2


def test_ways_choose_thresholds_and_alphas(script, measured):
    thresholds, alphas = measured[0].chosen_thresholds(), measured[0].chosen_alphas()
    assert thresholds["fixed, 0.2"] == 20
    assert 5 < thresholds["agreement of other seed"] < 15  # with itself; of equals the lowest
    assert 30 <= thresholds["Otsu"] <= 69
    assert [alphas[f"fixed, {alpha:g}"] for alpha in script.ALPHAS] == [*range(len(script.ALPHAS))]
    assert all(0 <= position < len(script.ALPHAS) for position in alphas.values())
    assert len(thresholds) > 15
    assert len(alphas) > 25


def test_regrets_of_refinements_and_methods(script, measured):
    choices = {one.way: one for one in script.refinement_choices(measured[0])}
    assert choices["fixed, irn walk"].regret == 0
    assert choices[f"fixed, {script.FIXED_CRF}"].regret == choices["fixed, seed"].fixed > 0
    assert all(one.tuned for one in choices.values())
    found = {one.way: one for one in script.method_choices(measured, measured, "seed")}
    assert {"fixed, cam", "fixed, acr", "fixed, msal", "average precision of the labels"} <= {*found}
    assert min(one.regret for one in found.values()) == 0


def test_tables(script, measured):
    found = dict(script.tables(measured))
    assert [*found][:2] == ["threshold", "threshold, each set"]
    assert "| fixed, 0.2 |" in found["threshold"]
    assert "| cam, train |" in found["alpha, each set"]
    made = [script.Choice("a", 1.0, 2.0, tuned=False), script.Choice("a", 3.0, 2.0, tuned=False)]
    assert script.summary(made).splitlines()[-1] == "| a |  | 2.00 | 3.00 | 1 / 1 of 2 |"


def test_names_of_folders(script):
    assert script.name_and_seed("oc-cse-2") == ("oc-cse", 2)
    assert script.name_and_seed("tiles") == ("tiles", 0)


def test_two_runs_that_would_share_a_file_are_refused(script):
    with pytest.raises(SystemExit, match="the same method and seed"):
        list(script.jobs([Path("a/cam-0"), Path("b/cam-0")], []))


@pytest.mark.parametrize("part", ["1", "2/2", "0/0", "a/b"])
def test_parts_that_do_nothing_are_refused(part, script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["choice_regrets.py", str(tmp_path), "--part", part])
    with pytest.raises(SystemExit):
        script.main()
    assert f"--part {part} is not I/N" in capsys.readouterr().err
