"""The random walk: the authors' numbers, and the dense matrix power."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import recipe
from tests.ops import oracles
from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import enlarge
from wsss_lib.ops import random_walk as module
from wsss_lib.ops.affinity import pair_count, pair_offsets, pair_windows
from wsss_lib.ops.random_walk import random_walk, transition_matrix, walk_coefficients
from wsss_lib.stages.refine import label_map

GRIDS = [
    (5, 9, 5, "official"),
    (7, 12, 5, "official"),
    (6, 9, 3, "official"),
    (7, 12, 5, "full"),
    (4, 5, 5, "full"),
    (3, 4, 5, "full"),
    (2, 9, 5, "full"),
    (1, 9, 5, "full"),
    (6, 5, 3, "full"),
]
ISOLATED = [(0, 0), (0, 1), (0, 2), (0, 3), (45, 0), (45, 62), (46, 0), (46, 1), (46, 61), (46, 62)]


def affinities(height, width, radius=5, border="official", device="cpu", low=0.5):
    count = len(pair_offsets(radius)), math.prod(pair_count(height, width, radius, border))
    return (low + (1 - low) * torch.rand(count)).to(device)


@pytest.fixture(params=["diagonals", "rows"])
def layout(request, monkeypatch):
    """How a CPU keeps the matrix."""
    monkeypatch.setattr(module, "_MAX_ROWS_FOR_DIAGONALS", 0 if request.param == "rows" else math.inf)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("name", ["infer_aff", "infer_aff_r38"])
def test_golden_walk(name, device):
    golden = recipe.golden(f"psa/{name}")
    cam = torch.from_numpy(golden["cam"])
    scores = torch.cat([(1 - cam.amax(0, keepdim=True)) ** 16, cam])
    height, width = golden["padded"][-2:]
    padded = F.pad(scores, (0, int(width) - cam.shape[2], 0, int(height) - cam.shape[1]))
    small = F.avg_pool2d(padded, 8).to(device)
    (result,) = random_walk([small], [torch.from_numpy(golden["aff"][0]).to(device)])
    rows = [0, *(golden["cls"] + 1)]
    np.testing.assert_allclose(result.cpu().numpy(), golden["rw"][0, rows], rtol=0, atol=1e-5)
    assert not np.delete(golden["rw"][0], rows, axis=0).any()
    assert np.abs(golden["rw"][0, rows] - small.cpu().numpy()).max() > 0.1


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("steps", [0, 1, 5, 99, 256])
@pytest.mark.parametrize(("height", "width", "radius", "border"), GRIDS)
def test_against_the_dense_matrix(height, width, radius, border, steps, device):
    scores = torch.rand(3, height, width, device=device)
    given = affinities(height, width, radius, border, device)
    (result,) = random_walk([scores], [given], steps=steps, radius=radius, border=border)
    assert result.dtype == torch.float32
    assert result.shape == scores.shape
    expected = oracles.random_walk(scores, given, 8.0, steps, radius, border)
    torch.testing.assert_close(result.cpu().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("steps", [31, 64, 256, 2000])
def test_the_polynomial_against_the_plain_power(steps, device):
    """The same matrix, applied t times; several images, which have different numbers of rows."""
    shapes = [(2, 13, 17), (4, 9, 20)]
    scores = [torch.rand(shape, device=device) for shape in shapes]
    given = [affinities(*shape[1:], low=0.2, device=device) for shape in shapes]
    assert len(walk_coefficients(steps)) < steps
    for result, maps, affinity in zip(random_walk(scores, given, steps=steps), scores, given, strict=True):
        transition = transition_matrix([affinity], [maps.shape[1:]])
        dense = torch.zeros(len(transition.offsets) - 1, maps[0].numel(), dtype=torch.float64)
        rows = torch.arange(len(dense)).repeat_interleave(transition.offsets.cpu().diff())
        dense[rows, transition.columns.cpu().long()] = transition.weights.cpu().double()
        plain = torch.linalg.matrix_power(dense, steps) @ maps.cpu().double().flatten(1).t()
        # The entries of T are rounded, and in hundreds of steps their rows' sums drift apart from 1.
        torch.testing.assert_close(result.cpu().double().flatten(1), plain.t(), rtol=0, atol=2e-8 * steps + 4e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_few_steps_are_the_plain_power(steps, device):
    scores, given = torch.rand(3, 7, 12, device=device), affinities(7, 12, device=device)
    x, transition = scores.flatten(1).t().contiguous(), transition_matrix([given], [(7, 12)])
    for _ in range(steps):
        x = transition @ x
    assert torch.equal(random_walk([scores], [given], steps=steps)[0].flatten(1), x.t())


def exact_coefficients(steps):
    """Of ``x^t`` in Chebyshev polynomials, by binomials."""
    result = []
    for k in range(steps + 1):
        value = Fraction(2 * math.comb(steps, (steps - k) // 2), 2**steps) if (steps - k) % 2 == 0 else Fraction(0)
        result.append(value if k else value / 2)
    return result


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 64, 255, 256])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-3, 0.0])
def test_coefficients(steps, tolerance):
    exact = exact_coefficients(steps)
    assert sum(exact) == 1
    ours = walk_coefficients(steps, tolerance)
    assert float(sum(exact[len(ours) + 1 :])) <= tolerance + 1e-15
    np.testing.assert_allclose(ours, [float(sum(exact[k:])) for k in range(1, len(ours) + 1)], rtol=1e-9, atol=1e-15)
    if ours:
        assert ours[-1] > tolerance
    angles = np.linspace(0, np.pi, 1001)
    polynomial = 1 + sum(c * (np.cos(k * angles) - np.cos((k - 1) * angles)) for k, c in enumerate(ours, 1))
    assert np.abs(polynomial - np.cos(angles) ** steps).max() <= 2 * tolerance + 1e-12


def test_number_of_products_of_a_walk():
    assert [len(walk_coefficients(256, tolerance)) for tolerance in (1e-6, 1e-4)] == [78, 62]
    assert len(walk_coefficients(1_000_000)) < 6000


def test_a_greater_tolerance_changes_the_scores_a_little(device):
    scores, given = torch.rand(2, 20, 30, device=device), affinities(20, 30, device=device)
    (fine,), (coarse,) = (random_walk([scores], [given], tolerance=tolerance) for tolerance in (1e-6, 1e-2))
    assert 1e-5 < (fine - coarse).abs().max() < 2e-2


@pytest.mark.usefixtures("layout")
def test_the_error_of_float32(device):
    """On affinities as a network gives them: mostly high, and low at borders; seen were 1e-6 at most."""
    height, width = 24, 32
    blocks = torch.rand(8, height // 4, width // 4).repeat_interleave(4, 1).repeat_interleave(4, 2)
    given = oracles.pair_affinities(blocks[None] + 0.1 * torch.rand(1, 8, height, width))[0]
    scores = torch.rand(3, height, width)
    (result,) = random_walk([scores.to(device)], [given.to(device)])
    error = (result.cpu().double() - oracles.random_walk(scores, given)).abs().max()
    assert 0 < error < 4e-6


@pytest.mark.usefixtures("layout")
def test_means_stay_within_the_scores(device):
    """A polynomial and its rounding leave the range a little, and scores above 1 would be refused elsewhere."""
    scores = torch.zeros(2, 9, 90, device=device)
    scores[0, 4, 4] = scores[1] = 1
    scores[1, 4, 4] = 0
    given = affinities(9, 90, border="full", device=device)
    (result,) = random_walk([scores], [given], steps=64, border="full")
    assert result.min() >= 0
    assert result.max() <= 1


def test_affinities_that_are_rounded_below_zero(device):
    given = torch.zeros_like(affinities(6, 10, device=device))
    given[0, 0] = -1e-7
    scores = torch.rand(2, 6, 10, device=device)
    for steps in (1, 256):
        assert torch.equal(random_walk([scores], [given], beta=2.5, steps=steps)[0], scores)


@pytest.mark.parametrize("tolerance", [-1e-9, 0.5, math.nan])
def test_tolerances_that_are_refused(tolerance):
    with pytest.raises(InputError, match="tolerance is"):
        random_walk([torch.rand(1, 6, 12)], [torch.rand(34, 8)], tolerance=tolerance)


@pytest.mark.parametrize(("height", "width"), [(33, 41), (47, 63), (45, 95)])
def test_the_sums_round_as_those_of_a_dense_matrix(height, width, device):
    """The authors add up dense columns, and in 256 steps the last bit of D can grow beyond 1e-5."""
    given = affinities(height, width, low=0.3, device=device)
    matrix = transition_matrix([given], [(height, width)])
    rows = torch.arange(height * width).repeat_interleave(matrix.offsets.cpu().diff())
    columns = matrix.columns.cpu().long()
    powers = oracles.affinity_matrix(given, (height, width), missing=0.0)[rows, columns].float().to(device) ** 8
    dense = torch.zeros(height * width, height * width)
    dense[rows, columns] = powers.cpu()
    expected = powers.cpu() / dense.sum(0)[rows]
    other = (matrix.weights.cpu() != expected).float().mean()
    assert other == 0 if device.type == "cpu" else other < 0.01


def test_gradients_work_after_inference_mode():
    given = affinities(6, 11)
    with torch.inference_mode():
        random_walk([torch.rand(2, 6, 11)], [given])
    matrix = transition_matrix([given.requires_grad_()], [(6, 11)])
    (matrix @ torch.rand(66, 1)).square().sum().backward()
    assert given.grad.abs().max() > 0


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.5, 10])
def test_any_exponent(beta, device):
    scores, given = torch.rand(2, 6, 10, device=device), affinities(6, 10, device=device, low=0.0)
    (result,) = random_walk([scores], [given], beta=beta, steps=3)
    torch.testing.assert_close(result.cpu().double(), oracles.random_walk(scores, given, beta, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("border", ["official", "full"])
def test_every_row_of_the_matrix_adds_up_to_one(border, device):
    sizes = [(6, 10), (9, 13)]
    given = [affinities(*size, border=border, device=device) for size in sizes]
    matrix = transition_matrix(given, sizes, border=border)
    count = sum(height * width for height, width in sizes)
    assert len(matrix.offsets) == count + 1
    assert matrix.weights.min() > 0
    ones = torch.ones(count, 1, device=device)
    torch.testing.assert_close(matrix @ ones, ones)
    constant = torch.full((1, 6, 10), 0.7, device=device)
    torch.testing.assert_close(random_walk([constant], given[:1], border=border)[0], constant)


def test_the_entries_of_a_row_are_in_order(device):
    matrix = transition_matrix([affinities(6, 10, device=device)], [(6, 10)])
    for columns in matrix.columns.cpu().tensor_split(matrix.offsets[1:-1].cpu().long()):
        assert (columns.diff() > 0).all()


@pytest.mark.parametrize("border", ["official", "full"])
def test_many_images_equal_one_at_a_time(border, device):
    """Different sizes, different numbers of rows."""
    shapes = [(1, 9, 10), (3, 7, 12), (2, 5, 9), (3, 7, 12)]
    scores = [torch.rand(shape, device=device) for shape in shapes]
    given = [affinities(*shape[1:], border=border, device=device) for shape in shapes]
    together = random_walk(scores, given, steps=20, border=border)
    assert [x.shape for x in together] == shapes
    for result, score, affinity in zip(together, scores, given, strict=True):
        torch.testing.assert_close(result, random_walk([score], [affinity], steps=20, border=border)[0])
    assert (together[1] - together[3]).abs().max() > 0.01


@pytest.mark.usefixtures("layout")
def test_a_row_of_zeros_stays_zero(device):
    scores = torch.rand(3, 7, 12, device=device)
    scores[1] = 0
    (result,) = random_walk([scores], [affinities(7, 12, device=device)])
    assert not result[1].any()
    assert result[[0, 2]].all()


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("steps", [7, 256])
def test_ten_pixels_are_alone_unless_the_border_is_full(steps, device):
    scores = torch.rand(2, 47, 63, device=device)
    unchanged = {}
    for border in ("official", "full"):
        (result,) = random_walk(
            [scores], [affinities(47, 63, border=border, device=device)], steps=steps, border=border
        )
        unchanged[border] = list(map(tuple, (result == scores).all(0).nonzero().tolist()))
    assert unchanged == {"official": ISOLATED, "full": []}


@pytest.mark.usefixtures("layout")
def test_zero_affinities_leave_the_scores_unchanged(device):
    scores = torch.rand(2, 6, 10, device=device)
    assert torch.equal(random_walk([scores], [torch.zeros_like(affinities(6, 10, device=device))])[0], scores)


@pytest.mark.usefixtures("layout")
def test_equal_from_run_to_run(device):
    scores, given = torch.rand(3, 20, 30, device=device), affinities(20, 30, device=device)
    assert torch.equal(random_walk([scores], [given])[0], random_walk([scores], [given])[0])


def test_no_image():
    assert random_walk([], []) == []


# ------------------------------------------------------------------------------------------------------------ errors


def attempt(affinity=(34, 8), change=1 + 1e-7, score=0.5, **options):
    """Two images, of which the second is the odd one."""
    given, scores = torch.rand(affinity), torch.rand(2, 6, 12)
    given[-1, -1] = change
    scores[1, 2, 3] = score
    return random_walk([torch.rand(2, 6, 12), scores], [torch.rand(34, 8), given], **options)


def test_valid_arguments_are_accepted():
    assert [x.shape for x in attempt()] == [(2, 6, 12)] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"affinity": (34, 9)}, r"6 × 12 grid must be \(34, 8\), not \(34, 9\)"),
        ({"affinity": (33, 8)}, r"6 × 12 grid must be \(34, 8\), not \(33, 8\)"),
        ({"affinity": (1, 34, 8)}, r"6 × 12 grid must be \(34, 8\), not \(1, 34, 8\)"),
        ({"radius": 3}, r"6 × 12 grid must be \(12, 32\), not \(34, 8\)"),
        ({"border": "full"}, r"6 × 12 grid must be \(34, 72\), not \(34, 8\)"),
        ({"change": -0.1}, "affinities hold negative or non-finite"),
        ({"change": float("nan")}, "affinities hold negative or non-finite"),
        ({"change": float("inf")}, "affinities hold negative or non-finite"),
        ({"change": 1.01}, "values above 1"),
        ({"score": float("nan")}, "scores hold NaN or infinite"),
        ({"score": float("inf")}, "scores hold NaN or infinite"),
        ({"steps": -1}, "steps is -1"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"beta": float("inf")}, "beta is inf"),
    ],
)
def test_errors_name_the_wrong_argument(wrong, message):
    with pytest.raises(InputError, match=message):
        attempt(**wrong)


def test_a_grid_that_is_too_small():
    with pytest.raises(InputError, match="4 × 12 features is too small"):
        random_walk([torch.rand(1, 4, 12)], [torch.rand(34, 8)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_numbers_of_scores_and_affinities_must_agree(count):
    with pytest.raises(InputError):
        random_walk([torch.rand(1, 6, 12)] * 2, [torch.rand(34, 8)] * count)


def test_golden_walk_of_mctformer():
    """Affinities that are given as a matrix, which also has the pairs at the border, and a constant background."""
    golden, name, (height, width) = recipe.golden("segmentation/psa_walk"), "segmentation/psa_walk", (20, 17)
    features = torch.from_numpy(recipe.smooth(f"{name}/feat", (8, height, width), cells=4))
    grid = pair_count(height, width, 5, "full")
    pairs = torch.zeros(len(pair_offsets(5)), *grid)
    for number, offset in enumerate(pair_offsets(5)):
        one, other, where = pair_windows(offset, height, width, 5, "full")
        distance = (features[:, *one] - features[:, *other]).abs().mean(0)
        pairs[number, *where] = (-6 * distance).exp()
    classes = np.unique(recipe.integers(f"{name}/classes", (3,), 0, 20))
    cams = np.stack([recipe.smooth(f"{name}/cam{c}", (1, 160, 136), cells=5)[0] for c in classes])
    scores = torch.cat([torch.full((1, 160, 136), 0.39), torch.from_numpy(cams)])
    (walked,) = random_walk([F.avg_pool2d(scores, 8)], [pairs.flatten(1)], beta=8, steps=2**6, border="full")
    np.testing.assert_allclose(walked.numpy(), golden["walked"], rtol=0, atol=1e-4)
    labels = label_map(torch.from_numpy(classes), enlarge(walked, 8, (160, 136)))
    np.testing.assert_array_equal(labels.numpy(), golden["label"])
