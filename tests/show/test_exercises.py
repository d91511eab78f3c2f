"""The checks of the exercises say Right to what is right only."""

import pytest
import torch

from wsss_lib.show.choices import CHOICES
from wsss_lib.show.exercises import (
    check_affinity,
    check_calibration_error,
    check_cam,
    check_cam_label,
    check_choice,
    check_confident_labels,
    check_displacement_error,
    check_erasing_loss,
    check_erasing_mask,
    check_mean_iou,
    check_number,
    check_paired_difference,
    check_path_affinity,
    check_prototypes,
    check_refine,
    check_segment_error,
    check_semi_labels,
    check_shares,
    check_superpixel_means,
    check_target_share,
    check_walk,
    check_without_wave,
)
from wsss_lib.show.pencil import NUMBERS


def cam(features, weights):
    maps = (weights @ features.flatten(1)).view(-1, *features.shape[1:]).clamp(min=0)
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-5)


def raw_cam(features, weights):
    return torch.tensordot(weights, features, 1)


def cam_label(maps, classes, threshold):
    stack = torch.cat([torch.full_like(maps[:1], threshold), maps])
    return torch.cat([torch.tensor([0]), classes + 1])[stack.argmax(0)]


def mean_iou(confusion):
    hits = confusion.diag()
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean()


def affinities(features, dy, dx):
    _, h, w = features.shape
    pairs = [(features[:, y, x], features[:, y + dy, x + dx]) for y in range(h - dy) for x in range(w - dx)]
    return torch.stack([torch.exp(-(a - b).abs().mean()) for a, b in pairs]).view(h - dy, w - dx)


def distances(features, dy, dx):
    return -affinities(features, dy, dx).log()


def walk(transition, scores, t):
    for _ in range(t):
        scores = transition @ scores
    return scores


def semi_labels(low, high, unknown=255):
    object_, background = low.argmax(0), high.argmax(0) == 0
    result = torch.where(object_ > 0, object_, torch.full_like(object_, unknown))
    return torch.where(background, 0, result)


def erasing_mask(maps, size, rectify_first=False, axis=None):
    small = maps.clamp(min=0) if rectify_first else maps
    large = torch.nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False).clamp(min=0)
    return large / ((large.max() if axis is None else large.amax(axis, keepdim=True)) + 1e-5)


def erasing_loss(logits, labels, targets, keep=False):
    y = labels.clone()
    if not keep:
        y[range(len(y)), targets] = 0
    return -(y * logits.sigmoid().log() + (1 - y) * (-logits).sigmoid().log()).mean()


def target_share(maps, labels, targets, lowest=True):
    r = maps.clamp(min=0)[range(len(maps)), targets][:, None]
    low, high = r.amin((2, 3), keepdim=True) * lowest, r.amax((2, 3), keepdim=True)
    shown = labels[range(len(maps)), targets].view(-1, 1, 1, 1)
    return shown * (r - low - 1e-5).clamp(min=0) / (high - low + 1e-5)


def segment_error(drawn, images, mask, channels=3):
    errors = [((d - x).abs() * m).sum() / m.sum() / channels for d, x, m in zip(drawn, images, mask, strict=True)]
    return torch.stack(errors)


def refine(among, maps, radius):
    _, _, h, w = maps.shape
    cells = [(y, x) for y in range(h) for x in range(w)]
    near = [[abs(y - v) <= radius and abs(x - u) <= radius for v, u in cells] for y, x in cells]
    return ((among * torch.tensor(near)) @ maps.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(maps.shape)


def without_wave(picture, down, across, both=True):
    half = torch.fft.rfft2(picture)
    half[down, across] = 0 if both else half[down, across] / 2
    return torch.fft.irfft2(half, s=picture.shape)


def superpixel_means(features, shares):
    return torch.einsum("cn,mn->cm", features, shares) / shares.sum(1)


def prototypes(maps, directions, background=True, every=False):
    if background:
        maps = torch.cat([1 - maps.max(0).values[None], maps])
    rebuilt = sum(a * (a * directions).sum(1, keepdim=True) / a.sum() for a in maps)
    error = (rebuilt - directions) ** 2
    return error.mean() if every else error.sum(0).mean()


def paired(ours, control, correction=1):
    differences = ours - control
    return torch.stack([differences.mean(), differences.std(correction=correction)])


def path_affinity(boundaries, cells):
    return (1 - boundaries)[tuple(zip(*cells, strict=True))].min()


def confident(objects, background, unknown=255):
    known = (objects > 0) | (background == 0)
    return torch.where(known, objects, unknown).to(torch.uint8)


def displacement_error(field, dy, dx, sign=1):
    _, h, w = field.shape
    costs = [
        (field[:, y, x] - field[:, y + dy, x + dx] - sign * torch.tensor([dy, dx])).abs().mean()
        for y in range(h - dy)
        for x in range(w - dx)
    ]
    return torch.stack(costs).mean()


def shares(mask, count):
    return torch.bincount(mask.flatten().long(), minlength=count + 1)[1:].double() / mask.numel()


def calibration_error(counts):
    used = counts[counts[:, 0] > 0]
    off = (used[:, 1] / used[:, 0] - used[:, 2] / used[:, 0]).abs()
    return (off * used[:, 0] / counts[:, 0].sum()).sum()


RIGHT = [
    (check_path_affinity, path_affinity),
    (check_confident_labels, confident),
    (check_displacement_error, displacement_error),
    (check_shares, shares),
    (check_calibration_error, calibration_error),
    (check_calibration_error, lambda c: calibration_error(c).item()),
    (check_refine, refine),
    (check_without_wave, without_wave),
    (check_superpixel_means, superpixel_means),
    (check_prototypes, prototypes),
    (check_paired_difference, paired),
    (check_erasing_mask, lambda *a: erasing_mask(*a, axis=(1, 2, 3))),
    (check_erasing_loss, erasing_loss),
    (check_target_share, target_share),
    (check_segment_error, segment_error),
    (check_cam, cam),
    (check_cam_label, cam_label),
    (check_cam_label, lambda *a: cam_label(*a).to(torch.uint8)),
    (check_mean_iou, mean_iou),
    (check_mean_iou, lambda c: float(mean_iou(c))),
    (check_affinity, affinities),
    (check_walk, walk),
    (check_semi_labels, semi_labels),
    (check_semi_labels, lambda *a: semi_labels(*a).to(torch.uint8)),
]

WRONG = [
    (check_path_affinity, lambda b, cells: path_affinity(b, [cells[0], cells[-1]]), "the two ends alone"),
    (check_path_affinity, lambda b, cells: path_affinity(b, cells)[None], "shape"),
    (check_confident_labels, lambda o, b: confident(b, o), "exchanged"),
    (check_confident_labels, lambda o, b: confident(o, b, unknown=0), "differs"),
    (check_displacement_error, lambda f, dy, dx: displacement_error(f, dy, dx, sign=-1), "added the offset"),
    (check_displacement_error, lambda f, dy, dx: displacement_error(f, dx, dy), "differs"),
    (check_refine, lambda a, m, r: refine(a.transpose(1, 2), m, r), "the wrong way round"),
    (check_refine, lambda a, m, _: refine(a, m, 9), "from all patches"),
    (check_refine, lambda a, m, r: refine(a, m, r + 1), "differs"),
    (check_without_wave, lambda x, d, a: without_wave(x, d, a, both=False), "only halved"),
    (check_without_wave, lambda x, d, a: without_wave(x, a, d), "differs"),
    (check_superpixel_means, lambda f, s: f @ s.T, "These are sums"),
    (check_superpixel_means, lambda f, s: f @ s.T / f.shape[1], "by the number of pixels"),
    (check_superpixel_means, lambda f, s: superpixel_means(f, s).T, "shape"),
    (check_prototypes, lambda m, t: prototypes(m, t, background=False), "left out the background"),
    (check_prototypes, lambda m, t: prototypes(m, t, every=True), "add them up"),
    (check_prototypes, lambda m, t: prototypes(torch.cat([1 - m.sum(0)[None], m]), t, False), "not 1 minus the sum"),
    (check_prototypes, lambda m, t: prototypes(m.square(), t), "differs"),
    (check_paired_difference, lambda a, b: paired(a, b, 0), "minus 1"),
    (
        check_paired_difference,
        lambda a, b: torch.stack([(a - b).mean(), (a.var() + b.var()).sqrt()]),
        "of the two methods",
    ),
    (check_shares, lambda m, k: shares(m, k) * m.numel(), "differs"),
    (check_shares, lambda m, k: shares(m, k) / shares(m, k).sum(), "differs"),
    (check_shares, lambda m, k: shares(m, k + 1), "shape"),
    (check_shares, lambda m, _: shares(m, 3), "shape"),
    (check_calibration_error, lambda c: (c[:, 1] - c[:, 2]).sum() / c[:, 0].sum(), "differs"),
    (check_calibration_error, lambda c: (c[1:, 1] - c[1:, 2]).div(c[1:, 0]).abs().mean(), "differs"),
    (check_calibration_error, lambda c: (c[:, 1] - c[:, 2]).div(c[:, 0]).abs().mean(), "differs"),
    (check_cam, lambda f, w: raw_cam(f, w), "differs"),
    (check_cam, lambda f, w: raw_cam(f, w).relu(), "divide each map"),
    (check_cam, lambda f, w: raw_cam(f, w).relu() / raw_cam(f, w).max(), "not by that of all maps"),
    (check_cam, lambda f, w: cam(f, w)[0], "shape"),
    (check_cam, lambda f, w: cam(f, w).permute(1, 2, 0), "shape"),
    (check_cam, lambda f, w: cam(f, w) * float("nan"), "differs"),
    (check_cam, lambda f, w: cam(f, w).numpy(), "result must be a tensor, not ndarray"),
    (check_cam_label, lambda m, _, t: cam_label(m, torch.tensor([0, 1]), t), "not its place"),
    (check_cam_label, lambda m, c, t: cam_label(m, c - 1, t), "k + 1"),
    (check_cam_label, lambda m, c, _: cam_label(m, c, 0.0), "differs"),
    (check_cam_label, lambda m, c, t: cam_label(m, c, t) > 0, "differs"),
    (check_cam_label, lambda m, _, t: (m > t).long(), "shape"),
    (check_mean_iou, lambda c: (c.diag() / c.sum(1)).mean(), "recall"),
    (check_mean_iou, lambda c: c.diag().sum() / c.sum(), "share of all pixels"),
    (check_mean_iou, lambda c: (c.diag() / (c.sum(0) + c.sum(1))).mean(), "counted twice"),
    (check_mean_iou, lambda c: mean_iou(c[1:, 1:]), "differs"),
    (check_mean_iou, lambda c: c.diag() / c.sum(), "shape"),
    (check_affinity, distances, "exponential"),
    (check_affinity, lambda f, dy, dx: affinities(f.flip(2), dy, dx).flip(1), "differs"),
    (check_affinity, lambda f, dy, dx: affinities(f, dx, dy), "shape"),
    (check_affinity, lambda f, dy, dx: torch.exp(-distances(f, dy, dx) * len(f)), "not the sum"),
    (check_affinity, lambda f, dy, dx: torch.exp(-(f - f.roll((-dy, -dx), (1, 2))).abs().mean(0)), "shape"),
    (check_affinity, lambda f, dy, dx: (-(f[:, dy:, dx:] - f[:, :-dy, :-dx]).mean(0)).exp(), "differs"),
    (check_walk, lambda T, M, t: walk(T.t(), M, t), "transpose"),
    (check_walk, lambda T, M, t: walk(T, M, t - 1), "differs"),
    (check_walk, lambda T, M, _: T @ M, "one step"),
    (check_displacement_error, lambda f, dy, dx: displacement_error(f, dy, dx, sign=0), "left out the offset"),
    (check_path_affinity, lambda b, cells: 1 - path_affinity(b, cells), "1 minus it"),
    (check_walk, lambda T, M, t: T**t @ M, "power of its entries"),
    (check_walk, lambda T, M, t: walk(T, M, t)[:, 0], "shape"),
    (check_walk, lambda T, M, t: walk(T, M, t).tolist(), "result must be a tensor, not list"),
    (check_semi_labels, lambda low, _: low.argmax(0), "differs"),
    (check_erasing_mask, lambda *a: erasing_mask(*a, rectify_first=True, axis=(1, 2, 3)), "rectified before"),
    (check_erasing_mask, erasing_mask, "maximum of the batch"),
    (check_erasing_loss, lambda *a: erasing_loss(*a, keep=True), "still hold the target"),
    (check_target_share, lambda m, y, t: target_share(m, torch.ones_like(y), t), "forgot the labels"),
    (check_target_share, lambda m, y, t: target_share(m, y, t, lowest=False), "not subtract the minimum"),
    (check_segment_error, lambda d, i, m: segment_error(d, i, m, 1), "three channels"),
    (check_segment_error, lambda d, i, m: ((d - i).abs() * m).mean((1, 2, 3)), "over all values"),
    (check_segment_error, lambda d, i, m: (d - i).abs() * m, "shape"),
    (check_semi_labels, lambda low, high: semi_labels(high, low), "exchanged"),
    (check_semi_labels, lambda low, high: semi_labels(low, high, unknown=0), "differs"),
    (check_semi_labels, lambda low, high: semi_labels(low, high) > 0, "differs"),
    (check_semi_labels, lambda low, high: semi_labels(low[1:], high[1:]), "differs"),
    (check_semi_labels, lambda low, high: torch.stack([low, high]).argmax(1), "shape"),
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


@pytest.mark.parametrize("check", list(dict.fromkeys(check for check, _ in RIGHT)))
def test_not_solved(check, capsys):
    assert check(lambda *_: None) is False
    assert capsys.readouterr().out == "Not solved yet.\n"


def test_choices(capsys):
    right, why = CHOICES["00_cam", 2]
    wrong = next(letter for letter in why if letter != right)
    answers = {right: f"Right. {why[right]}", wrong: f"Wrong. {why[wrong]}"}
    for given, said in {**answers, "": "Not solved yet.", "d": "Choose one of a, b, c."}.items():
        assert check_choice(given, "00_cam", 2) is (given == right)
        assert capsys.readouterr().out == f"{said}\n"


@pytest.mark.parametrize(("lesson", "exercise"), NUMBERS)
def test_numbers(lesson, exercise, capsys):
    """Every known number is answered with its own remark, and no wrong number is near the right one."""
    right, why, remarks = NUMBERS[lesson, exercise]
    said = {right: f"Right. {why}", None: "Not solved yet.", right + 100.0: "is not the number"}
    said |= {wrong: f"Wrong. {remark}" for wrong, remark in remarks.items()}
    for given, expected in said.items():
        assert check_number(given, lesson, exercise) is (given == right)
        assert expected in capsys.readouterr().out
    assert check_number(str(right), lesson, exercise) is False
    assert capsys.readouterr().out == "Wrong. The answer must be a number, not str.\n"
