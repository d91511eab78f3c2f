"""Every form of maps is found, said, and read as the same numbers."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tests.exchange import foreign
from tests.runs.small import sentence_of
from wsss_lib.data.files import read_pickled_array_dict
from wsss_lib.exchange.maps import class_names, open_maps, shared, strides_of, subset
from wsss_lib.ops.cam import upsample
from wsss_lib.stages.store import read_cams


@pytest.fixture
def pictures(tmp_path):
    return foreign.pictures(tmp_path)


def opened(folder, pictures, **options):
    return open_maps(folder, pictures, classes=foreign.CLASSES, **options)


FULL = {
    "psa": (foreign.as_psa, "psa writes them, classes from 0, full resolution, values 0 to 0.996"),
    "psa from 1": (lambda folder: foreign.as_psa(folder, first=1), "classes from 1, full resolution"),
    "float16": (lambda folder: foreign.as_psa(folder, dtype=np.float16), "classes from 0"),
    "irn": (foreign.as_irn, "IRN writes them, classes from 0, full resolution"),
    "irn, arrays": (lambda folder: foreign.as_irn(folder, tensors=False), "classes from 0"),
    "irn, background among the keys": (lambda folder: foreign.as_irn(folder, "keys"), "IRN writes them, full"),
    "irn, background among the maps": (lambda folder: foreign.as_irn(folder, "maps"), "classes from 0"),
    "irn, background in both": (lambda folder: foreign.as_irn(folder, "both"), "with a map of the background (0)"),
    "msal": (foreign.as_msal, "arrays with a plane for every class, full resolution"),
    "npz": (foreign.as_npz, ".npz files of wsss_lib, full resolution"),
    "pictures, 8 bit": (foreign.as_pictures, "heat maps as pictures, full resolution"),
    "pictures, 16 bit": (lambda folder: foreign.as_pictures(folder, 16), "heat maps as pictures"),
    "pictures, numbers": (lambda folder: foreign.as_pictures(folder, 8, str), "pictures, classes from 0"),
    "pictures, from 1": (lambda folder: foreign.as_pictures(folder, 8, lambda k: k + 1), "pictures, classes from 1"),
}


@pytest.mark.parametrize("name", FULL)
def test_forms_at_full_resolution(name, tmp_path, pictures):
    write, said = FULL[name]
    found = opened(write(tmp_path / "maps"), pictures)
    assert found.data.ids == (*foreign.SIZES,)
    assert said in found.said
    assert "3 pictures" in found.said
    for index, image_id in enumerate(foreign.SIZES):
        classes, maps = read_cams(found.store, found.data, index)
        numbers, wanted = foreign.expected(image_id)
        assert classes.tolist() == numbers
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps, torch.from_numpy(wanted), atol=3e-4 if name == "float16" else 1e-5, rtol=0)


def test_probabilities_after_a_crf(tmp_path, pictures):
    found = opened(foreign.as_psa_crf(tmp_path / "maps"), pictures)
    assert "with a map of the background (0), which is left out" in found.said
    classes, maps = found.store.read("b")
    assert classes.tolist() == [0, 1, 3]
    torch.testing.assert_close(maps, torch.from_numpy(foreign.expected("b")[1] / 3))


def test_maps_at_a_stride_are_enlarged(tmp_path, pictures):
    found = opened(foreign.as_irn_strided(tmp_path / "maps"), pictures)
    assert "stride 4" in found.said
    small = torch.from_numpy(foreign.expected("2007_000002")[1][:, ::4, ::4].copy())
    torch.testing.assert_close(found.store.read("2007_000002")[1], upsample(small[None], (30, 18))[0])


def test_label_maps(tmp_path, pictures):
    found = opened(foreign.as_labels(tmp_path / "maps"), pictures)
    assert "label maps as PNG" in found.said
    classes, maps = found.store.read("b")
    numbers, wanted = foreign.expected("b")
    labels = np.where(wanted.max(0) > 0.5, np.array(numbers)[wanted.argmax(0)], -1)
    for k, values in zip(classes.tolist(), maps.numpy(), strict=True):
        np.testing.assert_array_equal(values, labels == k)


def test_given_labels_choose_the_maps(tmp_path, pictures):
    folder = foreign.as_psa(tmp_path / "maps")
    np.save(folder / "2007_000002.npy", dict.fromkeys(range(4), np.full((30, 18), 0.5)))
    labels = tmp_path / "labels.txt"
    labels.write_text("2007_000001 sofa\n2007_000002 dog boat\nb\n")
    found = opened(folder, pictures, labels=labels)
    assert "labels as given" in found.said
    assert [found.store.read(i)[0].tolist() for i in found.data.ids] == [[2], [1, 3], []]
    np.testing.assert_array_equal(found.store.read("2007_000001")[1][0], foreign.expected("2007_000001")[1][1])
    labels.write_text("2007_000001 boat\n2007_000002 dog\nb\n")
    one = opened(folder, pictures, labels=labels)
    assert "has no map of 'boat', which the labels name" in sentence_of(lambda: one.store.read("2007_000001"))


def test_given_labels_tell_the_numbering(tmp_path, pictures):
    """Without class 4 of 4, only the labels can tell 1 to 3 from 0 to 3."""
    folder = tmp_path / "maps"
    folder.mkdir()
    np.save(folder / "b.npy", {2: np.zeros((16, 16)), 3: np.zeros((16, 16))})
    labels = tmp_path / "labels.txt"
    labels.write_text("b dog sofa\n")
    assert "classes from 1" in opened(folder, pictures, labels=labels).said
    assert "classes from 0" in opened(folder, pictures).said
    assert opened(folder, pictures, numbering="1").store.read("b")[0].tolist() == [1, 2]


def test_values_over_1_are_normalised_on_request(tmp_path, pictures):
    folder = tmp_path / "maps"
    folder.mkdir()
    values = np.linspace(-1, 7, 256, dtype=np.float32).reshape(16, 16)
    np.save(folder / "b.npy", {0: values})
    assert "values from -1 to 7" in sentence_of(lambda: opened(folder, pictures).store.read("b"))
    found = opened(folder, pictures, normalise=True)
    assert "values -1 to 7, normalised" in found.said
    np.testing.assert_allclose(found.store.read("b")[1][0], np.maximum(values, 0) / (7 + 1e-5), rtol=1e-6)


def test_other_sizes_are_stretched_on_request(tmp_path, pictures):
    folder = tmp_path / "maps"
    folder.mkdir()
    np.save(folder / "2007_000002.npy", {1: np.ones((7, 7), np.float32)})
    plain, stretched = opened(folder, pictures), opened(folder, pictures, stretch=True)
    assert "sizes that do not fit all pictures" in plain.said
    assert "maps of 7 x 7 (height x width), which does not fit the 30 x 18" in sentence_of(
        lambda: plain.store.read("2007_000002")
    )
    assert "stretched over the pictures" in stretched.said
    assert stretched.store.read("2007_000002")[1].shape == (1, 30, 18)


@pytest.mark.parametrize(
    ("found", "stride"), [((375, 500), 1), ((94, 125), 4), ((93, 125), 4), ((47, 63), 8), ((24, 32), 16)]
)
def test_strides_of_maps(found, stride):
    low, high = strides_of(found, (375, 500))
    assert low <= stride <= high
    assert not low <= 2 * stride <= high


@pytest.mark.parametrize("found", [(500, 375), (28, 28), (376, 501), (94, 94)])
def test_sizes_of_other_pictures(found):
    assert strides_of(found, (375, 500)) is None


def test_coco_names_meet_by_their_digits(tmp_path):
    for folder, name in {"pictures": "COCO_train2014_000000000009", "other": "COCO_train2014_000000000025"}.items():
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / folder / f"{name}.jpg")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "000000000009.npy", {79: np.zeros((6, 8), np.float32)})
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full((6, 8), 80, np.uint8)).save(tmp_path / "masks" / "000000000009.png")
    np.save(tmp_path / "labels.npy", {9: np.eye(80)[79], 25: np.eye(80)[0]})
    found = open_maps(
        tmp_path / "maps",
        tmp_path / "pictures",
        masks=tmp_path / "masks",
        labels=tmp_path / "labels.npy",
        classes="coco",
    )
    assert found.data.ids == ("COCO_train2014_000000000009",)
    assert (found.data.own_mask(0) == 80).all()
    assert found.store.read(found.data.ids[0])[0].tolist() == [79]


def test_what_a_reader_makes_of_a_subset(tmp_path, pictures):
    one = opened(foreign.as_psa(tmp_path / "maps"), pictures, masks=tmp_path / "masks")
    part = subset(one, ["b", "2007_000001"])
    assert part.data.ids == ("b", "2007_000001")
    assert read_cams(part.store, part.data, 0)[0].tolist() == [0, 1, 3]
    assert "has no maps of c, which is listed" in sentence_of(lambda: subset(one, ["c"]))


def test_the_source_changes_with_the_files(tmp_path, pictures):
    folder = foreign.as_psa(tmp_path / "maps")
    before = opened(folder, pictures).store.source()
    assert opened(folder, pictures).store.source() == before
    assert opened(folder, pictures, normalise=True).store.source() != before
    np.save(folder / "b.npy", {0: np.zeros((16, 16), np.float32)})
    assert opened(folder, pictures).store.source() != before


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def irn_with(content):
    """A dictionary of IRN whose tensor's bytes are something else."""

    class Bytes:
        def __reduce__(self):
            return (torch.storage._load_from_bytes, (content,))

    class Tensor:
        def __init__(self, shape=(2,), strides=(1,)):
            self.shape, self.strides = shape, strides

        def __reduce__(self):
            return (torch._utils._rebuild_tensor_v2, (Bytes(), 0, self.shape, self.strides, False, {}))

    return Tensor


def _stored(values):
    stream = io.BytesIO()
    torch.save(torch.tensor(values).storage(), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: {0: Evil()}, "it asks for builtins.print"),
        (lambda: {"keys": irn_with(pickle.dumps(Evil()))()}, "it asks for builtins.print"),
        (lambda: {"keys": irn_with(_stored([1.0, 2.0])[:-3])()}, "cut off"),
        (lambda: {"keys": irn_with(_stored([1.0, 2.0]))((3,), (1,))}, "larger than its numbers"),
        (lambda: {"keys": irn_with(_stored([1.0, 2.0]))((2**40,), (0,))}, "larger than its numbers"),
        (lambda: {"keys": irn_with(_stored([1.0, 2.0]))((2,), (-1,))}, "described in an unusual way"),
        (lambda: {"keys": irn_with(pickle.dumps(5))()}, "is not a dictionary of number arrays"),
    ],
)
def test_nothing_in_a_file_is_executed(make, reason, tmp_path, pictures, capsys):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "b.npy", make())
    assert reason in sentence_of(lambda: opened(tmp_path / "maps", pictures))
    assert "executed" not in capsys.readouterr().out


def test_tensors_with_strides_of_their_own(tmp_path):
    values = torch.arange(24.0).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", {"keys": values.permute(2, 0, 1)[1:], "cam": values[:, :, 1].half()})
    found = read_pickled_array_dict(tmp_path / "a.npy")
    np.testing.assert_array_equal(found["keys"], values.permute(2, 0, 1)[1:])
    np.testing.assert_array_equal(found["cam"], values[:, :, 1])


def save(folder, name, content):
    folder.mkdir(exist_ok=True)
    np.save(folder / name, content)


def grey(folder, name, values):
    folder.mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / name)


SQUARE = np.zeros((16, 16), np.float32)
BAD = {
    "no folder": (str, "maps is not a folder"),
    "empty": (lambda folder: folder.mkdir(), "holds no .npy, .npz or .png file; give another folder"),
    "in a folder of their own": (
        lambda folder: [folder.mkdir(), save(folder / "train", "b.npy", {0: SQUARE})],
        "only its subfolder train does; give",
    ),
    "fit no picture": (
        lambda folder: save(folder, "x.npy", {0: SQUARE}),
        "has the name of a picture (2007_000001.png and so on)",
    ),
    "one fits no picture": (
        lambda folder: [save(folder, "b.npy", {0: SQUARE}), save(folder, "x.npy", {0: SQUARE})],
        "x.npy has no picture (1 of 2 files have none)",
    ),
    "class beyond the list": (lambda folder: save(folder, "b.npy", {5: SQUARE}), "have the numbers 5, but there are 4"),
    "npy and png": (
        lambda folder: [save(folder, "b.npy", {0: SQUARE}), grey(folder, "b.png", SQUARE.astype(np.uint8))],
        "b.npy and b.png; give a folder with maps in one form",
    ),
    "npy and npz": (
        lambda folder: [save(folder, "b.npy", {0: SQUARE}), np.savez(folder / "2007_000001.npz", a=SQUARE)],
        "give a folder with one form",
    ),
    "labels and heat maps": (
        lambda folder: [grey(folder, f"b{end}.png", SQUARE.astype(np.uint8)) for end in ("", "_cat")],
        "give a folder with maps in one form",
    ),
    "psa and irn": (
        lambda folder: [
            save(folder, "b.npy", {0: SQUARE}),
            save(folder, "2007_000001.npy", {"keys": np.array([0]), "cam": SQUARE[None]}),
        ],
        "b.npy holds 0 (16, 16); give keys (n,) and cam or high_res",
    ),
    "not a dictionary": (lambda folder: save(folder, "b.npy", SQUARE), "is an array (16, 16) float32; give (C, h, w)"),
    "no map under a key": (lambda folder: save(folder, "b.npy", {0: SQUARE[0]}), "holds (16,) under 0"),
    "more keys than maps": (
        lambda folder: save(folder, "b.npy", {"keys": np.array([1, 2, 3]), "cam": SQUARE[None]}),
        "has 3 keys but 1 maps",
    ),
    "keys without maps": (lambda folder: save(folder, "b.npy", {"keys": np.array([1])}), "give keys (n,) and cam"),
    "sizes in one file": (lambda folder: save(folder, "b.npy", {0: SQUARE, 1: SQUARE[1:]}), "maps of the sizes (15,"),
    "no numpy": (lambda folder: [folder.mkdir(), (folder / "b.npy").write_text("x")], "is not a file that numpy.save"),
    "colours": (
        lambda folder: grey(folder, "b_cat.png", np.zeros((16, 16, 3), np.uint8)),
        "has RGB pixels; save the heat map in grey",
    ),
    "no class": (lambda folder: save(folder, "b.npy", {}), "holds no map of a class"),
    "NaN": (lambda folder: save(folder, "b.npy", {0: SQUARE * np.nan}), "holds NaN or infinite values"),
    "negative": (lambda folder: save(folder, "b.npy", {0: SQUARE - 1}), "holds values from -1 to -1, but maps are in"),
    "number and name": (
        lambda folder: [grey(folder, f"b_{end}.png", SQUARE.astype(np.uint8)) for end in ("1", "cat")],
        "mix numbers and names of classes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_maps_end_in_a_sentence(name, tmp_path, pictures):
    make, sentence = BAD[name]
    make(tmp_path / "maps")
    assert sentence in sentence_of(lambda: opened(tmp_path / "maps", pictures).store.read("b"))


def test_numbers_that_cannot_be_told(tmp_path, pictures):
    save(tmp_path / "maps", "b.npy", {4: SQUARE})
    save(tmp_path / "maps", "2007_000001.npy", {0: np.zeros((20, 24), np.float32)})
    assert "has maps with the numbers 0 and 4, but there are 4 classes" in sentence_of(
        lambda: opened(tmp_path / "maps", pictures)
    )
    assert "do not fit numbering 1" in sentence_of(lambda: opened(tmp_path / "maps", pictures, numbering="1"))
    assert "numbering '2' is unknown" in sentence_of(lambda: opened(tmp_path / "maps", pictures, numbering="2"))


def test_a_list_of_the_pictures_that_are_wanted(tmp_path, pictures):
    folder, ids = foreign.as_psa(tmp_path / "maps"), tmp_path / "list.txt"
    save(folder, "x.npy", {0: SQUARE})
    ids.write_text("b\n2007_000001\n")
    assert opened(folder, pictures, ids=ids).data.ids == ("b", "2007_000001")
    ids.write_text("b\nx\n")
    assert "x has no map in" in sentence_of(lambda: opened(folder, pictures, ids=ids))


def test_sets_that_share_no_picture(tmp_path, pictures):
    for name, image_id in {"one": "b", "other": "2007_000001"}.items():
        save(tmp_path / name, f"{image_id}.npy", {0: np.zeros(foreign.SIZES[image_id], np.float32)})
    sets = [opened(tmp_path / name, pictures) for name in ("one", "other")]
    assert "share no picture (b and 2007_000001 and so on)" in sentence_of(lambda: shared(sets))
    with_other_classes = open_maps(tmp_path / "one", pictures, classes="voc")
    assert "has other classes than" in sentence_of(lambda: shared([sets[0], with_other_classes]))


def test_bad_masks_labels_and_classes(tmp_path, pictures):
    folder = foreign.as_psa(tmp_path / "maps")
    (tmp_path / "empty").mkdir()
    for options, sentence in {
        "masks": (tmp_path / "nowhere", "is not a folder; give the folder of the masks"),
        "labels": (tmp_path / "labels.doc", "is not a source of labels"),
    }.items():
        value, text = sentence
        assert text in sentence_of(lambda options=options, value=value: opened(folder, pictures, **{options: value}))
    assert "holds no mask of a picture" in sentence_of(lambda: opened(folder, pictures, masks=tmp_path / "empty"))
    assert "classes 'cats' is not a file" in sentence_of(lambda: class_names("cats"))
    assert class_names(str(tmp_path / "classes.txt")) == foreign.CLASSES
    (tmp_path / "labels.txt").write_text("b cat\n")
    assert "lacks 2007_000001 (2 of 3 pictures)" in sentence_of(
        lambda: opened(folder, pictures, labels=tmp_path / "labels.txt")
    )


def test_maps_of_a_large_picture(tmp_path):
    """It is computed with at its working size, and maps of its own size or strided ones fit."""
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (1200, 900)).save(tmp_path / "pictures" / "a.jpg")
    ramp = np.linspace(0, 1, 1200, dtype=np.float32)[None].repeat(900, 0)
    for name, maps in {"full": ramp, "strided": ramp[::8, ::8].copy()}.items():
        save(tmp_path / name, "a.npy", {0: maps})
        found = open_maps(tmp_path / name, tmp_path / "pictures", classes=["cat"])
        assert ("full resolution" if name == "full" else "stride 8") in found.said
        _, read = read_cams(found.store, found.data, 0)
        assert read.shape == (1, *found.data.size(0))
        assert read.shape[1] * read.shape[2] <= 2**19
        assert read[0, 300, ::100].diff().min() > 0
