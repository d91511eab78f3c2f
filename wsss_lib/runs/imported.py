"""Runs with class activation maps that other code has made: the maps are copied from files, not inferred.

AffinityNet and the final network use the maps of such a run like those of any other run.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, cast

from wsss_lib.exchange.maps import ForeignMaps, maps_for
from wsss_lib.methods.imported import Config
from wsss_lib.runs.cam import CamRun
from wsss_lib.show.progress import bar
from wsss_lib.stages.contents import Digests, combined
from wsss_lib.stages.evaluate import ahead
from wsss_lib.stages.store import CamStore


class ImportedRun(CamRun):
    """A run whose maps are in the folder ``settings.cams``, in a form of `wsss_lib.exchange.forms`.

    All training pictures must have maps. The pictures of another split need maps only if the split is used.
    """

    @cached_property
    def _maps(self) -> dict[str, ForeignMaps]:
        return {}

    def foreign(self, split: str) -> ForeignMaps:
        """Return the maps of a split as they are in the user's files.

        Raises:
            InputError: A picture has no map, or as in :func:`wsss_lib.exchange.maps.open_maps`.
        """
        config, folder = cast(Config, self.settings.config), self.settings.cams
        assert folder is not None  # settings of such a run name it
        if split not in self._maps:
            self._maps[split] = maps_for(self.data(split), folder, config.numbering, config.normalise, config.stretch)
        return self._maps[split]

    def input_digests(self, digests: Digests) -> dict[str, str]:
        """Return the digests of the pictures, and of the maps of the training pictures."""
        paths = [path for files in self.foreign("fit").files.values() for path in files.values()]
        return {**super().input_digests(digests), "maps": combined(digests.of(paths, "maps"))}

    @cached_property
    def _map_digest(self) -> str:
        return self.input_digests(self.digests)["maps"]

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the numbers of the run, including the content of the maps."""
        return {**self.own_identity, "maps": self._map_digest}

    def source(self) -> str:
        """Return the source of the maps, for the records of stores."""
        return f"maps {self._map_digest}"

    def infer(self, split: str) -> CamStore:
        """Copy the missing maps of a split, and return their store."""
        data, store, source = self.data(split), self.cams(split), self.source()
        if self.is_complete(store, split, source):
            return store
        with self.working(), self.timed(f"import {split}"):
            self.begin(store, split, source)
            foreign, missing = self.foreign(split), [image_id for image_id in data.ids if image_id not in store]
            with ThreadPoolExecutor(4) as pool:
                maps = ahead(pool, foreign.read, missing)
                for image_id, found in zip(missing, bar(maps, f"maps of {data.name}", len(missing)), strict=True):
                    store.write(image_id, *found)
        return store
