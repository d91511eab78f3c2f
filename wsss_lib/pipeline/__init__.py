"""The old home of `stages`, `runs` and `results`: imports from here work for one more version, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NEW = {
    **{name: f"stages.{name}" for name in ("agent", "engine", "evaluate", "infer", "refine", "store", "train")},
    **{name: f"runs.{name}" for name in ("earlier", "kinds", "msal", "parameters", "report", "run", "segmentation")},
    **{name: f"results.{name}" for name in ("boundaries", "collect", "compare", "diagnose")},
    "adversarial": "runs.with_classifier",
    "affinity": "runs.affinitynet",
    "census": "runs.pcss",
    "seeds": "runs.cam",
    "settings": "runs.settings",
}
_NAMES = {
    "AdversarialRun": "WithClassifierRun",
    "AffinityRun": "AffinityNetRun",
    "CensusRun": "PcssRun",
    "SeedRun": "CamRun",
    "Derived": "DatasetView",
    "Powers": "PowerBackgrounds",
    "SeedScores": "CamScores",
    "Squared": "ResizedToSquare",
    "Walked": "WalkedScores",
    "score_seeds": "score_cams",
    "seed_masks": "cam_masks",
    "seed_summaries": "cam_summaries",
    "seed_table": "cam_table",
}


class _Alias(MetaPathFinder, Loader):
    """Finds ``wsss_lib.pipeline.<old>`` as the module that has its content now, under old and new names."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        old = name.removeprefix(f"{__name__}.")
        return ModuleSpec(name, self) if old in _NEW and name != old else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"wsss_lib.{_NEW[spec.name.rpartition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}; the old name goes with the next version.", DeprecationWarning, 2)
        module = importlib.import_module(new)
        for before, now in _NAMES.items():
            if hasattr(module, now) and not hasattr(module, before):
                setattr(module, before, getattr(module, now))
        alias = ModuleType(spec.name, module.__doc__)
        alias.__dict__.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the content is there."""


sys.meta_path.append(_Alias())
