"""The corpus: reproducible, one object in each picture, nowhere a mask or a shortcut."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from wsss_lib.data import corpus
from wsss_lib.data.corpus import KINDS, MIN_BODY, SIZE, Corpus, draw_picture
from wsss_lib.data.toy import CLASSES, MIN_PART, Canvas
from wsss_lib.data.toy_drawing import Frame
from wsss_lib.errors import InputError

FIRST_KIND = "sailboat-0"
FIRST_BLOCKS = [[164.6, 164.4, 163.2], [133.5, 138.1, 138.3], [133.1, 158.1, 159.2]]


@cache
def pictures(count=12, seed=0):
    return Corpus(count, seed)


def test_same_seed_gives_the_same_pictures():
    again = Corpus(5)
    assert np.array_equal(again.pixels, pictures().pixels[:5])
    assert again.labels.equal(pictures().labels[:5])
    assert again.ids == pictures().ids[:5]
    assert again.digest() == Corpus(5).digest() != Corpus(5, seed=1).digest()


def test_first_picture_is_what_it_has_always_been():
    """Guards against a change of the corpus that goes unnoticed; coarse, to hold on every platform."""
    assert KINDS[pictures().kinds[0]].name == FIRST_KIND
    blocks = pictures().pixels[0].astype(float).mean(-1).reshape(3, 32, 3, 32).mean((1, 3))
    np.testing.assert_allclose(blocks, FIRST_BLOCKS, atol=0.5)


def test_there_are_no_masks():
    assert not pictures().has_masks
    assert pictures().masked == []
    with pytest.raises(InputError, match="no masks"):
        pictures().mask(0)


def test_shapes_and_types():
    assert pictures().image(0).mode == "RGB"
    assert pictures().image(0).size == pictures().size(0) == (SIZE, SIZE)
    assert np.array_equal(np.asarray(pictures().image(3)), pictures().pixels[3])
    assert pictures().labels.sum(1).eq(1).all()
    assert pictures().labels.argmax(1).tolist() == pictures().kinds.tolist()


def test_every_picture_shows_one_object_and_its_part(monkeypatch):
    painted, paint = [], corpus._paint
    monkeypatch.setattr(corpus, "_paint", lambda kind, rng: painted.append(paint(kind, rng)) or painted[-1])
    for index in range(30):
        _, kind = draw_picture(index, 0)
        canvas = painted[-1]
        assert canvas.kinds.tolist() == [kind + 1]
        assert (canvas.kind == kind + 1).mean() >= MIN_BODY
        assert (canvas.part == kind + 1).mean() >= MIN_PART
        assert not canvas.ground.any()  # no ground counts as a class's own


def test_no_ground_goes_with_a_class(monkeypatch):
    seen = Counter()
    monkeypatch.setattr(Canvas, "lay_ground", lambda _, paint, edge, *__: seen.update([paint] * (edge >= 0)))
    own, all_grounds = 0, 0
    for index in range(300):
        seen.clear()
        toy_class = CLASSES[index % 6]
        corpus._paint(4 * (index % 6), np.random.default_rng(index))
        own, all_grounds = own + seen[toy_class.ground], all_grounds + seen.total()
    assert 0.05 < own / all_grounds < 0.15  # one of ten; 0.7 in the toy world


def test_no_picture_carries_a_shortcut(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr("wsss_lib.data.toy.shortcut_pattern", never)
    assert not hasattr(corpus, "shortcut_pattern")
    draw_picture(0, 0)


def test_kinds_differ_and_hold_the_toy_worlds():
    assert len({kind.name for kind in KINDS}) == len({(k.body, k.part, k.look) for k in KINDS}) == len(KINDS) == 54
    assert {kind.part for kind in KINDS[:24]} == {toy_class.part for toy_class in CLASSES}
    ours = {toy_class.part for toy_class in CLASSES}
    looks = {look for toy_class in CLASSES for look in toy_class.looks}
    others = [kind for kind in KINDS if kind.part not in ours]
    assert len(others) == 30
    assert len({kind.part for kind in others}) == 11
    assert len({kind.body for kind in others} - {toy_class.body for toy_class in CLASSES}) == 4
    assert len({kind.look for kind in others} - looks) == 18


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_shape_is_cut_off_by_its_frame(kind):
    rng = np.random.default_rng(0)
    frame = Frame.at(SIZE, 48, 80, 25)
    skin = kind.look.skin(frame, rng)
    assert skin.shape == (*frame.u.shape, 3)
    layers = kind.body(frame, skin, rng) + kind.part(frame, skin)
    for distance, _ in layers:
        edge = np.concatenate([distance[0], distance[:, 0], distance[:, -1]])
        assert distance.min() < 0 < edge.min()


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_refused_arguments(count, seed):
    with pytest.raises(InputError, match="give a count from 1 and a seed from 0"):
        Corpus(count, seed)
