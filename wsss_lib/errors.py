"""The exceptions that say in one sentence what a user can do, and texts that can always be printed."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return a text that can be printed: bytes of a file's name that are not UTF-8 become an escape."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class _OneSentence(Exception):  # noqa: N818
    """An exception whose message is one sentence; a notebook shows it without the stack of calls that led to it."""

    def __init__(self, message: str) -> None:
        lines = printable(message).splitlines()  # a library's message may have several
        super().__init__(" ".join(lines))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class InputError(_OneSentence, ValueError):
    """A file, folder or parameter that the user gave cannot be used.

    The message is one sentence that names the file or parameter and says what to do. In a notebook it is shown
    alone, without the stack of calls that led to it.
    """


class ProcessError(_OneSentence, RuntimeError):
    """A process that worked for this one was ended from outside, for example because memory was short.

    The message is one sentence, shown like that of an :class:`InputError`.
    """
