"""Readers of files that others wrote: whatever the bytes, the result or one sentence, in little memory, and no code."""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from tests.data.trees import coco_tree, folder_tree, save_mask, voc_mask, voc_xml
from tests.runs.small import settings as settings_of_run
from wsss_lib.data.coco import load_coco
from wsss_lib.data.files import image_size, read_image, read_mask, read_pickled_array_dict
from wsss_lib.data.folder import load_folder
from wsss_lib.data.own_coco import load_own_coco
from wsss_lib.data.voc import labels_from_npy, labels_from_text, labels_from_xml, read_ids
from wsss_lib.errors import InputError
from wsss_lib.exchange.sbd import read_sbd
from wsss_lib.models.weight_formats import read_caffe, read_mxnet
from wsss_lib.models.weights import load_into, read_sidecar, read_state
from wsss_lib.runs.settings import read_settings
from wsss_lib.stages.store import CamStore, ScoreStore, read_authors_cams, read_checkpoint, read_json

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "weights"
FEW = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# ------------------------------------------------------------------------------------------------- what a file can be


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def picture(kind: str, mode: str = "RGB", most: int = 255) -> bytes:
    values = np.random.default_rng(0).integers(0, most + 1, (24, 20, 3), dtype=np.uint8)
    return saved(lambda stream: Image.fromarray(values).convert(mode).save(stream, kind))


def labels_of_images(number: int = 2007000033) -> bytes:
    labels = {"2007_000032": np.eye(20, dtype=np.float32)[3], number: np.zeros(20, np.float32)}
    return saved(lambda stream: np.save(stream, np.array(labels, dtype=object), allow_pickle=True))


def maps_of_an_image() -> bytes:
    maps = {3: np.ones((4, 5), np.float32), 7: np.zeros((4, 5), np.float32)}
    return saved(lambda stream: np.save(stream, np.array(maps, dtype=object), allow_pickle=True))


def maps_of_irn(tensor: object = None) -> bytes:
    maps = {"keys": torch.tensor([1, 4]), "cam": torch.ones(2, 4, 5) if tensor is None else tensor}
    return saved(lambda stream: np.save(stream, np.array(maps, dtype=object), allow_pickle=True))


def mask_of_sbd() -> bytes:
    content = {"Segmentation": np.ones((4, 5), np.uint8), "CategoriesPresent": [[1.0]]}
    return saved(lambda stream: savemat(stream, {"GTcls": content}, do_compression=True))


def own_instances(root: Path) -> None:
    coco_tree(root)
    (root / INSTANCES).rename(root / "instances.json")
    (root / "val2014").rename(root / "images")
    text = (root / "instances.json").read_text()
    names = '[{"id": 1, "name": "a"}, {"id": 18, "name": "b"}, {"id": 90, "name": "c"}, {"id": 3, "name": "d"}]'
    (root / "instances.json").write_text(text.replace('[{"id": 1, "name": "person"}]', names))


def with_own_masks(path: Path) -> None:
    data = load_own_coco(path.parent, "train")
    for index in range(len(data)):
        data.mask(index)


def state(old: bool = False) -> bytes:
    content = {"state_dict": torch.nn.Linear(3, 2).state_dict(), "epoch": 3}
    return saved(lambda stream: torch.save(content, stream, _use_new_zipfile_serialization=not old))


def safe_state(length: int | None = None) -> bytes:
    """The same network as safetensors, which may say another length of its header."""
    content = safetensors.torch.save(torch.nn.Linear(3, 2).state_dict(), {"format": "pt"})
    return content if length is None else struct.pack("<Q", length) + content[8:]


def maps_of_a_store(name: str, count: int) -> bytes:
    arrays = {"classes": np.array([1, 4]), name: np.ones((count, 4, 5), np.float16)}
    return saved(lambda stream: np.savez(stream, **arrays))


def run_of_others() -> bytes:
    content = {"identity": {"method": "cam"}, "settings": settings_of_run(Path("run")).to_dict()}
    return json.dumps(content).encode()


# ------------------------------------------------------------------------------------------------------ the readers


@dataclass(frozen=True)
class Reader:
    """A reader, and files that it can read.

    Attributes:
        valid: Returns such files.
        read: Reads the file ``at`` of a folder with what else it needs.
        at: Path of the file within that folder.
        make: Fills the folder.
    """

    valid: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    at: str = "file.bin"
    make: Callable[[Path], object] = Path.mkdir

    def __call__(self, folder: Path, content: bytes) -> bool:
        """Whether the content was read; if not, one sentence must have said why."""
        path = folder / self.at
        path.write_bytes(content)
        try:
            self.read(path)
        except InputError as error:
            sentence = str(error)
            assert sentence.endswith("."), sentence
            assert len(sentence.splitlines()) == 1, sentence
            assert len(sentence) < 2000, sentence
            return False
        return True


def with_masks(path: Path) -> None:
    data = load_coco(path.parents[1], "val")
    for index in range(len(data)):
        data.mask(index)


def into_a_network(path: Path) -> None:
    load_into(torch.nn.Linear(3, 2), read_state(path), source=path)


def one_mask(folder: Path) -> None:
    save_mask(folder / "mask.png", voc_mask((24, 20), (2, 2, 12, 12), 3))


@cache
def bytes_of(make: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "tree")
        return (Path(folder) / "tree" / name).read_bytes()


INSTANCES = "annotations/instances_val2014.json"

READERS = {
    "MXNet": Reader(lambda: [(GOLDEN / "dtypes_v2.params").read_bytes()], read_mxnet),
    "MXNet ResNet-38": Reader(lambda: [(GOLDEN / "resnet38_legacy.params").read_bytes()], read_state),
    "Caffe": Reader(lambda: [(GOLDEN / f"vgg_{name}.caffemodel").read_bytes() for name in ("v1", "new")], read_caffe),
    "PyTorch": Reader(lambda: [state()], into_a_network),
    "PyTorch before 1.6": Reader(lambda: [state(old=True)], into_a_network),
    "safetensors": Reader(lambda: [safe_state()], into_a_network),
    "checkpoint of a run": Reader(lambda: [state()], read_checkpoint),
    "description of weights": Reader(
        lambda: [json.dumps({"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}).encode()], read_sidecar, "file.json"
    ),
    "labels of images": Reader(lambda: [labels_of_images()], labels_from_npy),
    "CAMs of the authors": Reader(lambda: [maps_of_an_image()], read_authors_cams),
    "maps of IRN": Reader(lambda: [maps_of_irn()], read_pickled_array_dict),
    "a mask of SBD": Reader(lambda: [mask_of_sbd()], read_sbd),
    "instances of one's own": Reader(
        lambda: [bytes_of(own_instances, "instances.json")], with_own_masks, "instances.json", own_instances
    ),
    "COCO": Reader(lambda: [bytes_of(coco_tree, INSTANCES)], with_masks, INSTANCES, coco_tree),
    "VOC annotation": Reader(lambda: [voc_xml("cat", "dog").encode()], labels_from_xml),
    "VOC list": Reader(lambda: [b"2007_000032\n/JPEGImages/2007_000033.jpg /M/2007_000033.png\n"], read_ids),
    "label text": Reader(lambda: [b"2007_000032 cat dog\n2007_000033\n"], labels_from_text),
    "table of a folder": Reader(
        lambda: [bytes_of(folder_tree, "labels.csv"), b'image,labels\n"a cat.jpg",cat\nb.png,\nc.bmp,"cat;dog"\n'],
        lambda path: load_folder(path.parent, "train"),
        "labels.csv",
        folder_tree,
    ),
    "image": Reader(lambda: [picture("PNG"), picture("JPEG"), picture("GIF", "P"), picture("BMP")], read_image),
    "size of an image": Reader(lambda: [picture("PNG"), picture("JPEG")], image_size),
    "mask": Reader(
        lambda: [picture("PNG", "L", 20), picture("PNG", "1"), bytes_of(one_mask, "mask.png")],
        lambda path: read_mask(path, 20, (24, 20)),
    ),
    "CAMs of a run": Reader(
        lambda: [maps_of_a_store("cams", 2)], lambda path: CamStore(path.parent).read(path.stem), "file.npz"
    ),
    "scores of a run": Reader(
        lambda: [maps_of_a_store("scores", 3)], lambda path: ScoreStore(path.parent).read(path.stem), "file.npz"
    ),
    "configuration of a run": Reader(lambda: [run_of_others()], lambda path: read_settings(path.parent), "config.json"),
    "JSON": Reader(lambda: [b'{"a": [1, 2.5, null]}'], read_json),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each reader."""

    @cache
    def folder(name: str) -> Path:
        path = tmp_path_factory.mktemp("fuzz") / "folder"
        READERS[name].make(path)
        return path

    return folder


# ---------------------------------------------------------------------------------------------------------- damage

NUMBERS = [
    struct.pack(code, value)
    for code in ("<I", ">I", "<Q", ">Q", "<H", ">H")
    for value in (0, 1, 2 ** (8 * struct.calcsize(code) - 1) - 1, 2 ** (8 * struct.calcsize(code)) - 1)
]
"""What a length in a header may be taken for."""

TEXTS = [b"-1", b"1e999", b"NaN", b"null", b"[", b"{", b'"', b"\n", b"\r", b"\0", b"\xff", b"9" * 30, b"\\u0000"]

places = st.integers(0, 2**16)
pieces = st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))


def flip(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def overwrite(content: bytes, place: int, piece: bytes) -> bytes:
    return content[:place] + piece + content[place + len(piece) :]


def insert(content: bytes, place: int, piece: bytes) -> bytes:
    return content[:place] + piece + content[place:]


def cut(content: bytes, place: int, length: int) -> bytes:
    return content[:place] + content[place + length :]


def repeat(content: bytes, place: int, length: int) -> bytes:
    return content[: place + length] + content[place:]


changes = st.one_of(
    st.tuples(st.just(flip), places, st.integers(0, 7)),
    st.tuples(st.just(overwrite), places, pieces),
    st.tuples(st.just(insert), places, pieces),
    st.tuples(st.sampled_from([cut, repeat]), places, st.sampled_from([1, 2, 4, 8, 64, 2**16])),
)


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(name, folders):
    reader = READERS[name]
    assert all(reader(folders(name), content) for content in reader.valid())


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damage(name, folders):
    reader, folder = READERS[name], folders(name)
    valid = reader.valid()

    @FEW
    @given(st.sampled_from(valid), st.lists(changes, min_size=1, max_size=3))
    def damaged(content, some):
        for change, place, argument in some:
            content = change(content, place % max(1, len(content)), argument) if content else b""
        reader(folder, content)

    damaged()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_random_bytes(name, folders):
    reader, folder = READERS[name], folders(name)
    beginnings = [b"", *(content[: 2**n] for content in reader.valid() for n in range(2, 9))]

    @FEW
    @given(st.sampled_from(beginnings), st.binary(max_size=200))
    @example(b"", b"")
    def random_bytes(beginning, rest):
        reader(folder, beginning + rest)

    random_bytes()


# ------------------------------------------------------------------------------------------------- promises of much


def array_list(*numbers: tuple[str, int]) -> bytes:
    """An MXNet list of one array that goes on with these numbers."""
    return struct.pack("<QQQ", 0x112, 0, 1) + b"".join(struct.pack(f"<{code}", value) for code, value in numbers)


def protobuf(number: int, length: int) -> bytes:
    """A field of a Caffe model that says how long it is, and nothing else."""
    head = bytes([number << 3 & 0x7F | 2 | 0x80 * (number > 15), *([number >> 4] if number > 15 else [])])
    digits = [length >> shift & 0x7F | 0x80 for shift in range(0, 63, 7)]
    return head + bytes(digits) + b"\x01"


def pickled(*operations: bytes) -> bytes:
    """An array of one object, the pickle of which consists of these operations."""
    whole = labels_of_images()
    return whole[: whole.index(b"\x80", 8)] + b"\x80\x05" + b"".join(operations) + b"."


def png(width: int, height: int, channels: int) -> bytes:
    """A PNG that says how large it is, with the pixels of a much smaller one."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def archive(shape: str) -> bytes:
    """Maps whose header promises a shape."""
    head = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"

    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("classes.npy", saved(lambda inner: np.save(inner, np.array([1, 4]))))
            file.writestr("cams.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)

    return saved(write)


def nested_entities() -> bytes:
    names = "abcdefghij"
    nested = [f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise(names)]
    text = f'<!DOCTYPE x [<!ENTITY a "{"ha" * 10}">{"".join(nested)}]><x><name>&j;</name></x>'
    return text.encode()


def coco_with(segmentation: str) -> bytes:
    return bytes_of(coco_tree, INSTANCES).replace(b"[[2, 2, 22, 2, 22, 22, 2, 22]]", segmentation.encode(), 1)


TERA = 2**40

PROMISES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "records": ("MXNet", lambda: struct.pack("<QQQ", 0x112, 0, TERA)),
    "a side": ("MXNet", lambda: array_list(("I", 0xF993FAC8), ("I", 1), ("q", TERA), ("Q", 1), ("i", 0))),
    "no value": ("MXNet", lambda: array_list(("I", 0xF993FAC8), ("I", 2), ("q", TERA), ("q", 0), ("Q", 1), ("i", 0))),
    "a name": ("MXNet", lambda: array_list(("I", 0), ("Q", 1), ("Q", TERA))),
    "a layer": ("Caffe", lambda: protobuf(100, TERA)),
    "sides": ("Caffe", lambda: b"\x12\x8c\x80\x08\x32\x87\x80\x08\x3a\x83\x80\x08\x0a\xff\xff\x07" + b"\x01" * 2**17),
    "a header": ("labels of images", lambda: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + labels_of_images()[10:]),
    "a memo": ("labels of images", lambda: pickled(b"}r", struct.pack("<I", 2**31))),
    "bytes": ("labels of images", lambda: pickled(b"\x8e", struct.pack("<Q", TERA))),
    "a byte array": ("labels of images", lambda: pickled(b"\x96", struct.pack("<Q", 2**32))),
    "a frame": ("labels of images", lambda: pickled(b"\x95", struct.pack("<Q", TERA), b"}")),
    "digits of a key": ("labels of images", lambda: labels_of_images(10**5000)),
    "a tensor of maps": ("maps of IRN", lambda: maps_of_irn(torch.zeros(1).expand(TERA))),
    "a storage of maps": ("maps of IRN", lambda: maps_of_irn().replace(b"cpuq\x03K\x02", b"cpuq\x03J\xff\xff\xff\x7f")),
    "a tensor": ("PyTorch", lambda: saved(lambda s: torch.save({"weight": torch.zeros(1).expand(TERA)}, s))),
    "a header of tensors": ("safetensors", lambda: safe_state(99_999_999)),
    "a longer header of tensors": ("safetensors", lambda: safe_state(TERA)),
    "a shape of tensors": ("safetensors", lambda: safe_state().replace(b'"shape":[2,3]', b'"shape":[9,9]')),
    "a storage": ("PyTorch before 1.6", lambda: state(old=True).replace(b"K\x06", b"J\xff\xff\xff\x7f")),
    "a checkpoint's memo": ("checkpoint of a run", lambda: b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."),
    "pixels": ("image", lambda: png(13_000, 13_000, 3)),
    "too many pixels": ("image", lambda: png(2**31 - 1, 2**31 - 1, 3)),
    "pixels of a mask": ("mask", lambda: png(13_000, 13_000, 1)),
    "maps": ("CAMs of a run", lambda: archive(f"(2, {2**20}, {2**19})")),
    "lists in lists": ("JSON", lambda: b"[" * 10**6),
    "descriptions in descriptions": ("description of weights", lambda: b'{"mean": ' + b"[" * 10**6),
    "images in images": ("COCO", lambda: b'{"images": ' + b"[" * 10**6),
    "others in others": ("COCO", lambda: b'{"info": ' + b"[" * 10**6),
    "digits of an image": ("COCO", lambda: b'{"images": [{"id": ' + b"9" * 5000 + b"}]}"),
    "a long outline": ("COCO", lambda: coco_with("[[1e9, 0, 0, 1e9, 5, 5]]")),
    "a hatched polygon": ("COCO", lambda: coco_with("[[" + "0, 0, 300, 300, " * 10**5 + "5, 5]]")),
    "no number": ("COCO", lambda: coco_with("[[NaN, 2, 22, 2, 22, 22, 2, 22]]")),
    "an endless run": ("COCO", lambda: coco_with('{"size": [30, 40], "counts": "oooooooooooo"}')),
    "a negative run": ("COCO", lambda: coco_with('{"size": [30, 40], "counts": [-5, 1205]}')),
    "entities": ("VOC annotation", nested_entities),
    "an unknown encoding": ("VOC annotation", lambda: b'<?xml version="1.0" encoding="no-such"?><a/>'),
    "a cell": ("table of a folder", lambda: b"image,labels\n" + b"x" * 2**20),
}
"""Files that promise more than they hold, or what no file has, by what that is, each with its reader."""


def weigh(folder: Path) -> None:
    """Have the readers read all of :data:`PROMISES` with little memory, and print by how many MiB this one grew."""
    contents = {what: make() for what, (_, make) in PROMISES.items()}
    for name in {name for name, _ in PROMISES.values()}:
        READERS[name].make(folder / name)
        READERS[name](folder / name, READERS[name].valid()[0])  # what is loaded at the first call is not to be weighed
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
    for what, (name, _) in PROMISES.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert not READERS[name](folder / name, contents[what]), what
        print(what, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**10, sep=": ", flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is weighed on Linux")
def test_what_promises_much_gets_little(tmp_path):
    """In a process of its own, since a reader that gives way here takes its process with it."""
    code = "import sys; from pathlib import Path; from tests.test_fuzzing import weigh; weigh(Path(sys.argv[1]))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    grown = dict(line.split(": ") for line in done.stdout.splitlines())
    assert done.returncode == 0, f"after {list(grown)[-1:]}: {done.stderr[-2000:]}"
    assert grown.keys() == PROMISES.keys()
    assert not {what: size for what, size in grown.items() if int(size) > 100}


# ------------------------------------------------------------------------------------------------------------ no code


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def in_an_array(evil: Evil) -> bytes:
    return saved(lambda stream: np.save(stream, np.array({"2007_000032": evil}, dtype=object), allow_pickle=True))


def in_an_archive(evil: Evil) -> bytes:
    return saved(lambda stream: np.savez(stream, classes=np.array([1, 4]), cams=np.array(evil, dtype=object)))


def in_a_checkpoint(evil: Evil, old: bool = False) -> bytes:
    content = {"method": evil, "state_dict": {"weight": torch.zeros(2, 3), "bias": evil}}
    return saved(lambda stream: torch.save(content, stream, _use_new_zipfile_serialization=not old))


CODE = {
    "labels of images": in_an_array,
    "CAMs of the authors": in_an_array,
    "maps of IRN": in_an_array,
    "CAMs of a run": in_an_archive,
    "PyTorch": in_a_checkpoint,
    "PyTorch before 1.6": lambda evil: in_a_checkpoint(evil, old=True),
    "checkpoint of a run": in_a_checkpoint,
}


@pytest.mark.parametrize("plain", [False, True], ids=["in its file", "alone"])
@pytest.mark.parametrize("name", CODE)
def test_no_code_is_executed(name, plain, folders, tmp_path):
    evil = Evil(tmp_path / "made")
    content = pickle.dumps(evil) if plain else CODE[name](evil)
    assert not READERS[name](folders(name), content)
    assert not evil.path.exists()
    pickle.loads(pickle.dumps(evil))
    assert evil.path.exists(), "this code does nothing at all"


def test_the_index_of_coco_executes_nothing(tmp_path):
    evil = Evil(tmp_path / "made")
    path = coco_tree(tmp_path / "tree") / f"{INSTANCES}.index.npz"
    path.write_bytes(in_an_archive(evil))
    with_masks(tmp_path / "tree" / INSTANCES)
    assert not evil.path.exists()
