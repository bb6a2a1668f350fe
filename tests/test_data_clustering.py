"""How clustered targets are, and what is said about it."""

import json
import re
import tracemalloc
import warnings

import h5py
import numpy as np
import pytest

import fastsgd as fs
from fastsgd.cli import run
from fastsgd.data import HDF5Dataset
from fastsgd.data.clustering import advice, intraclass_correlation, sample
from fastsgd.data.inspection import inspect_table
from fastsgd.data.loader import Loader

ROWS, CHUNK = 60_000, 1000
SMALL = "3MB"  # a window of a few chunks


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Rows of ten classes, sorted by them and not."""
    path = tmp_path_factory.mktemp("clustering") / "c.h5"
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), ROWS // 10)
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=rng.standard_normal((ROWS, 64)).astype("f4"), chunks=(CHUNK, 64))
        for name, values in (("sorted", labels), ("mixed", rng.permutation(labels))):
            file.create_dataset(name, data=values.astype("u1"), chunks=(CHUNK,))
        file.create_dataset("drift", data=np.cumsum(rng.standard_normal((ROWS, 2)), axis=0), chunks=(CHUNK, 2))
    return path


def squares(blocks):
    """Mean squares between and within blocks of one size, value by value."""
    everything = [value for block in blocks for value in block]
    mean = sum(everything) / len(everything)
    means = [sum(block) / len(block) for block in blocks]
    between = sum(len(block) * (own - mean) ** 2 for block, own in zip(blocks, means, strict=True))
    within = sum((value - own) ** 2 for block, own in zip(blocks, means, strict=True) for value in block)
    return between / (len(blocks) - 1), within / (len(everything) - len(blocks))


def test_the_correlation_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(1)
    blocks = [rng.standard_normal((40, 1)) + rng.standard_normal() for _ in range(300)]
    between, within = squares([block[:, 0].tolist() for block in blocks])
    assert intraclass_correlation(blocks) == pytest.approx((between - within) / (between + 39 * within), rel=1e-9)
    assert intraclass_correlation(blocks) == pytest.approx(0.5, abs=0.08), "block effects are as large as the noise"
    both = [np.hstack([block, 1e6 * block]) for block in blocks]
    assert intraclass_correlation(both) == pytest.approx(intraclass_correlation(blocks), rel=1e-9)


def test_blocks_of_several_lengths_and_values_that_are_not_finite():
    rng = np.random.default_rng(2)
    blocks = [rng.standard_normal((rows, 1)) + rng.standard_normal() for rows in [5, 50, 500] * 60]
    clean = intraclass_correlation(blocks)
    assert clean == pytest.approx(0.5, abs=0.15)
    assert intraclass_correlation([np.vstack([block, [[np.nan]]]) for block in blocks]) == pytest.approx(clean)
    assert intraclass_correlation([np.full((3, 1), np.nan)] * 5) == 0
    assert intraclass_correlation([np.ones((9, 1))] * 5) == 0, "one value has no variance"


def test_classes_are_no_numbers():
    """Of blocks with the classes 0 and 2, or 1 alone, the means are equal, and the classes are not."""
    blocks = [np.array([[0.0], [2.0]] * 20), np.ones((40, 1))] * 10
    assert intraclass_correlation(blocks) > 0.5


@pytest.mark.parametrize(("target", "least", "most"), [("sorted", 0.95, 1), ("mixed", 0, 0.01), ("drift", 0.8, 1)])
def test_a_sample_of_a_file(path, target, least, most):
    found = sample(Loader(HDF5Dataset(path, "X", target), batch_size=32, memory=SMALL))
    assert least <= found.clustering <= most
    assert found.bytes_per_second > 1e6
    assert sample(Loader(HDF5Dataset(path, "X"), batch_size=32, memory=SMALL)).clustering is None


def test_a_sample_takes_no_more_memory_than_there_is(tmp_path):
    labels = np.repeat(np.arange(10, dtype=np.uint8), 100_000)
    with h5py.File(tmp_path / "narrow.h5", "w") as file:
        file["x"], file["y"] = labels.astype(np.float32), labels
    loader = Loader(HDF5Dataset(tmp_path / "narrow.h5", "x", "y"), batch_size=100, memory="8MB")
    clustering = sample(loader).clustering  # compiles what is not yet
    tracemalloc.start()
    assert sample(loader).clustering == clustering
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clustering > 0.4
    assert peak < loader.plan.budget


def test_the_memory_that_is_advised_is_enough(path):
    dataset = HDF5Dataset(path, "X", "sorted")
    loader = Loader(dataset, batch_size=32, memory=SMALL)
    text = advice(loader, 0.97)
    assert "c.h5 is clustered: 97% of the target's variance" in text
    assert "fastsgd shuffle" in text
    memory = re.search(r'memory="(\d+MB)"', text)[1]
    assert advice(Loader(dataset, batch_size=32, memory=memory), 0.97) is None
    least = f"{int(memory[:-2]) * 2 // 3}MB"
    assert advice(Loader(dataset, batch_size=32, memory=least), 0.97) is not None, "much less would not be"


def trained(path, target, **options):
    model = fs.Sequential([fs.Dense(10, "softmax")], input_dim=64)
    trainer = fs.Trainer(model, fs.SGD(0.01), "sparse_categorical_crossentropy")
    trainer.fit(HDF5Dataset(path, "X", target), batch_size=100, **options)


def test_training_warns_once(path):
    with pytest.warns(UserWarning, match=r"c\.h5 is clustered.*the window holds \d\.\d of them") as found:
        trained(path, "sorted", memory=SMALL, epochs=2)
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    ("target", "options"),
    [("mixed", {"memory": SMALL}), ("sorted", {"memory": "1GB"}), ("sorted", {"memory": SMALL, "shuffle": False})],
)
def test_training_does_not_warn(path, target, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(path, target, **options)


def test_the_command_line_warns_in_one_line(path, tmp_path, capsys):
    words = [
        "train",
        str(path),
        "-x",
        "X",
        "-y",
        "sorted",
        "--memory",
        SMALL,
        "--quiet",
        "--out",
        str(tmp_path / "run"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run(words) == 0
    assert re.fullmatch(r"fastsgd: warning: .*c\.h5 is clustered: .*\n", capsys.readouterr().err)


def test_inspection_of_a_table(path, capsys):
    report = inspect_table(HDF5Dataset(path, "X", "sorted"), memory=SMALL)
    assert (report.rows, report.features, report.targets, report.blocks) == (ROWS, 64, 1, ROWS // CHUNK)
    assert report.window_blocks == report.window_rows / CHUNK
    assert report.epoch_seconds == pytest.approx(report.nbytes / report.bytes_per_second)
    assert not report.whole
    assert report.through_hdf5 == {}
    assert run(["inspect", str(path), "-x", "X", "-y", "sorted", "--memory", SMALL]) == 0
    shown = capsys.readouterr().out
    for part in (
        f"{ROWS:,}, 15.4 MB",
        "features 64, targets 1",
        "1,000 rows, in 60 blocks",
        "of the target's variance",
    ):
        assert part in shown
    assert shown.splitlines()[-1].startswith(f"{path} is clustered")
    assert run(["inspect", str(path), "-x", "X", "-y", "mixed", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["table"]
    assert (table["whole"], table["advice"]) == (True, None)
    assert run(["inspect", str(path), "-y", "mixed"]) == 2
    assert "--target goes with --features" in capsys.readouterr().err
