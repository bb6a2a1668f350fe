"""History: to and from CSV, as a dict, as a picture."""

import pytest

import fastsgd as fs

EPOCHS = [
    {"epoch": 0, "loss": 0.5, "val_loss": 0.25, "seconds": 1.5, "rows_per_second": 1e6, "waited": 0.0},
    {"epoch": 1, "loss": 1 / 3, "val_loss": 0.125, "seconds": 0.5, "rows_per_second": 3e6, "waited": 0.1},
]


def test_dict_and_csv(tmp_path):
    history = fs.History(EPOCHS)
    assert history.to_dict()["loss"] == [0.5, 1 / 3]
    path = tmp_path / "history.csv"
    history.to_csv(path)
    assert path.read_text().splitlines()[0] == "epoch,loss,val_loss,seconds,rows_per_second,waited"
    assert fs.History.from_csv(path).epochs == EPOCHS
    assert "2 epochs" in repr(history)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot(tmp_path, ending, magic):
    path = tmp_path / f"curve.{ending}"
    figure = fs.History(EPOCHS).plot(path)
    assert path.read_bytes().startswith(magic)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(labels) == 2
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[0.5, 1 / 3], [0.25, 0.125]]


def test_what_is_no_history(tmp_path):
    path = tmp_path / "history.csv"
    with pytest.raises(fs.FastSGDError, match="no epoch to plot"):
        fs.History().plot(path)
    assert not path.exists()
    with pytest.raises(fs.FastSGDError, match="is no history file"):
        fs.History.from_csv(path)
    for text in ("", "a,b\n1,2\n", "epoch,loss\n0,fast\n"):
        path.write_text(text)
        with pytest.raises(fs.FastSGDError, match="is no history file"):
            fs.History.from_csv(path)
