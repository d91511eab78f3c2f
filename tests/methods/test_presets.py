"""What the settings of every method have in common."""

from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules

import pytest

from wsss_lib import methods
from wsss_lib.errors import InputError
from wsss_lib.methods.method import PRESETS

MODULES = [import_module(f"wsss_lib.methods.{module.name}") for module in iter_modules(methods.__path__)]
CASES = [
    pytest.param(module, preset, backbone, id=f"{module.__name__.rpartition('.')[2]}-{preset}-{backbone}")
    for module in MODULES
    if hasattr(module, "METHOD")
    for preset in PRESETS
    for backbone in module.Config.backbones
]


@pytest.mark.parametrize(("module", "preset", "backbone"), CASES)
def test_every_preset_has_every_backbone(module, preset, backbone):
    config = module.Config.preset(preset, backbone)
    assert config.backbone == backbone
    assert module.Config.from_dict(config.to_dict()) == config
    config.check()
    if preset == "toy":
        module.METHOD(config, 3)  # such as AffinityNet's, the taps of which must have one stride


@pytest.mark.parametrize("module", [m for m in MODULES if hasattr(m, "METHOD")], ids=lambda m: m.__name__)
def test_every_method_checks_the_limits_of_its_fields(module):
    """A subclass that forgets to call the check of its base class would accept this."""
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        module.Config.preset("toy").replace(batch_size=0).check()


@pytest.mark.parametrize("module", [m for m in MODULES if hasattr(m, "METHOD")], ids=lambda m: m.__name__)
def test_presets_are_those_that_exist(module):
    assert set(module.Config.presets) <= set(PRESETS)
    assert module.Config.inference_only <= {field.name for field in fields(module.Config)}
