"""The report of a run: one page that needs nothing besides itself, for every kind of run and at every stage."""

import html
import json
import re
import shutil
import sys

import pytest

from tests.data import trees
from tests.runs.small import open_run, sentence_of, silent, tiny_config
from tests.use.models import final_run
from wsss_lib.data import files
from wsss_lib.runs import report as run_report
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.settings import Settings
from wsss_lib.runs.with_classifier import WithClassifierRun
from wsss_lib.use.chains import open_method, read_words, run_method
from wsss_lib.use.page import plain
from wsss_lib.use.report import write_report

QUICK = ["preset=toy", "limit=4", "epochs=1", "batch_size=2", "workers=0", "accelerator=cpu"]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(path):
    """Return the page, and what it shows as plain text."""
    page = path.read_text("utf-8")
    refuse_loading(page)
    body = page.partition("<body>")[2]
    return page, " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r'src="data:[^"]*"', "", body))).split())


def refuse_loading(page):
    """The page must hold everything: no script, no address but those of the pictures inside."""
    assert "<script" not in page
    assert "<iframe" not in page
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,40})""", page)
    assert [s for s in sources if not s.startswith(("data:image/", "data:,"))] == []
    assert "url(" not in page
    assert "@import" not in page


def pictures_in(page):
    return len(re.findall(r'<img[^>]*src="data:image/', page))


def test_a_finished_run(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=2), limit=4)
    run_method(run)
    path = write_report(run.folder)
    assert path == run.folder / "report.html"
    page, text = read(path)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    for split in ("train", "val"):
        for row in metrics["cams"][split].values():
            assert f"CAM seed at {row['threshold']:.2f} {100 * row['mean_iou']:.1f}" in text
    for name, row in metrics["refinements"]["val"].items():
        assert name == "cam" or f"{name.replace('crf-', 'CRF, alpha ')} {100 * row['mean_iou']:.1f}" in text
    for words in (
        "Epochs: 2 of 2",
        "best on the masks of train",
        "an upper bound",
        "batch_size is lowered from 8 to 4",
        "epochs 2 16",  # and what the preset has
        "Best",
        "Median",
        "What the numbers do not say",
        "Only the first 4 images",
        "inference val",
        f"Peak memory: {metrics['peak_memory_mib']:,} MiB",
    ):
        assert words in text, words
    for name in run.splits.classes:
        assert name in text
    assert "is not finished" not in text
    assert all(image_id in page for image_id in run.data("val").ids)  # of so few all are shown
    assert pictures_in(page) >= 6
    assert len(re.findall("<img", page)) == len(re.findall(r"<img[^>]*\salt=\"[^\"]{10,}", page))


def test_the_pictures_are_in_the_order_of_their_scores(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=8)
    run_method(run)
    page, text = read(write_report(run))
    best, median, worst = (part.split(", ") for part in re.findall(r'alt="Images ([^"]*), each with', page))
    store, data = run.masks(best_on_train(run), "val"), run.data("val")
    scores = {image_id: mean_iou(store, data, image_id) for image_id in data.ids}
    ordered = sorted(scores.values())
    assert [scores[image_id] for image_id in best] == pytest.approx(ordered[:-4:-1])
    assert [scores[image_id] for image_id in median] == pytest.approx(ordered[2:5])
    assert [scores[image_id] for image_id in worst] == pytest.approx(ordered[:2])  # the third is shown already
    assert "8 images were ranked" in text


def best_on_train(run):
    rows = json.loads((run.folder / "metrics.json").read_text())["refinements"]["train"]
    return max((name for name in rows if name.startswith("crf")), key=lambda name: rows[name]["mean_iou"])


def mean_iou(store, data, image_id):
    """Of the classes that the mask or the truth shows."""
    found, truth = store.read(image_id, 6).numpy(), data.mask(data.ids.index(image_id))
    shares = []
    for k in range(7):
        one, other = (found == k) & (truth != 255), truth == k
        if (one | other).any():
            shares.append((one & other).sum() / (one | other).sum())
    return sum(shares) / len(shares)


def test_runs_that_are_not_finished(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=2), limit=4)
    _, text = read(write_report(run))
    assert "cam: 0 of 2 epochs of training are done." in text
    assert "nothing is scored yet" in text
    assert "No epoch is finished yet." in text
    assert "There are no maps and no masks yet." in text
    assert "no result is scored yet" in text
    run.train(silent)
    store = run.infer("val")
    _, text = read(write_report(run))
    assert "epochs of training are done" not in text
    assert "nothing is scored yet" in text
    assert "CAM seed at 0.20" in text  # the pictures have an order even so
    store.path(run.data("val").ids[0]).unlink()
    _, text = read(write_report(run))
    assert "3 with a mask were ranked" in text
    for image_id in run.data("val").ids:
        store.path(image_id).unlink(missing_ok=True)
    assert "No image of val has all its maps and masks yet." in read(write_report(run))[1]


def test_a_run_without_any_masks_and_with_odd_names(tmp_path):
    """Names are shown letter by letter, whatever they mean in HTML or in Markdown."""
    trees.folder_tree(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "masks")
    table = tmp_path / "data" / "labels.csv"
    table.write_text(table.read_text().replace("sofa; cat", "sofa; <script>alert(1)</script> *x* $y$"))
    (tmp_path / "data" / "classes.txt").write_text("sofa\n<script>alert(1)</script> *x* $y$\n")
    run = CamRun(
        Settings(
            "00_cam",
            "cam",
            "photos",
            tiny_config(epochs=1, pretrained=False),
            tmp_path / "run",
            data_root=tmp_path / "data",
            accelerator="cpu",
            workers=0,
        )
    )
    run_method(run)
    page, text = read(write_report(run))
    assert "<script>alert(1)</script> *x* $y$" in text
    assert "There are no scores: the data has no masks." in text
    assert "so the first images are shown" in text
    assert "Without masks the result cannot be scored" in text
    assert pictures_in(page) >= 3


def test_a_final_network_and_the_run_that_has_it(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    run_method(run)
    final = final_run(tmp_path / "final")
    _, text = read(write_report(final.folder))
    assert "segmentation: 0 of 1 epochs" in text
    results = final.complete(silent)
    _, text = read(write_report(final.folder))
    assert f"network, then CRF {100 * results['val']['segmentation-crf']['mean_iou']:.1f}" in text
    assert "Only the final network works without labels" not in text  # it is this one
    shutil.copytree(final.folder, run.folder / "segmentation" / "crf-4")
    _, text = read(write_report(run.folder))
    assert f"final network {100 * results['val']['segmentation']['mean_iou']:.1f}" in text
    assert "final network crf-4" in text
    assert "ordered by the mean IoU of “final network”" in text


@pytest.mark.slow
@pytest.mark.parametrize("method", ["affinitynet", "oc_cse", "acr", "pcss", "msal"])
def test_every_method(method, tmp_path, monkeypatch):
    monkeypatch.setattr(WithClassifierRun, "check_ordinary", lambda _: (1.0, 0.0))  # of four images it learns little
    run = open_method(read_words([*QUICK, "out=run"], method), with_final=False)
    _, text = read(write_report(run.folder))
    assert f"{method}: 0 of 1 epochs" in text
    run_method(run)
    page, text = read(write_report(run.folder))
    assert "is not finished" not in text
    assert "There are no scores" not in text
    assert pictures_in(page) >= 6
    subruns = [path.parent for path in run.folder.glob("*/config.json")]
    for folder in subruns:
        reopen(folder, guest=True)
        assert "Training" in read(write_report(folder, tmp_path / "other.html"))[1]


def test_what_a_notebook_measured_besides_is_shown(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    run.train(silent)
    rows = {"no erasing": {"val": 0.25, "covered": None}, "all": {"val": 0.5}}
    run_report.write_metrics(run, {}, {}, comparison=rows, note="not a table", broken={"a": [1]})
    _, text = read(write_report(run))
    assert "comparison val covered no erasing 0.25 – all 0.5 –" in text


def test_files_that_are_refused(tmp_path, monkeypatch):
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    assert "must end with .html" in sentence_of(lambda: write_report(run, tmp_path / "report.pdf"))
    (tmp_path / "mine.html").write_text("<p>mine")
    assert "is not a report of wsss_lib" in sentence_of(lambda: write_report(run, tmp_path / "mine.html"))
    assert (tmp_path / "mine.html").read_text() == "<p>mine"
    (tmp_path / "folder.html").mkdir()
    assert "is a folder" in sentence_of(lambda: write_report(run, tmp_path / "folder.html"))
    assert "nowhere is not a folder" in sentence_of(lambda: write_report("nowhere"))
    for name in ("nbconvert", "nbformat"):
        monkeypatch.setitem(sys.modules, name, None)
        said = sentence_of(lambda: write_report(run, tmp_path / "new.html"))
        assert f"the package {name} is missing" in said
        assert "pip install 'wsss-lib[course]'" in said
    assert not (tmp_path / "new.html").exists()


def test_a_report_goes_when_its_run_does(tmp_path):
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    path = write_report(run)
    write_report(run)  # a report takes the place of an earlier one
    open_run(tmp_path / "run", tiny_config(epochs=2), limit=4, resume=False)
    assert not path.exists()


def test_plain_text_stays_plain():
    assert plain("#1 a_b <c>\n[d](e) 2*3") == r"\#1 a\_b &lt;c&gt; \[d\]\(e\) 2\*3"


def test_a_full_disk(tmp_path, monkeypatch):
    run = open_run(tmp_path / "run", tiny_config(epochs=1), limit=4)
    write_report(run, tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert "No space left on device" in sentence_of(lambda: write_report(run, tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".tmp-*"))
