"""The command as a shell runs it, on foreign maps."""

from wsss_lib import __main__ as command


def runner(monkeypatch, capsys):
    """Return a function that runs a command on maps, and returns its exit status and what it says."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["wsss", *map(str, words), "--classes", "classes.txt"])
        status = command.main()
        return status, capsys.readouterr().out

    return run


def assert_one_sentence(status, text, sentence):
    """Check that a command failed, and that it said one sentence with these words, and nothing else."""
    lines = [line for line in text.splitlines() if line]
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("InputError: ")
    assert sentence in lines[0]
    assert lines[0].endswith(".")
