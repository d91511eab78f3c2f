"""The weights that the package brings along for the toy world."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from wsss_lib.errors import InputError
from wsss_lib.methods import load_method, method
from wsss_lib.models import create_backbone, pretrained
from wsss_lib.models.pretrained import TOY_WEIGHTS, find_toy_weights, load_backbone
from wsss_lib.models.weights import read_sidecar, read_state

NAMES = ("deit_small", "resnet50")
USERS = ("cam", "affinitynet", "oc_cse", "acr", "pcss", "msal", "irn")
ROOT = Path(__file__).parents[2]


def small(name):
    return create_backbone(
        name, **load_method({"resnet50": "cam", "deit_small": "pcss"}[name]).Config.preset("toy").backbone_options
    )


@pytest.mark.parametrize("name", NAMES)
def test_they_fill_the_networks_of_the_toy_world(name):
    path, network = find_toy_weights(name), small(name)
    state = read_state(path)
    assert {value.dtype for value in state.values()} == {torch.float16}
    report = load_backbone(network, path)
    assert not report.unexpected
    assert not report.missing
    assert all(torch.equal(network.state_dict()[key], state[key].float()) for key in report.loaded)


@pytest.mark.parametrize("name", USERS)
def test_every_method_can_use_them(name):
    config = load_method(name).Config.preset("toy")
    assert load_backbone(create_backbone(config.backbone, **config.backbone_options), find_toy_weights(config.backbone))


def test_a_hash_is_stated_and_they_are_small():
    assert sorted(path.name for path in TOY_WEIGHTS.iterdir()) == sorted(
        f"{name}.{ending}" for name in NAMES for ending in ("json", "safetensors")
    )
    for name in NAMES:
        assert read_sidecar(find_toy_weights(name)).sha256
    assert sum(path.stat().st_size for path in TOY_WEIGHTS.iterdir()) < 4_000_000


def test_both_were_made_from_one_corpus():
    about = [json.loads(find_toy_weights(name).with_suffix(".json").read_text()) for name in NAMES]
    assert {(a["corpus"], a["pictures"], a["kinds"]) for a in about} == {(about[0]["corpus"], 6000, 54)}


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused(name, tmp_path, monkeypatch):
    shutil.copytree(TOY_WEIGHTS, tmp_path / "w")
    monkeypatch.setattr(pretrained, "TOY_WEIGHTS", tmp_path / "w")
    path = find_toy_weights(name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    network = small(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError, match=rf"{name}\.safetensors has the SHA-256"):
        load_backbone(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="weights of deit_small and resnet50, not of vgg16; choose another backbone"):
        find_toy_weights("vgg16")
    shutil.copytree(TOY_WEIGHTS, tmp_path / "w")
    (tmp_path / "w" / "resnet50.json").unlink()
    for folder in (tmp_path / "w", tmp_path / "none"):
        monkeypatch.setattr(pretrained, "TOY_WEIGHTS", folder)
        with pytest.raises(InputError, match="are missing; install wsss_lib again"):
            find_toy_weights("resnet50")


def test_they_are_the_default_which_one_line_says(monkeypatch):
    users = [name for name in USERS if name != "msal"]  # which helps a network from scratch alone
    assert not load_method("msal").Config.preset("toy").pretrained
    assert all(load_method(name).Config.preset("toy").pretrained for name in users)
    monkeypatch.setattr(method, "TOY_PRETRAINED", False)
    assert not any(load_method(name).Config.preset("toy").pretrained for name in USERS)
    monkeypatch.setattr(method, "TOY_PRETRAINED", True)
    for name in users:
        scratch = load_method(name).Config.for_preset("toy", "")
        assert load_method(name).Config.preset("toy") == scratch.replace(pretrained=True)
    assert not load_method("cam").Config.preset("toy", "vgg16").pretrained
    config = load_method("pcss").Config.preset("toy").replace(network="plus")
    assert (config.crop_size, config.random_erasing) == (96, 0.0)  # MCTformer's settings are for the published size


def test_git_and_the_wheel_have_them():
    files = [str(path.relative_to(ROOT)) for path in sorted(TOY_WEIGHTS.iterdir())]
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout == ""  # hatchling leaves out what git ignores, and takes all else in the package
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, which builds wheels, is not installed")
    included = {Path(file.path).relative_to(ROOT) for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {Path(file) for file in files} <= included
