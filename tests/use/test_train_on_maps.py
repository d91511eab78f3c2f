"""The walk and the final network from foreign maps, on four small pictures."""

import numpy as np
import pytest
import torch

from tests.data.trees import save_image, save_mask, voc_mask
from tests.runs.small import sentence_of
from wsss_lib import __main__ as command
from wsss_lib.exchange.maps import open_maps
from wsss_lib.models import create_backbone
from wsss_lib.runs.imported import ImportedRun
from wsss_lib.runs.irn import IRNRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.stages.store import read_json
from wsss_lib.use.train_on_maps import Source, make_data, segment_maps, walk_maps

IDS = ("a, one", "b", "c", "d")
CLASSES = ("cat", "dog")
SIZE = (64, 80)
FINAL = ["final.epochs=1", "final.batch_size=2", "final.crop_size=64", "final.scales=1", "accelerator=cpu", "workers=0"]


def maps_of(number):
    """A blurred box of one class, or of both."""
    classes = [[0], [1], [0, 1], [1]][number]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    blobs = [np.exp(-(((y - 20 - 8 * k) / 12) ** 2 + ((x - 25 - 20 * k) / 15) ** 2)) for k in classes]
    return classes, np.stack(blobs).astype(np.float32)


@pytest.fixture
def one(tmp_path, monkeypatch):
    """Maps in the form of psa beside a plain folder of pictures and one of masks; weights that nobody has trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cams").mkdir()
    for number, image_id in enumerate(IDS):
        classes, maps = maps_of(number)
        save_image(tmp_path / "pictures" / f"{image_id}.png", SIZE, seed=number)
        save_mask(tmp_path / "masks" / f"{image_id}.png", voc_mask(SIZE, (10, 10, 40, 50), classes[0] + 1))
        np.save(tmp_path / "cams" / f"{image_id}.npy", dict(zip(classes, maps, strict=True)))
    torch.manual_seed(0)
    torch.save(create_backbone("mobilenet_v2").state_dict(), tmp_path / "net.pth")
    return opened(tmp_path)


def source(folder, maps="cams"):
    return Source(folder / maps, folder / "pictures", folder / "masks", classes=CLASSES)


def opened(folder, maps="cams", **options):
    return open_maps(folder / maps, folder / "pictures", folder / "masks", classes=CLASSES, **options)


def test_a_folder_of_data_is_made_once(one, tmp_path):
    folder = make_data(one, tmp_path / "data")
    assert (folder / "labels.csv").read_text().splitlines() == [
        "image,labels,split",
        '"a, one.png",cat,train',
        "b.png,dog,train",
        "c.png,cat;dog,train",
        "d.png,dog,train",
    ]
    before = (folder / "images" / "b.png").lstat().st_mtime_ns
    make_data(one, folder)
    assert (folder / "images" / "b.png").lstat().st_mtime_ns == before
    (tmp_path / "labels.txt").write_text("b dog\n")
    (tmp_path / "list.txt").write_text("b\n")
    other = opened(tmp_path, ids=tmp_path / "list.txt")
    assert "belongs to other maps or pictures" in sentence_of(lambda: make_data(other, folder))


WALK = ["epochs=1", "batch_size=2", "crop_size=64", "backbone=mobilenet_v2", "weights=net.pth", "accelerator=cpu"]


@pytest.mark.slow
@pytest.mark.usefixtures("one")
def test_maps_walk(tmp_path):
    run = walk_maps(source(tmp_path), tmp_path / "out", [*WALK, "workers=0"])
    maps = reopen(tmp_path / "out" / "maps", guest=True)
    assert isinstance(maps, ImportedRun)
    for index, image_id in enumerate(IDS):
        classes, carried = maps.cams("fit").read(image_id)
        numbers, wanted = maps_of(index)
        assert classes.tolist() == numbers
        torch.testing.assert_close(carried, torch.from_numpy(wanted), atol=1e-5, rtol=0)
    for what in ("walk", "walk-crf"):
        assert all(image_id in run.masks(what, "train") for image_id in IDS)
    scores = read_json(run.folder / "metrics.json")["refinements"]["train"]
    assert set(scores) == {"walk", "walk-crf"}
    checkpoint = (run.folder / "checkpoint.pt").stat().st_mtime_ns
    walk_maps(source(tmp_path), tmp_path / "out", [*WALK, "workers=0"])
    assert (run.folder / "checkpoint.pt").stat().st_mtime_ns == checkpoint
    np.save(tmp_path / "cams" / "b.npy", {1: np.zeros(SIZE, np.float32)})
    assert "holds another run (maps is" in sentence_of(
        lambda: walk_maps(source(tmp_path), tmp_path / "out", [*WALK, "workers=0"])
    )
    assert "it has no network" in sentence_of(lambda: maps.cam(tmp_path / "pictures" / "b.png", ["cat"]))


@pytest.mark.slow
@pytest.mark.usefixtures("one")
def test_maps_walk_by_irn(tmp_path, monkeypatch, capsys):
    """As a user types it, beside a walk by AffinityNet in the same folder; then with a network of the authors."""
    walk_maps(source(tmp_path), tmp_path / "out", [*WALK, "workers=0"])
    made = (tmp_path / "out" / "maps" / "cams" / "train" / "b.npz").stat().st_mtime_ns
    capsys.readouterr()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    words = ["cams", "pictures", "method=irn", *WALK, "canvas=64", "walk_steps=8", "workers=0"]
    options = ["--classes", "classes.txt", "--masks", "masks", "--out", "out"]
    monkeypatch.setattr("sys.argv", ["wsss", "walk", *words, *options])
    assert command.main() == 0
    said = capsys.readouterr().out
    assert "| walk-crf |" in said
    assert f"masks in {tmp_path / 'out' / 'walk-irn' / 'masks'}" in said or "masks in out/walk-irn/masks" in said
    run = reopen(tmp_path / "out" / "walk-irn", guest=True)
    assert isinstance(run, IRNRun)
    assert (tmp_path / "out" / "maps" / "cams" / "train" / "b.npz").stat().st_mtime_ns == made
    assert set(read_json(run.folder / "metrics.json")["refinements"]["train"]) == {"walk", "walk-crf"}
    for what in ("walk", "walk-crf"):
        assert all(image_id in run.masks(what, "train") for image_id in IDS)
    keys = {key: key.replace("backbone.", "resnet50.", 1) for key in run.method.network.state_dict()}
    torch.save({keys[key]: value for key, value in run.method.network.state_dict().items()}, tmp_path / "theirs.pth")
    given = ["method=irn", *WALK[:4], "accelerator=cpu", "canvas=64", "walk_steps=8", "workers=0"]
    other = walk_maps(source(tmp_path), tmp_path / "other", [*given, "checkpoint=theirs.pth"])
    assert not (other.folder / "checkpoint.pt").exists()
    for image_id in IDS:
        assert torch.equal(other.masks("walk", "train").read(image_id, 2), run.masks("walk", "train").read(image_id, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("one")
def test_the_final_network_learns_from_maps(tmp_path):
    words = [*FINAL, "final.backbone=mobilenet_v2", "final.weights=net.pth"]
    run = segment_maps(source(tmp_path), tmp_path / "out", words)
    assert run.is_trained
    assert run.settings.pseudo_masks.parent.name.startswith("crf-")
    assert set(read_json(run.folder / "metrics.json")["masks"]["train"]) == {"segmentation", "segmentation-crf"}


@pytest.mark.slow
@pytest.mark.usefixtures("one")
def test_the_final_network_learns_from_label_maps(tmp_path):
    """As they are, with ignored pixels."""
    for number, image_id in enumerate(IDS):
        save_mask(tmp_path / "labels" / f"{image_id}.png", voc_mask(SIZE, (10, 10, 40, 50), maps_of(number)[0][0] + 1))
    words = [*FINAL, "final.backbone=mobilenet_v2", "final.weights=net.pth"]
    run = segment_maps(source(tmp_path, "labels"), tmp_path / "out", words)
    assert run.settings.pseudo_masks == (tmp_path / "labels").resolve()
    assert run.is_trained


@pytest.mark.slow
@pytest.mark.usefixtures("one")
def test_maps_of_a_folder_in_vocs_layout(tmp_path, capsys):
    """Only pictures that are learned from need maps; the labels are those of the folder, and val is scored."""
    root = tmp_path / "VOC"
    for number, image_id in enumerate(("b", "c", "d", "e")):
        save_image(root / "JPEGImages" / f"{image_id}.jpg", SIZE, seed=number)
        save_mask(root / "SegmentationClass" / f"{image_id}.png", voc_mask(SIZE, (10, 10, 40, 50), 1 + number % 2))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("b\nc\nd\n")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("e\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "image_labels.txt").write_text("b dog\nc cat dog\nd dog\ne cat\n")
    found = Source(tmp_path / "cams", root)
    words = [*FINAL, "final.backbone=mobilenet_v2", "final.weights=net.pth"]
    run = segment_maps(found, tmp_path / "out", words)
    assert "labels as given" in capsys.readouterr().out
    assert set(read_json(run.folder / "metrics.json")["masks"]) == {"train", "val"}
    assert not (tmp_path / "out" / "data").exists()
    walked = walk_maps(found, tmp_path / "out", [*WALK, "workers=0"])
    assert set(read_json(walked.folder / "metrics.json")["refinements"]) == {"train"}
    with_masks = Source(tmp_path / "cams", root, masks=tmp_path / "masks")
    assert "masks is given, but" in sentence_of(lambda: segment_maps(with_masks, tmp_path / "out", words))


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["walk", "epochss=1"], "parameter epochss is unknown; perhaps epochs is meant"),
        (["walk", "out=x"], "parameter out follows from the maps"),
        (["walk", "final.epochs=1"], "a walk trains no final network"),
        (["walk", "method=acr"], "method acr has no random walk; choose one of affinitynet, irn."),
        (["walk", "method=irn", "low_alpha=2"], "parameter low_alpha is unknown"),
        (["segment", "epochs=1"], "parameter epochs cannot be given for a final network"),
        (["segment", "method=acr"], "cannot be given for a final network"),
        (["segment", "final.epochs=0.5"], "parameter epochs must be of type int"),
    ],
)
def test_words_that_are_refused(words, sentence, tmp_path, monkeypatch, capsys):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    line = ["wsss", words[0], "cams", "pictures", *words[1:], "--out", "out", "--classes", "classes.txt"]
    monkeypatch.setattr("sys.argv", line)
    assert command.main() == 1
    assert sentence in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
