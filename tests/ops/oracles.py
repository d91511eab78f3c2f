"""The same as the operators, but slow, dense and in double precision."""

import torch


def pairs(height, width, radius=5, border="official"):
    """All pairs, one by one: which offset, which "from" pixel of those that there are, and both pixels of the grid."""
    reach = radius - 1
    rows = range(height - reach) if border == "official" else range(height)
    columns = range(reach, width - reach) if border == "official" else range(width)
    offsets = [(dy, dx) for dy in range(radius) for dx in range(-reach, radius) if dy > 0 or dx > 0]
    offsets = [(dy, dx) for dy, dx in offsets if dy**2 + dx**2 < radius**2]
    found = []
    for k, (dy, dx) in enumerate(offsets):
        for place, (y, x) in enumerate((y, x) for y in rows for x in columns):
            if y + dy < height and 0 <= x + dx < width:
                found.append((k, place, y * width + x, (y + dy) * width + x + dx))
    shape = (len(offsets), len(rows) * len(columns))
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 4).unbind(1), shape


def pair_affinities(features, radius=5, border="official"):
    """``exp(-mean_c |f_to - f_from|)`` by gathering; 0 where there is no pair."""
    batch, _, height, width = features.shape
    (offset, place, i, j), shape = pairs(height, width, radius, border)
    flat = features.flatten(2)
    result = flat.new_zeros(batch, *shape)
    result[:, offset, place] = torch.exp(-(flat[:, :, j] - flat[:, :, i]).abs().mean(1))
    return result


def path_affinities(boundaries, radius=5, border="official"):
    """``1 - max`` over the cells less than 1 away from the line between both ends; 0 where there is no pair.

    The cells of a path go from its far end to its near end, in rows where they are equally far; `max` takes the first.
    """
    batch, height, width = boundaries.shape
    (offset, place, i, j), shape = pairs(height, width, radius, border)
    flat, values = boundaries.flatten(1), boundaries.detach().flatten(1).tolist()
    chosen = []
    for one, other in torch.stack([i, j], 1).tolist():
        (y, x), (dy, dx) = divmod(one, width), (other // width - one // width, other % width - one % width)
        box = [(v, u) for v in range(dy + 1) for u in range(min(dx, 0), max(dx, 0) + 1)]
        cells = [(v, u) for v, u in box if abs(dy * u - dx * v) / (dy**2 + dx**2) ** 0.5 < 1 - 1e-9]
        cells.sort(key=lambda c: (-c[0] - abs(c[1]), c))
        places = [(y + v) * width + x + u for v, u in cells]
        chosen.append([max(places, key=lambda at, row=row: row[at]) for row in values])
    result = flat.new_zeros(batch, *shape)
    result[:, offset, place] = 1 - flat.gather(1, torch.tensor(chosen, dtype=torch.int64).view(-1, batch).t())
    return result


def affinity_matrix(affinities, size, radius=5, border="official", missing=0.0):
    """The symmetric ``(h w, h w)`` matrix of ``(P, n)`` affinities, 1 on the diagonal."""
    (offset, place, i, j), shape = pairs(*size, radius, border)
    assert affinities.shape == shape
    result = torch.full((size[0] * size[1],) * 2, missing, dtype=torch.float64)
    result[i, j] = result[j, i] = affinities.cpu().double()[offset, place]
    return result.fill_diagonal_(1.0)


def random_walk(scores, affinities, beta=8.0, steps=256, radius=5, border="official"):
    """``T^t M`` with the dense matrix."""
    matrix = affinity_matrix(affinities, scores.shape[1:], radius, border, missing=torch.nan)
    matrix = torch.where(matrix.isnan(), 0.0, matrix**beta)
    power = torch.linalg.matrix_power(matrix / matrix.sum(1, keepdim=True), steps)
    return (power @ scores.cpu().double().flatten(1).t()).t().reshape(scores.shape)


def gaussian(features, values, deviation=1.0):
    """The mean of ``(N, L)`` values around each point of ``(d, N)`` features, with exact Gaussian weights."""
    points = features.cpu().double().t()
    kernel = torch.exp(-torch.cdist(points, points).square() / (2 * deviation**2))
    return kernel @ values.cpu().double() / kernel.sum(1, keepdim=True)
