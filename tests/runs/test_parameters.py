"""From the parameters cell to settings: every wrong value is one clear sentence."""

import math
from pathlib import Path

import pytest
from papermill.cli import _resolve_type

from tests.runs.small import sentence_of
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import Config
from wsss_lib.runs.parameters import project_root, read_parameters
from wsss_lib.runs.settings import Settings

CELL = """
preset: str = "toy"  # which preset
epochs: int = 0
only_here: int = 3
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project folder; the working directory is its ``notebooks``."""
    for name in ("notebooks", "wsss_lib", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def read(**values):
    return read_parameters("00_cam", "cam", values)


def injected(*lines):
    """The namespace of a notebook into which papermill put these lines."""
    return {"In": ["", "import torch", CELL, "%matplotlib inline", "\n".join(["# Parameters", *lines])]}


def sentence(**values):
    """What is said about wrong values: one line that ends like a sentence."""
    return sentence_of(lambda: read(**values))


# ----------------------------------------------------------------------------------------------------------- what fits


def test_defaults(project):
    settings = read()
    assert settings.config == Config.preset("toy")
    assert settings.folder == project / "runs" / "00_cam" / "toy"
    assert (settings.preset, settings.seed, settings.limit, settings.devices, settings.resume) == ("toy", 0, 0, 1, True)
    assert settings.data_root is settings.labels is settings.weights is None
    assert settings.classifier is settings.checkpoint is None
    assert settings.pretrained_folder == project / "pretrained"


def test_unset_values_are_those_of_the_preset():
    unset = {"epochs": 0, "learning_rate": 0, "scales": "", "backbone": "", "optimizer": "", "batch_size": 0}
    unset |= {
        "out": "",
        "data_root": "",
        "labels": "",
        "weights": "",
        "classifier": "",
        "checkpoint": "",
        "limit": 0,
        "seed": 0,
        "precision": "32-true",
    }
    assert read(**unset) == read()


@pytest.mark.parametrize(("name", "value"), [("weight_decay", 0), ("dropout", 0.0), ("hue_jitter", "0")])
def test_zero_is_a_value_where_it_is_in_range(name, value):
    """A weight of 0 must not silently become that of the preset: it is how one switches a part of a method off."""
    settings = read(**{"preset": "photos", "backbone": "resnet50", "pretrained": False, name: value})
    assert getattr(settings.config, name) == 0
    assert getattr(Config.preset("photos", "resnet50"), name) > 0
    assert f"-{name}=0" in settings.folder.name
    assert read(**{name: -1}).config == read().config


def test_set_values_reach_the_configuration():
    config = read(epochs=3, learning_rate=1, scales="0.5, 1,2", batch_size=4, backbone="vgg16", dropout=0.25).config
    assert (config.epochs, config.batch_size, config.backbone) == (3, 4, "vgg16")
    assert (config.learning_rate, config.dropout, config.scales) == (1.0, 0.25, (0.5, 1.0, 2.0))
    assert isinstance(config.learning_rate, float)
    assert read(scales=1).config.scales == read(scales=1.0).config.scales == (1.0,)  # papermill reads a number
    settings = read(seed=7, limit=5, devices=2, workers=-1, resume=False, accelerator="cpu", precision="bf16-mixed")
    assert (settings.seed, settings.limit, settings.devices, settings.workers) == (7, 5, 2, -1)
    assert (settings.resume, settings.accelerator, settings.precision) == (False, "cpu", "bf16-mixed")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"preset": "photos"}, "photos"),
        ({"epochs": 3}, "toy-epochs=3"),
        ({"seed": 1, "epochs": 3, "scales": "1.0,0.5"}, "toy-epochs=3-scales=1,0.5-seed=1"),
        ({"backbone": "vgg16", "limit": 20}, "toy-backbone=vgg16-limit=20"),
        ({"learning_rate": 0.001, "precision": "bf16-mixed"}, "toy-learning_rate=0.001-precision=bf16-mixed"),
        ({"devices": 2, "workers": 3, "resume": False, "accelerator": "cpu"}, "toy"),
    ],
)
def test_other_values_lead_to_another_folder(project, values, name):
    assert read(**values).folder == project / "runs" / "00_cam" / name


def test_the_folder_can_be_chosen():
    assert read(out="/some/where", epochs=3).folder == Path("/some/where")
    assert read(out="~/runs").folder == Path.home() / "runs"


def test_the_project_is_found_from_below(project, tmp_path_factory, monkeypatch):
    assert project_root() == project
    monkeypatch.chdir(project / "data")
    assert project_root() == project
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert project_root() == elsewhere


def test_paths_are_found_from_the_working_directory_and_from_the_project(project, monkeypatch):
    here, there = project / "notebooks" / "mine", project / "data" / "2012"
    here.mkdir()
    there.mkdir()
    assert read(preset="photos", data_root="mine").data_root == here
    assert (
        read(preset="photos", data_root="../data/2012").data_root
        == read(preset="photos", data_root="data/2012").data_root
        == there
    )
    assert read(preset="photos", data_root=str(there)).data_root == there
    monkeypatch.chdir(project / "data")
    assert read(preset="photos", data_root=2012).data_root == there  # papermill turns the name into a number
    (project / "mine").mkdir()
    (project / "data" / "mine").mkdir()
    assert read(preset="photos", data_root="mine").data_root == project / "data" / "mine"


@pytest.mark.parametrize("name", ["classifier", "checkpoint"])
def test_networks_of_others_are_found_like_data(project, name):
    """From the working directory, and from the project; a classifier may also be the folder of a run."""
    (project / "notebooks" / "here.pth").touch()
    (project / "data" / "there").mkdir()
    for value, path in (("here.pth", "notebooks/here.pth"), ("data/there", "data/there")):
        settings = read(preset="photos", **{name: value})
        assert getattr(settings, name) == project / path
        assert {"classifier", "checkpoint"} - {k for k, v in settings.to_dict().items() if v is None} == {name}
        assert settings.folder == read(preset="photos").folder


def test_the_toy_world_takes_a_classifier(project):
    """It may be a run on the toy world."""
    assert read(classifier="../data").classifier == project / "data"


# ------------------------------------------------------------------------------------- what papermill makes of words


@pytest.mark.parametrize("name", ["out", "data_root", "labels", "weights", "classifier", "preset", "backbone"])
@pytest.mark.parametrize("word", ["2024_05", "007", "1e3", "0.50", "2012", "-5", "nan", "True", "None"])
def test_words_that_arrive_as_something_else(name, word):
    """The word itself cannot be known, and must not be guessed."""
    value = _resolve_type(word)
    assert not isinstance(value, str)
    message = sentence(**{"preset": "photos", name: value})
    number = "the number " * (word not in ("True", "None"))
    assert message.startswith(f"{name} arrived as {number}{value!r}; papermill turns")
    assert message.endswith(f"so write -r {name} WORD instead of -p {name} WORD.")


def test_a_number_is_a_folder_that_is_called_so(project):
    here = project / "notebooks"
    (here / "2012").mkdir()
    (project / "data" / "7").mkdir()
    assert read(out=2012).folder == Path("2012")
    assert read(preset="photos", data_root=2012).data_root == here / "2012"
    assert "arrived as the number 7" in sentence(out=7)  # there is none from here
    (here / "202405").mkdir()
    assert read(out=202405).folder == Path("202405")
    (here / "2024_05").mkdir()
    for name in ("out", "data_root"):
        assert f"{name} arrived as the number 202405" in sentence(preset="photos", **{name: 202405})  # which of both?
    (project / "02012").mkdir()
    assert read(out=2012).folder == Path("2012")
    assert "arrived as the number 2012" in sentence(preset="photos", data_root=2012)  # also looked for from the project
    (here / "0.50").mkdir()
    assert "arrived as the number 0.5" in sentence(preset="photos", data_root=0.5)
    assert read(preset="photos", data_root="0.50").data_root == here / "0.50"


def test_texts_that_mean_numbers(project):
    """After ``-r`` all parameters are texts."""
    config = read(epochs="5", learning_rate="1e-3", batch_size=" 4").config
    assert (config.epochs, config.learning_rate, config.batch_size) == (5, 0.001, 4)
    assert read(learning_rate="1").config.learning_rate == 1.0
    assert read(seed="007").folder == project / "runs" / "00_cam" / "toy-seed=7"
    assert [read(resume=word).resume for word in ("true", "True", "false", "False")] == [True, True, False, False]
    assert sentence(epochs="-1") == "parameter epochs must be at least 1, not -1."
    assert "must be above 0" in sentence(learning_rate="nan")


@pytest.mark.parametrize("value", ["[0.5,1.0]", " [0.5, 1] ", [0.5, 1], (0.5, 1.0), "0.5,1.0"])
def test_lists_of_numbers(value):
    assert read(scales=value).config.scales == (0.5, 1.0)


def test_later_cells_see_what_a_text_means():
    namespace = {"segmentation": "False", "ablations": "2", "epochs": 3, "learning_rate": 1, "scales": "0.5,1.0"}
    read_parameters("00_cam", "cam", namespace)
    assert namespace == {"segmentation": False, "ablations": 2, "epochs": 3, "learning_rate": 1.0, "scales": "0.5,1.0"}


# ------------------------------------------------------------------------------------------------------ what does not


def test_an_unknown_injected_parameter():
    with pytest.raises(InputError, match=r"^parameter epoch is unknown; perhaps epochs is meant\.$"):
        read_parameters("00_cam", "cam", injected("epoch = 3"))
    with pytest.raises(InputError, match=r"^parameter xyz is unknown; choose among epochs, only_here, preset\.$"):
        read_parameters("00_cam", "cam", injected('preset = "toy"', "xyz = 3"))


def test_known_injected_parameters():
    assert read_parameters("00_cam", "cam", injected("epochs = 3", "only_here = 4") | {"epochs": 3}).config.epochs == 3
    assert read_parameters("00_cam", "cam", {"In": ["", "x = 3"], "x": 3}) == read()  # nothing was injected


def test_mask_values(project):
    settings = read(preset="photos", data_root="data", mask_values="0:0,255:1")
    assert settings.mask_values == "0:0,255:1"
    assert settings.folder == project / "runs" / "00_cam" / "photos"
    assert Settings.from_dict(settings.to_dict()).mask_values == "0:0,255:1"
    assert "mask_values is given, but preset toy" in sentence(mask_values="255:1")
    with pytest.raises(InputError, match=r"^parameter mask_values is unknown"):
        read_parameters("06", "cam", injected('mask_values = "255:1"'))


def test_unknown_names():
    assert sentence(preset="voc") == "preset 'voc' is unknown; choose one of toy, photos, voc12, coco14."
    assert sentence(preset="").startswith("preset '' is unknown")
    assert sentence(backbone="vgg19").startswith("backbone 'vgg19' cannot be used; choose one of resnet38d,")
    assert "optimizer" in sentence(optimizer="adam")
    with pytest.raises(InputError, match=r"method 'camel' is unknown; choose one of .*cam"):
        read_parameters("00_cam", "camel", {})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epochs", "five", "int"),
        ("epochs", True, "int"),
        ("epochs", 1.5, "int"),
        ("epochs", None, "int"),
        ("epochs", [3], "int"),
        ("seed", 1.0, "int"),
        ("limit", "", "int"),
        ("seed", "1e3", "int"),
        ("learning_rate", "a", "float"),
        ("learning_rate", True, "float"),
        ("resume", 1, "bool"),
        ("resume", "1", "bool"),
        ("resume", "yes", "bool"),
        ("out", ["a"], "str"),
    ],
)
def test_wrong_types(name, value, kind):
    message = sentence(**{name: value})
    assert message == f"parameter {name} must be of type {kind}, but {value!r} is {type(value).__name__}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("batch_size", -8),
        ("crop_size", 31),
        ("devices", 0),
        ("devices", -1),
        ("workers", -2),
        ("limit", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", -1e-9),
        ("momentum", -math.inf),
        ("dropout", 1.5),
        ("colour_jitter", 1.5),
        ("hue_jitter", 0.6),
    ],
)
def test_values_out_of_range(name, value):
    message = sentence(**{name: value})
    assert name in message
    assert str(value) in message


def test_sides_in_the_wrong_order():
    assert "min_long_side is 200, more than max_long_side 96" in sentence(min_long_side=200)
    assert read(min_long_side=200, max_long_side=200).config.min_long_side == 200


@pytest.mark.parametrize(
    "value", ["1.0;0.5", "one", "1.0,", ",", " ", "1 2", "(1, 2)", "[]", "[1", None, True, [None], [[1.0]]]
)
def test_scales_that_are_no_numbers(value):
    assert sentence(scales=value).startswith('parameter scales must be numbers with commas such as "0.5,1.0"')


@pytest.mark.parametrize("value", ["0", "-1", "1,0", "4.5", "nan", "inf", "1,1e400"])
def test_scales_out_of_range(value):
    assert sentence(scales=value) == f"parameter scales must hold numbers above 0 and up to 4, not {value!r}."


@pytest.mark.parametrize("name", ["data_root", "labels", "weights", "classifier", "checkpoint"])
def test_missing_paths(project, name):
    message = sentence(preset="photos", **{name: "no/such/place"})
    assert message.startswith(f"{name} no/such/place does not exist (looked for from {project / 'notebooks'})")


def test_networks_may_lie_among_the_pretrained(project):
    (project / "pretrained").mkdir(exist_ok=True)
    file = project / "pretrained" / "od_cam.pth"
    file.touch()
    for name in ("weights", "classifier", "checkpoint"):
        assert getattr(read(preset="photos", **{name: file.name}), name) == file
    assert "does not exist" in sentence(preset="photos", data_root=file.name)


def test_the_final_network_needs_its_weights_at_once(project):
    assert read(segmentation=True).config.epochs
    missing = sentence(preset="voc12", segmentation=True)
    assert missing.startswith("the pre-trained weights of resnet101_caffe are missing: put ")
    (project / "pretrained").mkdir(exist_ok=True)
    (project / "pretrained" / "deeplabv1_resnet101-coco.pth").touch()
    assert read(preset="voc12", segmentation=True).preset == "voc12"
    (project / "net.pth").touch()
    assert read(preset="photos", segmentation=True, weights="net.pth").preset == "photos"  # of the same backbone
    assert sentence(segmentation="yes") == "parameter segmentation must be of type bool, but 'yes' is str."


@pytest.mark.parametrize("name", ["data_root", "labels", "weights", "classifier", "checkpoint", "out"])
def test_home_of_a_stranger(name):
    assert name in sentence(**{name: "~nobody-of-this-name/data"})


@pytest.mark.parametrize("name", ["data_root", "labels", "weights", "checkpoint"])
def test_what_the_toy_world_would_ignore_is_refused(name, tmp_path):
    assert sentence(**{name: str(tmp_path)}).startswith(f"{name} is given, but preset toy")
