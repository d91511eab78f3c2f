"""The checks of the exercises say Right to what is right only."""

import pytest
import torch

from wsss_lib.show.exercises import check_cam, check_choice, check_mean_iou, check_seed


def cam(features, weights):
    maps = (weights @ features.flatten(1)).view(-1, *features.shape[1:]).clamp(min=0)
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-5)


def raw_cam(features, weights):
    return torch.tensordot(weights, features, 1)


def seed(maps, classes, threshold):
    stack = torch.cat([torch.full_like(maps[:1], threshold), maps])
    return torch.cat([torch.tensor([0]), classes + 1])[stack.argmax(0)]


def mean_iou(confusion):
    hits = confusion.diag()
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean()


RIGHT = [
    (check_cam, cam),
    (check_seed, seed),
    (check_seed, lambda *a: seed(*a).to(torch.uint8)),
    (check_mean_iou, mean_iou),
    (check_mean_iou, lambda c: float(mean_iou(c))),
]

WRONG = [
    (check_cam, lambda f, w: raw_cam(f, w), "differs"),
    (check_cam, lambda f, w: raw_cam(f, w).relu(), "differs"),
    (check_cam, lambda f, w: raw_cam(f, w).relu() / raw_cam(f, w).max(), "differs"),
    (check_cam, lambda f, w: cam(f, w)[0], "shape"),
    (check_cam, lambda f, w: cam(f, w).permute(1, 2, 0), "shape"),
    (check_cam, lambda f, w: cam(f, w) * float("nan"), "differs"),
    (check_cam, lambda f, w: cam(f, w).numpy(), "tensor was expected, not ndarray"),
    (check_seed, lambda m, _, t: seed(m, torch.tensor([0, 1]), t), "differs"),
    (check_seed, lambda m, c, t: seed(m, c - 1, t), "differs"),
    (check_seed, lambda m, c, _: seed(m, c, 0.0), "differs"),
    (check_seed, lambda m, c, t: seed(m, c, t) > 0, "differs"),
    (check_seed, lambda m, _, t: (m > t).long(), "shape"),
    (check_mean_iou, lambda c: (c.diag() / c.sum(1)).mean(), "differs"),
    (check_mean_iou, lambda c: c.diag().sum() / c.sum(), "differs"),
    (check_mean_iou, lambda c: (c.diag() / (c.sum(0) + c.sum(1))).mean(), "differs"),
    (check_mean_iou, lambda c: mean_iou(c[1:, 1:]), "differs"),
    (check_mean_iou, lambda c: c.diag() / c.sum(), "shape"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right(check, answer, capsys):
    assert check(answer) is True
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(("check", "answer", "remark"), WRONG)
def test_wrong(check, answer, remark, capsys):
    assert check(answer) is False
    said = capsys.readouterr().out
    assert said.startswith("Wrong. For ")
    assert remark in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("check", [check_cam, check_seed, check_mean_iou])
def test_not_solved(check, capsys):
    assert check(lambda *_: None) is False
    assert capsys.readouterr().out == "Not solved yet.\n"


def test_choices(capsys):
    why = {"a": "Because.", "b": "Not so."}
    answers = {"a": "Right. Because.", "b": "Wrong. Not so.", "": "Not solved yet.", "c": "Choose one of a, b."}
    for given, said in answers.items():
        assert check_choice(given, "a", why) is (given == "a")
        assert capsys.readouterr().out == f"{said}\n"
