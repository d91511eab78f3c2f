"""What a stage needs to use a method on images: where to compute, how to normalise, how many processes to load with."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_fabric import Fabric

from wsss_lib.data.transforms import Normalise


@dataclass(frozen=True)
class Context:
    """The surroundings in which a method is used.

    Attributes:
        fabric: The engine; with several processes each does its share of the work.
        normalise: Function that turns pixels into the network's input.
        workers: Number of processes that decode and resize images; 0 for none.
    """

    fabric: Fabric
    normalise: Normalise
    workers: int = 0
