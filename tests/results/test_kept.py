"""Scores and differences of committed runs in the lessons are those of the leaderboard's files."""

from dataclasses import replace

import numpy as np
import pytest

from wsss_lib.results.kept import kept_differences, kept_table
from wsss_lib.results.leaderboard import Entry, Seed, write_entry


def picture_counts(right):
    """Return counts of one picture with two classes of 100 pixels each, ``right`` of which are right."""
    return np.array([[[right, 100, 100], [right, 100, 100]]])


def seed(number, right, **stages):
    counts = {"val": {"CAM seed": picture_counts(right), **{k: picture_counts(v) for k, v in stages.items()}}}
    return Seed(number, "0.2.0", "2026-01-01T00:00:00+00:00", "CPU", 1.0, 1.0, 0.2, counts, {}, {})


@pytest.fixture
def board(tmp_path):
    control = Entry("plain", "", "cam", "toy", ("background", "cat"), {"data val": "1"}, {}, "0", (), ())
    control = replace(control, seeds=(seed(0, 50), seed(1, 50)))
    write_entry(control, tmp_path)
    ours = replace(control, name="ours", control="plain", seeds=(seed(0, 60, network=40), seed(1, 70)))
    write_entry(ours, tmp_path)
    return tmp_path


def percent(right):
    return 100 * right / (200 - right)


def test_a_row_for_each_entry_and_a_sentence_about_networks(board):
    mean, spread = (percent(60) + percent(70)) / 2, np.std([percent(60), percent(70)], ddof=1)
    lines = kept_table("ours", "plain", folder=board).splitlines()
    assert lines[0] == "Committed runs, preset `toy`, version 0.2.0, mIoU in % on `val`:"
    assert lines[2] == "| entry | random seeds | CAM seed | network |"
    assert lines[4] == f"| `ours` | 0, 1 | {mean:.1f} ± {spread:.1f} | {percent(40):.1f} (seed 0) |"
    assert lines[5] == f"| `plain` | 0, 1 | {percent(50):.1f} ± 0.0 |  |"
    assert lines[-1] == "No final network was trained for `plain`."


def test_the_difference_in_points(board):
    found = kept_differences("ours", board)
    assert list(found) == ["CAM seed"]
    mean, low, high = found["CAM seed"]
    assert mean == pytest.approx((percent(60) + percent(70)) / 2 - percent(50))
    assert (low, high) == (pytest.approx(percent(60) - percent(50)), pytest.approx(percent(70) - percent(50)))


def test_without_files_it_says_so(tmp_path):
    assert kept_table("ours", folder=tmp_path).startswith("There is no committed run of ours;")
    assert kept_differences("ours", tmp_path) == {}
    assert kept_differences("plain", tmp_path) == {}


def test_no_control_no_difference(board):
    assert kept_differences("plain", board) == {}
