"""Thresholds and alphas chosen without masks, against plain versions that go through the thresholds one by one."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_lib.data.dataset import DatasetView
from wsss_lib.data.toy import ToyWorld
from wsss_lib.errors import InputError
from wsss_lib.ops.cam import background_power, cam_label
from wsss_lib.ops.dense_crf import dense_crf, unary_from_labels, unary_from_scores
from wsss_lib.ops.metrics import confusion_matrix
from wsss_lib.results import choose
from wsss_lib.results.choose import MEASURED
from wsss_lib.runs.report import FIXED_ALPHA, FIXED_THRESHOLD
from wsss_lib.stages.store import CamStore

GRID = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.8])
CLASSES = torch.tensor([1, 3])
C = 5


@pytest.fixture
def picture():
    draw = torch.Generator().manual_seed(0)
    cams, others = torch.rand(2, 2, 9, 11, generator=draw)
    cams[:, 0, 0], cams[:, 1, 1] = 0, 0.25  # scores equal to a threshold belong to the background
    return cams, others, (255 * torch.rand(3, 9, 11, generator=draw)).to(torch.uint8)


def seeds(cams):
    return [cam_label(cams, CLASSES, float(threshold)) for threshold in GRID]


def test_the_regret_of_the_fixed_alpha_is_not_that_of_another():
    average, greatest = MEASURED["alpha"]["fixed"]
    assert f"alpha {FIXED_ALPHA:g} lost {average:.1f} points" in choose.fixed_choice(f"crf-{FIXED_ALPHA:g}")
    other = choose.fixed_choice("crf-4")
    assert "crf-4 is the fixed choice, since no other alpha is nearer to 8;" in other
    assert f"{average:.1f}" not in other
    assert f"{greatest:.1f}" not in other


def test_counts_of_levels(picture):
    counts = choose.level_counts(picture[0], GRID)
    assert counts.sum() == 99
    assert [int(counts[t + 1 :].sum()) for t in range(len(GRID))] == [
        int((seed > 0).sum()) for seed in seeds(picture[0])
    ]


def test_otsu(picture):
    level = choose.levels(picture[0], GRID).double()
    inside = []
    for t in range(len(GRID)):
        parts = [part for part in (level[level > t], level[level <= t]) if len(part)]
        inside.append(sum(len(part) * part.var(correction=0) for part in parts))
    assert choose.otsu(choose.level_counts(picture[0], GRID)) == int(torch.stack(inside).argmin())
    assert choose.otsu(torch.tensor([0, 0, 7])) == 1


@pytest.mark.parametrize("share", [0.0, 0.2, 0.3, 0.6, 1.0])
def test_quantile(picture, share):
    fits = [t for t, seed in enumerate(seeds(picture[0])) if (seed > 0).double().mean() <= share]
    assert choose.quantile(choose.level_counts(picture[0], GRID), share) == (fits[0] if fits else len(GRID) - 1)


@pytest.mark.parametrize("reach", [1, 2])
def test_boundary_contrast(picture, reach):
    cams, _, image = picture
    colours = image.double()
    lines = [(colours[:, :-reach] - colours[:, reach:]), (colours[:, :, :-reach] - colours[:, :, reach:])]
    away = [line.norm(dim=0) for line in lines]
    mean = torch.cat([line.flatten() for line in away]).mean()
    sums, pairs = choose.boundary_contrast(cams, image, GRID, reach)
    for t, seed in enumerate(seeds(cams)):
        cut = [seed[:-reach] != seed[reach:], seed[:, :-reach] != seed[:, reach:]]
        assert pairs[t] == sum(int(line.sum()) for line in cut)
        expected = sum(float(line[there].sum()) for line, there in zip(away, cut, strict=True)) / mean
        torch.testing.assert_close(sums[t], expected)
    assert not torch.cat(choose.boundary_contrast(cams, torch.zeros_like(image), GRID, reach)).any()


def test_boundary_contrast_of_a_narrow_picture(picture):
    sums, pairs = choose.boundary_contrast(picture[0][:, :1, :1], picture[2][:, :1, :1], GRID)
    assert not sums.any()
    assert not pairs.any()


def test_explained_colour(picture):
    cams, _, image = picture
    colours = image.double().flatten(1)
    whole = ((colours - colours.mean(1, keepdim=True)) ** 2).sum()
    found = choose.explained_colour(cams, image, GRID)
    for t, seed in enumerate(seeds(cams)):
        parts = [part for part in (colours[:, seed.flatten() > 0], colours[:, seed.flatten() == 0]) if part.shape[1]]
        inside = sum(((part - part.mean(1, keepdim=True)) ** 2).sum() for part in parts)
        torch.testing.assert_close(found[t], 1 - inside / whole)
    assert choose.explained_colour(torch.ones_like(cams), image, GRID).tolist() == [0] * len(GRID)
    assert choose.explained_colour(cams, torch.zeros_like(image), GRID).tolist() == [0] * len(GRID)


def test_agreement_of_two_sets(picture):
    cams, others, _ = picture
    plain = [confusion_matrix(*pair, C) for pair in zip(seeds(cams), seeds(others), strict=True)]
    assert choose.agreement(cams, others, CLASSES, GRID, C).equal(torch.stack(plain))


def test_agreement_with_crfs(picture):
    cams, _, image = picture
    found = choose.crf_agreement(cams, CLASSES, image, GRID, C, (4, 16))
    for counts, alpha in zip(found, (4, 16), strict=True):
        [solved] = dense_crf([image], [unary_from_scores(background_power(cams, alpha))])
        mask = torch.tensor([0, 2, 4])[solved.argmax(0)]
        assert counts.equal(torch.stack([confusion_matrix(mask, seed, C) for seed in seeds(cams)]))


def test_the_crf_that_covers_what_the_seed_covers():
    seed = torch.tensor([0, 0, 0, 1, 1, 2])
    crfs = [[0, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 2]]
    counts = torch.stack([confusion_matrix(torch.tensor(crf), seed, 3) for crf in crfs])
    assert choose.nearest_cover(counts) == 1


def test_agreement_with_the_own_crf(picture):
    cams, _, image = picture
    plain = []
    for seed in seeds(cams):
        [solved] = dense_crf([image], [unary_from_labels(seed // 2, 3, 0.7)], "irn")
        plain.append(confusion_matrix(2 * solved.argmax(0), seed, C))
    assert choose.own_crf_agreement(cams, CLASSES, image, GRID, C).equal(torch.stack(plain))


class Unmasked(DatasetView):
    """Pictures whose masks must not be read."""

    def mask(self, index):
        raise AssertionError(f"the mask of {index} was read")

    own_mask = mask


@pytest.fixture
def world(tmp_path):
    """Two sets of maps: 0.55 to 0.75 on the true object and 0.05 to 0.25 elsewhere."""
    whole = ToyWorld("val", 12)
    data = Unmasked(whole, "pictures", range(12))
    draw, store, noise = np.random.default_rng(0), CamStore(tmp_path / "maps"), CamStore(tmp_path / "noise")
    for index, image_id in enumerate(data.ids):
        classes = data.labels[index].nonzero().flatten()
        true = (
            np.stack([whole.mask(index) == k + 1 for k in classes.tolist()]) if len(classes) else np.zeros((0, 96, 96))
        )
        store.write(image_id, classes, torch.from_numpy(0.05 + 0.5 * true + 0.2 * draw.random(true.shape)))
        noise.write(image_id, classes, torch.from_numpy(0.05 + 0.5 * true + 0.2 * draw.random(true.shape)))
    return data, store, noise


def test_every_candidate_finds_clear_objects(world):
    data, store, noise = world
    found = choose.candidates(store, data, noise, sample=4)
    thresholds, alphas = ({one.name: one.value for one in found if one.of == of} for of in ("threshold", "alpha"))
    assert thresholds.pop("fixed") == FIXED_THRESHOLD
    share = thresholds.pop("objects cover 30%")
    assert len(thresholds) == 7
    assert {name: value for name, value in thresholds.items() if not 0.22 <= value <= 0.56} == {}
    assert 0.05 <= share <= 0.25
    assert alphas.pop("fixed") == FIXED_ALPHA
    assert len(alphas) == 3
    assert {name: value for name, value in alphas.items() if not 1 <= value <= 8} == {}
    assert len(choose.candidates(store, data, sample=1)) == len(found) - 1


def test_every_candidate_has_been_measured(world):
    data, store, noise = world
    for one in choose.candidates(store, data, noise, sample=1):
        average, greatest = one.regrets
        assert 0 < average <= greatest


def test_pictures_without_labels(world):
    data, store, _ = world
    empty = DatasetView(data, "empty", [0])
    empty.labels.zero_()
    with pytest.raises(InputError, match="no picture of empty has a label"):
        choose.candidates(store, empty)


ON_THE_PAGE = {
    "agreement with other maps": "agreement of other seed",
    "agreement with the seed at the fixed threshold": f"agreement with the seed at {FIXED_THRESHOLD:g}",
    "objects cover what they cover at the fixed threshold": f"covers what the seed at {FIXED_THRESHOLD:g} covers",
}


@pytest.mark.parametrize(("of", "fixed"), [("threshold", FIXED_THRESHOLD), ("alpha", FIXED_ALPHA)])
def test_regrets_are_those_of_the_page(of, fixed):
    page = (Path(__file__).parents[2] / "docs" / "choices.md").read_text()
    parts = [part.partition("###")[0] for part in page.split(f"### {of}\n")[1:]]  # the best ways, and the others
    rows = [re.split(r" *\| *", line)[1:] for line in "".join(parts).splitlines()]
    table = {row[0]: tuple(map(float, row[2:4])) for row in rows if len(row) > 4 and re.match(r"[\d.]+$", row[2])}
    names = {name: ON_THE_PAGE.get(name, f"fixed, {fixed:g}" if name == "fixed" else name) for name in MEASURED[of]}
    assert {name: table[written] for name, written in names.items()} == MEASURED[of]


def test_evenly_spaced():
    assert choose.evenly_spaced([3, 5, 7, 9, 11], 2) == [3, 7]
    assert choose.evenly_spaced([3, 5], 9) == [3, 5]
