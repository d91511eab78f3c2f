"""Which data a preset opens."""

from pathlib import Path

import pytest

from tests.data import trees
from wsss_lib.data.splits import open_splits
from wsss_lib.data.toy import ToyWorld
from wsss_lib.errors import InputError


def test_toy_needs_no_folder_and_limits_what_it_draws():
    splits = open_splits("toy", limit=5)
    assert isinstance(splits.training, ToyWorld)
    assert [len(splits.training), len(splits.scored["val"])] == [5, 5]
    assert splits.training is splits.scored["train"]


def test_photos_in_voc_layout_train_on_train_aug_where_there_is_one(tmp_path):
    trees.voc_tree(tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    assert open_splits("photos", tmp_path).training.ids == open_splits("photos", tmp_path).scored["train"].ids
    everything = [*(lists / "train.txt").read_text().split(), *(lists / "val.txt").read_text().split()]
    (lists / "train_aug.txt").write_text("\n".join(everything))
    assert open_splits("photos", tmp_path).training.ids == tuple(everything)
    assert len(open_splits("photos", tmp_path, limit=1).training) == 1


def test_photos_in_a_folder_of_ones_own(tmp_path):
    trees.folder_tree(tmp_path)
    assert set(open_splits("photos", tmp_path).scored) == {"train", "val"}


def test_coco_is_trained_on_train2014(tmp_path):
    trees.coco_tree(tmp_path)  # has val2014 only
    with pytest.raises(InputError, match=r"instances_train2014\.json"):
        open_splits("coco14", tmp_path)
    for path in sorted(tmp_path.rglob("*val2014*"), reverse=True):
        copy = Path(str(path).replace("val2014", "train2014"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            copy.write_bytes(path.read_bytes())
    splits = open_splits("coco14", tmp_path)
    assert len(splits.classes) == 80
    assert splits.training is splits.scored["train"]


@pytest.mark.parametrize(
    ("root", "sentence"), [(None, "give its folder as data_root"), ("absent", r"data_root .*absent is no folder")]
)
def test_missing_folder(root, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        open_splits("voc12", root and tmp_path / root)


def test_voc12_insists_on_train_aug(tmp_path):
    trees.voc_tree(tmp_path)
    with pytest.raises(InputError, match="train_aug"):
        open_splits("voc12", tmp_path)


def test_photos_in_voc_layout_without_a_list_of_val(tmp_path):
    trees.voc_tree(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").unlink()
    splits = open_splits("photos", tmp_path)
    assert splits.scored["val"].ids == splits.scored["train"].ids == splits.training.ids
    with pytest.raises(InputError, match=r"val\.txt"):
        open_splits("voc12", tmp_path)
