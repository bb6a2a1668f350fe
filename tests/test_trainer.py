"""Training whole: exactness, validation, errors that leave the model as it was."""

import h5py
import numpy as np
import pytest

import fastsgd as fs

STREAMED = "1400kB"  # less than the file of `table`, enough for a window


def seed_model(**options):
    return fs.Sequential([fs.Dense(64, "relu"), fs.Dense(64, "relu"), fs.Dense(1)], **options)


def regression(rows, features=10, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, features)).astype(np.float32)
    return x, np.sin(2 * x[:, :1]) + x[:, 1:2]


@pytest.fixture
def table(tmp_path):
    """An HDF5 file of 40,001 rows in chunks of 100, and its arrays."""
    import h5py

    x, y = regression(40_001)
    path = tmp_path / "train.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x, chunks=(100, 10))
        file["y"] = y
    return path, x, y


def test_fit_is_the_explicit_loop(table):
    """`fit` and `train_batch` over `batches` take the same steps, and give the same bits."""
    path, _, _ = table
    dataset = fs.HDF5Dataset(path, "X", "y")
    whole, loop = seed_model(), seed_model()
    history = fs.Trainer(whole, fs.SGD(0.05), "mse").fit(dataset, epochs=2, batch_size=64, seed=3, memory="256MB")
    trainer = fs.Trainer(loop, fs.SGD(0.05), "mse")
    for epoch in range(2):
        total = 0.0
        for x, y in dataset.batches(64, seed=3, epoch=epoch):
            total += trainer.train_batch(x, y) * len(x)
        assert history.epochs[epoch]["loss"] == pytest.approx(total / 40_001, rel=1e-12)
    assert whole.network.parameters.tobytes() == loop.network.parameters.tobytes()


def test_a_streamed_run_is_repeatable_and_depends_on_nothing_but_its_budget(table):
    path, _, _ = table
    dataset = fs.HDF5Dataset(path, "X", "y")

    def run(memory, threads, seed=0):
        model = seed_model()
        trainer = fs.Trainer(model, fs.SGD(0.05), "mse", threads=threads)
        trainer.fit(dataset, epochs=2, batch_size=300, memory=memory, seed=seed)
        return model.network.parameters.tobytes()

    assert run(STREAMED, 1) == run(STREAMED, 2)
    assert run(STREAMED, 1) != run("1600kB", 1)
    assert run(STREAMED, 1) != run(STREAMED, 1, seed=1)


def test_how_much_work_a_row_is_changes_no_order(table, monkeypatch):
    """A network that is much work gets its rows in small slabs; the window has no more rows for that."""
    dataset = fs.HDF5Dataset(table[0], "X", "y")

    def run(threads):
        model = seed_model()
        trainer = fs.Trainer(model, fs.SGD(0.05), "mse", threads=threads)
        trainer.fit(dataset, epochs=1, batch_size=300, memory=STREAMED)
        return model.network.parameters.tobytes()

    expected = run(1)
    monkeypatch.setattr("fastsgd.training.trainer._SLAB_WORK", 2e7)
    assert run(1) == run(2) == expected


def test_rows_are_moved_beside_training_only_where_it_leaves_a_core(table):
    from fastsgd.kernels.threads import available_threads

    dataset, cores = fs.HDF5Dataset(table[0], "X", "y"), available_threads(None)
    whole, alone = (fs.Trainer(seed_model(input_dim=10), fs.SGD(0.05), "mse", threads=count) for count in (None, 1))
    assert whole._loader(dataset, 256).takes_turns == (cores > 1)
    assert not alone._loader(dataset, 256).takes_turns
    assert not whole._loader(dataset, 1).takes_turns  # steps that are worth one thread


def test_rows_that_are_more_work_to_bring_than_to_train_on_are_brought_by_all_cores(table, tmp_path):
    from fastsgd.kernels.threads import available_threads

    x, y = table[1:]
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("X", data=x, chunks=(100, 10), compression="gzip")
        file.create_dataset("y", data=y)
    stored, packed = (fs.HDF5Dataset(path, "X", "y") for path in (table[0], tmp_path / "packed.h5"))
    whole, alone = (
        fs.Trainer(fs.Sequential([fs.Dense(1)], input_dim=10), fs.SGD(0.05), "mse", threads=count)
        for count in (None, 1)
    )
    for dataset in (stored, packed):
        assert whole._loader(dataset, 8).takes_turns == (available_threads(None) > 1)
    assert not alone._loader(stored, 8).takes_turns


def test_arrays_and_a_file_that_fits_give_the_same_bits(table):
    path, x, y = table
    bits = []
    for data in (fs.HDF5Dataset(path, "X", "y"), (x, y), fs.ArrayDataset(x, y)):
        model = seed_model()
        fs.Trainer(model, fs.SGD(0.05), "mse").fit(data, epochs=1, batch_size=50)
        bits.append(model.network.parameters.tobytes())
    assert bits[0] == bits[1] == bits[2]


def test_fit_learns_and_history_tells_it():
    x, y = regression(4000)
    trainer = fs.Trainer(seed_model(), fs.SGD(0.05, momentum=0.9), "mse", metrics=["mae", "rmse"])
    history = trainer.fit((x[:3000], y[:3000]), epochs=8, batch_size=50, validation=(x[3000:], y[3000:]))
    assert [epoch["epoch"] for epoch in history.epochs] == list(range(8))
    assert history.epochs[-1]["val_loss"] < 0.1 * np.var(y)
    found = trainer.evaluate((x[3000:], y[3000:]))
    prediction = trainer.model.predict(x[3000:]).astype(float)
    assert found["loss"] == pytest.approx(np.square(prediction - y[3000:]).mean(), rel=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt(found["loss"]), rel=1e-6)
    assert found["mae"] == pytest.approx(np.abs(prediction - y[3000:]).mean(), rel=1e-6)
    assert {f"val_{name}": value for name, value in found.items()}.items() <= history.epochs[-1].items()


@pytest.mark.parametrize("last", ["softmax", "linear"])
def test_classes(last):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 4))
    y = (x[:, 0] > 0) + (x[:, 1] > 0).astype(np.uint8)
    model = fs.Sequential([fs.Dense(32, "tanh"), fs.Dense(3, last)])
    trainer = fs.Trainer(model, fs.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    trainer.fit((x, y), epochs=10, batch_size=32)
    assert trainer.evaluate((x, y))["accuracy"] > 0.95
    assert trainer.evaluate((x, y))["accuracy"] == pytest.approx(np.mean(model.predict(x).argmax(axis=1) == y))


def test_two_classes_with_weights():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3))
    y = (x[:, 0] + 0.3 * rng.standard_normal(2000) > 0).astype(np.int8)
    weight = rng.random(2000)
    model = fs.Sequential([fs.Dense(1, "sigmoid")])
    trainer = fs.Trainer(model, fs.SGD(0.5), "binary_crossentropy", metrics=["accuracy"])
    trainer.fit((x, y, weight), epochs=5, batch_size=32)
    p = model.predict(x)[:, 0].astype(float)
    wanted = -(weight * np.where(y, np.log(p), np.log1p(-p))).mean()
    found = trainer.evaluate((x, y, weight))
    assert found["loss"] == pytest.approx(wanted, rel=1e-5)
    assert found["accuracy"] > 0.85


def test_a_weight_is_that_many_rows():
    x, y = regression(60)
    twice = np.repeat(np.arange(60), np.where(np.arange(60) % 2, 2, 1))
    weighted, repeated = seed_model(dtype="float64"), seed_model(dtype="float64")
    weight = np.where(np.arange(60) % 2, 2.0, 1.0)
    # The mean is over rows: 60 of them there, 90 here.
    fs.Trainer(weighted, fs.SGD(0.06), "mse").train_batch(x, y, weight)
    fs.Trainer(repeated, fs.SGD(0.09), "mse").train_batch(x[twice], y[twice])
    np.testing.assert_allclose(weighted.network.parameters, repeated.network.parameters, rtol=1e-9, atol=1e-12)


def test_standardize_makes_training_blind_to_scale(table):
    x, y = regression(2000)
    shifted = x.astype(np.float64) * np.logspace(-3, 3, 10) + 1e4 * np.arange(10)
    losses = []
    for data in (x, shifted):
        model = fs.Sequential([fs.Standardize(), fs.Dense(32, "tanh"), fs.Dense(1)], dtype="float64")
        losses.append(fs.Trainer(model, fs.SGD(0.05), "mse").fit((data, y), epochs=2, batch_size=20).epochs[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_no_shuffle_takes_rows_as_they_are():
    x, y = regression(100)
    shuffled, plain, loop = (seed_model() for _ in range(3))
    fs.Trainer(shuffled, fs.SGD(0.05), "mse").fit((x, y), batch_size=10)
    fs.Trainer(plain, fs.SGD(0.05), "mse").fit((x, y), batch_size=10, shuffle=False)
    trainer = fs.Trainer(loop, fs.SGD(0.05), "mse")
    for start in range(0, 100, 10):
        trainer.train_batch(x[start : start + 10], y[start : start + 10])
    assert plain.network.parameters.tobytes() == loop.network.parameters.tobytes()
    assert plain.network.parameters.tobytes() != shuffled.network.parameters.tobytes()


def test_going_on_with_initial_epoch_is_one_run():
    x, y = regression(500)
    once, twice = seed_model(), seed_model()
    fs.Trainer(once, fs.SGD(0.05, momentum=0.9), "mse").fit((x, y), epochs=4, batch_size=20)
    trainer = fs.Trainer(twice, fs.SGD(0.05, momentum=0.9), "mse")
    trainer.fit((x, y), epochs=1, batch_size=20)
    trainer.fit((x, y), epochs=3, batch_size=20, initial_epoch=1)
    assert once.network.parameters.tobytes() == twice.network.parameters.tobytes()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_loss_that_stops_being_finite_leaves_the_last_whole_epoch(table, streamed):
    path, _, _ = table
    model = seed_model()
    model.build(10)
    before = model.network.parameters.copy()
    trainer = fs.Trainer(model, fs.SGD(1e4), "mse")
    with pytest.raises(fs.NonFiniteError, match=r"epoch 1, batch \d+.*learning rate \(it is 10000\)"):
        trainer.fit(fs.HDF5Dataset(path, "X", "y"), batch_size=32, memory=STREAMED if streamed else None)
    np.testing.assert_array_equal(model.network.parameters, before)


@pytest.mark.parametrize("memory", [None, STREAMED])
def test_bad_values_are_named(table, memory):
    import h5py

    path, _, _ = table
    with h5py.File(path, "r+") as file:
        file["X"][2345, 7] = np.nan
    trainer = fs.Trainer(seed_model(), fs.SGD(), "mse")
    with pytest.raises(fs.DataError, match=r"train\.h5: dataset 'X', row 2345, column 7 is nan"):
        trainer.fit(fs.HDF5Dataset(path, "X", "y"), memory=memory)
    with pytest.raises(fs.DataError, match=r"x\[3, 0\] is inf"):
        trainer.fit((np.array([[0.0], [1], [2], [np.inf]]).repeat(10, axis=1), np.zeros(4)))
    with pytest.raises(fs.DataError, match=r"y\[1, 0\] is nan"):
        trainer.fit((np.zeros((2, 10)), np.array([0, np.nan])))


@pytest.mark.parametrize("row", [0, 40_000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bad_values_are_named_whichever_thread_looks_at_them(row, dtype):
    x, y = regression(40_001)
    x = x.astype(dtype)
    x[row, 3] = np.inf
    with pytest.raises(fs.DataError, match=rf"x\[{row}, 3\] is inf"):
        fs.Trainer(seed_model(), fs.SGD(), "mse", threads=2).fit((x, y))


@pytest.mark.parametrize("label", [3, -1, 0.5])
def test_labels_out_of_range_are_named(label):
    model = fs.Sequential([fs.Dense(3, "softmax")])
    trainer = fs.Trainer(model, fs.SGD(), "sparse_categorical_crossentropy")
    y = np.array([0, 1, 2, label])
    with pytest.raises(fs.DataError, match=rf"y\[3, 0\]: the label is {label}.*whole number from 0 to 2"):
        trainer.fit((np.zeros((4, 2)), y))
    with pytest.raises(fs.DataError, match="whole number from 0 to 2"):
        trainer.train_batch(np.zeros((4, 2)), y)


def test_what_does_not_go_together_is_refused():
    def trainer(last=1, activation="linear", loss="mse", **options):
        return fs.Trainer(fs.Sequential([fs.Dense(last, activation)]), fs.SGD(), loss, **options)

    refused = {
        "unknown; did you mean 'mse'": {"loss": "msee"},
        "needs 'sigmoid' or 'linear'": {"loss": "binary_crossentropy", "activation": "relu"},
        "2 or more": {"loss": "sparse_categorical_crossentropy", "activation": "softmax"},
        "does not go with 'softmax'": {"last": 2, "activation": "softmax"},
        "the metric 'accuracy' goes with a cross-entropy": {"metrics": ["accuracy"]},
        "threads is 0": {"threads": 0},
    }
    for message, arguments in refused.items():
        with pytest.raises(fs.ModelError, match=message):
            trainer(**arguments)
    x = np.zeros((5, 3))
    with pytest.raises(fs.DataError, match=r"the target has 2 columns; .* takes 1"):
        trainer().fit((x, np.zeros((5, 2))))
    with pytest.raises(fs.DataError, match="has no target"):
        trainer().fit(fs.ArrayDataset(x))
    with pytest.raises(fs.DataError, match=r"a dataset, \(x, y\)"):
        trainer().fit(x)
    with pytest.raises(fs.DataError, match="batch_size is 0"):
        trainer().fit((x, np.zeros(5)), batch_size=0)
    fitted = trainer()
    fitted.fit((x, np.zeros(5)))
    with pytest.raises(fs.DataError, match="have 4 columns; the model takes 3"):
        fitted.fit((np.zeros((5, 4)), np.zeros(5)))
    with pytest.raises(fs.DataError, match="have 4 columns; the model takes 3"):
        fitted.fit((x, np.zeros(5)), validation=(np.zeros((5, 4)), np.zeros(5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0}, "above 0"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"learning_rate": "fast"}, "is a number"),
        ({"momentum": 1}, "from 0 to below 1"),
        ({"nesterov": True}, "needs momentum"),
    ],
)
def test_sgd_arguments(arguments, message):
    with pytest.raises(fs.ModelError, match=message):
        fs.SGD(**arguments)


def test_float64_and_integers_for_floats():
    x, y = regression(200)
    model = seed_model(dtype="float64")
    fs.Trainer(model, fs.SGD(1e-2, momentum=0), "mse").fit((x.astype(np.float64), y), batch_size=32)
    assert model.predict(x).dtype == np.float64
    assert fs.SGD(1).learning_rate == 1.0


def test_evaluation_takes_no_more_memory_than_there_is(table):
    """Nor does standardizing: the batches of the user are small."""
    path, x, y = table
    dataset = fs.HDF5Dataset(path, "X", "y")
    trainer = fs.Trainer(fs.Sequential([fs.Standardize(), fs.Dense(1)]), fs.SGD(0.05), "mse")
    memory = STREAMED  # too little for three batches of 8192 rows
    history = trainer.fit(dataset, batch_size=20, memory=memory, validation=dataset)
    assert np.allclose(trainer.model.network.shift, x.mean(axis=0), atol=1e-6)
    assert history.epochs[0]["val_loss"] == pytest.approx(trainer.evaluate((x, y))["loss"], rel=1e-9)
