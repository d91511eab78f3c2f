"""Reading and writing of files: every form that must be read, and every fault with its sentence."""

from __future__ import annotations

import io
import os
import pickle
import re
import stat
import uuid
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.trees import save_image, save_mask
from wsss_lib.data.files import (
    image_size,
    parse_mask_values,
    read_classes,
    read_image,
    read_lines,
    read_mask,
    read_pickled_array_dict,
    voc_palette,
    write_atomically,
    write_csv,
    write_mask,
)
from wsss_lib.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"


def sentence(path: Path, *words: str) -> str:
    """A pattern for a message that begins with the file and holds the words."""
    return re.escape(str(path)) + ".*" + ".*".join(words)


# ---------------------------------------------------------------------------------------------------------- images


def colours(mode: str) -> Image.Image:
    grid = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3) * 2
    return Image.fromarray(grid).convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "png"), ("L", "png"), ("1", "png"), ("P", "png"), ("P", "gif"), ("LA", "png"), ("CMYK", "tif")],
)
def test_every_mode_becomes_rgb(tmp_path, mode, ending):
    picture = colours(mode)
    path = tmp_path / f"x.{ending}"
    picture.save(path)
    read = read_image(path)
    assert read.mode == "RGB"
    assert read.size == (7, 5)
    expected = picture.convert("L").convert("RGB") if mode == "LA" else picture.convert("RGB")
    assert np.array_equal(np.asarray(read), np.asarray(expected))


def test_cmyk_jpeg_and_greyscale_jpeg(tmp_path):
    for mode in ("CMYK", "L"):
        Image.new(mode, (8, 8), 0 if mode == "CMYK" else 200).save(tmp_path / "x.jpg")
        value = 255 if mode == "CMYK" else 200
        assert abs(np.asarray(read_image(tmp_path / "x.jpg")).astype(int) - value).max() <= 2


def test_alpha_is_dropped_not_blended(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png"))[0, 0].tolist() == [200, 0, 0]


def test_palette_with_transparent_entries(tmp_path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "x.png", transparency=b"\x00\x80")
    assert np.asarray(read_image(tmp_path / "x.png"))[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_values_lose_their_lower_byte(tmp_path, ending):
    values = np.array([[0, 255, 256], [511, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{ending}")
    read = np.asarray(read_image(tmp_path / f"x.{ending}"))
    assert read[..., 0].tolist() == [[0, 0, 1], [1, 128, 255]]
    assert (read[..., 0] == read[..., 2]).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_values_are_refused(tmp_path, dtype):
    path = tmp_path / "x.tif"
    Image.fromarray(np.ones((3, 3), dtype=dtype)).save(path)
    with pytest.raises(InputError, match=sentence(path, "32-bit", "8 or 16 bits")):
        read_image(path)


def turned(path: Path, orientation: int, size=(20, 30)) -> Path:
    """Save an image whose upper left corner is white, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    return path


CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
"""Where EXIF's definition puts the upper left corner of the stored pixels."""


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_orientation_of_exif_is_obeyed(tmp_path, ending, orientation):
    path = turned(tmp_path / f"x.{ending}", orientation)
    pixels = np.asarray(read_image(path))[..., 0]
    assert pixels.shape == image_size(path) == ((30, 20) if orientation > 4 else (20, 30))
    assert pixels[CORNERS[orientation]] > 200
    assert (pixels > 127).sum() == 64


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_damaged_exif_is_no_reason_to_refuse_an_image(tmp_path, ending):
    path = turned(tmp_path / f"x.{ending}", 6)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"MM\0*", b"MM\0\xff").replace(b"II*\0", b"II\xff\0"))
    assert path.read_bytes() != content
    assert read_image(path).size == (30, 20)
    assert image_size(path) == (20, 30)


def test_a_mask_that_fits_only_the_image_as_stored(tmp_path):
    image, path = turned(tmp_path / "x.jpg", 8), tmp_path / "x.png"
    save_mask(path, np.ones((20, 30), dtype=np.uint8))
    with pytest.raises(InputError, match=sentence(path, "20 x 30", "30 x 20, because the EXIF orientation of x.jpg")):
        read_mask(path, 1, image_size(image), image=image)
    save_mask(path, np.ones((21, 30), dtype=np.uint8))
    with pytest.raises(InputError, match=sentence(path, "a mask of the image's size")):
        read_mask(path, 1, image_size(image), image=image)
    save_mask(path, np.ones((30, 20), dtype=np.uint8))
    assert read_mask(path, 1, image_size(image), image=image).shape == (30, 20)


@pytest.mark.parametrize("read", [read_image, image_size, lambda path: read_mask(path, 20)])
def test_missing_and_no_image(tmp_path, read):
    path = tmp_path / "x.png"
    with pytest.raises(InputError, match=sentence(path, "does not exist")):
        read(path)
    for content in (b"", b"no image at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence(path, "not an image that Pillow can read")):
            read(path)
    with pytest.raises(InputError, match=sentence(tmp_path, "cannot be read")):
        read(tmp_path)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_image_cut_off(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    save_image(path, (60, 60))
    path.write_bytes(path.read_bytes()[:-400])
    assert image_size(path) == (60, 60)
    with pytest.raises(InputError, match=sentence(path, "cut off or damaged")):
        read_image(path)


def test_size_comes_from_the_header(tmp_path):
    path = tmp_path / "x.png"
    save_image(path, (300, 200))
    path.write_bytes(path.read_bytes()[:100])
    assert image_size(path) == (300, 200)


# ----------------------------------------------------------------------------------------------------------- masks


@pytest.fixture
def mask() -> np.ndarray:
    return np.array([[0, 1, 2], [20, 255, 0]], dtype=np.uint8)


def test_mask_of_palette_or_greyscale_png(tmp_path, mask):
    save_mask(tmp_path / "p.png", mask)
    Image.fromarray(mask).save(tmp_path / "l.png")
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "16.png")
    for name in ("p.png", "l.png", "16.png"):
        read = read_mask(tmp_path / name, 20, (2, 3))
        assert read.dtype == np.uint8
        assert np.array_equal(read, mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_mask_of_few_bits(tmp_path, bits):
    small = np.array([[0, 1, 0], [1, 0, 1]], dtype=np.uint8)
    picture = Image.fromarray(small)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    picture.save(tmp_path / "p.png", bits=bits)
    assert np.array_equal(read_mask(tmp_path / "p.png", 20), small)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greyscale_mask_of_few_bits_is_not_stretched(tmp_path, bits):
    rows = {1: b"\x00\x40", 2: b"\x00\x10", 4: b"\x00\x01"}[bits]  # a filter byte, then the pixels 0, 1
    header = (2).to_bytes(4) + (1).to_bytes(4) + bytes([bits, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        png += len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)
    (tmp_path / "x.png").write_bytes(png)
    assert read_mask(tmp_path / "x.png", 20).tolist() == [[0, 1]]


def test_mask_that_is_no_mask(tmp_path, mask):
    path = tmp_path / "x.png"
    save_image(path, (2, 3))
    with pytest.raises(InputError, match=sentence(path, "RGB pixels", "palette")):
        read_mask(path, 20)
    Image.fromarray(mask).save(tmp_path / "x.jpg")
    with pytest.raises(InputError, match=sentence(tmp_path / "x.jpg", "JPEG", "PNG")):
        read_mask(tmp_path / "x.jpg", 20)


def test_mask_with_a_value_that_is_no_class(tmp_path, mask):
    path = tmp_path / "x.png"
    save_mask(path, mask)
    with pytest.raises(InputError, match=sentence(path, "value 20", "19 classes")):
        read_mask(path, 19)
    Image.fromarray(mask.astype(np.uint16) + 255).save(path)
    with pytest.raises(InputError, match=sentence(path, "value 256")):
        read_mask(path, 20)


def test_mask_of_another_size(tmp_path, mask):
    path = tmp_path / "x.png"
    save_mask(path, mask)
    with pytest.raises(InputError, match=sentence(path, "2 x 3", "3 x 2", "image's size")):
        read_mask(path, 20, (3, 2))


def test_mask_cut_off(tmp_path):
    path = tmp_path / "x.png"
    save_mask(path, np.random.default_rng(0).integers(0, 20, (80, 80), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=sentence(path, "cut off or damaged")):
        read_mask(path, 20)


def test_mask_with_a_table(tmp_path):
    table = np.full(256, -1, dtype=np.int16)
    table[[0, 5, 9, 255]] = 0, 1, 2, 255
    path = tmp_path / "x.png"
    save_mask(path, np.array([[0, 5], [9, 255]], dtype=np.uint8))
    assert read_mask(path, 2, lookup=table).tolist() == [[0, 1], [2, 255]]
    save_mask(path, np.array([[0, 6]], dtype=np.uint8))
    with pytest.raises(InputError, match=sentence(path, "value 6")):
        read_mask(path, 2, lookup=table)
    save_mask(path, np.array([[0, 9]], dtype=np.uint8))
    with pytest.raises(InputError, match=sentence(path, "value 9")):
        read_mask(path, 1, lookup=table)


def test_what_the_values_of_masks_mean(tmp_path):
    path = tmp_path / "x.png"
    save_mask(path, np.array([[0, 255]], dtype=np.uint8))
    for text in ("255:1", "0:0,255:1", " 0:0 , 255 : 1"):
        assert read_mask(path, 1, lookup=parse_mask_values(text, 1)).tolist() == [[0, 1]]
    assert read_mask(path, 1, lookup=parse_mask_values("0:255,255:0", 1)).tolist() == [[255, 0]]
    save_mask(path, np.array([[0, 70, 140, 255]], dtype=np.uint8))
    assert read_mask(path, 2, lookup=parse_mask_values("70:2,140:255", 2)).tolist() == [[0, 2, 255, 255]]
    with pytest.raises(InputError, match=sentence(path, "value 140", "mask_values")):
        read_mask(path, 2, lookup=parse_mask_values("70:2", 2))
    assert parse_mask_values("", 2) is None
    Image.fromarray(np.array([[300, 0]], dtype=np.uint16)).save(path)
    with pytest.raises(InputError, match=sentence(path, "value 300")):
        read_mask(path, 2, lookup=parse_mask_values("255:1", 2))


@pytest.mark.parametrize(
    "text", ["255", "255:", "255:3", "256:1", "-1:1", "1:1,1:2", "255:cat", "255=1", "1:1;2:2", ","]
)
def test_mask_values_that_mean_nothing(text):
    with pytest.raises(InputError, match=rf"mask_values '{re.escape(text)}'.* such as \"0:0,255:1\""):
        parse_mask_values(text, 2)


def test_palette_of_the_authors():
    golden = np.load(GOLDEN / "palette.npz")
    palette = voc_palette()
    assert palette.dtype == np.uint8
    assert np.array_equal(palette[:32], golden["voc_palette"][:32])  # the authors' helper drops the bits above
    assert np.array_equal(palette[:21], golden["palette21"][:21])
    assert palette[255].tolist() == [224, 224, 192]


def test_palette_has_no_colour_twice():
    assert len(np.unique(voc_palette(), axis=0)) == 256


def test_written_mask_reads_back(tmp_path, mask):
    path = tmp_path / "new" / "folder" / "x.png"
    write_mask(path, mask)
    assert np.array_equal(read_mask(path, 20), mask)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture.convert("RGB")), voc_palette()[mask])
    with pytest.raises(ValueError, match="uint8"):
        write_mask(path, mask.astype(np.int64))


# --------------------------------------------------------------------------------------------------------- writing


def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.bin"
    write_atomically(path, lambda stream: stream.write(b"old"))

    def fail(stream):
        stream.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=sentence(path, "No space left", "make room")):
        write_atomically(path, fail)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupt)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_durable_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    events, replace, fsync = [], Path.replace, os.fsync

    def noting(handle):
        status = os.fstat(handle)
        events.append(next(p.name for p in [tmp_path, *tmp_path.rglob("*")] if p.stat().st_ino == status.st_ino))
        if not stat.S_ISDIR(status.st_mode):
            assert status.st_size == 3, "not all was written when it was flushed"
        fsync(handle)

    def renaming(path, target):
        events.append(f"{path.name} is {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Path, "replace", renaming)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    temporary = f".tmp-{0:032x}"
    write_atomically(tmp_path / "new" / "deep" / "x", lambda stream: stream.write(b"abc"))
    assert events == [temporary, f"{temporary} is x", "deep", "new", tmp_path.name]
    events.clear()
    write_atomically(tmp_path / "new" / "deep" / "x", lambda stream: stream.write(b"def"))
    assert events == [temporary, f"{temporary} is x", "deep"]
    events.clear()
    write_atomically(tmp_path / "new" / "y", lambda stream: stream.write(b"ghi"), durable=False)
    assert events == [f"{temporary} is y"]


def test_a_disk_that_fails_when_it_is_flushed(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"old")

    def failing(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(InputError, match=sentence(tmp_path / "x", "cannot be written", "Input/output error")):
        write_atomically(tmp_path / "x", lambda stream: stream.write(b"new"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_system_that_flushes_no_folders(tmp_path, monkeypatch):
    def refusing(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refusing)
    write_atomically(tmp_path / "x", lambda stream: stream.write(b"new"))
    assert (tmp_path / "x").read_bytes() == b"new"


def test_writing_replaces_a_file(tmp_path):
    path = tmp_path / "x.bin"
    for content in (b"a longer one", b"new"):
        write_atomically(path, lambda stream, content=content: stream.write(content))
    assert path.read_bytes() == b"new"


def test_writing_into_a_file_or_over_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=sentence(tmp_path / "file" / "x", "cannot be written")):
        write_atomically(tmp_path / "file" / "x", lambda stream: stream.write(b""))
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=sentence(tmp_path / "folder", "cannot be written")):
        write_atomically(tmp_path / "folder", lambda stream: stream.write(b""))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_writing_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=sentence(tmp_path / "x", "may write to")):
        write_atomically(tmp_path / "x", lambda stream: stream.write(b""))


# ----------------------------------------------------------------------------------------------------------- lists


def test_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffä \r\n b\n".encode())
    assert read_lines(path) == ["ä", "b"]
    with pytest.raises(InputError, match=sentence(tmp_path / "no", "does not exist")):
        read_lines(tmp_path / "no")
    with pytest.raises(InputError, match=sentence(tmp_path, "cannot be read")):
        read_lines(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=sentence(path, "not UTF-8")):
        read_lines(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "no class"),
        ("cat\ndog\ncat\n", "'cat' more than once"),
        ("background\ncat\n", "background"),
        ("cat\nBackground\n", "background"),
        ("cat\ndog\nCat\n", "'cat' and 'Cat', which differ only in case"),
        ("k\u00e4fer\nka\u0308fer\n", "differ only in case, blanks or Unicode form"),
        ("potted plant\npotted  plant\n", "differ only in case, blanks"),
    ],
)
def test_class_list_that_cannot_be(tmp_path, text, words):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence(path, words)):
        read_classes(path)


def test_class_lists(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("cat\n\npotted plant\n")
    assert read_classes(path) == ("cat", "potted plant")
    path.write_text("ka\u0308fer\n", encoding="utf-8")
    assert read_classes(path) == ("k\u00e4fer",)
    path.write_text("\n".join(map(str, range(255))))
    with pytest.raises(InputError, match=sentence(path, "255 classes", "254")):
        read_classes(path)


# --------------------------------------------------------------------------------------------- pickled dictionaries


def save_pickled(path: Path, content: object, protocol: int, module: str | None = None) -> None:
    """Write what ``numpy.save`` writes for an object, with a chosen pickle protocol and module name of NumPy."""
    array = np.empty((), dtype=object)
    array[()] = content
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (), "fortran_order": False, "descr": "|O"})
    body = pickle.dumps(array, protocol=protocol)
    if module is not None and protocol < 4:
        body = body.replace(b"numpy._core", module.encode())
    path.write_bytes(stream.getvalue() + body)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_dictionary_of_arrays(tmp_path, protocol, module):
    path = tmp_path / "x.npy"
    content = {
        "2007_000032": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
        np.int32(7): np.arange(6, dtype=">i8").reshape(2, 3).T,
        np.int64(2007000032): np.array([True, False]),
        3: np.asfortranarray(np.arange(24, dtype=np.float16).reshape(2, 3, 4)).transpose(2, 0, 1),
        4: np.zeros((0, 5)),
        5: np.array(2.5),
    }
    save_pickled(path, content, protocol, module)
    read = read_pickled_array_dict(path)
    assert list(read) == ["2007_000032", 7, 2007000032, 3, 4, 5]
    assert all(type(key) in (int, str) for key in read)
    for values, expected in zip(read.values(), content.values(), strict=True):
        assert values.dtype == expected.dtype.newbyteorder("=")
        assert values.dtype.isnative
        assert values.flags.writeable
        assert np.array_equal(values, expected)


def test_dictionary_written_by_numpy_itself(tmp_path):
    np.save(tmp_path / "x.npy", {0: np.ones((2, 2), dtype=np.float32)})
    assert read_pickled_array_dict(tmp_path / "x.npy")[0].tolist() == [[1, 1], [1, 1]]


def test_dictionary_written_by_python_2(tmp_path):
    """There, text keys and the bytes of arrays are of one type."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I%s\ntcnumpy\ndtype\n"
        b"(U\x02%sI0\nI1\ntR(I3\nU\x01%sNNNI-1\nI-1\nI0\ntbI00\n%stb"
    )
    values = np.array([1, 0, 0.5], dtype=np.float32).tobytes()
    inner = array.replace(b"(I%s\nt", b"(I3\nt") % (b"f4", b"<", b"U" + bytes([len(values)]) + values)
    outer = array.replace(b"(I%s\nt", b"(t") % (b"O8", b"|", b"(l(dU\x032_1" + inner + b"sa")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (), "fortran_order": False, "descr": "|O"})
    (tmp_path / "x.npy").write_bytes(stream.getvalue() + b"\x80\x02" + outer + b".")
    assert {key: values.tolist() for key, values in read_pickled_array_dict(tmp_path / "x.npy").items()} == {
        "2_1": [1, 0, 0.5]
    }


class Evil:
    """Runs a command when it is unpickled by Python's own unpickler."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Evil(os.system, "touch pwned"),
        Evil(eval, "1"),
        Evil(getattr, "text", "upper"),
        Evil(np.load, "x.npy"),
        Evil(np.ndarray, (1,), "f4"),
        io.BytesIO(b"x"),
    ],
    ids=["os.system", "eval", "getattr", "numpy.load", "ndarray", "BytesIO"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_no_code_is_run(tmp_path, monkeypatch, value, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.npy"
    save_pickled(path, {0: np.ones(2), 1: value}, protocol)
    with pytest.raises(InputError, match=sentence(path, "asks for|unusual")):
        read_pickled_array_dict(path)
    assert not (tmp_path / "pwned").exists()


def test_dtype_with_forged_flags_stays_numbers(tmp_path):
    """NumPy's own unpickling would take these bytes for pointers to objects."""
    path = tmp_path / "x.npy"
    save_pickled(path, {0: np.full(2, 3, dtype=np.float64)}, 2)
    forged, changes = re.subn(rb"K\x00(tq.b)", b"K\x3f\\1", path.read_bytes(), flags=re.DOTALL)
    assert changes
    path.write_bytes(forged)
    assert read_pickled_array_dict(path)[0].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({0: 1.5}, "not an array of numbers"),
        ({0: {1: np.ones(1)}}, "not an array of numbers"),
        ({0: np.array(["a"])}, "array of <U1"),
        ({0: np.array([1j])}, "array of complex"),
        ({0: np.array([None])}, "not an array of numbers"),
        ({(1, 2): np.ones(1)}, "neither text nor a whole number"),
        ({True: np.ones(1)}, "neither text nor a whole number"),
    ],
)
def test_dictionary_of_something_else(tmp_path, content, words):
    path = tmp_path / "x.npy"
    save_pickled(path, content, 4)
    with pytest.raises(InputError, match=sentence(path, "not a dictionary of number arrays", words)):
        read_pickled_array_dict(path)


def test_dictionary_file_that_is_none(tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(InputError, match=sentence(path, "does not exist")):
        read_pickled_array_dict(path)
    np.save(path, np.ones(3))
    with pytest.raises(InputError, match=sentence(path, "plain array")):
        read_pickled_array_dict(path)
    np.save(path, np.array([{}, {}], dtype=object))
    with pytest.raises(InputError, match=sentence(path, "one object")):
        read_pickled_array_dict(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(InputError, match=sentence(path, "numpy.save")):
        read_pickled_array_dict(path)


def test_dictionary_cut_off_anywhere(tmp_path):
    path = tmp_path / "x.npy"
    save_pickled(path, {0: np.ones(3, dtype=np.float32), "a": np.ones(2)}, 2)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 3):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=sentence(path, "numpy.save")):
            read_pickled_array_dict(path)


def test_a_table_with_any_name(tmp_path):
    """A name that is not UTF-8, as files may have, is escaped."""
    write_csv(tmp_path / "new" / "table.csv", [("name", "value"), ("a, b\udcff", 1), ('"é"', "")])
    assert (tmp_path / "new" / "table.csv").read_bytes() == 'name,value\n"a, b\\udcff",1\n"""é""",\n'.encode()
