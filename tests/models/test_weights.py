"""Weight files: every byte of the formats is written here by hand, so that the readers are not tested by themselves."""

import argparse
import contextlib
import hashlib
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from wsss_lib.errors import InputError
from wsss_lib.models import torch_files, weights
from wsss_lib.models.torch_files import read_torch
from wsss_lib.models.weight_formats import (
    VGG16_LAYERS,
    MXNetList,
    is_safetensors,
    read_caffe,
    read_mxnet,
    read_safetensors,
    resnet38d_from_mxnet,
    vgg16_from_caffe,
)
from wsss_lib.models.weights import load_into, read_sidecar, read_state

GOLDEN = Path(__file__).parents[1] / "golden" / "weights"
FLAGS = dict(
    zip(("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8", "bf16"), range(13), strict=True)
)
VERSIONS = {"v1": 0xF993FAC8, "v2": 0xF993FAC9, "v3": 0xF993FACA}
HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>gone</body></html>\n" * 3


# --- writers --------------------------------------------------------------------------------------------------------


def mxnet_record(array, version="v2", device=(1, 0), flag=None):
    """One array as MXNet stores it; None is an empty array."""
    shape = () if array is None else array.shape
    dimensions = -1 if array is None and version == "v3" else len(shape)
    if version == "legacy":
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    elif version == "v1":
        head = struct.pack(f"<II{len(shape)}q", VERSIONS[version], len(shape), *shape)
    else:
        head = struct.pack(f"<Iii{len(shape)}q", VERSIONS[version], 0, dimensions, *shape)
    if array is None:
        return head
    flag = FLAGS[array.dtype.str.lstrip("<|").replace("b1", "?")] if flag is None else flag
    return head + struct.pack("<iii", *device, flag) + array.tobytes()


def mxnet_list(records, names=()):
    names = [name.encode() for name in names]
    texts = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return struct.pack("<QQQ", 0x112, 0, len(records)) + b"".join(records) + struct.pack("<Q", len(names)) + texts


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, payload):
    """A protobuf field: an integer becomes a varint, bytes become a length and the bytes."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def fixed(number, value, code):
    return varint(number << 3 | {"f": 5, "d": 1}[code]) + struct.pack("<" + code, value)


def blob(array, style="shape", packed=True, packed_shape=True):
    code, number = {"float32": ("f", 5), "float64": ("d", 8)}[array.dtype.name]
    if style == "old":
        shape = b"".join(field(i + 1, side) for i, side in enumerate((1,) * (4 - array.ndim) + array.shape))
    elif packed_shape:
        shape = field(7, field(1, b"".join(varint(side) for side in array.shape)))
    else:
        shape = field(7, b"".join(field(1, side) for side in array.shape))
    if packed:
        return field(number, array.tobytes()) + field(6, b"\0" * 8) + shape
    return shape + b"".join(fixed(number, float(value), code) for value in array.ravel())


def layer(name, *blobs, style="new"):
    number, name_field, blobs_field = {"new": (100, 1, 7), "old": (2, 4, 6)}[style]
    text = field(name_field, name.encode())
    return field(number, field(3, b"top") + b"".join(field(blobs_field, one) for one in blobs) + text)


def vgg(out=2):
    values = np.arange(out, dtype=np.float32)
    return b"".join(
        layer(name, blob(np.ones((out, 1, 3, 3), "f4") * i), blob(values + i)) for i, name in enumerate(VGG16_LAYERS)
    )


def save(tmp_path, content, name="file.bin"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def same(found, wanted):
    return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


def golden(stem):
    with np.load(GOLDEN / f"{stem}.npz") as file:
        return dict(file)


# --- MXNet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["resnet38_legacy", "resnet38_v2", "dtypes_v2"])
def test_mxnet_golden(stem):
    wanted = golden(f"{stem}_params")
    read = read_mxnet(GOLDEN / f"{stem}.params")
    assert read.names == list(wanted["names"])
    assert all(same(array, wanted[f"a{i}"]) for i, array in enumerate(read.arrays))


@pytest.mark.parametrize("stem", ["resnet38_legacy", "resnet38_v2"])
@pytest.mark.parametrize("name", ["weights.params", "weights.pth", "no_ending"])
def test_resnet38_golden(stem, name, tmp_path):
    wanted = golden(f"{stem}_params")
    state = read_state(save(tmp_path, (GOLDEN / f"{stem}.params").read_bytes(), name))
    assert list(state) == list(wanted["torch_names"])
    assert len(state) == 191
    assert all(same(value.numpy(), wanted[f"t{i}"]) for i, value in enumerate(state.values()))


def test_resnet38_names(caplog):
    rows = json.loads((GOLDEN / "resnet38_names.json").read_text())["rows"]
    arrays = [np.full(1, i, "f4") for i in range(len(rows))]
    with caplog.at_level("INFO"):
        state = resnet38d_from_mxnet(MXNetList([row[0] for row in rows], arrays))
    assert {key: int(value) for key, value in state.items()} == {row[1]: i for i, row in enumerate(rows) if row[1]}
    dropped = [row[0] for row in rows if row[1] is None]
    assert len(caplog.messages) == 2
    assert all(name in message for name, message in zip(dropped, caplog.messages, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "arg:conv0_weight",
            "conv1a_weight",
            "aux:conv1a_weight",
            "arg:res8a_branch2a_weight",
            "arg:res2a_branch2a_bias",
        ),
        *(
            "arg:res2b3_branch2a_weight",
            "arg:res2b1_branch1_weight",
            "arg:res5a_branch2b2_weight",
            "arg:bn7_moving_mean",
        ),
        *(
            "arg:bn6b1_branch2a_gamma",
            "aux:bn2a_branch2a_gamma",
            "arg:bn2a_branch1_gamma",
            "arg:bn7_gamma2",
            "arg:bn8_gamma",
        ),
        *("arg:linear1000_gamma", "", "arg:res2a_branch2a_weight\n"),
    ],
)
def test_resnet38_foreign_names_are_refused(name):
    with pytest.raises(InputError, match="not of ResNet-38"):
        resnet38d_from_mxnet(MXNetList(["arg:conv1a_weight", name], [np.zeros(1, "f4")] * 2))


def test_resnet38_needs_names_and_values():
    with pytest.raises(InputError, match="no names of arrays"):
        resnet38d_from_mxnet(MXNetList([], [np.zeros(1, "f4")]))
    with pytest.raises(InputError, match="no values"):
        resnet38d_from_mxnet(MXNetList(["arg:conv1a_weight"], [None]))


def test_mxnet_bytes_of_the_real_library(tmp_path):
    content = bytes.fromhex(
        "1201000000000000 0000000000000000 0100000000000000"
        "c9fa93f9 00000000 02000000 0200000000000000 0300000000000000"
        "01000000 00000000 00000000 000000000000803f0000004000004040000080400000a040"
        "0100000000000000 0500000000000000 6172673a61"
    )
    wanted = np.arange(6, dtype="f4").reshape(2, 3)
    assert content == mxnet_list([mxnet_record(wanted)], ["arg:a"])
    read = read_mxnet(save(tmp_path, content))
    assert read.names == ["arg:a"]
    assert same(read.arrays[0], wanted)


@pytest.mark.parametrize("device", [(1, 0), (2, 3), (5, -1)])
@pytest.mark.parametrize("version", ["legacy", "v1", "v2", "v3"])
def test_mxnet_versions(tmp_path, version, device):
    arrays = [np.arange(6, dtype="f4").reshape(2, 1, 3), np.zeros((0, 4), "f4"), np.array([7], "i8")]
    records = [mxnet_record(array, version, device) for array in arrays]
    read = read_mxnet(save(tmp_path, mxnet_list(records, ["a", "é", "c"])))
    assert read.names == ["a", "é", "c"]
    assert all(same(found, wanted) for found, wanted in zip(read.arrays, arrays, strict=True))
    assert read.arrays[0].flags.writeable
    assert read.arrays[0].flags.owndata


def test_mxnet_mixed_unnamed_with_empty_records_and_trailing_bytes(tmp_path):
    array = np.arange(4, dtype="f4")
    records = [mxnet_record(array + i, version) for i, version in enumerate(["legacy", "v1", "v2", "v3"])]
    records += [mxnet_record(None, version) for version in ["legacy", "v1", "v2", "v3"]]
    records += [mxnet_record(np.array(3, "f4"), "v3"), mxnet_record(array + 9)]
    read = read_mxnet(save(tmp_path, mxnet_list(records) + b"more"))
    assert read.names == []
    assert all(same(read.arrays[i], array + i) for i in range(4))
    assert read.arrays[4:8] == [None] * 4
    assert same(read.arrays[8], np.array(3, "f4"))
    assert same(read.arrays[9], array + 9)


@pytest.mark.parametrize("code", [code for code in FLAGS if code != "bf16"])
@pytest.mark.parametrize("shape", [(3,), ()])
def test_mxnet_types(tmp_path, code, shape):
    wanted = np.array([1, 0, 3]).astype(code)[:3].reshape(3) if shape else np.array(1).astype(code)
    read = read_mxnet(save(tmp_path, mxnet_list([mxnet_record(wanted, "v3")])))
    assert same(read.arrays[0], wanted)
    assert torch.from_numpy(read.arrays[0]).shape == shape


def test_mxnet_bfloat16(tmp_path):
    wanted = torch.tensor([[1.0, -2.5], [3e38, math.inf]], dtype=torch.bfloat16)
    bits = wanted.view(torch.int16).numpy()
    read = read_mxnet(
        save(tmp_path, mxnet_list([mxnet_record(bits, flag=12), mxnet_record(bits[0, 0].reshape(()), "v3", flag=12)]))
    )
    assert same(read.arrays[0], wanted.float().numpy())
    assert same(read.arrays[1], np.array(1, "f4"))


def v2_head(dimensions, shape, storage=0):
    return struct.pack(f"<Iii{len(shape)}q", VERSIONS["v2"], storage, dimensions, *shape)


TAIL = struct.pack("<iii", 1, 0, 0) + b"\0" * 16
FINE = mxnet_record(np.zeros(2, "f4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mxnet_list([FINE, v2_head(2, (1, -4)) + TAIL]), "record 1.*negative side.*byte"),
        (mxnet_list([FINE, v2_head(2, (-4, -4)) + TAIL]), "negative side"),
        (mxnet_list([FINE, v2_head(3, (1 << 32, 1 << 32, 1 << 32)) + TAIL]), "record 1.*needs"),
        (mxnet_list([FINE, v2_head(2, (1 << 62, 4)) + TAIL]), "needs 73786976294838206464 more"),
        (mxnet_list([FINE, v2_head(2, (0, 1 << 62)) + TAIL]), "impossible|names for"),
        (mxnet_list([FINE, v2_head(33, ()) + TAIL]), "33 dimensions"),
        (mxnet_list([FINE, v2_head(-2, ()) + TAIL]), "-2 dimensions"),
        (mxnet_list([FINE, v2_head(1, (1,), storage=1) + TAIL]), "sparse arrays are not supported"),
        (mxnet_list([mxnet_record(np.zeros(1, "f4"), flag=13)]), "no type with the number 13"),
        (mxnet_list([struct.pack("<I", 33) + TAIL * 20]), "33 dimensions"),
        (struct.pack("<QQQ", 0x112, 0, 1 << 63) + FINE, "needs 36893488147419103232"),
        (mxnet_list([FINE] * 2, ["a"]), "1 names for 2 arrays"),
        (mxnet_list([FINE] * 2, ["a", "a"]), "'a' occurs more than once"),
        (mxnet_list([FINE])[:-8] + struct.pack("<QQ", 1, 1 << 62) + b"a", "name 0 needs"),
        (mxnet_list([FINE])[:-8] + struct.pack("<QQ", 1, 2) + b"\xff\xfe", "UTF-8"),
        (HTML, "not an MXNet"),
        (b"", "cannot be read"),
        (b"\x12\x01", "not an MXNet"),
    ],
)
def test_mxnet_damage_is_named(tmp_path, content, message):
    path = save(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_mxnet(path)
    assert str(path) in str(caught.value)


def test_mxnet_every_truncation_is_refused(tmp_path):
    arrays = [np.zeros((2, 3), "f4"), np.zeros(3, "i1"), None]
    kinds = ["legacy", "v1", "v2"]
    records = [mxnet_record(array, version) for array, version in zip(arrays, kinds, strict=True)]
    for content in (mxnet_list(records, ["a", "bc", "d"]), mxnet_list(records)):
        read_mxnet(save(tmp_path, content))
        for length in range(len(content)):
            path = save(tmp_path, content[:length])
            with pytest.raises(InputError):
                read_mxnet(path)
            with pytest.raises(InputError):
                read_state(path)


def survives(read, path):
    """Whether the file can be read; anything but a result or an InputError fails the test."""
    try:
        read(path)
    except InputError:
        return False
    return True


def flipped(content, seed, rounds):
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        damaged = np.frombuffer(content, np.uint8).copy()
        for position in rng.integers(0, len(damaged), rng.integers(1, 5)):
            damaged[position] = (
                rng.integers(0, 256) if rng.random() < 0.5 else damaged[position] ^ 1 << rng.integers(0, 8)
            )
        yield damaged.tobytes()


def test_mxnet_random_damage(tmp_path):
    records = [mxnet_record(np.ones((1, 2), "f4"), version) for version in ["legacy", "v1", "v2", "v3"]]
    content = mxnet_list(records, ["a", "b", "c", "d"])
    read = [survives(read_mxnet, save(tmp_path, damaged)) for damaged in flipped(content, 0, 1500)]
    assert 100 < sum(read) < 1400


# --- Caffe ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["vgg_v1", "vgg_new"])
def test_caffe_golden(stem, tmp_path):
    wanted = golden(f"{stem}_caffemodel")
    read = read_caffe(GOLDEN / f"{stem}.caffemodel")
    flat = {f"{name}/{i}": array for name, blobs in read.items() for i, array in enumerate(blobs)}
    assert list(flat) == list(wanted["names"])
    assert all(same(array, wanted[f"a{i}"]) for i, array in enumerate(flat.values()))

    state = read_state(save(tmp_path, (GOLDEN / f"{stem}.caffemodel").read_bytes(), "vgg.pth"))
    assert list(state) == list(wanted["torch_names"])
    assert all(same(value.numpy(), wanted[f"t{i}"]) for i, value in enumerate(state.values()))


@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("packed_shape", [True, False])
def test_caffe_encodings(tmp_path, style, dtype, packed, packed_shape):
    wanted = np.random.default_rng(0).standard_normal((300, 1, 2)).astype(dtype)
    shape_style = "old" if style == "old" else "shape"
    encoded = [blob(array, shape_style, packed, packed_shape) for array in (wanted, wanted[0])]
    content = field(1, b"net") + layer("data", style=style) + layer("a", *encoded, style=style)
    read = read_caffe(save(tmp_path, content))
    assert list(read) == ["a"]
    shapes = [(1, 300, 1, 2), (1, 1, 1, 2)] if style == "old" else [(300, 1, 2), (1, 2)]
    assert all(
        same(found, array.reshape(shape))
        for found, array, shape in zip(read["a"], (wanted, wanted[0]), shapes, strict=True)
    )
    assert read["a"][0].flags.writeable


def test_caffe_values_in_pieces(tmp_path):
    values = np.arange(5, dtype="f4")
    pieces = (
        field(5, values[:2].tobytes())
        + field(8, b"\0" * 16)
        + fixed(5, 2.0, "f")
        + field(99, 7)
        + field(5, values[3:].tobytes())
    )
    read = read_caffe(save(tmp_path, layer("a", pieces + field(7, field(1, 5)))))
    assert same(read["a"][0], values)


def test_caffe_blob_without_values(tmp_path):
    read = read_caffe(save(tmp_path, layer("a", b"", blob(np.zeros((0, 3), "f4")))))
    assert same(read["a"][0], np.zeros((0, 0, 0, 0), "f4"))
    assert same(read["a"][1], np.zeros((0, 3), "f4"))


def test_caffe_unknown_fields_are_skipped(tmp_path):
    unknown = field(50, 1 << 63) + field(51, b"abc") + fixed(52, 1.0, "f") + fixed(53, 1.0, "d")
    one = unknown + blob(np.ones((1, 2), "f4")) + unknown
    content = unknown + field(100, unknown + field(7, one) + field(1, b"a") + unknown) + unknown
    assert same(read_caffe(save(tmp_path, content))["a"][0], np.ones((1, 2), "f4"))


ONES = np.ones(4, "f4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (layer("a", field(7, field(1, 3)) + field(5, ONES.tobytes())), r"shape \(3,\) has 4 values"),
        (layer("a", field(5, ONES.tobytes())), "has 4 values"),
        (layer("a", field(7, field(1, 1 << 62) + field(1, 8)) + field(5, ONES.tobytes())), "has 4 values"),
        (
            layer("a", field(7, field(1, (1 << 64) - 1) + field(1, (1 << 64) - 4)) + field(5, ONES.tobytes())),
            "has 4 values",
        ),
        (layer("a", field(7, field(1, 0) + field(1, 1 << 63))), "impossible shape"),
        (layer("a", field(7, field(1, b"\1" * 100)) + field(5, ONES[:1].tobytes())), "impossible shape"),
        (layer("a", field(5, b"\0" * 7)), "not stored as it should be"),
        (layer("a", field(5, 3)), "not stored as it should be"),
        (field(100, 3), "not stored as it should be"),
        (field(2, field(1, field(1, b"conv"))), "2013"),
        (field(100, bytes([3 << 3 | 3, 3 << 3 | 4])), "wire type 3"),
        (field(100, b"\0\0"), "field with the number 0"),
        (b"\x0a" + b"\xff" * 11, "does not end"),
        (layer("a", blob(ONES)) * 2, "'a' occurs more than once"),
        (field(100, field(1, b"\xff")), "UTF-8"),
        (field(1, b"net"), "no layers"),
        (HTML, "not a Caffe model"),
        (b"name: 'VGG'\nlayers {\n}\n", "not a Caffe model"),
        (b"", "cannot be read"),
    ],
)
def test_caffe_damage_is_named(tmp_path, content, message):
    path = save(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_caffe(path)
    assert str(path) in str(caught.value)


def test_caffe_every_truncation_is_refused(tmp_path):
    parts = [field(1, b"net"), layer("a", blob(ONES)), layer("b", blob(ONES, "old", packed=False), style="old")]
    content = b"".join(parts)
    whole = {len(parts[0]) + len(parts[1])}  # a model that ends after a layer is a shorter model
    for length in range(len(content)):
        assert survives(read_caffe, save(tmp_path, content[:length])) == (length in whole)


def test_caffe_random_damage(tmp_path):
    content = layer("a", blob(ONES), blob(ONES, packed=False)) + layer("b", blob(ONES, "old"), style="old")
    read = [survives(read_caffe, save(tmp_path, damaged)) for damaged in flipped(content, 1, 1500)]
    assert 100 < sum(read) < 1400


def test_vgg16_incomplete_or_foreign(tmp_path, caplog):
    path = save(tmp_path, vgg() + layer("fc8", blob(ONES)))
    with caplog.at_level("INFO"):
        state = read_state(path)
    assert len(state) == 30
    assert state["fc7.bias"].tolist() == [14, 15]
    assert "fc8" in caplog.text
    blobs = read_caffe(path)
    with pytest.raises(InputError, match=r"lacks 1 layers of VGG-16 \(conv3_2\)"):
        vgg16_from_caffe({name: blobs[name] for name in blobs if name != "conv3_2"})
    weight, bias = blobs["fc6"]
    for wrong in ([weight], [weight, bias, bias], [weight[0], bias], [weight, bias[:1]], [weight, bias.reshape(2, 1)]):
        with pytest.raises(InputError, match="layer fc6 has blobs of shape"):
            vgg16_from_caffe({**blobs, "fc6": wrong}, path)


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 2, 3)])
def test_vgg16_with_a_fully_connected_layer(tmp_path, shape):
    weight = np.arange(6, dtype=np.float32)
    blobs = {**read_caffe(save(tmp_path, vgg())), "fc7": [weight.reshape(shape), np.zeros((1, 1, 1, 2), np.float32)]}
    state = vgg16_from_caffe(blobs)
    assert state["fc7.weight"].tolist() == weight.reshape(2, 3, 1, 1).tolist()
    assert state["fc7.bias"].shape == (2,)


# --- PyTorch --------------------------------------------------------------------------------------------------------


class Call:
    """Pickled as a call, which whoever unpickles it makes; what follows the arguments is as `__reduce__` has it."""

    def __init__(self, function, *arguments, more=()):
        self.reduced = (function, arguments, *more)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch(tmp_path, legacy, wrapper, prefix):
    wanted = {"conv1a.weight": nn.Parameter(torch.randn(2, 3)), "bn7.num_batches_tracked": torch.tensor(4)}
    content = {prefix + key: value for key, value in wanted.items()}
    content = {wrapper: content, "epoch": 3} if wrapper else content
    path = tmp_path / "weights.params"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    for read in (read_torch, read_state):
        state = read(path)
        assert list(state) == list(wanted)
        assert not any(value.requires_grad for value in state.values())
        assert all(torch.equal(state[key], value) for key, value in wanted.items())


def test_torch_keeps_a_submodule_called_module(tmp_path):
    torch.save({"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}, tmp_path / "a.pth")
    assert list(read_torch(tmp_path / "a.pth")) == ["module.weight", "head.weight"]


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_torch_code_is_refused_and_not_run(tmp_path, kind):
    witness = tmp_path / "witness"
    payload = {"conv1a.weight": torch.zeros(1), "more": Call(os.system, f"touch {witness}")}
    path = tmp_path / "evil.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(payload["more"]))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=kind == "zip")
    for read in (read_torch, read_state):
        with pytest.raises(InputError, match=r"code.* (not|nothing of it was) executed") as caught:
            read(path)
        assert str(path) in str(caught.value)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({}, "no tensors"),
        ({"state_dict": {}}, "no tensors"),
        ({"a": torch.zeros(1), "b": {"c": torch.zeros(1)}}, "holds a dict under 'b'"),
        ({"a": 3}, "holds a int under 'a'"),
        ({1: torch.zeros(1)}, "under 1"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "sparse"),
    ],
)
def test_torch_only_flat_dictionaries(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        read_torch(tmp_path / "a.pth")


def test_torch_flipped_bits_are_noticed(tmp_path):
    """PyTorch itself reads most of these files, with other numbers."""
    path, wanted = tmp_path / "a.pth", {"a": torch.randn(40, 50, generator=torch.Generator().manual_seed(0))}
    torch.save(wanted, path)
    content = path.read_bytes()
    refused = unnoticed = 0
    for damaged in flipped(content, 0, 300):
        path.write_bytes(damaged)
        try:
            assert torch.equal(read_torch(path)["a"], wanted["a"])  # of some bytes nothing depends
        except InputError as error:
            refused += "is damaged or incomplete" in str(error) or "not a weight file" in str(error)
            with contextlib.suppress(Exception):
                unnoticed += bool(torch.load(path, weights_only=True))
    assert refused > 250
    assert unnoticed > 200


def test_torch_archives_without_checksums_are_read(tmp_path):
    path = tmp_path / "a.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert torch.equal(read_torch(path)["a"], torch.ones(3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_in_a_file_without_checksums(tmp_path, value):
    state = full_state()
    state["1.bias"][2] = value
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(network(), read_state(tmp_path / "old.pth"), "net.pth has NaN or infinite values in 1.bias")


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_every_truncation_is_refused(tmp_path, legacy):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    assert survives(read_torch, path)
    for length in range(0, len(content), 1 if legacy else 7):
        assert not survives(read_torch, save(tmp_path, content[:length]))
    assert not survives(read_torch, save(tmp_path, content[:-1]))


def rebuild_evil(path, tensor):
    Path(path).touch()
    return tensor


def evil(kind, witness):
    """Something that makes the file `witness` where it is unpickled."""
    return {
        "system": Call(os.system, f"touch {witness}"),
        "process": Call(subprocess.check_call, ["touch", str(witness)]),
        "eval": Call(eval, f"open({str(witness)!r}, 'w').close()"),
        "function": Call(rebuild_evil, str(witness), torch.zeros(1)),
    }[kind]


def network_state():
    network = nn.ModuleDict({"net_main": nn.Conv2d(1, 2, 1), "net_recon": nn.BatchNorm2d(2)})
    return network.state_dict()


def save_lightning(path, state, **more):
    """Write what PyTorch-Lightning 1.3 keeps in a file, with classes of a module that is gone afterwards."""
    module = types.ModuleType("pretend_lightning")
    for name, body in {"Callback": {}, "Stopping": {}, "Config": {}, "Slotted": {"__slots__": "a"}}.items():
        setattr(module, name, type(name, (), body | {"__module__": module.__name__}))
    config, slotted = module.Config(), module.Slotted()
    config.content, slotted.a = {"again": config, "lr": 0.1}, [1, 2]
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "1.3.7",
        "hyper_parameters": {"args": argparse.Namespace(lr=0.1, root=path, sizes=[1, (2,)]), "config": config},
        "callbacks": {
            module.Callback: {"best_model_score": torch.tensor(0.5), "best_model_path": path},
            module.Stopping: {
                "best_score": np.float64(math.inf),
                "scores": np.arange(3),
                "waits": frozenset((1, 2)),
            },
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [{"anneal": OrderedDict().update, "slotted": slotted}],
        "state_dict": state,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(content | more, path)


@pytest.mark.parametrize("kind", ["process", "eval", "function"])
def test_lightning(tmp_path, kind):
    path, witness, wanted = tmp_path / "last.ckpt", tmp_path / "witness", network_state()
    save_lightning(path, wanted, more=evil(kind, witness))
    with pytest.raises(ModuleNotFoundError, match="pretend_lightning"):
        torch.load(path, weights_only=False)
    for read in (read_torch, read_state):
        state = read(path)
        assert list(state) == list(wanted)
        assert all(type(value) is torch.Tensor for value in state.values())
        assert all(torch.equal(state[key], value) for key, value in wanted.items())
    assert not witness.exists()
    assert str(torch_files._Inert) not in str(torch.serialization.get_safe_globals())
    pickle.loads(pickle.dumps(evil(kind, witness)))
    assert witness.exists()


def test_model_beside_arguments(tmp_path):
    torch.save({"model": {"module.a": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    assert read_state(tmp_path / "a.pth") == {"a": torch.ones(1)}


def assert_refused_as_code(path):
    for read in (read_torch, read_state):
        with pytest.raises(InputError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path} contains code (")
        assert message.endswith(
            "), which was not executed; give a file that was saved with torch.save(network.state_dict(), path)."
        )
    assert str(torch_files._Inert) not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("kind", ["system", "process", "eval", "function"])
@pytest.mark.parametrize("place", ["alone", "flat", "inside", "instead", "key", "model"])
def test_lightning_code_is_refused_and_not_run(tmp_path, kind, place):
    path, witness = tmp_path / "evil.ckpt", tmp_path / "witness"
    code, state = evil(kind, witness), {"a": torch.zeros(1)}
    if place in ("alone", "flat"):
        torch.save(code if place == "alone" else state | {"more": code}, path)
    elif place == "model":
        save_lightning(path, code, model=state)
    else:
        states = {"inside": state | {"more": code}, "instead": code, "key": state | {code: torch.zeros(1)}}
        save_lightning(path, states[place])
    assert_refused_as_code(path)
    assert not witness.exists()


def test_lightning_with_names_that_pytorch_blocks_is_refused(tmp_path):
    save_lightning(tmp_path / "a.ckpt", network_state(), more=evil("system", tmp_path / "witness"))
    assert_refused_as_code(tmp_path / "a.ckpt")
    assert not (tmp_path / "witness").exists()


class OtherDict(dict):
    pass


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(),
        argparse.Namespace,
        np.zeros(1),
        Call(rebuild_evil, "", torch.zeros(1)),
        Call(torch._utils._rebuild_parameter, Call(rebuild_evil, "", torch.zeros(1)), False, OrderedDict()),
        Call(torch._utils._rebuild_parameter, torch.zeros(1), argparse.Namespace(), OrderedDict()),
        Call(torch._tensor._rebuild_from_type_v2, rebuild_evil, torch.Tensor, ("", torch.zeros(1)), None),
        Call(torch._tensor._rebuild_from_type_v2, rebuild_evil, argparse.Namespace, ("", torch.zeros(1)), None),
        Call(torch.Tensor, argparse.Namespace()),
        Call(torch.Tensor, more=((argparse.Namespace(), 0, (1,), (1,)),)),
        Call(argparse.Namespace, more=({"a": 1}, None, iter([("b", torch.zeros(1))]))),
    ],
)
def test_lightning_only_tensors_in_the_state(tmp_path, value):
    path = tmp_path / "a.ckpt"
    for state in ({"a": torch.zeros(1), "b": value}, value):
        save_lightning(path, state)
        assert_refused_as_code(path)


@pytest.mark.parametrize(
    "content", [OtherDict(state_dict={"a": torch.zeros(1)}), {"state_dict": OtherDict(a=torch.zeros(1))}]
)
def test_lightning_dictionaries_are_plain(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    assert_refused_as_code(tmp_path / "a.ckpt")


@pytest.mark.parametrize("other", [torch.Size, argparse.Namespace])
def test_torch_hidden_methods(tmp_path, other):
    """Attributes that a file hangs on its dictionaries and tensors neither mislead the reader nor come along."""
    value = torch.ones(1)
    value.detach = value.note = other
    hiding = dict.fromkeys(("get", "items", "keys", "values"), other)
    state = Call(OrderedDict, more=(hiding, None, iter([("a", value)])))
    torch.save(Call(OrderedDict, more=(hiding, None, iter([("state_dict", state)]))), tmp_path / "a.ckpt")
    read = read_torch(tmp_path / "a.ckpt")
    assert list(read) == ["a"]
    assert type(read["a"]) is torch.Tensor
    assert torch.equal(read["a"], torch.ones(1))
    assert not vars(read["a"])


def test_lightning_names_without_end_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    save_lightning(path, network_state())
    names = len(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    assert 5 < names < torch_files._MOST_UNKNOWN_NAMES / 10
    for most in (names, names - 1):
        monkeypatch.setattr(torch_files, "_MOST_UNKNOWN_NAMES", most)
        assert survives(read_torch, path) == (most == names)
    assert_refused_as_code(path)


def test_lightning_of_old_pytorch_is_refused(tmp_path):
    torch.save(
        {"state_dict": {"a": torch.zeros(1)}, "args": argparse.Namespace()},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=False,
    )
    assert_refused_as_code(tmp_path / "a.ckpt")


def test_lightning_random_damage(tmp_path):
    """The damage is in the pickle, since the archive around it has checksums."""
    path = tmp_path / "a.ckpt"
    save_lightning(path, {"a": torch.zeros(1)})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in entries if name.endswith("/data.pkl"))
    read = 0
    for damaged in flipped(entries[name], 0, 300):
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in (entries | {name: damaged}).items():
                archive.writestr(entry, content)
        read += survives(read_torch, path)
    assert 30 < read < 270


@pytest.mark.parametrize("read", [read_state, read_torch, read_mxnet, read_caffe])
def test_files_that_are_no_weights(tmp_path, read):
    for content in (HTML, b"\n\n" + HTML, b"some text\n" * 9, b"\0" * 99, b"P"):
        with pytest.raises(InputError):
            read(save(tmp_path, content))
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(InputError, match=r"does not exist|cannot be read"):
            read(path)


def test_a_web_page_is_called_so(tmp_path):
    for content in (HTML, b"\n\n" + HTML):
        with pytest.raises(InputError, match="web page"):
            read_state(save(tmp_path, content))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)), str(path))
    with pytest.raises(InputError, match="TorchScript"):
        read_torch(path)


def test_model_a_is_refused(monkeypatch):
    path = GOLDEN / "resnet38_v2.params"
    assert weights.MODEL_A_MD5 == "2421c1945b6797cecd3f89db14ca73f6"
    monkeypatch.setattr(weights, "MODEL_A_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"use Model A1.*ff21f45d6bf03284100dcbec571edfad"):
        read_state(path)
    read_state(GOLDEN / "resnet38_legacy.params")


# --- safetensors ----------------------------------------------------------------------------------------------------

SOME = {
    "conv1a.weight": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([1.0, -2.5]).half(),
    "brain": torch.tensor([1.0, -2.5]).bfloat16(),
    "scalar": torch.tensor(4),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a"])
def test_safetensors(tmp_path, prefix, name):
    safetensors.torch.save_file({prefix + key: value for key, value in SOME.items()}, tmp_path / name, {"a": "eval(1)"})
    state = read_state(tmp_path / name)
    assert state.keys() == SOME.keys()
    for key, value in SOME.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)
    (tmp_path / name).write_bytes(b"\0" * 2000)  # the tensors are copies
    assert torch.equal(state["conv1a.weight"], SOME["conv1a.weight"])


def with_header_of(length):
    """A file whose header is so long: the first bytes of a file are that number."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return length.to_bytes(8, "little") + header.ljust(length) + np.float32(1).tobytes()


@pytest.mark.parametrize(
    "length",
    [0x112, 0x80, 0x0280, 0x0A, 0x0A0A, 0x12, 0x0612, 0x1A, 0x20, 0x28, 0x32, 0x38, 0x42, 0x01A2, 0x06A2, 0x3C, 0x4B50],
)
def test_no_header_of_safetensors_is_taken_for_another_format(tmp_path, length):
    """Among them those that begin like an MXNet list, a pickle, a Caffe model, a web page and an archive."""
    length = length if length > 60 else length + 256
    path = save(tmp_path, with_header_of(length))
    assert read_state(path) == {"a": torch.ones(1)}
    with pytest.raises(InputError, match=r"is a safetensors file; give a file that was written by torch\.save"):
        read_torch(path)
    with pytest.raises(InputError, match="is not an MXNet weight file"):
        read_mxnet(path)
    with pytest.raises(InputError, match="is not a Caffe model"):
        read_caffe(path)


def test_no_other_format_is_taken_for_safetensors(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    files = [*GOLDEN.glob("*.params"), *GOLDEN.glob("*.caffemodel"), tmp_path / "a.pth", tmp_path / "b.pth"]
    assert len(files) > 6
    for path in [*files, save(tmp_path, HTML), save(tmp_path, b'{"mean": [0, 0, 0]}', "b.json")]:
        assert not is_safetensors(path.read_bytes())
        with pytest.raises(InputError, match="is not a safetensors file"):
            read_safetensors(path)


def test_safetensors_every_truncation_is_refused(tmp_path):
    content = safetensors.torch.save(SOME)
    assert survives(read_state, save(tmp_path, content))
    for length in range(len(content)):
        assert not survives(read_state, save(tmp_path, content[:length]))
    assert not survives(read_state, save(tmp_path, content + b"\0"))


def test_safetensors_random_damage(tmp_path):
    content = safetensors.torch.save(SOME)
    read = [survives(read_state, save(tmp_path, damaged)) for damaged in flipped(content, 0, 600)]
    assert 20 < sum(read) < 500


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a":{"dtype":"PICKLE","shape":[1],"data_offsets":[0,4]}}', "damaged or incomplete"),
        (b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}', "damaged or incomplete"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9]}}', "damaged or incomplete"),
        (b'{"__metadata__":{"a":"b"}}', "damaged or incomplete"),
        (b"{" * 500, "damaged or incomplete"),
        (b'{"a"', "damaged or incomplete"),
    ],
)
def test_safetensors_garbled(tmp_path, header, message):
    path = save(tmp_path, len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match=message) as caught:
        read_state(path)
    assert str(path) in str(caught.value)


def test_safetensors_without_tensors_or_with_values_that_are_not_finite(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "a.safetensors", {"a": "b"})
    with pytest.raises(InputError, match="holds no tensors"):
        read_state(tmp_path / "a.safetensors")
    safetensors.torch.save_file(full_state() | {"2.bias": torch.tensor([1, math.nan])}, tmp_path / "a.safetensors")
    refused(network(), read_state(tmp_path / "a.safetensors"), "NaN or infinite values in 2.bias")


# --- the description beside a file ----------------------------------------------------------------------------------


def test_sidecar(tmp_path):
    path = save(tmp_path, b"weights", "net.pth")
    assert read_sidecar(path) is None
    checksum = hashlib.sha256(b"weights").hexdigest()
    content = {"mean": [0.5, 0, 1], "std": [0.5, 0.25, 1], "sha256": checksum.upper(), "padding": "same"}
    save(tmp_path, json.dumps(content).encode(), "net.json")
    assert read_sidecar(path) == weights.Sidecar((0.5, 0.0, 1.0), (0.5, 0.25, 1.0), checksum)
    save(tmp_path, b"{}", "net.json")
    assert read_sidecar(path) == weights.Sidecar(None, None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"sha256": "0" * 64}), "has the SHA-256"),
        (json.dumps({"sha256": "00"}), "64 hexadecimal"),
        (json.dumps({"sha256": None}), "64 hexadecimal"),
        ('{"mean": [0, 0, 0]', "not readable as JSON"),
        ("\udcff", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "JSON object"),
        ('{"mean": [0, 0, 0]}', "only one of mean and std"),
        ('{"std": [1, 1, 1], "mean": [0, 0]}', "mean must be three"),
        ('{"std": [1, 1, 1], "mean": [0, 0, "0"]}', "mean must be three"),
        ('{"std": [1, 1, 1], "mean": [0, 0, true]}', "mean must be three"),
        ('{"std": [1, 1, 1], "mean": [0, 0, NaN]}', "mean must be three"),
        ('{"std": [1, 1, 1], "mean": [104, 117, 123]}', "mean must be three"),
        ('{"std": [1, 1, 0], "mean": [0, 0, 0]}', "std must be three"),
    ],
)
def test_sidecar_malformed(tmp_path, content, message):
    path = save(tmp_path, b"weights", "net.pth")
    save(tmp_path, content.encode("utf-8", "surrogateescape"), "net.json")
    with pytest.raises(InputError, match=message):
        read_sidecar(path)


# --- filling a network ----------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def full_state(seed=0):
    torch.manual_seed(seed)
    return {key: torch.randn_like(v) if v.is_floating_point() else v + 5 for key, v in network().state_dict().items()}


def refused(module, state, message, **options):
    """The state is refused with a message that names the file, and the module has not changed."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        load_into(module, state, source="net.pth", **options)
    assert "net.pth" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16])
def test_load_everything(dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in full_state().items()}
    module = network()
    report = load_into(module, state, source="net.pth")
    assert report == weights.LoadReport(tuple(state))
    loaded = module.state_dict()
    assert all(torch.equal(loaded[key], value.to(loaded[key].dtype)) for key, value in state.items())
    assert loaded["0.weight"].dtype == torch.float32


def test_load_without_counters_and_with_a_classifier_left_over():
    state = {key: value for key, value in full_state().items() if "tracked" not in key}
    state["classifier.weight"] = torch.full((3,), math.nan)
    module = network()
    report = load_into(module, state, source="net.pth", unused=["classifier."])
    assert report.missing == ()  # a counter is not a weight
    assert report.unexpected == ("classifier.weight",)
    assert report.mismatched == ()
    assert len(report.loaded) == 8
    assert str(report) == "8 tensors loaded, 1 unexpected (classifier.weight)"
    assert torch.equal(module[0].weight, state["0.weight"])
    refused(module, state, r"1 unexpected \(classifier.weight\)")
    with pytest.raises(TypeError):
        load_into(module, state, source="net.pth", unused="classifier.")


def test_load_renamed():
    official = {"0.weight": "conv.weight", "0.bias": "conv.bias"}
    state = {official.get(key, key): value for key, value in full_state().items()} | {"fc8.weight": torch.zeros(9)}
    back = {value: key for key, value in official.items()} | {"fc8.weight": None}
    report = load_into(module := network(), state, source="net.pth", rename=lambda key: back.get(key, key))
    assert report.unexpected == ("fc8.weight",)
    assert torch.equal(module[0].weight, state["conv.weight"])
    refused(module, full_state(1), "fills 0.weight twice", rename=lambda _: "0.weight")


def test_load_refuses_another_network():
    module, state = network(), full_state()
    message = r"another network: 0 tensors fit, 8 missing \(0.weight, 0.bias, 1.weight, ...\)"
    refused(module, {"b2.weight": torch.zeros(1)}, message)
    refused(module, {}, "0 tensors fit")
    refused(module, {key: state[key] for key in list(state)[1:]}, r"8 tensors fit, 1 missing \(0.weight\)")
    refused(module, state | {"1.extra": torch.zeros(1)}, r"9 tensors fit, 1 unexpected \(1.extra\)")


def test_load_refuses_other_shapes_even_of_the_head():
    state = full_state(1) | {"2.weight": torch.zeros(1000, 4), "2.bias": torch.zeros(1000)}
    message = r"2 mismatched \(2.weight is \(1000, 4\) in the file but \(2, 4\) here"
    refused(network(), state, message)
    refused(network(), state, message, unused=["2."])
    refused(network(), full_state() | {"1.weight": torch.zeros(4, 1)}, "1 mismatched")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_load_refuses_values_that_are_not_finite(value):
    state = full_state(1)
    state["1.bias"][2] = state["2.bias"][0] = value
    refused(network(), state, "NaN or infinite values in 1.bias")


def test_load_refuses_what_overflows_or_is_no_fraction():
    refused(
        network(),
        full_state(1) | {"2.bias": torch.tensor([1.0, 1e300], dtype=torch.float64)},
        "infinite values in 2.bias",
    )
    refused(network(), full_state(1) | {"2.bias": torch.tensor([1, 2])}, "int64 values in 2.bias")
    refused(network(), full_state(1) | {"2.bias": torch.zeros(2, dtype=torch.complex64)}, "complex64 values in 2.bias")
    refused(network(), full_state(1) | {"1.num_batches_tracked": torch.tensor(0.5)}, "float32 values in 1.num")
