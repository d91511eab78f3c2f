"""What is printed of a training."""

from wsss_lib.show.progress import epoch_line


def test_a_line_holds_all_losses_or_the_minimised_one(capsys):
    row = {"epoch": 3, "loss": 1.25, "classification": 1.0, "learning_rate": 0.01, "seconds": 2.0}
    epoch_line(row)
    epoch_line({**row, **{f"another part of it {i}": 0.5 for i in range(4)}})
    all_losses, minimised = capsys.readouterr().out.splitlines()
    assert all_losses == "epoch   3  loss 1.2500  classification 1.0000  learning rate 0.01  2.0 s"
    assert minimised == "epoch   3  loss 1.2500  learning rate 0.01  2.0 s"
