"""What is printed of a training."""

import io
import sys

import pytest

from wsss_lib.show.progress import bar, epoch_line


def test_the_parts_of_the_loss_that_do_not_fit_have_lines_of_their_own(capsys):
    row = {"epoch": 3, "loss": 1.25, "classification": 1.0, "learning_rate": 0.01, "seconds": 2.0}
    epoch_line(row)
    epoch_line({**row, **{f"another part of it {i}": 0.5 for i in range(4)}})
    assert capsys.readouterr().out.splitlines() == [
        "epoch   3  loss 1.2500  classification 1.0000  learning rate 0.01  2.0 s",
        "epoch   3  loss 1.2500  learning rate 0.01  2.0 s",
        "           classification 1.0000  another part of it 0 0.5000  another part of it 1 0.5000",
        "           another part of it 2 0.5000  another part of it 3 0.5000",
    ]


class Terminal(io.StringIO):
    """What is written to a terminal, or to a file or pipe."""

    def __init__(self, watched):
        super().__init__()
        self.watched = watched

    def isatty(self):
        return self.watched


@pytest.mark.parametrize(("watched", "headless", "seen"), [(True, "", True), (False, "", False), (True, "1", False)])
def test_a_bar_is_seen_in_a_terminal_only(watched, headless, seen, monkeypatch):
    for name in ("JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WSSS_HEADLESS", headless)
    screen = Terminal(watched)
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(bar(range(3), "maps of val")) == [0, 1, 2]
    assert ("maps of val" in screen.getvalue()) is seen
