"""Limits and choices stand at the field, and hold for every configuration that is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from wsss_lib.errors import InputError
from wsss_lib.methods import cam, irn_cam
from wsss_lib.methods.fields import Kind, Limits, Share, kinds_of
from wsss_lib.methods.method import LongSideConfig


@dataclass(frozen=True)
class MadeUp(LongSideConfig):
    """A configuration that no method has."""

    epochs: int = 7  # declared again, without the limits of its base class
    margin: float = 1.0
    part: Share = 0.5
    radii: Annotated[tuple[float, ...], Limits(1, 9, above=True)] = (2.0, 3.0)
    rule: Literal["mean", "max"] = "mean"


@pytest.mark.parametrize(
    ("limits", "number", "problem"),
    [
        (Limits(), 0, ""),
        (Limits(), -1e-9, "at least 0"),
        (Limits(), math.inf, "at least 0"),
        (Limits(), math.nan, "at least 0"),
        (Limits(0, above=True), 0.0, "above 0"),
        (Limits(0, 1), 1, ""),
        (Limits(0, 1), 1.01, "at most 1"),
        (Limits(-1, 256), -1, ""),
        (Limits(-1, 256), -2, "at least -1"),
    ],
)
def test_limits(limits, number, problem):
    assert limits.problem(number) == problem


def test_kinds_are_read_from_annotations():
    kinds = kinds_of(MadeUp)
    assert kinds["epochs"] == Kind(int, Limits(1))
    assert kinds["margin"] == Kind(float)
    assert kinds["part"] == Kind(float, Limits(0, 1))
    assert kinds["radii"] == Kind(tuple, Limits(1, 9, above=True))
    assert kinds["rule"] == Kind(str, choices=("mean", "max"))
    assert kinds_of(irn_cam.Config)["crop_size"] == kinds_of(cam.Config)["crop_size"] == Kind(int, Limits(32, 4096))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"margin": 2}, ""),
        ({"epochs": 0}, "epochs is 0; it must be at least 1."),
        ({"epochs": True}, "epochs is True; it must be of type int."),
        ({"epochs": 2.0}, "epochs is 2.0; it must be of type int."),
        ({"margin": -0.5}, "margin is -0.5; it must be at least 0."),
        ({"margin": math.nan}, "margin is nan; it must be at least 0."),
        ({"part": 1.5}, "part is 1.5; it must lie in [0, 1]."),
        ({"radii": (1.0, 2.0)}, "radii is (1.0, 2.0); each of its numbers must lie in (1, 9]."),
        ({"radii": ("2",)}, "radii is ('2',); each of its numbers must lie in (1, 9]."),
        ({"radii": [2.0]}, "radii is [2.0]; it must be of type tuple."),
        ({"rule": "median"}, "rule 'median' is unknown; choose one of mean, max."),
        ({"hue_jitter": 0.6}, "hue_jitter is 0.6; it must lie in [0, 0.5]."),
        ({"min_long_side": 600}, "min_long_side is 600, more than max_long_side 512; make it smaller."),
    ],
)
def test_a_configuration_made_in_python_is_checked(changes, message):
    config = MadeUp(**changes)
    if message:
        with pytest.raises(InputError) as caught:
            config.check()
        assert str(caught.value) == message
    else:
        config.check()


def test_a_method_refuses_settings_out_of_range():
    with pytest.raises(InputError, match=r"^dropout is 1.5; it must lie in \[0, 1\]\.$"):
        cam.CAM(cam.Config.preset("toy").replace(dropout=1.5), 3)
