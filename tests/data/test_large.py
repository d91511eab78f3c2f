"""Large pictures: their working size, and what reading them and their masks gives and takes."""

import numpy as np
import pytest
from PIL import Image

from tests.runs.small import sentence_of
from wsss_lib.data import files, large
from wsss_lib.data.dataset import DatasetView
from wsss_lib.data.files import image_size, read_image, read_mask
from wsss_lib.data.folder import load_folder
from wsss_lib.data.large import resize_labels, working_size
from wsss_lib.data.saliency import SaliencyMaps

LIMIT = 3000


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(large, "WORKING_PIXELS", LIMIT)


def smooth(height, width):
    """A picture without edges: each way of reducing it gives nearly the same."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    pixels = np.stack([x, y, (x + y) / 2], axis=-1)
    return Image.fromarray((40 + 170 * pixels).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (375, 500)),
        ((640, 640), (640, 640)),
        ((512, 1024), (512, 1024)),  # the limit itself
        ((3000, 4000), (627, 836)),
        ((4000, 3000), (836, 627)),
        ((50, 20000), (36, 14481)),
        ((1, 10**7), (1, 2**19)),
        ((10**7, 1), (2**19, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_working_sizes(size, expected):
    assert working_size(*size) == expected


def test_a_working_size_keeps_the_limit_and_the_ratio():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 20000, (500, 2)).tolist():
        reduced = working_size(height, width)
        assert reduced[0] * reduced[1] <= large.WORKING_PIXELS
        assert working_size(*reduced) == reduced
        assert working_size(width, height) == reduced[::-1]
        for one, other in ((reduced, (height, width)), (reduced[::-1], (width, height))):
            if one[0] > 1:
                assert abs(one[1] - one[0] * other[1] / other[0]) <= 1 + other[1] / other[0]


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("size", [(55, 54), (56, 54), (90, 120), (123, 457), (300, 400), (2, 9001)])
@pytest.mark.parametrize("kind", ["jpg", "progressive.jpg", "png", "palette.png", "grey.png", "alpha.png", "16.png"])
def test_reading_gives_the_picture_at_its_working_size(tmp_path, size, kind, monkeypatch):
    monkeypatch.setattr(large, "_BAND", 1000)  # so that a picture has several bands
    path, picture = tmp_path / f"a.{kind}", smooth(*size)
    wanted, options = picture, {"progressive": True, "quality": 95} if "progressive" in kind else {}
    if kind == "palette.png":
        picture = picture.quantize(64, dither=Image.Dither.NONE)
        wanted = picture.convert("RGB")
    elif kind == "grey.png":
        picture = picture.convert("L")
        wanted = picture.convert("RGB")
    elif kind == "alpha.png":
        picture = picture.copy()
        picture.putalpha(Image.fromarray(np.arange(size[0] * size[1]).reshape(size).astype(np.uint8)))
    elif kind == "16.png":
        grey = np.asarray(picture.convert("L")).astype(np.uint16)
        picture, wanted = Image.fromarray(grey * 256 + 7), picture.convert("L").convert("RGB")
    picture.save(path, **options)
    found = read_image(path)
    height, width = working_size(*size)
    assert (found.mode, found.size) == ("RGB", (width, height))
    assert image_size(path) == size
    if size[0] * size[1] <= LIMIT:
        assert found.tobytes() == Image.open(path).convert("RGB").tobytes() or kind == "16.png"
    expected = np.asarray(wanted.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=None), np.int64)
    differences = np.abs(np.asarray(found, np.int64) - expected)
    assert differences.mean() < 1.5
    assert np.quantile(differences, 0.99) <= 6


@pytest.mark.usefixtures("small_limit")
def test_large_jpegs_are_not_decoded_as_a_whole(tmp_path, monkeypatch):
    smooth(600, 800).save(tmp_path / "a.jpg")
    decoded = []

    def watched(picture, to_rgb):
        copy = reduced(picture, to_rgb)
        decoded.append(picture.size)
        return copy

    reduced = large.reduced
    monkeypatch.setattr(files, "reduced", watched)
    read_image(tmp_path / "a.jpg")
    assert decoded == [(200, 150)]  # a quarter; an eighth would leave less than twice the 62 x 47 pixels


@pytest.mark.parametrize("mode", ["P", "L", "1", "I;16"])
def test_masks_are_read_in_bands(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(files, "_BAND", 50)
    stored = np.random.default_rng(0).integers(0, 2, (23, 31)).astype(np.uint8)
    picture = Image.fromarray(stored * 255).convert("1") if mode == "1" else Image.fromarray(stored)
    if mode == "P":
        picture.putpalette(files.voc_palette().tobytes())
    if mode == "I;16":
        picture = Image.fromarray(stored.astype(np.uint16))
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", 1), stored)
    stored[-1, -1] = 9
    if mode == "L":
        Image.fromarray(stored).save(tmp_path / "a.png")
        assert "holds the value 9" in sentence_of(lambda: read_mask(tmp_path / "a.png", 1))


def test_labels_are_resized_to_the_nearest_pixel():
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert resize_labels(labels, (4, 6)) is labels
    assert resize_labels(labels, (2, 2)).tolist() == [[7, 10], [19, 22]]
    assert np.array_equal(resize_labels(labels, (8, 12)), labels.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(resize_labels(resize_labels(labels, (12, 18)), (4, 6)), labels)


@pytest.fixture
def photographs(tmp_path):
    """A folder with a picture above the small limit and one below, and their masks."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name, (height, width) in {"big": (90, 120), "small": (30, 40)}.items():
        smooth(height, width).save(tmp_path / "images" / f"{name}.png")
        mask = (np.arange(width) >= width // 2) * np.ones((height, 1))
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,labels\nbig.png,cat\nsmall.png,cat\n")
    return tmp_path


@pytest.mark.usefixtures("small_limit")
def test_a_data_set_has_a_working_size_and_an_own_size(photographs):
    whole = load_folder(photographs, "all")
    for data in (whole, whole.head(2), DatasetView(whole, "again", [0, 1])):
        assert data.size(0) == data.image(0).size[::-1] == data.mask(0).shape == (47, 63)
        assert data.own_size(0) == data.own_mask(0).shape == (90, 120)
        assert data.size(1) == data.own_size(1) == data.mask(1).shape == (30, 40)
        assert data.mask(0)[:, :31].max() == 0 < data.mask(0)[:, 32:].min()


@pytest.mark.usefixtures("small_limit")
def test_saliency_maps_are_reduced_like_their_pictures(photographs):
    data = load_folder(photographs, "all")
    folder = photographs / "saliency"
    folder.mkdir()
    for index, name in enumerate(data.ids):
        Image.fromarray(data.own_mask(index) * 255).save(folder / f"{name}.png")
    saliency = SaliencyMaps(folder, data)
    assert [saliency[i].size for i in range(2)] == [(63, 47), (40, 30)]
    assert np.array_equal(np.asarray(saliency[1]), data.mask(1) * 255)
    Image.fromarray(np.zeros((180, 240), np.uint8)).save(folder / "big.png")  # it would have the same working size
    assert "big.png is 180 x 240 pixels but its image is 90 x 120" in sentence_of(lambda: saliency[0])


def test_more_pixels_than_are_read_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_PIXELS", 1000)
    smooth(40, 50).save(tmp_path / "a.png")
    for read in (read_image, image_size, lambda path: read_mask(path, 1)):
        assert "a.png has more than 1,000 pixels, the most that are read" in sentence_of(
            lambda read=read: read(tmp_path / "a.png")
        )


def test_pillows_own_limits_end_in_the_same_sentence(tmp_path, monkeypatch):
    smooth(40, 50).save(tmp_path / "a.png")
    for most in (500, 1500):  # an error, a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert "a.png has more than 178,956,970 pixels" in sentence_of(lambda: image_size(tmp_path / "a.png"))


def test_a_hundred_megapixels_are_no_bomb(tmp_path):
    Image.new("L", (11600, 8700)).save(tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == (8700, 11600)
