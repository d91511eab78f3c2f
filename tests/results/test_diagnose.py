"""Measures of part, context and shortcut, on maps of which the answer is known."""

import math

import pytest
import torch

from wsss_lib.data.toy import ShortcutFree, ToyWorld
from wsss_lib.results.diagnose import context_leak, part_focus, shortcut_reliance
from wsss_lib.stages.store import CamStore


@pytest.fixture(scope="module")
def world():
    return ToyWorld("train", 24)


def store_of(folder, world, draw):
    """Maps ``draw(index, k)`` of the classes that the images of the world show."""
    store = CamStore(folder)
    for index, image_id in enumerate(world.ids):
        classes = world.labels[index].nonzero().flatten()
        store.write(image_id, classes, torch.stack([torch.as_tensor(draw(index, int(k))).float() for k in classes]))
    return store


def test_maps_of_the_part_alone(tmp_path, world):
    store = store_of(tmp_path, world, lambda i, k: world.part(i) == k + 1)
    focus = part_focus(store, world, 0.5)
    assert (focus.share, focus.peak, focus.covered) == (1, 1, 0)
    assert 0 < focus.area < 0.5


def test_maps_of_the_whole_object(tmp_path, world):
    focus = part_focus(store_of(tmp_path, world, lambda i, k: world.mask(i) == k + 1), world, 0.5)
    assert focus.share == pytest.approx(focus.area, abs=1e-6)
    assert focus.covered == 1


def test_maps_of_the_body_alone(tmp_path, world):
    body = store_of(tmp_path, world, lambda i, k: (world.mask(i) == k + 1) & (world.part(i) != k + 1))
    focus = part_focus(body, world, 0.5)
    assert (focus.share, focus.peak, focus.covered) == (0, 0, 1)


def test_what_lies_off_the_object_does_not_count(tmp_path, world):
    everywhere = part_focus(store_of(tmp_path / "a", world, lambda i, _: world.mask(i) >= 0), world, 0.5)
    object_alone = part_focus(store_of(tmp_path / "b", world, lambda i, k: world.mask(i) == k + 1), world, 0.5)
    assert everywhere == object_alone


def test_the_threshold_of_coverage(tmp_path, world):
    half = store_of(tmp_path, world, lambda i, k: 0.5 * (world.mask(i) == k + 1))
    assert part_focus(half, world, 0.4).covered == 1
    assert part_focus(half, world, 0.6).covered == 0


def test_maps_of_their_own_background(tmp_path, world):
    leak = context_leak(store_of(tmp_path, world, lambda i, k: world.context(i) == k + 1), world)
    assert (leak.own, leak.other) == (1, 0)
    leak = context_leak(store_of(tmp_path, world, lambda i, k: 0.25 * (world.context(i) != k + 1)), world)
    assert (leak.own, leak.other) == (0, pytest.approx(0.25, abs=1e-5))


def test_maps_that_are_zero(tmp_path, world):
    """As a collapsed network makes them."""
    store = store_of(tmp_path, world, lambda i, _: 0.0 * world.mask(i))
    assert math.isnan(part_focus(store, world, 0.5).share)
    leak = context_leak(store, world)
    assert (leak.own, leak.other) == (0, 0)


def test_a_classifier_that_looks_at_the_pattern_alone(world):
    right = world.labels * 2 - 1

    def classify(data):
        return torch.zeros_like(right) - 1 if isinstance(data, ShortcutFree) else right

    reliance = shortcut_reliance(classify, world)
    assert (reliance.accuracy, reliance.accuracy_without, reliance.precision) == (1, 0, 1)
    assert reliance.precision_without == pytest.approx(float(world.labels.mean(0)[world.labels.sum(0) > 0].mean()))


def test_a_classifier_that_does_not_look_at_the_pattern(world):
    reliance = shortcut_reliance(lambda data: data.labels - 0.5, world)
    assert reliance.accuracy == reliance.accuracy_without == reliance.precision == reliance.precision_without == 1
