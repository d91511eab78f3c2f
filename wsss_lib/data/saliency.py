"""Saliency maps from another network: a greyscale PNG for every image."""

from __future__ import annotations

import zlib
from pathlib import Path

from PIL import Image

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import files_by_stem, image_size, read_image
from wsss_lib.errors import InputError


class SaliencyMaps:
    """The saliency maps ``<folder>/<id>.png`` of a data set, as the code of most networks writes them.

    Args:
        folder: The folder.
        data: The images.

    Raises:
        InputError: An image has no map.
    """

    def __init__(self, folder: Path, data: Dataset) -> None:
        found = files_by_stem(folder, (".png",))
        missing = [image_id for image_id in data.ids if image_id not in found]
        if missing:
            raise InputError(
                f"{folder / missing[0]}.png is missing, as {len(missing)} of {len(data)} saliency maps are; "
                "give a folder with a greyscale PNG of every training image, 255 where it is salient."
            )
        self.data = data
        self.paths = [found[image_id] for image_id in data.ids]

    def __getitem__(self, index: int) -> Image.Image:
        """Return the map of an image in mode ``L``, of the size of :meth:`Dataset.image`, from the first channel.

        Raises:
            InputError: The file is damaged or does not have the size of the image.
        """
        path, wanted = self.paths[index], self.data.own_size(index)
        size = image_size(path)
        if size != wanted:
            raise InputError(
                f"saliency map {path} is {size[0]} x {size[1]} pixels but its image is {wanted[0]} x {wanted[1]}; "
                "make one of the image's size."
            )
        return read_image(path).getchannel(0)

    def fingerprint(self) -> str:
        """Return a hash of the names and lengths of the files, because reading all files takes long."""
        text = "\n".join(f"{path.stem} {path.stat().st_size}" for path in self.paths)
        return f"{zlib.crc32(text.encode()):08x}"
