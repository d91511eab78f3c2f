"""The counts behind a reliability diagram, against counts by hand."""

import pytest
import torch

from wsss_lib.ops.calibration import calibration_error, reliability


def test_pixels_are_counted_one_by_one():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 9, 11, generator=generator).mul(2).softmax(0)
    truth = torch.randint(0, 5, (9, 11), generator=generator).to(torch.uint8)
    truth[truth == 4] = 255
    wanted = torch.zeros(5, 3, dtype=torch.float64)
    for y in range(9):
        for x in range(11):
            if truth[y, x] != 255:
                confidence, found = scores[:, y, x].max(0)
                row = wanted[min(4, int(float(confidence) // 0.2))]
                row += torch.tensor([1.0, float(confidence), float(found == truth[y, x])])
    counts = reliability(scores, truth, bins=5)
    torch.testing.assert_close(counts, wanted)
    assert counts[:, 0].sum() == (truth != 255).sum() < truth.numel()


def test_full_confidence_is_in_the_last_interval():
    counts = reliability(torch.tensor([[[1.0]], [[0.0]]]), torch.tensor([[0]], dtype=torch.uint8))
    assert counts[-1].tolist() == [1, 1, 1]
    assert counts[:-1].sum() == 0


@pytest.mark.parametrize(("confidence", "right", "error"), [(0.9, 0.9, 0.0), (0.9, 0.5, 0.4), (0.3, 1.0, 0.7)])
def test_the_error_is_the_distance_between_confidence_and_accuracy(confidence, right, error):
    counts = torch.tensor([[0.0, 0.0, 0.0], [50.0, 50 * confidence, 50 * right]])
    assert calibration_error(counts) == pytest.approx(error)


def test_intervals_do_not_make_up_for_each_other():
    """Too bold in one and too timid in the other is wrong twice."""
    counts = torch.tensor([[10.0, 3.0, 5.0], [10.0, 9.0, 7.0]])
    assert calibration_error(counts) == pytest.approx(0.2)


def test_no_pixel_at_all():
    assert calibration_error(torch.zeros(10, 3)) == 0
