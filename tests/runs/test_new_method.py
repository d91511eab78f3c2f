"""A new method is one file: settings, training, maps and scores come with it."""

import sys
from unittest import mock

import pytest

from tests.runs.small import TOY_COUNTS, sentence_of, silent
from wsss_lib import methods
from wsss_lib.data import toy
from wsss_lib.runs import parameters
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import open_run, reopen
from wsss_lib.runs.parameters import read_parameters
from wsss_lib.runs.with_classifier import WithClassifierRun
from wsss_lib.use.chains import known_parameters

LSE = '''
"""LSE: pool each map by a log-sum-exp instead of the mean (Pinheiro and Collobert, CVPR 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.fields import Limits
from wsss_lib.methods.method import CamMethod, LongSideConfig, Presets
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups
from wsss_lib.models import create_backbone
from wsss_lib.models.classifier import MapClassifier


def log_sum_exp(maps: Tensor, r: float) -> Tensor:
    flat = maps.flatten(2)
    return (torch.logsumexp(r * flat, dim=2) - math.log(flat.shape[2])) / r


class LSE(CamMethod):
    config: Config
    signed = True
    needs = "NEEDS"

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        self.network = MapClassifier(create_backbone(config.backbone, **config.backbone_options), num_classes)
        self.networks = {"network": self.network}

    @property
    def backbone(self):
        return self.network.backbone

    def make_optimizer(self, name):
        rate, decay = self.config.learning_rate, self.config.weight_decay
        groups = parameter_groups(self.network.backbone, self.network.head, rate, decay)
        return create_optimizer(self.config.optimizer, groups, rate, 0.9)

    def step(self, batch):
        maps = self.forward(batch.images)
        losses = [classification_loss(log_sum_exp(maps, r), batch.labels) for r in self.config.sharpness]
        return self.learn({"loss": torch.stack(losses).mean()})

    def logits(self, images):
        return log_sum_exp(self.network(images), self.config.sharpness[0])

    def cam(self, images):
        return self.network(images)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of LSE.

    Attributes:
        sharpness: Values of r; the losses of all of them are averaged.
        optimizer: ``sgd`` or ``adamw``.
    """

    asks_classifier: ClassVar[bool] = ASKS
    sharpness: Annotated[tuple[float, ...], Limits(0, 20, above=True)] = (5.0,)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    presets: ClassVar[Presets] = {
        "toy": {"backbone": "resnet50", "pretrained": False, "optimizer": "adamw", "learning_rate": 1e-3},
    }


METHOD = LSE
'''
SMALL = {"epochs": 1, "batch_size": 8, "crop_size": 32, "min_long_side": 32, "max_long_side": 48, "scales": "1"}


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Return a function that adds the method file under a name, with what the method needs."""

    def write(name, needs=""):
        folder = tmp_path / "methods"
        folder.mkdir(exist_ok=True)
        text = LSE.replace("NEEDS", needs).replace("ASKS", str(needs == "classifier"))
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"wsss_lib.methods.{name}", raising=False)

    yield write
    for name in [name for name in sys.modules if name.startswith("wsss_lib.methods.made_up")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def small_world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(toy.COUNTS, TOY_COUNTS):
        yield


def test_its_list_can_be_set_and_has_limits(add):
    add("made_up")
    settings = read_parameters("07", "made_up", {"sharpness": "1, 5"})
    assert settings.config.sharpness == (1.0, 5.0)
    assert settings.folder.name == "toy-sharpness=1,5"
    assert read_parameters("07", "made_up", {"sharpness": ""}).config.sharpness == (5.0,)
    for value in ("0", "1,21", "nan"):
        said = sentence_of(lambda value=value: read_parameters("07", "made_up", {"sharpness": value}))
        assert said == f"parameter sharpness must hold numbers above 0 and up to 20, not {value!r}."
    said = sentence_of(lambda: read_parameters("07", "made_up", {"optimizer": "adam"}))
    assert said == "optimizer 'adam' is unknown; choose one of sgd, adamw."


def test_it_is_trained_and_scored(add, tmp_path):
    add("made_up")
    run = open_run(read_parameters("07", "made_up", {**SMALL, "sharpness": "1,5", "out": str(tmp_path / "run")}))
    assert type(run) is CamRun
    assert run.train(silent)[0]["loss"] > 0
    run.infer("val")
    assert run.score("val").confusions.sum() > 0
    assert reopen(run.folder).settings.config.sharpness == (1.0, 5.0)


def test_it_has_the_run_that_it_needs(add, tmp_path):
    add("made_up_plain")
    add("made_up", "classifier")
    run = open_run(read_parameters("07", "made_up", {**SMALL, "out": str(tmp_path / "run")}))
    assert type(run) is WithClassifierRun
    assert run.needs_classifier
    assert run.ordinary_run is not None
    assert "classifier" in known_parameters("made_up")
    assert "classifier" not in known_parameters("made_up_plain")


def test_its_notebook_is_one_line(add, monkeypatch):
    """The table from which ``06_compare`` and the command line take the notebooks is one."""
    from wsss_lib.results.collect import missing
    from wsss_lib.use import chains

    assert chains.NOTEBOOKS is parameters.NOTEBOOKS
    monkeypatch.setitem(parameters.NOTEBOOKS, "made_up", "07_made_up")
    add("made_up")
    others = {name: [] for name in parameters.NOTEBOOKS.values() if name != "07_made_up"}
    assert missing(others, "toy") == [
        "no run of 07_made_up: papermill notebooks/07_made_up.ipynb runs/07_made_up.ipynb -p preset toy"
    ]
    assert chains.read_words(["sharpness=2"], "made_up").values == {"sharpness": "2"}
