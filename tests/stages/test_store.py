"""Files of a run: what is written comes back, and what is damaged is named."""

import errno
import json
import math
import os
import pickle
import random

import numpy as np
import pytest
import torch

from wsss_lib.data.files import write_atomically
from wsss_lib.errors import InputError
from wsss_lib.stages import store as module
from wsss_lib.stages.store import (
    CamStore,
    MaskStore,
    ScoreStore,
    read_authors_cams,
    read_checkpoint,
    read_json,
    read_seconds,
    restore_json_lines,
    write_authors_cams,
    write_checkpoint,
    write_json,
    write_json_lines,
)


def saved(folder, *arguments, **arrays):
    """The bytes of an ``.npz`` file."""
    np.savez(folder / "other.npz", *arguments, **arrays)
    content = (folder / "other.npz").read_bytes()
    (folder / "other.npz").unlink()
    return content


class Evil:
    """Pickled, this creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def flipped(content, count, seed=0):
    """Copies of bytes with one to three bits the other way around."""
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield bytes(damaged)


def same(one, other):
    """Whether two results of a reader are equal, whatever they consist of."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def nothing_but(folder, *names):
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(names)


# ------------------------------------------------------------------------------------------------------------ CAMs


@pytest.mark.parametrize("count", [0, 1, 3])
def test_maps_come_back(tmp_path, count):
    store = CamStore(tmp_path / "cams" / "val")
    cams, classes = torch.rand(count, 5, 7), torch.arange(count) * 4
    assert "a" not in store
    store.write("a", classes, cams)
    assert "a" in store
    read_classes, read_cams = store.read("a")
    assert torch.equal(read_classes, classes)
    assert (read_classes.dtype, read_cams.dtype, read_cams.shape) == (torch.int64, torch.float32, (count, 5, 7))
    assert torch.equal(read_cams, (cams * 65535).round() / 65535)
    assert nothing_but(tmp_path, "a.npz")


def test_maps_of_earlier_versions_are_read(tmp_path):
    cams = torch.rand(2, 5, 7).half()
    (tmp_path / "a.npz").write_bytes(saved(tmp_path, classes=np.array([3, 14]), cams=cams.numpy()))
    classes, read = CamStore(tmp_path).read("a")
    assert classes.tolist() == [3, 14]
    assert read.dtype == torch.float32
    assert torch.equal(read, cams.float())


def test_maps_are_stored_finely_and_exactly_at_the_ends(tmp_path):
    store, steps = CamStore(tmp_path), torch.arange(65536).view(1, 256, 256) / 65535
    store.write("a", torch.tensor([0]), steps)
    assert torch.equal(store.read("a")[1], steps)
    assert (steps.min(), steps.max()) == (0, 1)
    with np.load(store.path("a")) as file:
        assert file["cams"].dtype == np.uint16
    store.write("b", torch.tensor([0]), steps.half())
    assert store.path("b").stat().st_size == store.path("a").stat().st_size
    maps = torch.rand(1, 200, 300)
    store.write("c", torch.tensor([0]), maps)
    assert (store.read("c")[1] - maps).abs().max() <= 0.51 / 65535
    assert (maps.half().float() - maps).abs().max() >= 15 / 65535


def test_values_beyond_the_ends_by_rounding_are_the_ends(tmp_path):
    values = torch.tensor([[[-1e-7, 0, 1, 1 + 2e-7]]])
    CamStore(tmp_path).write("a", torch.tensor([0]), values)
    assert CamStore(tmp_path).read("a")[1].tolist() == [[[0, 0, 1, 1]]]
    ScoreStore(tmp_path, half=False).write("b", torch.tensor([], dtype=torch.int64), values)
    assert ScoreStore(tmp_path).read("b")[1].tolist() == [[[0, 0, 1, 1]]]
    (tmp_path / "c.npz").write_bytes(saved(tmp_path, classes=np.array([0]), cams=values.numpy()))
    assert CamStore(tmp_path).read("c")[1].tolist() == [[[0, 0, 1, 1]]]


NO_MAPS = {"NaN": math.nan, "infinite": math.inf, "above 1": 1.001, "negative": -0.001}


@pytest.mark.parametrize("value", NO_MAPS.values(), ids=NO_MAPS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_stored_values_that_are_no_maps_are_refused(tmp_path, value, dtype):
    values = np.full((1, 4, 5), 0.5, dtype)
    values[0, 2, 3] = value
    (tmp_path / "a.npz").write_bytes(saved(tmp_path, classes=np.array([0]), cams=values))
    with pytest.raises(InputError, match=r"a\.npz holds values that are not finite numbers in \[0, 1\]; remove it"):
        CamStore(tmp_path).read("a")
    (tmp_path / "b.npz").write_bytes(saved(tmp_path, classes=np.array([0]), scores=np.concatenate([values, values])))
    with pytest.raises(InputError, match=r"b\.npz holds values that are not finite numbers in \[0, 1\]; remove it"):
        ScoreStore(tmp_path).read("b")
    if value == 1.001:
        assert ScoreStore(tmp_path, half=False).read("b")[1].max() > 1
    else:
        with pytest.raises(InputError, match=r"b\.npz holds values that are not finite numbers of at least 0"):
            ScoreStore(tmp_path, half=False).read("b")


@pytest.mark.parametrize("value", NO_MAPS.values(), ids=NO_MAPS)
def test_values_that_are_no_maps_are_not_written(tmp_path, value):
    values = torch.full((2, 4, 5), 0.5)
    values[1, 2, 3] = value
    stores = [CamStore(tmp_path), ScoreStore(tmp_path), *([ScoreStore(tmp_path, half=False)] if value != 1.001 else [])]
    for store in stores:
        with pytest.raises(InputError, match=r"image a .* choose precision 32-true, or train again .* learning_rate"):
            store.write("a", torch.arange(2), values)
    assert nothing_but(tmp_path)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int64, bool, np.complex64])
def test_maps_of_another_type_are_refused(tmp_path, kind):
    (tmp_path / "a.npz").write_bytes(saved(tmp_path, classes=np.array([0]), cams=np.ones((1, 4, 5), kind)))
    with pytest.raises(InputError, match=r"a\.npz does not hold one map per class"):
        CamStore(tmp_path).read("a")


def test_missing_maps_are_named(tmp_path):
    with pytest.raises(InputError, match=r"b\.npz is missing; run the inference"):
        CamStore(tmp_path).read("b")


@pytest.mark.parametrize("kept", [0, 1, 30, 200, -30, -1])
def test_cut_off_maps_are_named(tmp_path, kept):
    store = CamStore(tmp_path)
    store.write("a", torch.tensor([1]), torch.rand(1, 8, 8))
    store.path("a").write_bytes(store.path("a").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.npz is damaged; remove it"):
        store.read("a")


def test_a_flipped_bit_is_noticed(tmp_path):
    store = CamStore(tmp_path)
    store.write("a", torch.tensor([1]), torch.rand(1, 40, 40))
    content = bytearray(store.path("a").read_bytes())
    content[len(content) // 2] ^= 4
    store.path("a").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        store.read("a")


@pytest.mark.parametrize(
    "arrays",
    [
        {"classes": np.array([1])},
        {"cams": np.zeros((1, 4, 4))},
        {"classes": np.array([1, 2]), "cams": np.zeros((1, 4, 4))},
        {"classes": np.array([1]), "cams": np.zeros((4, 4))},
        {"classes": np.array([0.5]), "cams": np.zeros((1, 4, 4))},
        {"classes": np.array(["a"]), "cams": np.zeros((1, 4, 4))},
    ],
)
def test_a_file_of_other_arrays_is_refused(tmp_path, arrays):
    (tmp_path / "a.npz").write_bytes(saved(tmp_path, **arrays))
    with pytest.raises(InputError, match=r"a\.npz (is damaged|does not hold one map per class); remove it"):
        CamStore(tmp_path).read("a")


def test_a_plain_array_under_the_name_of_maps_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 4)))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        CamStore(tmp_path).read("a")


def test_pickled_maps_are_refused_and_not_executed(tmp_path):
    trap = np.array([Evil(tmp_path / "trapped")], dtype=object)
    (tmp_path / "a.npz").write_bytes(saved(tmp_path, classes=trap, cams=np.zeros((1, 2, 2))))
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        CamStore(tmp_path).read("a")
    assert not (tmp_path / "trapped").exists()


# ---------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("half", [True, False])
def test_scores_come_back(tmp_path, count, half):
    store = ScoreStore(tmp_path / "scores" / "walk" / "val", half)
    scores, classes = torch.rand(1 + count, 5, 7), torch.arange(count) * 4
    assert "a" not in store
    store.write("a", classes, scores)
    assert "a" in store
    read_classes, read_scores = store.read("a")
    assert torch.equal(read_classes, classes)
    assert (read_classes.dtype, read_scores.dtype) == (torch.int64, torch.float32)
    assert torch.equal(read_scores, scores.half().float() if half else scores)
    assert nothing_but(tmp_path, "a.npz")
    with pytest.raises(InputError, match=r"b\.npz is missing"):
        store.read("b")


def test_probabilities_that_are_certain_take_little_room(tmp_path):
    certain = torch.zeros(3, 100, 100)
    certain[0] = 1
    ScoreStore(tmp_path / "scores").write("a", torch.tensor([1, 2]), certain)
    assert ScoreStore(tmp_path / "scores").path("a").stat().st_size < certain.numel()


@pytest.mark.parametrize("kept", [0, 30, -30, -1])
def test_cut_off_scores_are_named(tmp_path, kept):
    store = ScoreStore(tmp_path)
    store.write("a", torch.tensor([1]), torch.rand(2, 8, 8))
    store.path("a").write_bytes(store.path("a").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.npz is damaged; remove it"):
        store.read("a")


@pytest.mark.parametrize(
    "arrays",
    [
        {"classes": np.array([1]), "cams": np.zeros((1, 4, 4))},
        {"classes": np.array([1]), "scores": np.zeros((1, 4, 4))},
        {"classes": np.array([1, 2]), "scores": np.zeros((2, 4, 4))},
        {"classes": np.array([], np.int64), "scores": np.zeros((0, 4, 4))},
        {"classes": np.array([1]), "scores": np.zeros((2, 16))},
        {"classes": np.array([0.5]), "scores": np.zeros((2, 4, 4))},
    ],
)
def test_a_file_of_other_arrays_holds_no_scores(tmp_path, arrays):
    (tmp_path / "a.npz").write_bytes(saved(tmp_path, **arrays))
    with pytest.raises(InputError, match=r"a\.npz (is damaged|does not hold one map per class); remove it"):
        ScoreStore(tmp_path).read("a")


def test_flipped_bits_never_change_what_is_read(tmp_path):
    """Of some bytes of a file nothing depends."""
    rng = torch.Generator().manual_seed(0)
    maps, mask = torch.rand(3, 40, 50, generator=rng), torch.zeros(60, 80, dtype=torch.uint8)
    maps[:, :20] = torch.tensor([1.0, 0, 0])[:, None, None]
    mask[20:40, 10:60], mask[5:15, 30:70] = 3, 255
    CamStore(tmp_path).write("cams", torch.arange(3), maps)
    ScoreStore(tmp_path).write("scores", torch.arange(2), maps)
    MaskStore(tmp_path).write("mask", mask)
    write_checkpoint(tmp_path / "c.pt", {"a": maps[0], "history": [{"epoch": 1}]})
    readers = {
        "cams.npz": lambda: CamStore(tmp_path).read("cams"),
        "scores.npz": lambda: ScoreStore(tmp_path).read("scores"),
        "mask.png": lambda: MaskStore(tmp_path).read("mask", 20, (60, 80)),
        "c.pt": lambda: read_checkpoint(tmp_path / "c.pt"),
    }
    for name, read in readers.items():
        path, whole = tmp_path / name, read()
        content, refused = path.read_bytes(), 0
        for damaged in flipped(content, 400):
            path.write_bytes(damaged)
            try:
                assert same(read(), whole), name
            except InputError as error:
                refused += name in str(error) and str(error).endswith(".")
        assert refused > 300, name


# ------------------------------------------------------------------------------------------------------- taking over


STORES = {
    CamStore: lambda store, value: store.write("a", torch.tensor([3]), torch.full((1, 4, 5), value)),
    ScoreStore: lambda store, value: store.write("a", torch.tensor([3]), torch.full((2, 4, 5), value)),
    MaskStore: lambda store, value: store.write("a", torch.full((4, 5), int(4 * value), dtype=torch.uint8)),
}


@pytest.mark.parametrize("kind", STORES)
def test_files_are_taken_over(tmp_path, kind):
    there, here = kind(tmp_path / "there"), kind(tmp_path / "new" / "here")
    here.take_over("a", there)  # there is none to take
    assert "a" not in here
    assert not here.folder.exists()
    STORES[kind](there, 0.25)
    here.take_over("a", there)
    assert here.path("a").read_bytes() == there.path("a").read_bytes()
    assert nothing_but(tmp_path, here.path("a").name, here.path("a").name)
    there.path("a").unlink()  # it is a copy
    assert "a" in here


@pytest.mark.parametrize("kind", STORES)
def test_a_file_that_is_there_is_not_taken_over(tmp_path, kind):
    there, here = kind(tmp_path / "there"), kind(tmp_path / "here")
    STORES[kind](there, 0.25)
    STORES[kind](here, 0.75)
    before = here.path("a").read_bytes()
    here.take_over("a", there)
    assert here.path("a").read_bytes() == before != there.path("a").read_bytes()


def test_a_file_cannot_be_taken_over_into_a_file(tmp_path):
    there = CamStore(tmp_path / "there")
    STORES[CamStore](there, 0.25)
    (tmp_path / "here").write_text("")
    with pytest.raises(InputError, match=r"a\.npz cannot be written .*choose a folder that you may write to"):
        CamStore(tmp_path / "here").take_over("a", there)


# ----------------------------------------------------------------------------------------------------------- masks


def test_masks_come_back(tmp_path):
    store = MaskStore(tmp_path / "masks")
    mask = torch.randint(0, 4, (6, 9), dtype=torch.uint8)
    mask[0, 0] = 255
    store.write("a", mask)
    assert "a" in store
    assert "b" not in store
    assert torch.equal(store.read("a", 3), mask)
    with pytest.raises(InputError, match=r"a\.png holds the value 3"):
        store.read("a", 2)
    with pytest.raises(InputError, match=r"b\.png does not exist"):
        store.read("b", 2)


def test_masks_of_another_size_or_no_masks_are_named(tmp_path):
    store = MaskStore(tmp_path)
    store.write("a", torch.zeros(6, 9, dtype=torch.uint8))
    assert store.read("a", 3, (6, 9)).shape == (6, 9)
    with pytest.raises(InputError, match=r"a\.png is 6 x 9 pixels .* its image is 9 x 6"):
        store.read("a", 3, (9, 6))
    content = store.path("a").read_bytes()
    for damaged in (content[:-30], content[:20], b"", b"no picture"):
        store.path("a").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.png"):
            store.read("a", 3)


# ----------------------------------------------------------------------------------------------- the authors' files


def test_authors_maps_come_back(tmp_path):
    path = tmp_path / "a.npy"
    classes, cams = torch.tensor([3, 14]), torch.rand(2, 5, 6)
    write_authors_cams(path, classes, cams)
    read_classes, read_cams = read_authors_cams(path)
    assert torch.equal(read_classes, classes)
    assert torch.equal(read_cams, cams)
    theirs = np.load(path, allow_pickle=True).item()  # as the authors' tools read it
    assert list(theirs) == [3, 14]
    np.testing.assert_array_equal(theirs[14], cams[1].numpy())
    assert theirs[3].dtype == np.float32


def test_authors_maps_are_sorted_by_class(tmp_path):
    np.save(tmp_path / "a.npy", {14: np.ones((2, 3), np.float32), 3: np.zeros((2, 3), np.float32)})
    classes, cams = read_authors_cams(tmp_path / "a.npy")
    assert classes.tolist() == [3, 14]
    assert cams.amax((1, 2)).tolist() == [0, 1]


def test_authors_file_without_maps(tmp_path):
    np.save(tmp_path / "a.npy", {})
    classes, cams = read_authors_cams(tmp_path / "a.npy")
    assert len(classes) == len(cams) == 0


def test_an_evil_pickle_is_refused_and_not_executed(tmp_path):
    for name, content in {"a.npy": Evil(tmp_path / "trapped"), "b.npy": {1: Evil(tmp_path / "trapped")}}.items():
        np.save(tmp_path / name, np.array(content, dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match=name):
            read_authors_cams(tmp_path / name)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_authors_maps_that_are_no_numbers(tmp_path, value):
    np.save(tmp_path / "a.npy", {3: np.full((2, 3), value, np.float32)})
    with pytest.raises(InputError, match=r"a\.npy holds NaN or infinite values"):
        read_authors_cams(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "content", [{1: np.zeros((2, 3)), 2: np.zeros((3, 2))}, {"cat": np.zeros((2, 3))}, {1: "map"}, [np.zeros((2, 3))]]
)
def test_another_dictionary_is_named(tmp_path, content):
    np.save(tmp_path / "a.npy", np.array([content, None], dtype=object)[:1].reshape(()), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_authors_cams(tmp_path / "a.npy")


# -------------------------------------------------------------------------------------------------- whole or absent


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_nothing(tmp_path, error):
    def write(stream):
        stream.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "new" / "a.txt", write)
    assert nothing_but(tmp_path)


def test_a_writer_that_fails_keeps_what_was_there(tmp_path, monkeypatch):
    store = CamStore(tmp_path)
    store.write("a", torch.tensor([1]), torch.ones(1, 4, 4))

    def full(stream, **_):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"a\.npz cannot be written \(No space left on device\); make room"):
        store.write("a", torch.tensor([2]), torch.zeros(1, 4, 4))
    assert store.read("a")[0].tolist() == [1]
    assert nothing_but(tmp_path, "a.npz")


def test_a_full_disk_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "checkpoint.pt", {"a": torch.ones(3)})

    def full(_, stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"checkpoint\.pt cannot be written"):
        write_checkpoint(tmp_path / "checkpoint.pt", {"a": torch.zeros(3)})
    assert read_checkpoint(tmp_path / "checkpoint.pt")["a"].tolist() == [1, 1, 1]
    assert nothing_but(tmp_path, "checkpoint.pt")


@pytest.mark.parametrize("kind", STORES)
def test_thousands_of_files_are_not_flushed_but_those_of_a_run_are(tmp_path, kind, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    STORES[kind](kind(tmp_path / "there"), 0.25)
    kind(tmp_path / "here").take_over("a", kind(tmp_path / "there"))
    assert not synced
    for write in (
        lambda path: write_json(path, {}),
        lambda path: write_json_lines(path, [{}]),
        lambda path: write_checkpoint(path, {}),
        lambda path: module.copy_file(kind(tmp_path / "there").path("a"), path),
    ):
        write(tmp_path / "file")
        assert len(synced) == 2  # the file and its folder
        synced.clear()


# ------------------------------------------------------------------------------------------------------ checkpoints


def test_checkpoints_come_back(tmp_path):
    state = {"tensor": torch.arange(4.0), "history": [{"epoch": 1, "loss": 0.25}], "deep": {"x": [1, None, "y"]}}
    write_checkpoint(tmp_path / "c.pt", state)
    read = read_checkpoint(tmp_path / "c.pt")
    assert torch.equal(read.pop("tensor"), state.pop("tensor"))
    assert read == state


@pytest.mark.parametrize("kept", [0, 1, 100, -100, -1])
def test_a_cut_off_checkpoint_is_named(tmp_path, kept):
    path = tmp_path / "c.pt"
    write_checkpoint(path, {"tensor": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"c\.pt cannot be read .*; remove it to train again") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path):
    trapped = tmp_path / "trapped"
    torch.save({"method": Evil(trapped)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil(trapped)))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(InputError, match=name):
            read_checkpoint(tmp_path / name)
    assert not trapped.exists()


# ------------------------------------------------------------------------------------------------------------- JSON


def test_json_has_null_for_what_is_no_number(tmp_path):
    value = {"a": math.nan, "b": [1.5, math.inf, (2, -math.inf)], 3: "Größe", "d": {"e": np.float64("nan")}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [1.5, None, [2, None]], "3": "Größe", "d": {"e": None}}
    write_json_lines(tmp_path / "a.jsonl", [{"loss": math.nan}, {"loss": 1.0}])
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"loss": None}, {"loss": 1.0}]


def test_json_that_is_none(tmp_path):
    (tmp_path / "a.json").write_text('{"half": ')
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.json").mkdir()
    for name in ("a.json", "b.json", "c.json", "d.json"):
        with pytest.raises(InputError, match=name):
            read_json(tmp_path / name)


ROWS = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": math.nan}]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\0", b'{"epoch": 1, "loss": 0.25}\n', b"[]\n" * 2, None])
def test_a_damaged_log_is_written_again(tmp_path, content, capsys):
    path = tmp_path / "log.jsonl"
    write_json_lines(path, ROWS)
    whole = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    for _ in range(2):
        restore_json_lines(path, ROWS)
        assert path.read_bytes() == whole
    printed = capsys.readouterr().out
    assert printed == (f"{path} is damaged; it is written again from the checkpoint.\n" if content is not None else "")


def test_a_log_with_a_line_more_is_not_damaged(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    write_json_lines(path, [*ROWS, {"epoch": 3}])
    before = path.read_bytes()
    restore_json_lines(path, ROWS)
    assert path.read_bytes() == before
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[1]", b'{"a": "b"}', b'{"a": NaN}', b'{"a": -1}', b'{"a": true}', b'{"a": [1]}']
)
def test_damaged_seconds_begin_from_nothing(tmp_path, content, capsys):
    path = tmp_path / "seconds.json"
    assert read_seconds(path) == {}
    path.write_bytes(content)
    for _ in range(2):
        assert read_seconds(path) == {}
    assert capsys.readouterr().out == f"{path} is damaged; the times of the stages are counted from 0 again.\n"
    write_json(path, {"training": 3, "inference val": 1.5})
    assert read_seconds(path) == {"training": 3, "inference val": 1.5}


def test_a_name_that_is_not_utf8_comes_back_from_json(tmp_path):
    name = os.fsdecode(b"/pictures/\xff\xfe \xc3\xa9")
    write_json(tmp_path / "config.json", {"folder": name, name: [1]})
    assert read_json(tmp_path / "config.json") == {"folder": name, name: [1]}
    (tmp_path / "config.json").read_text(encoding="utf-8")


def test_an_error_about_a_file_whose_name_is_not_utf8_can_be_printed(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.json")
    with pytest.raises(InputError, match=r"/\\udcff\.json is missing") as caught:
        read_json(path)
    str(caught.value).encode()
