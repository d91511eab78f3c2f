"""Seeds scored against masks, and the report on them."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.trees import save_image, save_mask, write
from tests.runs.small import Pictures, open_run, sentence_of, tiny_config
from wsss_lib.data.splits import Splits
from wsss_lib.errors import InputError
from wsss_lib.ops.cam import cam_label
from wsss_lib.ops.metrics import confusion_matrix, intersection_over_union
from wsss_lib.runs.report import (
    FIXED_THRESHOLD,
    cam_summaries,
    choose_threshold,
    describe,
    doubts,
    ranking_summary,
    refinement_table,
    write_metrics,
)
from wsss_lib.stages.evaluate import THRESHOLDS, CamScores, ahead, lowest, score_cams
from wsss_lib.stages.store import CamStore, read_json

SIZES = [(20, 24), (18, 18), (20, 24)]
LABELS = [[1, 0], [1, 1], [0, 0]]


@pytest.fixture
def pictures():
    return Pictures(SIZES, LABELS)


def filled_store(folder, data):
    """Random maps with many values that equal a threshold."""
    store = CamStore(folder)
    for index, image_id in enumerate(data.ids):
        classes = data.labels[index].nonzero().flatten()
        store.write(image_id, classes, (torch.rand(len(classes), *data.size(index)) * 16).round() / 16)
    return store


def slow_scores(store, data, thresholds):
    """One seed and one confusion matrix per image and threshold."""
    total = torch.zeros(len(thresholds), len(data.classes) + 1, len(data.classes) + 1, dtype=torch.int64)
    for index, image_id in enumerate(data.ids):
        classes, cams = store.read(image_id)
        truth = torch.from_numpy(data.mask(index))
        for row, threshold in zip(total, thresholds, strict=True):
            row += confusion_matrix(truth, cam_label(cams, classes, threshold), len(row))
    return total


def scores(*diagonals):
    """Scores at two thresholds of background and one class, with these numbers of right pixels of 10 each."""
    matrices = [[[b, 10 - b], [10 - c, c]] for b, c in diagonals]
    return CamScores(("background", "cat"), (0.2, 0.5), torch.tensor(matrices))


def test_one_pass_counts_what_one_seed_per_threshold_counts(tmp_path, pictures):
    store = filled_store(tmp_path, pictures)
    result = score_cams(store, pictures)
    expected = slow_scores(store, pictures, THRESHOLDS)
    assert torch.equal(result.confusions, expected)
    torch.testing.assert_close(result.iou, intersection_over_union(expected), equal_nan=True)
    assert result.classes == ("background", "class0", "class1")
    assert result.best == int(np.nanmean(result.iou.numpy(), 1).argmax())


def test_ignored_pixels_do_not_count(tmp_path, pictures):
    counted = sum((pictures.mask(index) != 255).sum() for index in range(len(pictures)))
    result = score_cams(filled_store(tmp_path, pictures), pictures, (0.1, 0.3))
    assert result.confusions.sum((1, 2)).tolist() == [counted] * 2


def test_missing_damaged_and_other_maps_are_named(tmp_path, pictures):
    store = filled_store(tmp_path, pictures)
    path = store.path(pictures.ids[1])
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match=r"picture1\.npz is missing; run the inference first"):
        score_cams(store, pictures)
    path.write_bytes(content[:-40])
    with pytest.raises(InputError, match=r"picture1\.npz is damaged; remove it"):
        score_cams(store, pictures)
    store.write(pictures.ids[1], torch.tensor([0]), torch.zeros(1, 18, 19))
    with pytest.raises(InputError, match=r"picture1\.npz is \(18, 19\) pixels but the image is \(18, 18\); remove it"):
        score_cams(store, pictures)
    store.write(pictures.ids[1], torch.tensor([2]), torch.zeros(1, 18, 18))
    with pytest.raises(InputError, match=r"picture1\.npz has maps of the classes \[2\] but the labels are"):
        score_cams(store, pictures)


def test_positions_of_thresholds(tmp_path, pictures):
    result = score_cams(filled_store(tmp_path, pictures), pictures)
    assert [result.position(t) for t in (0, 0.2, 0.29, 0.99)] == [0, 20, 29, 99]
    with pytest.raises(InputError, match=r"threshold 0\.205 is not one of the sweep"):
        result.position(0.205)


def test_summary_at_one_threshold():
    summary = scores((8, 5), (0, 10)).summary(0, "by hand")
    assert (summary["threshold"], summary["threshold_chosen"]) == (0.2, "by hand")
    assert summary["classes"]["background"]["iou"] == pytest.approx(8 / 15)
    assert summary["classes"]["cat"] == pytest.approx({"iou": 5 / 12, "precision": 5 / 7, "recall": 0.5})
    assert summary["mean_iou"] == pytest.approx((8 / 15 + 5 / 12) / 2)
    assert summary["mean_recall"] == pytest.approx(0.65)


def test_nothing_is_chosen_on_the_split_that_is_reported_last():
    summaries = cam_summaries({"train": scores((9, 9), (5, 5)), "val": scores((5, 5), (9, 9))})
    thresholds = {split: {k: v["threshold"] for k, v in rows.items()} for split, rows in summaries.items()}
    assert FIXED_THRESHOLD == 0.2
    assert thresholds["train"] == {"fixed": 0.2, "swept": 0.2, "oracle": 0.2}
    assert thresholds["val"] == {"fixed": 0.2, "swept": 0.2, "oracle": 0.5}
    assert {k: v["threshold_chosen"] for k, v in summaries["val"].items()} == {
        "fixed": "fixed",
        "swept": "best on train",
        "oracle": "best on val",
    }


def test_ranking():
    summary = ranking_summary(torch.tensor([[2.0, 1], [1, 2], [0, 3]]), torch.tensor([[1, 1], [0, 0], [1, 0]]), "ab")
    assert summary["classes"] == pytest.approx({"a": (1 + 2 / 3) / 2, "b": 1 / 3})
    assert summary["mean_average_precision"] == pytest.approx((5 / 6 + 1 / 3) / 2)


def test_metrics_say_how_they_came_about(tmp_path):
    run = open_run(tmp_path, tiny_config(epochs=1), seed=5, limit=8)
    run.train(lambda _: None)
    run.infer("val")
    val = run.score("val")
    metrics = write_metrics(run, {"train": val, "val": val}, {}, part={"share": float("nan")})
    stored = read_json(tmp_path / "metrics.json")
    assert stored.keys() == metrics.keys()
    assert (stored["method"], stored["preset"], stored["seed"], stored["limit"]) == ("cam", "toy", 5, 8)
    assert stored["parameters"] == run.settings.config.to_dict()
    assert stored["versions"].keys() >= {"wsss_lib", "python", "torch", "numpy"}
    assert stored["device"].startswith("CPU")
    assert stored["seconds"].keys() == {"training", "inference val", "scoring val"}
    assert stored["peak_memory_mib"] > 50
    assert stored["data"]["val"]["images"] == 8
    assert stored["part"] == {"share": None}
    cams = stored["cams"]["val"]
    assert cams["oracle"]["mean_iou"] == pytest.approx(float(val.mean_iou[val.best]), rel=1e-12)
    assert cams["fixed"]["threshold"] == 0.2
    assert cams["fixed"]["classes"].keys() == {"background", *run.splits.classes}
    assert write_metrics(run, {}, {})["cams"] == {}


def binary(folder, value):
    """A folder of one's own with one class, whose masks show it with a value; a run on it that has made its maps."""
    rows = ["image,labels,split"]
    for i, split in enumerate(("train", "train", "val")):
        save_image(folder / "images" / f"p{i}.png", (32, 40), seed=i)
        mask = np.zeros((32, 40), np.uint8)
        mask[:16] = value
        save_mask(folder / "masks" / f"p{i}.png", mask)
        rows.append(f"p{i}.png,{'' if i == 1 else 'cat'},{split}")
    write(folder / "labels.csv", "\n".join(rows))
    return folder


def scored_run(root, folder, **changes):
    run = open_run(folder, tiny_config(epochs=1, scales=(1.0,)), preset="photos", data_root=root, **changes)
    run.train(lambda _: None)
    run.infer("val")
    return run


def test_masks_of_0_and_255_are_not_scored(tmp_path):
    root = binary(tmp_path / "data", 255)
    run = scored_run(root, tmp_path / "run")
    says = sentence_of(lambda: run.score("val"))
    assert says.startswith(f"the masks of data val ({root / 'masks'}) cannot be scored: every pixel is background (0)")
    assert 'mask_values, such as "0:0,255:1"' in says
    store = run.masks("one", "val")
    store.write("p2", torch.zeros(32, 40, dtype=torch.uint8))
    assert sentence_of(lambda: run.score_masks({"one": store}, "val")) == says
    meant = scored_run(root, tmp_path / "meant", mask_values="255:1").score("val")
    ones = scored_run(binary(tmp_path / "ones", 1), tmp_path / "same").score("val")
    assert torch.equal(meant.confusions, ones.confusions)
    assert meant.confusions[0].sum(1).tolist() == [640, 640]


def test_masks_that_are_ignored_everywhere_are_not_scored(tmp_path):
    root = binary(tmp_path / "data", 1)
    save_mask(root / "masks" / "p2.png", np.full((32, 40), 255, np.uint8))
    says = sentence_of(lambda: scored_run(root, tmp_path / "run").score("val"))
    assert "cannot be scored: every pixel is ignored (255), none shows a class" in says


def test_images_that_show_no_class_may_have_masks_of_background(tmp_path):
    root = binary(tmp_path / "data", 1)
    write(root / "labels.csv", "image,labels,split\np0.png,cat,train\np1.png,,train\np2.png,,val\n")
    save_mask(root / "masks" / "p2.png", np.zeros((32, 40), np.uint8))
    assert scored_run(root, tmp_path / "run").score("val").confusions[0].tolist() == [[1280, 0], [0, 0]]


def test_doubts_stand_beside_the_numbers(tmp_path):
    root = binary(tmp_path / "data", 1)
    write(root / "labels.csv", "image,labels,split\np0.png,cat,train\np1.png,dog,train\np2.png,cat;dog,val\n")
    save_image(root / "images" / "p3.png", (32, 40), seed=9)
    with (root / "labels.csv").open("a") as file:
        file.write("p3.png,emu,val\n")
    save_mask(root / "masks" / "p3.png", np.zeros((32, 40), np.uint8))
    run = scored_run(root, tmp_path / "run", limit=0)
    expected = [
        "No training image shows 'emu'.",
        "Images of val show 'emu', which no training image shows.",
        "batch_size is lowered from 8 to 2, because the number of training images is 2.",
    ]
    notes = [line for line in describe(run).splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {line}" for line in expected]
    val = run.score("val")
    doubts = write_metrics(run, {"train": val, "val": val}, {})["doubts"]
    assert doubts[:3] == expected
    assert doubts[-1] == "Labels of val name 'dog', 'emu', but no mask of val shows a pixel of it."
    assert read_json(tmp_path / "run" / "metrics.json")["doubts"] == doubts


def test_few_results_wait_for_their_turn():
    """A sum over a data set must not hold what was counted in all its images at once."""
    begun = []
    items = (begun.append(i) or i for i in range(100))
    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, lambda i: i * i, items, count=8)
        for i in range(100):
            assert next(results) == i * i
            assert len(begun) <= i + 8
        assert next(results, None) is None


def test_an_error_of_the_pool_comes_out_in_turn():
    def divide(i):
        return 6 // i

    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, divide, [3, 2, 0, 1])
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)


def scores_of(*rows):
    """Scores of one class at the thresholds 0.1, 0.2, 0.3, of 100 pixels, of which so many are right."""
    confusions = torch.tensor([[[right, 100 - right], [0, 0]] for right in rows])
    return CamScores(("background", "a"), (0.1, 0.2, 0.3), confusions)


def test_the_threshold_is_the_best_on_train_or_the_fixed_one():
    val, nothing = scores_of(10, 20, 90), CamScores(("background", "a"), (0.1, 0.2, 0.3), torch.zeros(3, 2, 2).long())
    assert choose_threshold({"train": scores_of(50, 20, 30), "val": val}) == (0.1, "best on train")
    for scores in ({"val": val}, {"train": nothing, "val": val}, {}):
        assert choose_threshold(scores) == (FIXED_THRESHOLD, "fixed")
    [summary] = cam_summaries({"val": val}).values()
    assert (summary["swept"]["threshold"], summary["swept"]["threshold_chosen"]) == (FIXED_THRESHOLD, "fixed")
    assert summary["oracle"]["threshold"] == 0.3
    assert cam_summaries({}) == {}


def test_the_lowest_leave_out_what_cannot_be_scored():
    scores = torch.tensor([0.5, float("nan"), 0.1, 0.3, float("nan")])
    assert lowest(scores, 2) == [2, 3]
    assert lowest(scores, 9) == [2, 3, 0]
    assert lowest(scores[1:2], 4) == []


class HalfMasked(Pictures):
    """Of which only the first image has a mask."""

    def has_mask(self, index):
        return self.has_masks and index == 0


def test_what_must_be_known_about_the_data():
    settings = SimpleNamespace(checkpoint="a file")  # nothing is trained
    known, other = HalfMasked([(4, 6)] * 3, [[1]] * 3), Pictures([(4, 6)] * 2, [[1]] * 2)
    some = "1 of the 3 images of val have masks; the others count in no score."
    threshold = "train has no masks; the background threshold is 0.2, not the best on train."

    def found(train, val):
        return set(doubts(SimpleNamespace(settings=settings, splits=Splits(train, {"train": train, "val": val}))))

    assert not found(other, other.head(1)) & {some, threshold}
    assert found(other, known) & {some, threshold} == {some}
    other.has_masks = False
    assert not found(other, other) & {some, threshold}
    assert found(other, known) >= {some, threshold}


def test_a_bar_in_a_cell_does_not_end_it():
    row = {"mean_iou": 0.5, "mean_precision": 0.5, "mean_recall": 0.5}
    assert r"| a\|b | 50.0 |" in refinement_table({"val": {"x": row}}, {"x": "a|b"}, {"x": "crf"}, {"crf val": 1.0})
