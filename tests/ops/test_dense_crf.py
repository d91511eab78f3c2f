"""Dense CRF: the numbers of the C++ code, from all backends, and what holds for any field."""

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import recipe
from wsss_lib.errors import InputError
from wsss_lib.ops import dense_crf as module
from wsss_lib.ops import permutohedral
from wsss_lib.ops.dense_crf import (
    PRESETS,
    CRFSettings,
    Kernel,
    Pairwise,
    dense_crf,
    free_energy,
    make_kernel,
    mean_field,
    unary_from_labels,
    unary_from_scores,
)
from wsss_lib.ops.permutohedral import Lattice

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "voc2012_subset" / "JPEGImages"


@pytest.fixture(params=["torch", "numba", "pydensecrf"])
def backend(request):
    if request.param != "torch":
        pytest.importorskip(request.param)
    return request.param


def golden(name, device):
    """The arrays of a golden file; the image as the library wants it."""
    arrays = {key: torch.from_numpy(x).to(device) for key, x in recipe.golden(f"densecrf/{name}").items()}
    if "img" in arrays:
        arrays["img"] = arrays["img"].permute(2, 0, 1).contiguous()
    return arrays


def field(
    weights=(3.0, 10.0), normalisation="symmetric", sxy=(3.0, 3.0), far=(80.0, 80.0), srgb=(13.0, 13.0, 13.0), steps=2
):
    kernels = Pairwise(sxy, None, weights[0], normalisation), Pairwise(far, srgb, weights[1], normalisation)
    return CRFSettings(kernels, steps)


def matrix_field(steps=4):
    """A field with a compatibility matrix for three labels."""
    matrix = ((-3.0, 1.0, 0.5), (0.0, -2.0, 1.0), (0.5, 0.0, -4.0))
    return field((matrix, matrix), far=(30.0, 30.0), steps=steps)


def picture(name, size, device="cpu"):
    """A smooth image with some noise."""
    image = 255 * recipe.smooth(f"crf/{name}", (3, *size), 4) + recipe.array(f"crf/{name}/noise", (3, *size), 8.0)
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)).to(device)


def energies(name, shape, device="cpu"):
    """Energies of smooth scores, ``(L, H, W)`` or ``(G, L, H, W)``."""
    scores = recipe.smooth(f"crf/{name}/scores", (int(np.prod(shape[:-2])), *shape[-2:]), 5).reshape(shape)
    return unary_from_scores(torch.from_numpy(scores).to(device))


def close(ours, expected, atol):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------------------ golden


def test_golden_unaries(device):
    arrays = golden("unary", device)
    prob, labels = arrays["prob"], arrays["labels"]
    results = {
        "softmax_default": unary_from_scores(prob),
        "softmax_scale07": unary_from_scores(prob, scale=0.7),
        "softmax_clip1e3": unary_from_scores(prob, clip=1e-3),
        "labels_keep": unary_from_labels(labels, 4, 0.7),
        "labels_unsure": unary_from_labels(labels, 3, 0.5, unknown=True),
    }
    for name, result in results.items():
        assert result.dtype == torch.float32
        close(result.flatten(1), arrays[name], 1e-6)


@pytest.mark.parametrize("name", ["psa", "psa_two"])
def test_golden_scores(name, backend, device):
    arrays = golden(name, device)
    unary = unary_from_scores(arrays["prob"])
    stages = [key for key in arrays if key.startswith("q_t")]
    assert len(stages) == {"psa": 5, "psa_two": 2}[name]
    for stage in stages:
        preset = replace(PRESETS["psa"], steps=int(stage.removeprefix("q_t")))
        (result,) = dense_crf([arrays["img"]], [unary], preset, backend)
        close(result, arrays[stage], 1e-4)


def test_golden_labels(backend, device):
    arrays = golden("irn_labels", device)
    unary = unary_from_labels(arrays["labels"], 3, 0.7)
    close(unary.flatten(1), arrays["unary"], 1e-6)
    (result,) = dense_crf([arrays["img"]], [unary], "irn", backend)
    close(result, arrays["q_t10"], 1e-4)
    best = arrays["q_t10"].topk(2, dim=0).values
    certain = best[0] - best[1] > 1e-4
    assert certain.float().mean() > 0.9
    assert torch.equal(result.argmax(0)[certain], arrays["pred"][certain])


def option(name, arrays):
    if name == "diag":
        return field((tuple(arrays["compat_diag"].tolist()),) * 2)
    if name == "matrix":
        return field((tuple(map(tuple, arrays["compat_mat"].tolist())),) * 2)
    return {
        "sym": field(),
        "before": field(normalisation="before"),
        "after": field(normalisation="after"),
        "none": field((0.1, 0.3), "none"),
        "aniso": field(sxy=(2.0, 5.0), far=(60.0, 30.0), srgb=(5.0, 13.0, 20.0)),
        "deeplab": PRESETS["deeplab"],
    }[name]


@pytest.mark.parametrize("name", ["sym", "before", "after", "none", "diag", "matrix", "aniso", "deeplab"])
def test_golden_options(name, backend, device):
    arrays = golden("options", device)
    (result,) = dense_crf([arrays["img"]], [unary_from_scores(arrays["prob"])], option(name, arrays), backend)
    close(result, arrays[name], 2e-5)


def test_golden_field_of_features_made_by_hand(device):
    arrays = golden("options", device)
    image = arrays["img"].float()
    y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in image.shape[1:]), indexing="ij")
    features = torch.cat([torch.stack([y / 20, x / 30]), image / 10]).flatten(1)
    unary = unary_from_scores(arrays["prob"]).flatten(1)[None]
    (result,) = mean_field(unary, [Kernel(Lattice(features), 5.0)], steps=2)
    close(result.view_as(arrays["energy"]), arrays["energy"], 2e-5)


def test_golden_free_energy(device):
    arrays = golden("options", device)
    kernels = [make_kernel([arrays["img"]], kernel) for kernel in field().kernels]
    unary = unary_from_scores(arrays["prob"]).flatten(1)[None]
    result = free_energy((-unary).softmax(1), unary, kernels)
    assert result == pytest.approx(arrays["kl_sym"].item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs are not there")
def test_photographs(device):
    pytest.importorskip("pydensecrf")
    paths = sorted(PHOTOGRAPHS.glob("*.jpg"))[::30][:4]
    assert len(paths) == 4
    for path, labels in zip(paths, (2, 3, 4, 6), strict=True):
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).to(device)
        unary = energies(path.stem, (labels, *image.shape[1:]), device)
        ours, theirs = (dense_crf([image], [unary], "psa", backend)[0] for backend in ("torch", "pydensecrf"))
        assert (ours - theirs).abs().mean() < 1e-4
        assert (ours.argmax(0) == theirs.argmax(0)).float().mean() >= 0.9999
        assert (ours.argmax(0) != unary.argmin(0)).float().mean() > 0.01  # something was sharpened


# ---------------------------------------------------------------------------------------------- what holds for any


def test_probabilities_of_the_shape_of_the_unary(backend, device):
    image = picture("shape", (11, 14), device)
    for shape in [(3, 11, 14), (2, 3, 11, 14)]:
        (result,) = dense_crf([image], [energies("shape", shape, device)], backend=backend)
        assert result.shape == shape
        assert result.dtype == torch.float32
        assert result.device.type == device.type
        close(result.sum(-3), torch.ones(shape[:-3] + shape[-2:], device=device), 1e-5)


def test_no_image(backend):
    assert dense_crf([], [], backend=backend) == []


def test_auto_is_numba_on_a_cpu_and_torch_elsewhere(device):
    image, unary = picture("auto", (9, 10), device), energies("auto", (3, 9, 10), device)
    name = "numba" if device.type == "cpu" and importlib.util.find_spec("numba") else "torch"
    automatic, ours = (dense_crf([image], [unary], backend=x)[0] for x in ("auto", name))
    assert torch.equal(automatic, ours)


def test_auto_without_numba_is_torch(device, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    monkeypatch.setattr(module, "_solve_numba", None)  # calling it would raise
    image, unary = picture("auto", (9, 10), device), energies("auto", (3, 9, 10), device)
    automatic, ours = (dense_crf([image], [unary], backend=x)[0] for x in ("auto", "torch"))
    assert torch.equal(automatic, ours)


def test_permuting_the_labels_permutes_the_result(device):
    image, unary = picture("labels", (24, 31), device), energies("labels", (5, 24, 31), device)
    order = torch.tensor([3, 0, 4, 1, 2], device=device)
    plain, permuted = (dense_crf([image], [u], field(steps=3))[0] for u in (unary, unary[order]))
    close(permuted, plain[order], 1e-5)
    assert (plain[order] - plain).abs().max() > 0.1


def test_a_constant_added_to_all_energies_of_a_pixel_does_not_matter(backend, device):
    image, unary = picture("constant", (15, 18), device), energies("constant", (3, 15, 18), device)
    shift = torch.rand(15, 18, device=device) * 4
    plain, shifted = (dense_crf([image], [u], field(), backend)[0] for u in (unary, unary + shift))
    close(shifted, plain, 1e-5)


def test_no_kernel_leaves_the_softmax(backend, device):
    image, unary = picture("none", (8, 9), device), energies("none", (3, 8, 9), device)
    (result,) = dense_crf([image], [unary], CRFSettings((), 5), backend)
    close(result, (-unary).softmax(0), 1e-6)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_single_pixel_in_closed_form(steps, backend, device):
    """Alone, a pixel hears itself only, and normalisation makes that a factor of 1."""
    unary = torch.tensor([0.3, 1.0, 2.0], device=device).view(3, 1, 1)
    expected = (-unary).softmax(0)
    for _ in range(steps):
        expected = (13 * expected - unary).softmax(0)
    image = torch.full((3, 1, 1), 77, dtype=torch.uint8, device=device)
    (result,) = dense_crf([image], [unary], field(steps=steps), backend)
    close(result, expected, 1e-5)


def test_equal_pixels_in_closed_form(backend, device):
    """Where all say the same, the mean over the neighbours, which is what "after" divides by, is the same again."""
    unary = torch.tensor([0.3, 0.5, 2.0], device=device).view(3, 1, 1)
    expected = (-unary).softmax(0)
    for _ in range(3):
        expected = (1.1 * expected - unary).softmax(0)
    image = picture("equal", (14, 19), device)
    (result,) = dense_crf([image], [unary.expand(3, 14, 19)], field((0.8, 0.3), "after", steps=3), backend)
    close(result, expected.expand(3, 14, 19), 1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 23), (23, 1), (2, 2), (9, 13)])
@pytest.mark.parametrize("grey", [0, 128, 255, None])
def test_unusual_images(size, grey, device):
    """Lines, single pixels, black and constant images."""
    image = picture("odd", size, device) if grey is None else torch.full((3, *size), grey, dtype=torch.uint8).to(device)
    unary = energies("odd", (3, *size), device)
    (ours,) = dense_crf([image], [unary], field(steps=2), "torch")
    close(ours.sum(0), torch.ones(size, device=device), 1e-5)
    pytest.importorskip("pydensecrf")
    (theirs,) = dense_crf([image], [unary], field(steps=2), "pydensecrf")
    close(ours, theirs, 1e-5)


@pytest.mark.parametrize("preset", ["deeplab", "irn", "mctformer_seg"])
def test_dark_images_whose_pixels_are_no_multiple_of_four(preset, device):
    """pydensecrf fills up its groups of four with points at 0, whose corners are neighbours of dark colours'."""
    pytest.importorskip("pydensecrf")
    sizes = [(19, 23), (16, 20), (21, 27)]
    dark = [40 * recipe.smooth("x/img", (3, *s), 6) + recipe.array("x/n", (3, *s), 8.0) for s in sizes]
    images = [torch.from_numpy(image.clip(0, 255).astype(np.uint8)).to(device) for image in dark]
    unaries = [unary_from_scores(torch.from_numpy(recipe.smooth("x/p", (3, *s), 6)).to(device)) for s in sizes]
    ours, theirs = (dense_crf(images, unaries, preset, backend) for backend in ("torch", "pydensecrf"))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other, 1e-4)


def test_one_label_is_certain(backend, device):
    image = picture("one", (7, 9), device)
    known = unary_from_labels(torch.zeros(7, 9), 1, 0.7).to(device)
    assert torch.equal(known, torch.zeros(1, 7, 9, device=device))
    for unary in (energies("one", (1, 7, 9), device), known):
        (result,) = dense_crf([image], [unary], backend=backend)
        assert torch.equal(result, torch.ones(1, 7, 9, device=device))


@pytest.mark.parametrize("limit", [10**9, 600, 1])
def test_many_images_equal_one_at_a_time(limit, device, monkeypatch):
    """Different sizes, different numbers of labels and of fields."""
    sizes = [(13, 17), (20, 9), (1, 12), (16, 16), (11, 8)]
    shapes = [(2, 3), (5,), (1,), (3, 2), (2,)]
    images = [picture(f"many{i}", size, device) for i, size in enumerate(sizes)]
    unaries = [energies(f"many{i}", (*shapes[i], *size), device) for i, size in enumerate(sizes)]
    alone = [dense_crf([x], [u], field(), "torch")[0] for x, u in zip(images, unaries, strict=True)]

    together = []
    solve = module._solve_batch

    def watched(images, *rest):
        together.append(len(images))
        return solve(images, *rest)

    monkeypatch.setattr(module, "_solve_batch", watched)
    monkeypatch.setitem(module.PIXELS_PER_BATCH, device.type, limit)
    results = dense_crf(images, unaries, field(), "torch")
    assert together == {10**9: [5], 600: [3, 2], 1: [1] * 5}[limit]
    for result, expected, unary in zip(results, alone, unaries, strict=True):
        assert result.shape == unary.shape
        close(result, expected, 1e-5)


def test_several_fields_at_once_equal_one_at_a_time(backend, device):
    image, unary = picture("fields", (19, 22), device), energies("fields", (3, 3, 19, 22), device)
    for preset in (field(steps=4), matrix_field()):
        (together,) = dense_crf([image], [unary], preset, backend)
        for result, part in zip(together, unary, strict=True):
            close(result, dense_crf([image], [part], preset, backend)[0], 1e-5)
        assert (together[0] - together[1]).abs().max() > 0.1


def test_equal_from_run_to_run(backend, device):
    image, unary = picture("runs", (40, 50), device), energies("runs", (4, 40, 50), device)
    first, second = (dense_crf([image], [unary], backend=backend)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_float32_under_autocast(device):
    image, unary = picture("cast", (15, 16), device), energies("cast", (3, 15, 16), device)
    plain = dense_crf([image], [unary], matrix_field(), "torch")[0]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        cast = dense_crf([image], [unary], matrix_field(), "torch")[0]
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_a_forbidden_label_stays_forbidden(device):
    unary = energies("forbidden", (3, 12, 12), device)
    unary[1, :6] = torch.inf
    (result,) = dense_crf([picture("forbidden", (12, 12), device)], [unary], backend="torch")
    assert not result[1, :6].any()
    close(result.sum(0), torch.ones(12, 12, device=device), 1e-5)


def test_free_energy_with_a_forbidden_label(device):
    """A label of probability 0 costs nothing, however high its energy."""
    unary = energies("forbidden", (3, 12, 12), device).flatten(1)[None]
    kernels = [make_kernel([picture("forbidden", (12, 12), device)], kernel) for kernel in field().kernels]
    results = []
    for energy in (1e4, torch.inf):
        unary[:, 1, :60] = energy
        results.append(free_energy(mean_field(unary, kernels, 1), unary, kernels))
    assert results[1] == pytest.approx(results[0])


def test_the_kernel_of_positions_is_cached(device):
    near, far = field().kernels
    first, second = picture("first", (9, 12), device), picture("second", (9, 12), device)
    assert make_kernel([first], near) is make_kernel([second], near)
    assert make_kernel([first, first], near) is make_kernel([second, first], near)
    assert make_kernel([first], near) is not make_kernel([first.transpose(1, 2)], near)
    assert make_kernel([first], near) is not make_kernel([first], replace(near, sxy=(4.0, 3.0)))
    assert make_kernel([first], far) is not make_kernel([first], far)


def test_unknown_pixels_and_certain_ones():
    unary = unary_from_labels(torch.tensor([[0, 1, 2]]), 2, 0.8, unknown=True)
    expected = torch.tensor([[0.5, 0.8, 0.2], [0.5, 0.2, 0.8]])[:, None]
    torch.testing.assert_close((-unary).exp(), expected)


def test_unaries_of_several_maps_at_once():
    labels = torch.randint(0, 4, (2, 5, 6))
    scores = torch.rand(2, 3, 5, 6)
    for i in range(2):
        assert torch.equal(unary_from_labels(labels, 4, 0.7)[i], unary_from_labels(labels[i], 4, 0.7))
        assert torch.equal(unary_from_scores(scores, scale=0.5)[i], unary_from_scores(scores[i], scale=0.5))
    assert unary_from_labels(labels.to(torch.uint8), 4, 0.7).equal(unary_from_labels(labels, 4, 0.7))


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("value", [-0.1, -1e-5, 1.3, 255.0, float("nan"), float("inf"), -float("inf")])
def test_unusable_scores(value):
    scores = torch.rand(3, 4, 5)
    scores[1, 2, 3] = value
    with pytest.raises(InputError, match=r"scores hold negative or non-finite values or values above 1.*\[0, 1\]"):
        unary_from_scores(scores)


@pytest.mark.parametrize("clip", [1e-5, None])
def test_scores_beyond_the_ends_by_rounding(clip):
    scores = torch.tensor([-1e-7, 0.0, 1.0, 1 + 1e-7])[:, None, None]
    unary = unary_from_scores(scores, clip).flatten()
    assert unary[0] == unary[1] > 11
    assert unary[2] == unary[3] == 0


@pytest.mark.parametrize("options", [{"clip": -1e-5}, {"clip": 1.5}, {"clip": torch.nan}, {"scale": 0}, {"scale": 1.1}])
def test_options_of_scores_out_of_range(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is "):
        unary_from_scores(torch.rand(2, 3, 4), **options)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 4, 5), (4, 5)])
def test_scores_without_labels(shape):
    with pytest.raises(InputError, match=r"scores of shape \(.*4, 5\) have no labels"):
        unary_from_scores(torch.rand(shape))


@pytest.mark.parametrize(("label", "unknown"), [(3, False), (4, True), (255, False), (-1, False), (-1, True)])
def test_label_out_of_range_is_named(label, unknown):
    labels = torch.tensor([[0, 1, label]])
    with pytest.raises(InputError, match=rf"labels.* {label}\b.*3 labels"):
        unary_from_labels(labels, 3, 0.7, unknown=unknown)


@pytest.mark.parametrize("value", [0.5, torch.nan, torch.inf])
def test_labels_that_are_not_integers_are_refused(value):
    with pytest.raises(InputError, match="labels hold values that are not whole numbers"):
        unary_from_labels(torch.tensor([[0.0, value]]), 3, 0.7)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_confidence_out_of_range(confidence):
    with pytest.raises(InputError, match=f"confidence is {confidence}"):
        unary_from_labels(torch.zeros(2, 2), 3, confidence)


def attempt(preset="psa", backend="torch", image=(3, 6, 8), unary=(2, 6, 8)):
    """Two images, of which the second is the odd one; its picture and its unary are given, or their shapes are."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(image, tuple):
        image = torch.randint(0, 256, image, generator=generator).to(torch.uint8)
    if isinstance(unary, tuple):
        unary = torch.rand(unary, generator=generator)
    return dense_crf([picture("fine", (6, 8)), image], [energies("fine", (2, 6, 8)), unary], preset, backend)


def test_valid_arguments_are_accepted(backend):
    assert [x.shape for x in attempt(backend=backend)] == [(2, 6, 8)] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unary": (2, 6, 7)}, r"unary of image 1 .*\(2, 6, 7\).*\(3, 6, 8\)"),
        ({"unary": (0, 6, 8)}, r"unary of image 1 .*\(0, 6, 8\)"),
        ({"unary": (6, 8)}, r"unary of image 1 .*\(6, 8\)"),
        ({"image": (1, 6, 8)}, r"image 1 .*\(1, 6, 8\)"),
        ({"image": (6, 8, 3)}, r"image 1 .*\(6, 8, 3\)"),
        ({"image": (6, 8)}, r"image 1 .*\(6, 8\)"),
        ({"image": (3, 0, 8), "unary": (2, 0, 8)}, r"image 1 .*\(3, 0, 8\)"),
        ({"preset": "paris"}, r"preset 'paris'.*psa.*irn"),
        ({"backend": "cpp"}, r"backend 'cpp'.*torch.*pydensecrf"),
        ({"preset": field(steps=-1)}, "steps is -1"),
        ({"preset": field(normalisation="row")}, "normalisation 'row' is unknown; choose one of symmetric"),
        ({"preset": field(sxy=(3.0, 0.0))}, r"sxy \(3.0, 0.0\)"),
        ({"preset": field(sxy=(float("nan"), 3.0))}, r"sxy \(nan, 3.0\)"),
        ({"preset": field(far=(-80.0, 80.0))}, r"sxy \(-80.0, 80.0\)"),
        ({"preset": field(srgb=(13.0, 0.0, 13.0))}, r"srgb \(13.0, 0.0, 13.0\)"),
    ],
)
def test_errors_name_the_wrong_argument(wrong, message, backend):
    with pytest.raises(InputError, match=message):
        attempt(**{"backend": backend, **wrong})


BYTES = picture("bytes", (6, 8))
MEAN, DEVIATION = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
OTHER_PICTURES = {
    "0-1": BYTES / 255,
    "0-1 of black and white": (BYTES > 99).float(),
    "0-1 of black": torch.zeros(3, 6, 8),
    "normalised": (BYTES / 255 - MEAN) / DEVIATION,
    "without the mean": BYTES - 255 * MEAN,
    "-1 to 1": BYTES / 127.5 - 1,
    "resized": BYTES.float() * 0.99,
    "half": (BYTES / 255).half(),
    "16 bit": BYTES.int() * 257,
    "negative": BYTES.int() - 128,
    "NaN": torch.where(BYTES > 99, torch.nan, BYTES.float()),
    "infinite": torch.where(BYTES > 99, torch.inf, BYTES.float()),
    "bool": BYTES > 99,
    "complex": BYTES.to(torch.complex64),
}


@pytest.mark.parametrize("name", OTHER_PICTURES)
def test_images_that_do_not_hold_grey_levels_are_refused(name, backend):
    with pytest.raises(
        InputError,
        match=r"image 1 has torch\.\w+ values that may not be grey levels of 0-255; .* uint8",
    ):
        attempt(backend=backend, image=OTHER_PICTURES[name])
    with pytest.raises(InputError, match="image 0 has"):
        make_kernel([OTHER_PICTURES[name]], field().kernels[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.int64])
def test_pictures_of_0_to_255_in_another_type(dtype, backend):
    assert all(map(torch.equal, attempt(backend=backend, image=BYTES.to(dtype)), attempt(backend=backend, image=BYTES)))


OTHER_UNARIES = {
    "NaN": (torch.full((2, 6, 8), torch.nan), "holds NaN or excludes all labels"),
    "all infinite": (torch.full((2, 6, 8), torch.inf), "holds NaN or excludes all labels"),
    "a label that must be": (torch.stack([torch.zeros(6, 8), torch.full((6, 8), -torch.inf)]), "holds NaN or excludes"),
    "too large for float32": (torch.full((2, 6, 8), 1e300, dtype=torch.float64), "holds NaN or excludes"),
    "labels": (torch.ones(2, 6, 8, dtype=torch.int64), r"has torch\.int64 values; give energies as float32"),
    "bytes": (torch.ones(2, 6, 8, dtype=torch.uint8), r"has torch\.uint8 values"),
    "elsewhere": (torch.rand(2, 6, 8, device="meta"), "is on meta but the image on cpu"),
}


@pytest.mark.parametrize("name", OTHER_UNARIES)
def test_other_unaries_are_refused(name, backend):
    unary, message = OTHER_UNARIES[name]
    with pytest.raises(InputError, match=f"the unary of image 1 {message}"):
        attempt(backend=backend, unary=unary)


def test_images_of_several_devices_are_refused(backend):
    with pytest.raises(InputError, match="image 1 is on meta but image 0 on cpu"):
        attempt(backend=backend, image=BYTES.to("meta"))


def test_a_unary_with_a_gradient_or_a_forbidden_label(backend):
    """What one backend can do, the other can."""
    unary = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1))
    unary[1, :3] = torch.inf
    result = attempt(backend=backend, unary=unary.requires_grad_())[1]
    assert not result.requires_grad
    assert result[1, :3].eq(0).all()
    close(result, attempt(backend="torch", unary=unary)[1], 1e-4)


def test_numbers_of_images_and_unaries_must_agree():
    with pytest.raises(InputError, match="1 images but 2 unaries"):
        dense_crf([picture("fine", (6, 8))], [energies("fine", (2, 6, 8))] * 2)


def test_a_unary_with_nan(backend):
    unary = energies("fine", (2, 6, 8))
    unary[1, 2, 3] = torch.nan
    with pytest.raises(InputError, match="unary of image 0 holds NaN"):
        dense_crf([picture("fine", (6, 8))], [unary], backend=backend)


@pytest.mark.parametrize("weight", [(1.0, 2.0), ((1.0, 0.0), (0.0, 1.0))], ids=["values", "matrix"])
def test_a_compatibility_of_another_number_of_labels(weight, backend):
    with pytest.raises(InputError, match="weight of a kernel is for 2 labels, but the unary of image 0 has 3"):
        dense_crf([picture("fine", (6, 8))], [energies("fine", (3, 6, 8))], field((3.0, weight)), backend)


@pytest.mark.parametrize(
    "weight", [torch.nan, torch.inf, (1.0, torch.nan), ((1.0, 0.0),), ((1.0,), (1.0, 2.0)), "much"]
)
def test_an_invalid_compatibility_is_refused(weight, backend):
    with pytest.raises(InputError, match=r"weight .* of a kernel must be a number, one for each label, or a square"):
        attempt(field((3.0, weight)), backend)


TINY = {
    "sxy of positions": (field(sxy=(3.0, 1e-6)), "sxy 1e-06"),
    "sxy": (field(far=(1e-6, 80.0)), "sxy 1e-06"),
    "srgb": (field(srgb=(1e-6,) * 3), "srgb 1e-06"),
    "red": (field(srgb=(1e-6, 13.0, 13.0)), "srgb 1e-06"),
    "all cells of y": (field(far=(80.0, 0.001)), "sxy 0.001"),
    "all cells of colour": (field(srgb=(0.01,) * 3), "srgb 0.01"),
    "all cells of red": (field(srgb=(0.005, 13.0, 13.0)), "srgb 0.005"),
    "all cells of blue": (field(srgb=(13.0, 13.0, 0.005)), "srgb 0.005"),
}


@pytest.mark.parametrize(("preset", "culprit"), TINY.values(), ids=TINY)
def test_the_standard_deviation_that_is_too_small_is_named(preset, culprit, backend):
    with pytest.raises(InputError, match=f"{culprit} is too small"):
        dense_crf([picture("tiny", (40, 60))], [energies("tiny", (2, 40, 60))], preset, backend)


def test_features_are_checked_without_building_a_lattice(monkeypatch):
    pytest.importorskip("pydensecrf")
    monkeypatch.setattr(permutohedral, "Lattice", None)  # calling it would raise
    for name, preset in PRESETS.items():
        unary = energies(name, (2, 40, 60))
        dense_crf([picture("roomy", (40, 60))], [unary], replace(preset, steps=1), "pydensecrf")
    with pytest.raises(TypeError):
        dense_crf([picture("tiny", (40, 60))], [unary], TINY["all cells of y"][0], "pydensecrf")


@pytest.mark.parametrize("name", ["pydensecrf", "numba"])
def test_without_an_optional_backend(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    image, unary = picture("fine", (6, 8)), energies("fine", (2, 6, 8))
    with pytest.raises(InputError, match=rf'{name} is not installed.*"torch", which computes the same'):
        dense_crf([image], [unary], backend=name)
    assert dense_crf([image], [unary])[0].isfinite().all()


@pytest.mark.parametrize(
    "error", [ImportError("Numba needs NumPy 1.0 or less."), OSError("Could not find libllvmlite.so.")]
)
def test_numba_that_cannot_be_loaded(error, monkeypatch):
    """Numba checks NumPy's version when it is imported, and loads a shared library."""
    pytest.importorskip("numba")

    def refuse(_):
        raise error

    monkeypatch.setattr(importlib, "import_module", refuse)
    module._failure_of_numba.cache_clear()
    try:
        image, unary = picture("fine", (6, 8)), energies("fine", (2, 6, 8))
        with pytest.raises(InputError, match=rf'numba cannot be used \({str(error)[:-1]}\).*"torch"'):
            dense_crf([image], [unary], backend="numba")
        automatic, ours = (dense_crf([image], [unary], backend=x)[0] for x in ("auto", "torch"))
        assert torch.equal(automatic, ours)
    finally:
        module._failure_of_numba.cache_clear()
