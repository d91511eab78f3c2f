"""The one exception for what a user can put right, and texts that can be printed whatever a folder is called."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return a text that can be printed: bytes of a file's name that are not UTF-8 become an escape."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class InputError(ValueError):
    """A file, folder or parameter that the user gave cannot be used.

    The message is one sentence that names the file or parameter and says what to do. In a notebook it is shown
    alone, without the stack of calls that led to it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            " ".join(printable(message).splitlines())
        )  # what it quotes of a library may have several lines

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]
