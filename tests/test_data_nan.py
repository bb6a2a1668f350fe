"""What becomes of values that are not finite: an error, the row left out, or 0 in the place of a feature."""

import json

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk

import fastsgd as fs
from fastsgd.cli import run
from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader

ROWS, COLUMNS = 20_000, 6
BAD = [np.nan, np.inf, -np.inf]


def table(share=0.2, dtype="f4", seed=0):
    """Features, targets and weights, some of each unfit; and which rows are fit."""
    rng = np.random.default_rng(seed)
    x, y, weight = rng.standard_normal((ROWS, COLUMNS)), rng.standard_normal((ROWS, 2)), rng.random((ROWS, 1))
    x[:, 0] = np.arange(ROWS)  # the row's number
    fit = rng.random(ROWS) >= share
    for row in np.flatnonzero(~fit).tolist():
        part = (x, x, y, weight)[row % 4]
        part[row, row % part.shape[1]] = BAD[row % 3]
    return x.astype(dtype), y.astype(dtype), weight.astype(dtype), fit


def write(path, x, y, weight, **options):
    with h5py.File(path, "w") as file:
        for name, part in (("X", x), ("y", y), ("w", weight)):
            file.create_dataset(name, data=part, chunks=(64, part.shape[1]), **options)
    return path


def datasets(folder, x, y, weight, nan):
    """The rows in memory, and in files that are read past HDF5 and decoded."""
    yield ArrayDataset(x, y, weight=weight[:, 0], nan=nan)
    for number, options in enumerate(({}, {"compression": "gzip", "shuffle": True})):
        path = write(folder / f"{number}.h5", x, y, weight, **options)
        yield HDF5Dataset(path, "X", "y", weight="w", nan=nan)


def joined(batches):
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


@pytest.mark.parametrize("memory", ["1GB", "200kB"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_without_some_rows_goes_on_at_any(tmp_path, shuffle, memory):
    x, y, weight, fit = table()
    dataset = ChunkByChunk(write(tmp_path / "0.h5", x, y, weight), "X", "y", weight="w", nan="skip")
    assert Loader(dataset, batch_size=50, memory=memory).plan.whole == (memory == "1GB")
    options = {"memory": memory, "shuffle": shuffle, "seed": 5}
    whole = joined(dataset.batches(50, **options))
    for start in (1, 7_777, int(fit.sum()) - 1):
        for found, part in zip(joined(dataset.batches(50, start=start, **options)), whole, strict=True):
            np.testing.assert_array_equal(found, part[start:])
    assert not list(dataset.batches(50, start=int(fit.sum()), **options))


@pytest.mark.parametrize("memory", ["1GB", "1MB"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_are_left_out(tmp_path, dtype, memory):
    x, y, weight, fit = table(dtype=dtype)
    before = x.copy()
    wanted = [part[fit].astype("f4") for part in (x, y, weight[:, 0])]
    for dataset in datasets(tmp_path, x, y, weight, "skip"):
        for found, part in zip(joined(dataset.batches(32, shuffle=False, memory=memory)), wanted, strict=True):
            np.testing.assert_array_equal(found, part)
        shuffled = joined(dataset.batches(32, memory=memory))
        assert not np.array_equal(shuffled[0], wanted[0])
        order = np.argsort(shuffled[0][:, 0])
        for found, part in zip(shuffled, wanted, strict=True):
            np.testing.assert_array_equal(found[order], part)
        assert {len(batch[0]) for batch in dataset.batches(32, memory=memory, drop_last=True)} == {32}
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("memory", ["1GB", "1MB"])
def test_zeros_take_their_place(tmp_path, memory):
    x, y, weight, _ = table()
    y[:], weight[:] = 1, 1
    before = x.copy()
    wanted = np.where(np.isfinite(x), x, 0)
    assert (wanted != np.nan_to_num(x)).any(), "an infinity is no large number"
    for dataset in datasets(tmp_path, x, y, weight, "zero"):
        found = joined(dataset.batches(32, shuffle=False, memory=memory))
        np.testing.assert_array_equal(found[0], wanted)
        train, held_out = dataset.split(0.3)
        parts = [joined(part.batches(32, shuffle=False, memory=memory))[0] for part in (train, held_out)]
        rows = np.concatenate(parts)
        np.testing.assert_array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])
    np.testing.assert_array_equal(x, before)


def test_a_target_is_never_made_up(tmp_path):
    x, y, weight, _ = table(0)
    y[70, 1] = np.nan
    for dataset in datasets(tmp_path, x, y, weight, "zero"):
        with pytest.raises(fs.DataError, match=r"(y\[70, 1\]|'y', row 70, column 1) is nan.*nan=\"skip\""):
            list(dataset.batches(32))


def test_a_value_too_large_for_the_models_dtype_is_no_number_there(tmp_path):
    x, y, weight, _ = table(0, "f8")
    x[5, 3] = -1e300
    for dataset in datasets(tmp_path, x, y, weight, "skip"):
        assert len(joined(dataset.batches(32))[0]) == ROWS - 1
        assert len(joined(dataset.batches(32, dtype="f8"))[0]) == ROWS
    for dataset in datasets(tmp_path, x, y, weight, "zero"):
        assert joined(dataset.batches(32, shuffle=False))[0][5, 3] == 0


@pytest.mark.parametrize("memory", ["1GB", "1MB"])
def test_few_rows_or_none_are_left(tmp_path, memory):
    x, y, weight, _ = table(0)
    x[3:-2, 1] = np.nan
    for dataset in datasets(tmp_path, x, y, weight, "skip"):
        rows = joined(dataset.batches(32, memory=memory))[0]
        np.testing.assert_array_equal(np.sort(rows[:, 0]), [0, 1, 2, ROWS - 2, ROWS - 1])
    x[:, 1] = np.nan
    for dataset in datasets(tmp_path, x, y, weight, "skip"):
        for shuffle in (True, False):
            with pytest.raises(fs.DataError, match=r"each row holds a value that is not finite.*nan=\"zero\""):
                list(dataset.batches(32, memory=memory, shuffle=shuffle))


@pytest.mark.parametrize("memory", ["1GB", "2MB"])
def test_training_tells_of_rows_left_out_and_means_are_over_the_others(tmp_path, memory):
    x, y, weight, fit = table()
    model = fs.Sequential([fs.Standardize(), fs.Dense(2)], input_dim=COLUMNS)
    trainer = fs.Trainer(model, fs.SGD(0.01), "mse", metrics=["mae"])
    clean = ArrayDataset(x[fit], y[fit], weight=weight[fit, 0])
    for dataset in datasets(tmp_path, x, y, weight, "skip"):
        history = trainer.fit(dataset, epochs=2, batch_size=50, validation=dataset, memory=memory)
        assert [epoch["skipped"] for epoch in history.epochs] == [ROWS - fit.sum()] * 2
        found, wanted = trainer.evaluate(dataset), trainer.evaluate(clean)
        assert found.pop("skipped") == history.epochs[-1]["val_skipped"] == ROWS - fit.sum()
        assert found == pytest.approx(wanted, rel=1e-6)
        assert history.epochs[-1]["val_mae"] == pytest.approx(wanted["mae"], rel=1e-6)
        with pytest.raises(fs.DataError, match=r"predict: the dataset has nan=\"skip\""):
            model.predict(dataset)
    assert "skipped" not in trainer.fit(clean, batch_size=50).epochs[0]


def test_a_wrong_label_is_named_by_its_place_in_the_file(tmp_path):
    x, labels, weight = np.ones((90, 2)), np.zeros((90, 1)), np.ones((90, 1))
    x[[0, 40, 41], 0], labels[55] = np.nan, 7
    model = fs.Sequential([fs.Dense(3, "softmax")], input_dim=2)
    trainer = fs.Trainer(model, fs.SGD(), "sparse_categorical_crossentropy")
    for dataset in datasets(tmp_path, x, labels, weight, "skip"):
        with pytest.raises(fs.DataError, match=r"(y\[55, 0\]|row 55, column 0): "):
            trainer.fit(dataset)


def test_values_that_stand_for_missing_ones(tmp_path):
    x, _, weight, _ = table(0)
    labels = np.arange(ROWS)[:, None] % 100
    x[[3, 500], [0, 4]], labels[7000] = -999, 255
    write(tmp_path / "m.h5", x, labels.astype("u1"), weight)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["X"].attrs["_FillValue"], file["y"].attrs["missing_value"] = np.float32(-999), np.uint8(255)
    dataset = HDF5Dataset(tmp_path / "m.h5", "X", "y", weight="w", nan="skip")
    found = joined(dataset.batches(32, shuffle=False))
    kept = np.delete(np.arange(ROWS), [3, 500, 7000])
    np.testing.assert_array_equal(found[0], x[kept])
    np.testing.assert_array_equal(found[1], labels[kept])
    zeroed = HDF5Dataset(tmp_path / "m.h5", "X", nan="zero")
    np.testing.assert_array_equal(joined(zeroed.batches(32, shuffle=False))[0], np.where(x == -999, 0, x))
    with pytest.raises(fs.DataError, match=r"'y', row 7000, column 0 is 255, which stands for a missing value"):
        list(HDF5Dataset(tmp_path / "m.h5", "X", "y", nan="zero").batches(32))
    with pytest.raises(fs.DataError, match=r"'X', row 3, column 0 is -999.0, which stands for.*nan=\"zero\" would"):
        list(HDF5Dataset(tmp_path / "m.h5", "X").batches(32))


@pytest.mark.parametrize("memory", ["1GB", "2MB"])
def test_whole_blocks_are_left_out(tmp_path, memory):
    x, labels, weight = np.ones((ROWS, 2)), np.zeros((ROWS, 1)), np.ones((ROWS, 1))
    x[1000:19_000], labels[500] = np.nan, 2
    model = fs.Sequential([fs.Dense(3, "softmax")], input_dim=2)
    trainer = fs.Trainer(model, fs.SGD(), "sparse_categorical_crossentropy")
    for dataset in datasets(tmp_path, x, labels, weight, "skip"):
        assert trainer.fit(dataset, batch_size=64, memory=memory).epochs[0]["skipped"] == 18_000


def test_another_policy_is_refused(tmp_path):
    x, y, weight, _ = table()
    for nan in ("drop", None):
        with pytest.raises(fs.DataError, match=r"nan is .*'error', 'skip'.*'zero'"):
            ArrayDataset(x, y, nan=nan)
        with pytest.raises(fs.DataError, match=r"nan is "):
            HDF5Dataset(write(tmp_path / "n.h5", x, y, weight), "X", nan=nan)


def test_on_the_command_line(tmp_path, capsys):
    x, _, weight, fit = table()
    path = str(write(tmp_path / "c.h5", x, np.where(fit, np.arange(ROWS) % 3, np.nan)[:, None], weight))
    out, predictions = str(tmp_path / "run"), str(tmp_path / "p.h5")
    train = ["train", path, "-x", "X", "-y", "y", "--loss", "sparse_categorical_crossentropy", "--out", out, "--json"]
    assert run(train) == 1
    capsys.readouterr()
    assert run([*train, "--nan", "skip"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["skipped"] for event in events if event["event"] == "epoch"] == [ROWS - fit.sum()]
    assert run(["evaluate", out, path, "-x", "X", "-y", "y", "--nan", "skip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == fit.sum()
    predict = ["predict", out, path, "-x", "X", "--out", predictions]
    assert [run([*predict, *nan]) for nan in ([], ["--nan", "skip"], ["--nan", "zero"])] == [1, 2, 0]
