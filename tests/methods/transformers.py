"""Networks and images of the golden vectors of PCSS and MCTformer."""

import numpy as np
import torch

from tests import recipe
from wsss_lib.models.backbone import Normalisation


def filled(network, shapes, name):
    """Give a network the made-up checkpoint ``name``, as the authors' files have it."""
    state = {k: torch.from_numpy(v) for k, v in recipe.fill(recipe.shapes(f"pcss/{shapes}"), name).items()}
    network.load_state_dict({network.official_key(k): v for k, v in state.items() if k in used_keys(network, state)})
    return network.eval()


def used_keys(network, state):
    """MCTformer+'s files also hold positions that it does not use."""
    separate = hasattr(network.backbone, "pos_embed_pat")
    return [key for key in state if not (separate and key == "pos_embed")]


def images(names, height, width):
    """Normalised images ``(B, 3, height, width)``: smooth fields with noise."""
    normalisation = Normalisation()
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (normalisation.mean, normalisation.std))
    fields = [
        recipe.smooth(name, (3, height, width), cells=6).astype(np.float64)
        + recipe.array(f"{name}/noise", (3, height, width), 0.05)
        for name in names
    ]
    return torch.from_numpy(np.stack([((x - mean) / std).astype(np.float32) for x in fields]))


def labels(name, count, drawn, classes=20):
    """Labels ``(count, classes)`` with up to ``drawn`` ones in a row."""
    result = torch.zeros(count, classes)
    for row, columns in zip(result, recipe.integers(name, (count, drawn), 0, classes), strict=True):
        row[torch.from_numpy(columns)] = 1
    return result
