"""A picture that the reader chooses from the disk. Outside an interactive notebook, an example takes its place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets
from IPython.display import display
from PIL import Image

from wsss_lib.data.pictures import open_picture
from wsss_lib.errors import InputError
from wsss_lib.show import figures
from wsss_lib.show.progress import is_interactive

Draw = Callable[[Image.Image], Mapping[str, figures.Picture]]
"""A function from a picture to the pictures that are shown, by title."""


def explore_own(draw: Draw, example: Image.Image, classes: Sequence[str] | None = None) -> None:
    """Let the reader choose a picture from the disk, and show the pictures that a function makes of it.

    Args:
        draw: Function that makes the pictures to show.
        example: Picture that is shown first; outside an interactive notebook it is the only one.
        classes: Names of the K foreground classes, for a legend of the classes that masks show; None for no legend.
    """
    if not is_interactive():
        display(_shown(draw, example, classes))
        return
    chooser = ipywidgets.FileUpload(accept="image/*", description="your picture")
    screen, line = ipywidgets.Image(format="png"), ipywidgets.Label("an example")

    def show(_: object) -> None:
        if not chooser.value:
            return
        name, content = chooser.value[0]["name"], bytes(chooser.value[0]["content"])
        line.value = f"{name} …"
        try:
            screen.value = _shown(draw, _opened(name, content), classes).png()
            line.value = name
        except InputError as error:
            line.value = str(error)

    chooser.observe(show, "value")
    screen.value = _shown(draw, example, classes).png()
    display(ipywidgets.VBox([chooser, line, screen]))


def _shown(draw: Draw, picture: Image.Image, classes: Sequence[str] | None) -> figures.Plot:
    pictures = draw(picture)
    return figures.grid(list(pictures.values()), list(pictures), columns=4, inches=2.4, classes=classes)


def _opened(name: str, content: bytes) -> Image.Image:
    """Return the picture in a file that the browser has sent, at the working size of the picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (Path(name).name or "picture")
        path.write_bytes(content)
        try:
            return open_picture(path)[0]
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from None
