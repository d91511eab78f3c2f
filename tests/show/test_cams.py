"""Maps and CAM seeds side by side."""

import torch

from tests.runs.small import Pictures
from wsss_lib.show import figures
from wsss_lib.show.cams import growth, masks_beside, side_by_side


def reader(value):
    return lambda _id: (torch.tensor([1]), torch.full((1, 20, 30), value))


def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(figures, "table_of_pictures", lambda rows, titles, **_: calls.append((rows, titles)))
    return calls


def test_growth_has_a_column_for_every_epoch(monkeypatch):
    data, calls = Pictures([(20, 30), (20, 30)], [[0, 1], [0, 1]]), shown(monkeypatch)
    growth(data, {1: reader(0.1), 4: reader(0.9)})
    [(rows, titles)] = calls
    assert titles == ["image", "epoch 1", "epoch 4"]
    assert list(rows) == ["class1 (picture0)", "class1 (picture1)"]
    early, late = rows["class1 (picture0)"][1:]
    assert late.mean() > early.mean()


def test_side_by_side_uses_each_threshold(monkeypatch):
    data, calls = Pictures([(20, 30)] * 3, [[0, 1], [1, 0], [0, 0]]), shown(monkeypatch)
    side_by_side(data, {2: "+1", 0: "-3"}, {"low": (reader(0.5), 0.4), "high": (reader(0.5), 0.6)})
    [(rows, titles)] = calls
    assert titles == ["image", "low", "high", "mask"]
    assert list(rows) == ["no class (+1)", "class1 (-3)"]
    image, low, high, mask = rows["class1 (-3)"]
    plain = figures.overlay_mask(image, torch.zeros(20, 30, dtype=torch.uint8).numpy())
    assert (high == plain).all()
    assert (low != plain).any()
    assert (mask != plain).any()


def test_masks_beside_takes_images_that_show_a_class(monkeypatch):
    data, calls = Pictures([(20, 30)] * 4, [[0, 0], [0, 1], [1, 1], [1, 0]]), shown(monkeypatch)

    def read(image_id, num_classes):
        assert num_classes == 2
        return torch.full((20, 30), int(image_id == "picture1"), dtype=torch.uint8)

    masks_beside(data, 2, {"network": read})
    data.has_masks = False
    masks_beside(data, 1, {"network": read})
    [(rows, titles), (without, titles_without)] = calls
    assert titles == ["image", "network", "mask"]
    assert titles_without == ["image", "network"]
    assert list(rows) == ["class1 (picture1)", "class0, class1 (picture2)"]
    assert list(without) == ["class1 (picture1)"]
    plain = figures.overlay_mask(data.image(1), torch.zeros(20, 30, dtype=torch.uint8).numpy())
    assert (rows["class1 (picture1)"][1] != plain).any()
    plain = figures.overlay_mask(data.image(2), torch.zeros(20, 30, dtype=torch.uint8).numpy())
    assert (rows["class0, class1 (picture2)"][1] == plain).all()


def test_figures_render():
    data = Pictures([(20, 30)], [[0, 1]])
    assert growth(data, {1: reader(0.5)}).png()
    assert side_by_side(data, {0: "x"}, {"a": (reader(0.5), 0.2)}).png()
    assert masks_beside(data, 1, {"a": lambda *_: torch.ones(20, 30, dtype=torch.uint8)}).png()


def test_growth_of_an_image_without_maps():
    data = Pictures([(20, 30)] * 2, [[0, 0], [0, 0]])
    nothing = torch.tensor([], dtype=torch.int64), torch.zeros(0, 20, 30)
    assert growth(data, {1: lambda _id: nothing}).png()


def test_side_by_side_without_masks(monkeypatch):
    data, calls = Pictures([(20, 30)], [[0, 1]]), shown(monkeypatch)
    data.has_masks = False
    side_by_side(data, {0: "x"}, {"a": (reader(0.5), 0.2)})
    [(rows, titles)] = calls
    assert titles == ["image", "a"]
    assert [len(row) for row in rows.values()] == [2]
