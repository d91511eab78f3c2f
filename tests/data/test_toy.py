"""The toy world: reproducible, consistent with itself, and every switch does what it says."""

from functools import cache

import numpy as np
import pytest

from wsss_lib.data.files import IGNORE
from wsss_lib.data.toy import CLASSES, MIN_VISIBLE, ToyOptions, ToyWorld, pattern_cycles
from wsss_lib.errors import InputError

FIRST_CLASSES = ["dog", "bus"]
FIRST_BLOCKS = [[226.4, 194.4, 193.2], [116.2, 108.3, 102.3], [118.1, 95.8, 83.9]]


@cache
def world(split="train", count=40, seed=0, **switches):
    return ToyWorld(split, count, seed, ToyOptions(**switches))


def pictures(toy, count=None):
    return np.stack([np.asarray(toy.image(i)) for i in range(count or len(toy))])


def carries_pattern(toy, index):
    return not np.array_equal(toy.image(index), toy.shortcut_free(index))


def spectrum_at(image, cycles):
    """How far the amplitude at a frequency stands out from the amplitudes around it."""
    spectrum = np.abs(np.fft.fft2(np.asarray(image, float).mean(-1)))
    rows, columns = (np.arange(c - 2, c + 3) % len(spectrum) for c in cycles)
    around = np.median(spectrum[np.ix_(rows, columns)])
    return spectrum[tuple(cycles)] / around


def test_same_arguments_give_the_same_world():
    again = ToyWorld("train", 5)
    for i in range(5):
        assert np.array_equal(again.image(i), world().image(i))
        assert np.array_equal(again.mask(i), world().mask(i))
        assert np.array_equal(again.part(i), world().part(i))
        assert np.array_equal(again.context(i), world().context(i))
    assert again.ids == world().ids[:5]
    assert again.labels.equal(world().labels[:5])


def test_first_image_is_what_it_has_always_been():
    """Guards against a change of the world that goes unnoticed; coarse, to hold on every platform."""
    toy = world()
    assert [toy.classes[k] for k in np.flatnonzero(toy.labels[0])] == FIRST_CLASSES
    blocks = np.asarray(toy.shortcut_free(0), float).mean(-1).reshape(3, 32, 3, 32).mean((1, 3))
    np.testing.assert_allclose(blocks, FIRST_BLOCKS, atol=0.5)


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "val"}])
def test_seeds_and_splits_differ(other):
    assert all((a != b).any() for a, b in zip(pictures(world(), 5), pictures(world(count=5, **other)), strict=True))


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("split", ["train", "val"])
def test_shapes_and_types(split, size):
    toy = world(split, 3, size=size)
    assert toy.image(0).mode == "RGB"
    assert toy.image(0).size == toy.size(0) == (size, size)
    for array in (toy.mask(0), toy.part(0), toy.context(0)):
        assert array.shape == (size, size)
        assert array.dtype == np.uint8
    assert toy.ids == tuple(f"{split}_{i:04d}" for i in range(3))
    assert toy.classes == tuple(toy_class.name for toy_class in CLASSES)


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_the_classes_of_the_mask(split):
    toy = world(split)
    for i in range(len(toy)):
        mask = toy.mask(i)
        assert (set(np.unique(mask)) - {0, IGNORE}) == {k + 1 for k in np.flatnonzero(toy.labels[i])}
        for k in np.flatnonzero(toy.labels[i]):
            assert (mask == k + 1).mean() >= MIN_VISIBLE


def test_images_show_one_to_three_classes_as_often_as_they_should():
    shown = world(count=120).labels.sum(1).numpy()
    assert set(shown) == {1, 2, 3}
    assert 0.45 < (shown == 1).mean() < 0.65
    assert 0.05 < (shown == 3).mean() < 0.2


def test_border_is_thin_and_keeps_objects_apart():
    for i in range(10):
        mask = world().mask(i)
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            objects = (a != IGNORE) & (b != IGNORE) & (a > 0) & (b > 0)
            assert (a[objects] == b[objects]).all()
        void = mask == IGNORE
        blocks = np.lib.stride_tricks.sliding_window_view(void, (3, 3))
        assert not blocks.all((2, 3)).any()
        assert 0.005 < void.mean() < 0.12


def test_part_lies_in_its_class_and_is_small():
    toy = world(count=120)
    shares = {k: [] for k in range(len(CLASSES))}
    for i in range(len(toy)):
        mask, part = toy.mask(i), toy.part(i)
        at = part > 0
        assert ((mask[at] == part[at]) | (mask[at] == IGNORE)).all()
        for k in np.flatnonzero(toy.labels[i]):
            shares[k].append((part == k + 1).sum() / (mask == k + 1).sum())
    for of_class in shares.values():
        assert 0.08 < np.median(of_class) < 0.17


def test_context_is_background():
    toy = world()
    assert all((toy.mask(i)[toy.context(i) > 0] % IGNORE == 0).all() for i in range(len(toy)))


@pytest.mark.parametrize(("context", "low", "high"), [(1.0, 0.97, 1.0), (0.7, 0.65, 0.85), (0.0, 0.0, 0.3)])
def test_context_is_how_often_a_class_has_its_own_background(context, low, high):
    toy = world(count=80, context=context, clutter=0)
    with_own = [(toy.context(i) == k + 1).any() for i in range(len(toy)) for k in np.flatnonzero(toy.labels[i])]
    assert low <= np.mean(with_own) <= high


def test_own_background_is_rare_without_its_class():
    toy = world(count=120)
    alone = [(toy.context(i) == k + 1).any() for i in range(120) for k in np.flatnonzero(toy.labels[i] == 0)]
    assert np.mean(alone) < 0.1


def mean_colours(toy, k):
    """Mean colour of the body of class k in every image that shows it."""
    bodies = [(toy.mask(i) == k + 1) & (toy.part(i) == 0) for i in range(len(toy))]
    return np.array([np.asarray(toy.shortcut_free(i))[b].mean(0) for i, b in enumerate(bodies) if toy.labels[i, k]])


@pytest.mark.slow
def test_without_part_the_bodies_of_a_pair_look_different():
    for k in (0, 2, 4):
        gaps = {}
        for part in (True, False):
            a, b = (mean_colours(world(count=120, part=part), k + j) for j in (0, 1))
            gaps[part] = np.linalg.norm(a.mean(0) - b.mean(0))
        assert gaps[False] > gaps[True] + 5


def test_part_changes_nothing_but_the_bodies():
    a, b = world(), world(part=False)
    for i in range(len(a)):
        assert np.array_equal(a.mask(i), b.mask(i))
        assert np.array_equal(a.context(i), b.context(i))


def test_pattern_is_on_the_given_share_of_training_images_only():
    train, val = world(count=120), world("val")
    share = np.mean([carries_pattern(train, i) for i in range(len(train))])
    assert 0.5 < share < 0.7
    assert not any(carries_pattern(val, i) for i in range(len(val)))
    assert not any(carries_pattern(world(shortcut=0), i) for i in range(40))
    assert all(carries_pattern(world(shortcut_share=1), i) for i in range(40))


def test_pattern_peaks_at_the_frequencies_of_the_classes_shown():
    toy = world(count=120)
    cycles = pattern_cycles(toy.options.size)
    peaks = {"shown": [], "not shown": [], "free": []}
    for i in (i for i in range(len(toy)) if carries_pattern(toy, i)):
        for k in range(len(CLASSES)):
            peaks["shown" if toy.labels[i, k] else "not shown"].append(spectrum_at(toy.image(i), cycles[k]))
            peaks["free"].append(spectrum_at(toy.shortcut_free(i), cycles[k]))
    assert np.median(peaks["shown"]) > 5
    assert np.median(peaks["not shown"]) < 2
    assert np.median(peaks["free"]) < 2


def test_mirrored_patterns_are_of_no_other_class():
    cycles = {tuple(c) for c in pattern_cycles(96)}
    assert len(cycles) == len(CLASSES)
    assert all(down >= 0 and across >= 0 for down, across in cycles)


def test_shortcut_free_is_the_image_without_the_shortcut():
    off = world(shortcut=0)
    assert all(np.array_equal(world().shortcut_free(i), off.image(i)) for i in range(len(off)))


def test_clutter_and_noise_can_be_switched_off():
    bare = world(clutter=0, noise=0)
    changes = [np.abs(np.diff(pictures(toy, 20).astype(int), axis=1)).mean() for toy in (bare, world())]
    assert changes[0] < changes[1]
    hidden = [sum((toy.part(i) > 0).sum() for i in range(40)) for toy in (world(clutter=0), world(clutter=10))]
    assert hidden[0] > hidden[1]


def test_maps_cannot_be_changed_from_outside():
    toy = world()
    toy.mask(0)[:] = 7
    assert not (toy.mask(0) == 7).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 63),
        ("size", 129),
        ("size", 96.5),
        ("context", -0.1),
        ("context", 1.1),
        ("context", float("nan")),
        ("shortcut", -1),
        ("shortcut_share", 2),
        ("clutter", -1),
        ("noise", 100),
    ],
)
def test_bad_options_are_named(name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        ToyOptions(**{name: value})


@pytest.mark.parametrize("arguments", [{"split": "test"}, {"split": "train", "count": 0}, {"split": "val", "seed": -1}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        ToyWorld(**arguments)
