"""Fully connected conditional random fields (CRFs), which align label scores with the edges of an image.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011). Each
pixel is connected with every other pixel. Two pixels favour the same label more strongly the closer they are in
position and colour. The mean-field approximation (algorithm 1 of the paper) starts from ``Q = softmax(-U)`` and repeats

    ``Q_i(l) <- softmax_l( -U_i(l) + sum_m w_m sum_j k_m(f_i, f_j) Q_j(l) )``

A permutohedral lattice computes the sums over j. Three backends compute the same result. ``torch`` needs no compiler,
runs on any device, and takes several images and several unaries at once. ``numba`` is the fastest on a CPU, and
``pydensecrf`` is the authors' C++ code; these two must be installed. All keep a pixel's own contribution in the sum, as
the C++ code does.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.ops.permutohedral import Lattice, check_features
from wsss_lib.ops.sparse import SparseRows
from wsss_lib.ops.values import all_within

Normalisation = Literal["symmetric", "before", "after", "none"]
Backend = Literal["auto", "torch", "numba", "pydensecrf"]

PIXELS_PER_BATCH = {"cpu": 1, "cuda": 2**22}
"""Number of pixels that the torch backend solves at once; at least one image. On a CPU, one image fills the cache."""

_MAX_SCORE = 1.25
"""Greatest score that is accepted; scores above 1 count as 1, because bicubic enlargement overshoots by up to 0.25."""


@dataclass(frozen=True)
class Pairwise:
    """One Gaussian kernel of the field.

    Attributes:
        sxy: Standard deviation along x and y, in pixels.
        srgb: Standard deviation of red, green and blue, in grey levels of 0-255; None for a kernel without colour.
        weight: Weight w of the Potts model; or L values v for the message ``-v · k Q``; or an ``(L, L)`` matrix M for
            ``-(M + Mᵀ)/2 · k Q``.
        normalisation: Normalisation of the kernel. ``symmetric`` gives ``k_ij / sqrt(sum_j k_ij · sum_i k_ij)``,
            ``before`` and ``after`` divide by the sum before or after filtering, and ``none`` does not normalise.
    """

    sxy: tuple[float, float]
    srgb: tuple[float, float, float] | None
    weight: float | tuple[float, ...] | tuple[tuple[float, ...], ...]
    normalisation: Normalisation = "symmetric"


@dataclass(frozen=True)
class CRFSettings:
    """Settings of a field: its kernels, and the number of mean-field updates."""

    kernels: tuple[Pairwise, ...]
    steps: int = 10


def settings(
    sxy: float, weight: float, bilateral_sxy: float, srgb: float, bilateral_weight: float, steps: int = 10
) -> CRFSettings:
    """Return the standard field: a kernel of position and a kernel of position and colour, equal along all axes."""
    position = Pairwise((sxy, sxy), None, weight)
    return CRFSettings((position, Pairwise((bilateral_sxy,) * 2, (srgb,) * 3, bilateral_weight)), steps)


_PSA = settings(3, 3, 80, 13, 10)

PRESETS = {
    "psa": _PSA,
    "oc_cse": _PSA,
    "acr": _PSA,
    "pcss": _PSA,
    "irn": settings(3, 3, 50, 5, 10),
    "deeplab": settings(1, 3, 67, 3, 4),
    "mctformer_seg": settings(4, 3, 83, 5, 3),
}
"""Settings of the authors' code, by name of the paper. ``irn`` is for `unary_from_labels`; ``mctformer_seg`` is for
MCTformer's segmentation network."""


def unary_from_scores(scores: Tensor, clip: float | None = 1e-5, scale: float | None = None) -> Tensor:
    """Return the unary energies ``-log p`` of scores.

    Args:
        scores: ``(..., L, H, W)`` in [0, 1], which need not add up to 1 over the labels. Scores from 1 to 1.25 count as
            1.
        clip: Lower bound in [0, 1] to which scores are raised; None for no bound.
        scale: Factor in (0, 1] of ``p <- scale · p + (1 - scale) / L``, applied first; None to leave scores unchanged.

    Returns:
        Energies of the shape of the scores, float32.

    Raises:
        InputError: The scores have no label, a score is negative, above 1.25 or not finite, or ``clip`` or ``scale`` is
            out of range.
    """
    if scores.ndim < 3 or scores.shape[-3] == 0:
        raise InputError(f"scores of shape {tuple(scores.shape)} have no labels; give (L, H, W) with L of at least 1.")
    if clip is not None and not 0 <= clip <= 1:
        raise InputError(f"clip is {clip}; it must lie between 0 and 1.")
    if scale is not None and not 0 < scale <= 1:
        raise InputError(f"scale is {scale}; it must be above 0 and at most 1.")
    scores = scores.float()
    if not all_within(scores, _MAX_SCORE):
        raise InputError(
            "scores hold negative or non-finite values or values above 1; a dense CRF needs probabilities in [0, 1]."
        )
    if scale is not None:
        scores = scale * scores + (1 - scale) / scores.shape[-3]
    scores = scores.clamp(clip or 0.0, 1.0)
    return -scores.double().log().float()


def unary_from_labels(labels: Tensor, num_labels: int, confidence: float, unknown: bool = False) -> Tensor:
    """Return the unary energies of a label map whose labels are right with the probability ``confidence``.

    Args:
        labels: ``(..., H, W)`` integers in [0, L); in [0, L] with ``unknown``.
        num_labels: Number of labels L, not counting the unknown label.
        confidence: Probability of the given label, in (0, 1); the other labels share the rest.
        unknown: Whether 0 in ``labels`` means an unknown label; label l is then row l - 1 of the result.

    Returns:
        ``(..., L, H, W)`` float32.

    Raises:
        InputError: A label is not an integer or is out of range, or the confidence is out of range.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1.")
    rows = labels.long() - int(unknown)
    if labels.is_floating_point() and not (labels == labels.long()).all():
        raise InputError("labels hold values that are not whole numbers; give the numbers of labels.")
    if num_labels < 1 or (labels.numel() and not (int(rows.min()) >= -int(unknown) and int(rows.max()) < num_labels)):
        raise InputError(
            f"labels of {int(labels.min())} to {int(labels.max())} do not fit {num_labels} labels; correct the number."
        )
    others = (1 - confidence) / max(1, num_labels - 1)
    chosen = torch.nn.functional.one_hot(rows.clamp(min=0), num_labels).movedim(-1, -3)
    probability = torch.where(chosen.bool(), confidence if num_labels > 1 else 1.0, others)
    probability = torch.where(rows.unsqueeze(-3) < 0, 1 / num_labels, probability)
    return -probability.float().log()


# ------------------------------------------------------------------------------------------------------- mean field


class Kernel:
    """A normalised, weighted kernel: sparse matrices that compute the sum over j of the update.

    Args:
        lattice: Lattice of the pixels' features.
        weight: Weight of the kernel, see `Pairwise`.
        normalisation: Normalisation of the kernel, see `Pairwise`.
    """

    def __init__(self, lattice: Lattice, weight: Any = 1.0, normalisation: Normalisation = "symmetric") -> None:
        self.lattice = lattice
        points = len(lattice.slicing.columns)
        device = lattice.slicing.weights.device
        if normalisation == "none":
            before = after = torch.ones(points, device=device)
        else:
            total = lattice.filter(torch.ones(points, 1, device=device))[:, 0] + 1e-20
            before = total.rsqrt() if normalisation == "symmetric" else 1 / total
            after = before
        ones = torch.ones_like(before)
        before = ones if normalisation == "after" else before
        after = (ones if normalisation == "before" else after) * lattice.scale

        compatibility = torch.as_tensor(weight, dtype=torch.float32, device=device)
        self.compatibility: Tensor | None = None  # (L, L); None for the Potts model
        if compatibility.ndim == 0:
            after = after * compatibility
        else:
            matrix = compatibility.diag() if compatibility.ndim == 1 else compatibility
            self.compatibility = -(matrix + matrix.t()) / 2
        splat, cut = lattice.splatting, lattice.slicing
        self.splatting = SparseRows(splat.columns, splat.weights * before[splat.columns.long()], splat.offsets)
        self.slicing = SparseRows(cut.columns, cut.weights * after[:, None])

    def __call__(self, q: Tensor, labels: int) -> Tensor:
        """Return the messages of the probabilities, both ``(N, G·L)``: the columns are G fields of L labels each."""
        message = self.slicing @ self.lattice.blur(self.splatting @ q)
        if self.compatibility is None:
            return message
        if len(self.compatibility) != labels:
            raise InputError(f"the weight of a kernel is for {len(self.compatibility)} labels, but there are {labels}.")
        return (message.view(len(q), -1, labels) @ self.compatibility).flatten(1)


def mean_field(unary: Tensor, kernels: Sequence[Kernel], steps: int = 10) -> Tensor:
    """Do ``steps`` parallel mean-field updates.

    Args:
        unary: ``(G, L, N)`` float32, the energies of G fields over the same N points; an infinite energy excludes a
            label.
        kernels: Kernels that all fields share.
        steps: Number of updates; 0 returns ``softmax(-U)``.

    Returns:
        ``(G, L, N)`` float32, Q.
    """
    groups, labels, points = unary.shape
    q = (-unary).softmax(1)
    columns = unary.new_empty(points, groups * labels)  # layout for the products; the softmax is faster along rows
    for _ in range(steps if kernels else 0):
        columns.copy_(q.view(groups * labels, points).t())
        message = kernels[0](columns, labels)
        for kernel in kernels[1:]:
            message += kernel(columns, labels)
        q = message.t().contiguous().view(groups, labels, points).sub_(unary).softmax(1)
    return q


def free_energy(q: Tensor, unary: Tensor, kernels: Sequence[Kernel]) -> float:
    """Return the quantity that the updates minimise: the Kullback-Leibler divergence up to a constant.

    It is ``sum Q log Q + sum U Q - sum_m sum w_m Q k_m Q``, where each pair counts twice, as in ``pydensecrf``. Shapes
    are the same as in :func:`mean_field`.
    """
    groups, labels, points = q.shape
    columns = q.view(groups * labels, points).t().contiguous()
    energy = (q * q.clamp(min=1e-20).log()).sum() + torch.where(q > 0, unary * q, 0.0).sum()
    for kernel in kernels:
        energy = energy - (columns * kernel(columns, labels)).sum()
    return float(energy)


# ---------------------------------------------------------------------------------------------------------- images


def position_features(sizes: Sequence[tuple[int, int]], sxy: tuple[float, float], device: torch.device) -> Tensor:
    """Return ``(2, N)``: x and y of all pixels, image by image and row by row, divided by ``sxy``.

    Args:
        sizes: Height and width of each image.
        sxy: Standard deviations along x and y, in pixels.
        device: Device of the result.
    """
    places = []
    for height, width in sizes:
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=device),
            torch.arange(width, dtype=torch.float32, device=device),
            indexing="ij",
        )
        places.append(torch.stack([x.flatten() / sxy[0], y.flatten() / sxy[1]]))
    return torch.cat(places, 1)


def make_kernel(images: Sequence[Tensor], pairwise: Pairwise) -> Kernel:
    """Build a kernel for one or more ``(3, H, W)`` RGB images with values of 0-255, see :func:`dense_crf`.

    A kernel without colour depends only on the sizes. It is cached and reused for images of the same sizes.

    Raises:
        InputError: An image holds values that are not integers of 0-255, or a standard deviation is too small.
    """
    images = [_eight_bit(image, i) for i, image in enumerate(images)]
    sizes = tuple((int(x.shape[1]), int(x.shape[2])) for x in images)
    device = images[0].device
    if pairwise.srgb is None:
        return _position_kernel(sizes, pairwise, device)
    lattice = Lattice(_features(images, pairwise), _batch(sizes, device), _names(pairwise))
    return Kernel(lattice, pairwise.weight, pairwise.normalisation)


def _features(images: Sequence[Tensor], pairwise: Pairwise) -> Tensor:
    """Return the ``(d, N)`` features of a kernel, positions and perhaps colours, in standard deviations."""
    sizes = [(int(x.shape[1]), int(x.shape[2])) for x in images]
    features = position_features(sizes, pairwise.sxy, images[0].device)
    if pairwise.srgb is None:
        return features
    deviations = torch.tensor(pairwise.srgb, device=features.device)[:, None]
    return torch.cat([features, torch.cat([x.float().flatten(1) for x in images], 1) / deviations])


def _names(pairwise: Pairwise) -> list[str]:
    return [*(f"sxy {s:g}" for s in pairwise.sxy), *(f"srgb {s:g}" for s in pairwise.srgb or ())]


@lru_cache(maxsize=8)
def _position_kernel(sizes: tuple[tuple[int, int], ...], pairwise: Pairwise, device: torch.device) -> Kernel:
    with torch.inference_mode(False), torch.no_grad():  # cached tensors are also used in training
        lattice = Lattice(position_features(sizes, pairwise.sxy, device), _batch(sizes, device), _names(pairwise))
        return Kernel(lattice, pairwise.weight, pairwise.normalisation)


def _batch(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor | None:
    if len(sizes) == 1:
        return None
    counts = torch.tensor([h * w for h, w in sizes], device=device)
    return torch.arange(len(sizes), device=device).repeat_interleave(counts)


def dense_crf(
    images: Sequence[Tensor],
    unaries: Sequence[Tensor],
    preset: str | CRFSettings = "psa",
    backend: Backend = "auto",
) -> list[Tensor]:
    """Infer the label probabilities of images.

    Args:
        images: ``(3, H, W)`` uint8 RGB images of any sizes, all on one device. Other types are accepted if all values
            are integers of 0-255. Floats must have a value above 1, because otherwise they may be scaled to 0-1.
        unaries: ``(L, H, W)`` float32 energies for each image, on the device of the image; or ``(G, L, H, W)`` for G
            fields over the same image, which cost little more than one field. L may differ between images. An energy
            may be infinite, but not the energies of all labels of a pixel.
        preset: Name in `PRESETS`, or settings.
        backend: ``torch``, ``numba``, ``pydensecrf``, or ``auto`` for the fastest one: ``numba`` on a CPU where it is
            installed, otherwise ``torch``. All backends accept and refuse the same input. ``numba`` and ``pydensecrf``
            compute on the CPU; ``numba`` compiles its code at the first call ever, which takes some seconds.

    Returns:
        Probabilities for each image, of the shape of its unary, float32, on the device of the image.

    Raises:
        InputError: Sizes or devices do not fit, an image has values outside 0-255, an energy is NaN, a setting is
            unusable, or ``numba`` or ``pydensecrf`` is not installed.

    Example:
        >>> import torch
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> image[:, :, 4:] = 200
        >>> scores = torch.full((2, 8, 8), 0.5)
        >>> scores[0, :, 0], scores[1, :, 0] = 0.9, 0.1  # the left edge is background,
        >>> scores[0, :, 7], scores[1, :, 7] = 0.1, 0.9  # the right edge is the object
        >>> [q] = dense_crf([image], [unary_from_scores(scores)])
        >>> q.argmax(0)[0].tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """
    field = check(preset, backend)
    if len(images) != len(unaries):
        raise InputError(f"there are {len(images)} images but {len(unaries)} unaries; give one for each image.")
    images = [_eight_bit(image, i) for i, image in enumerate(images)]
    grouped = []
    for i, (image, unary) in enumerate(zip(images, unaries, strict=True)):
        if image.device != images[0].device:
            raise InputError(f"image {i} is on {image.device} but image 0 on {images[0].device}; use one device.")
        grouped.append(_energies(unary, image, field, i))
    if backend == "auto":
        on_cpu = bool(images) and images[0].device.type == "cpu"
        backend = "numba" if on_cpu and not _why_not_compiled() else "torch"
    if backend == "numba":
        results = [_solve_numba(image, unary, field) for image, unary in zip(images, grouped, strict=True)]
    elif backend == "pydensecrf":
        results = [_solve_pydensecrf(image, unary, field) for image, unary in zip(images, grouped, strict=True)]
    else:
        results = _solve_torch(images, grouped, field)
    return [q.view_as(unary) for q, unary in zip(results, unaries, strict=True)]


def check(preset: str | CRFSettings, backend: Backend = "auto") -> CRFSettings:
    """Return the settings of a preset. Raise InputError if the settings or the backend cannot be used."""
    if backend not in get_args(Backend):
        raise InputError(f"CRF backend {backend!r} is unknown; choose auto, torch, numba or pydensecrf.")
    if backend == "numba" and (reason := _why_not_compiled()):
        raise InputError(f'{reason}; use the backend "torch", which computes the same, or pip install numba.')
    if backend == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise InputError(
            'pydensecrf is not installed; use the backend "torch", which computes the same, or pip install pydensecrf2.'
        )
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise InputError(f"CRF preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        return PRESETS[preset]
    for kernel in preset.kernels:
        if kernel.normalisation not in get_args(Normalisation):
            names = ", ".join(get_args(Normalisation))
            raise InputError(f"normalisation {kernel.normalisation!r} is unknown; choose one of {names}.")
        if not all(s > 0 for s in (*kernel.sxy, *(kernel.srgb or ()))):
            raise InputError(f"sxy {kernel.sxy} and srgb {kernel.srgb} must be above 0.")
        _check_weight(kernel.weight)
    if preset.steps < 0:
        raise InputError(f"steps is {preset.steps}; it must be at least 0.")
    return preset


def _compiled_crf() -> Any:
    """Return the module that needs Numba; it is loaded when it is first used, because loading takes half a second."""
    return importlib.import_module("wsss_lib.ops.compiled_crf")


def _why_not_compiled() -> str:
    """Return why the backend ``numba`` cannot be used; "" if it can."""
    return "numba is not installed" if importlib.util.find_spec("numba") is None else _failure_of_numba()


@cache
def _failure_of_numba() -> str:
    try:
        _compiled_crf()
    except (ImportError, OSError) as error:  # a NumPy that is newer than Numba allows; LLVM that does not load
        return f"numba cannot be used ({str(error).rstrip('.')})"
    return ""


def _check_weight(weight: object) -> None:
    try:
        values = np.asarray(weight, np.float32)
    except (TypeError, ValueError):  # rows of different lengths, or values that are not numbers
        values = np.full(1, np.nan)
    if not np.isfinite(values).all() or (values.ndim == 2 and values.shape[0] != values.shape[1]) or values.ndim > 2:
        raise InputError(f"weight {weight} of a kernel must be a number, one for each label, or a square matrix.")


def _eight_bit(image: Tensor, index: int) -> Tensor:
    """Return an image as uint8. Raise InputError if its values may not be grey levels of 0-255."""
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise InputError(f"image {index} has the shape {tuple(image.shape)}; a dense CRF needs (3, H, W) RGB.")
    if image.dtype == torch.uint8:
        return image
    whole = not image.is_complex() and bool((image == image.to(torch.uint8)).all())
    if not whole or image.dtype == torch.bool or (image.is_floating_point() and not image.max() > 1):
        raise InputError(
            f"image {index} has {image.dtype} values that may not be grey levels of 0-255; give the image as uint8, "
            "neither scaled to 0-1 nor normalised."
        )
    return image.to(torch.uint8)


def _energies(unary: Tensor, image: Tensor, field: CRFSettings, index: int) -> Tensor:
    """Return a unary as ``(G, L, H, W)`` float32. Raise InputError if it does not fit the image and the field."""
    if unary.ndim not in (3, 4) or unary.shape[-2:] != image.shape[-2:] or unary.shape[-3] == 0:
        raise InputError(
            f"the unary of image {index} has the shape {tuple(unary.shape)}, which does not fit {tuple(image.shape)}; "
            "give (L, H, W) or (G, L, H, W) with at least one label."
        )
    if not unary.is_floating_point():
        raise InputError(f"the unary of image {index} has {unary.dtype} values; give energies as float32.")
    if unary.device != image.device:
        raise InputError(f"the unary of image {index} is on {unary.device} but the image on {image.device}; use one.")
    energies = unary.detach().float()
    if not torch.isfinite(energies.amin(-3)).all():  # a label may have an infinite energy, but not all of them
        raise InputError(
            f"the unary of image {index} holds NaN or excludes all labels of a pixel; give finite energies."
        )
    for kernel in field.kernels:
        size = np.shape(kernel.weight)
        if size and size[0] != unary.shape[-3]:
            raise InputError(
                f"the weight of a kernel is for {size[0]} labels, but the unary of image {index} has "
                f"{unary.shape[-3]}; give one weight for each label."
            )
    return energies if unary.ndim == 4 else energies[None]


@torch.no_grad()
def _solve_torch(images: Sequence[Tensor], unaries: Sequence[Tensor], field: CRFSettings) -> list[Tensor]:
    results: list[Tensor] = []
    start = 0
    # Images with different numbers of labels are solved together only if no weight depends on the label.
    joint = all(isinstance(kernel.weight, float | int) for kernel in field.kernels)
    with torch.autocast(images[0].device.type if images else "cpu", enabled=False):
        while start < len(images):
            stop = start + (_batch_length(images[start:]) if joint else 1)
            results += _solve_batch(images[start:stop], unaries[start:stop], field)
            start = stop
    return results


def _batch_length(images: Sequence[Tensor]) -> int:
    """Return the number of images, from the first, that are solved at once."""
    left = PIXELS_PER_BATCH.get(images[0].device.type, PIXELS_PER_BATCH["cuda"])
    count = 0
    for image in images:
        left -= image[0].numel()
        if left < 0:
            break
        count += 1
    return max(1, count)


def _solve_batch(images: Sequence[Tensor], unaries: Sequence[Tensor], field: CRFSettings) -> list[Tensor]:
    groups, labels = (max(u.shape[i] for u in unaries) for i in (0, 1))
    counts = [image[0].numel() for image in images]
    batch = unaries[0].new_full((groups, labels, sum(counts)), torch.inf)  # infinite for labels that an image lacks
    batch[:, 0] = 0.0
    for part, unary in zip(batch.split(counts, dim=2), unaries, strict=True):
        part[: unary.shape[0], : unary.shape[1]] = unary.flatten(2)
    q = mean_field(batch, [make_kernel(images, kernel) for kernel in field.kernels], field.steps)
    return [
        part[: unary.shape[0], : unary.shape[1]].reshape(unary.shape)
        for part, unary in zip(q.split(counts, dim=2), unaries, strict=True)
    ]


def _solve_numba(image: Tensor, unary: Tensor, field: CRFSettings) -> Tensor:
    kernels = make_compiled_kernels(image.cpu(), field)
    return _compiled_crf().mean_field(unary.flatten(2).cpu(), kernels, field.steps).view(unary.shape).to(unary.device)


def make_compiled_kernels(image: Tensor, field: CRFSettings) -> list[Any]:
    """Build the kernels of the backend ``numba`` for one ``(3, H, W)`` uint8 image on the CPU.

    The lattice of a kernel without colour is cached and reused for images of the same size.

    Returns:
        A `wsss_lib.ops.compiled_crf.CompiledKernel` for each kernel of the field.

    Raises:
        InputError: A standard deviation is too small.
    """
    compiled_crf = _compiled_crf()
    kernels = []
    for pairwise in field.kernels:
        if pairwise.srgb is None:
            lattice = _compiled_positions(int(image.shape[1]), int(image.shape[2]), pairwise.sxy)
        else:
            lattice = compiled_crf.build(_checked_features(image, pairwise))
        kernels.append(compiled_crf.make_kernel(lattice, pairwise.weight, pairwise.normalisation))
    return kernels


@lru_cache(maxsize=8)
def _compiled_positions(height: int, width: int, sxy: tuple[float, float]) -> Any:
    """Return the `wsss_lib.ops.compiled_crf.CompiledLattice` of the positions in an image."""
    image = torch.empty(3, height, width, dtype=torch.uint8)
    return _compiled_crf().build(_checked_features(image, Pairwise(sxy, None, 1.0)))


def _checked_features(image: Tensor, pairwise: Pairwise) -> Tensor:
    features = _features([image], pairwise)
    check_features(features, _names(pairwise))
    return features


def _solve_pydensecrf(image: Tensor, unary: Tensor, field: CRFSettings) -> Tensor:
    from pydensecrf import densecrf

    normalisations = {
        "symmetric": densecrf.NORMALIZE_SYMMETRIC,
        "before": densecrf.NORMALIZE_BEFORE,
        "after": densecrf.NORMALIZE_AFTER,
        "none": densecrf.NO_NORMALIZATION,
    }
    labels, height, width = unary.shape[1:]
    for kernel in field.kernels:
        _checked_features(image, kernel)  # the C++ code does not report too many cells
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    results = []
    for energies in unary.cpu().numpy():
        crf = densecrf.DenseCRF2D(width, height, labels)
        crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(labels, -1)))
        for kernel in field.kernels:
            weight = np.asarray(kernel.weight, np.float32)
            mode = {
                "compat": weight if weight.ndim else float(weight),
                "normalization": normalisations[kernel.normalisation],
            }
            if kernel.srgb is None:
                crf.addPairwiseGaussian(sxy=kernel.sxy, **mode)
            else:
                crf.addPairwiseBilateral(sxy=kernel.sxy, srgb=kernel.srgb, rgbim=pixels, **mode)
        results.append(torch.from_numpy(np.array(crf.inference(field.steps), dtype=np.float32)))
    return torch.stack(results).view(unary.shape).to(unary.device)
