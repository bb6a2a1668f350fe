"""CSV, Parquet, NPY and NPZ files as HDF5: each value where it belongs, and clear errors for what is no number."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastsgd.data import HDF5Dataset, convert_files
from fastsgd.errors import DataError, MemoryBudgetError

ROWS = 5000


def columns_of(rows, start=0):
    numbers = np.arange(start, start + rows)
    return {
        "a": numbers + 0.5,
        "n": -numbers,
        "colour": np.array(["red", "green", "blue"])[numbers % 3],
        "y": 2.0 * numbers,
    }


def write_csv(path, columns, *, header=True, delimiter=","):
    lines = [delimiter.join(columns)] if header else []
    lines += [delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_parquet(path, columns):
    pq.write_table(pa.table(columns), path, row_group_size=700)
    return path


def content(path):
    with h5py.File(path) as file:
        return {name: item[()] for name, item in file.items()}, {
            name: list(item.attrs["columns"]) for name, item in file.items()
        }


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.csv.gz", "t.tsv", "t.parquet", "t.pq"])
def test_tables(tmp_path, name):
    columns = columns_of(ROWS)
    path = tmp_path / name
    if name.startswith("t.p"):
        write_parquet(path, columns)
    else:
        write_csv(path, columns, delimiter="\t" if "tsv" in name else ",")
    out = tmp_path / "out.h5"
    found = convert_files(path, out, target="y", categories=["colour"])
    values, names = content(out)
    assert names == found.datasets == {"X": ["a", "n", "colour"], "y": ["y"]}
    assert (found.rows, found.missing, found.categories) == (ROWS, {}, {"colour": ["red", "green", "blue"]})
    assert (found.bytes_before, found.bytes_after) == (os.path.getsize(path), os.path.getsize(out))
    numbers = np.arange(ROWS)
    assert values["X"].dtype == values["y"].dtype == np.float32
    assert np.array_equal(values["X"], np.stack([numbers + 0.5, -numbers, numbers % 3], axis=1))
    assert np.array_equal(values["y"], 2 * numbers)
    with h5py.File(out) as file:
        assert list(file["X"].attrs["categories:colour"]) == ["red", "green", "blue"]
    assert HDF5Dataset(out, "X", "y").n_rows == ROWS


def test_several_files_follow_each_other(tmp_path):
    parts = [(3, 0), (1000, 3), (1, 1003)]
    for index, (rows, start) in enumerate(parts):
        write_csv(tmp_path / f"part{index}.csv", columns_of(rows, start))
    told = []
    found = convert_files(
        str(tmp_path / "part*.csv"),
        tmp_path / "out.h5",
        target=["y", "n"],
        weight="a",
        categories=["colour"],
        progress=lambda *what: told.append(what),
    )
    values, names = content(tmp_path / "out.h5")
    assert names == found.datasets == {"X": ["colour"], "y": ["y", "n"], "weight": ["a"]}
    numbers = np.arange(1004)
    assert np.array_equal(values["X"][:, 0], numbers % 3)
    assert np.array_equal(values["y"], np.stack([2 * numbers, -numbers], axis=1))
    assert np.array_equal(values["weight"], numbers + 0.5)
    done, totals = zip(*told, strict=True)
    assert set(totals) == {found.bytes_before}
    assert list(done) == sorted(done)
    assert done[-1] <= totals[0]


def test_types_that_show_late(tmp_path):
    """Whole numbers with fractions after a mebibyte of them; text is no number, wherever it comes."""
    lines = ["k,v", *["1,2"] * 1_500_000, "0.5,nan", ",-3e2"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = convert_files(tmp_path / "t.csv", tmp_path / "out.h5")
    values, _ = content(tmp_path / "out.h5")
    assert values["X"].shape == (1_500_002, 2)
    assert np.array_equal(values["X"][-3:], [[1, 2], [0.5, np.nan], [np.nan, -300]], equal_nan=True)
    assert found.missing == {"k": 1, "v": 1}
    (tmp_path / "t.csv").write_text("\n".join([*lines, "1,two"]))
    with pytest.raises(DataError, match=r"t.csv: .*column.*two"):
        convert_files(tmp_path / "t.csv", tmp_path / "out.h5")


def test_missing_values_are_counted(tmp_path):
    columns = {"i": pa.array([1, None, 3]), "f": pa.array([None, 0.5, np.nan]), "b": pa.array([True, None, False])}
    columns |= {"none": pa.array([None] * 3, pa.null()), "t": pa.array(["u", None, "v"])}
    write_parquet(tmp_path / "t.parquet", columns)
    found = convert_files(tmp_path / "t.parquet", tmp_path / "out.h5", categories=["t"])
    values, _ = content(tmp_path / "out.h5")
    nan = np.nan
    wanted = [[1, nan, 1, nan, 0], [nan, 0.5, nan, nan, nan], [3, nan, 0, nan, 1]]
    assert np.array_equal(values["X"], wanted, equal_nan=True)
    assert found.missing == {"i": 1, "f": 2, "b": 1, "none": 3, "t": 1}
    (tmp_path / "t.csv").write_text("a,b,t\n1,true,x\n,,\nNA,false,x\n")
    found = convert_files(tmp_path / "t.csv", tmp_path / "out.h5", categories=["t"])
    assert found.missing == {"a": 2, "b": 1, "t": 1}
    assert found.categories == {"t": ["x"]}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_types_of_columns(tmp_path, dtype):
    kinds = ["int8", "uint16", "int64", "uint64", "float16", "float32", "float64", "bool"]
    columns = {kind: np.arange(3).astype(kind) for kind in kinds}
    write_parquet(tmp_path / "t.parquet", columns | {"coded": pa.array(["p", "q", "p"]).dictionary_encode()})
    np.savez(tmp_path / "t.npz", **columns)
    for name, categories in (("t.parquet", ["coded"]), ("t.npz", [])):
        convert_files(tmp_path / name, tmp_path / "out.h5", dtype=dtype, categories=categories)
        values, names = content(tmp_path / "out.h5")
        assert names["X"] == kinds + categories
        assert values["X"].dtype == dtype
        wanted = [*([0, 1, 2] for _ in kinds[:-1]), [0, 1, 1], *([0, 1, 0] for _ in categories)]
        assert np.array_equal(values["X"].T, wanted)


def test_csv_without_names(tmp_path):
    write_csv(tmp_path / "t.csv", columns_of(50), header=False, delimiter=";")
    convert_files(tmp_path / "t.csv", tmp_path / "out.h5", target="3", drop=["2"], header=False, delimiter=";")
    values, names = content(tmp_path / "out.h5")
    assert names == {"X": ["0", "1"], "y": ["3"]}
    assert np.array_equal(values["X"][:, 1], -np.arange(50))


def test_text_of_several_lines_is_one_value(tmp_path):
    rows = 400
    text = "word, " * 2000 + '\n""quoted""\n'
    (tmp_path / "t.csv").write_text("a,text,b\n" + "".join(f'{i},"{text}",{-i}\n' for i in range(rows)))
    convert_files(tmp_path / "t.csv", tmp_path / "out.h5", drop=["text"], memory="4MB")
    values, _ = content(tmp_path / "out.h5")
    assert np.array_equal(values["X"], np.stack([np.arange(rows), -np.arange(rows)], axis=1))


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, order):
    values = np.asarray(np.arange(40_000, dtype=">i4").reshape(-1, 4), order=order)
    np.save(tmp_path / "t.npy", values)
    convert_files(tmp_path / "t.npy", tmp_path / "out.h5", target="3", memory="4MB")
    found, names = content(tmp_path / "out.h5")
    assert names == {"X": ["0", "1", "2"], "y": ["3"]}
    assert np.array_equal(found["X"], values[:, :3])
    assert np.array_equal(found["y"], values[:, 3])
    np.save(tmp_path / "flat.npy", values[:, 0])
    convert_files(tmp_path / "flat.npy", tmp_path / "out.h5")
    assert content(tmp_path / "out.h5")[0]["X"].shape == (10_000, 1)
    np.save(tmp_path / "table.npy", np.array([(1, 0.5, "u"), (2, 1.5, "v")], [("k", "i2"), ("f", "f8"), ("t", "U3")]))
    convert_files(tmp_path / "table.npy", tmp_path / "out.h5", target="f", categories=["t"])
    found, names = content(tmp_path / "out.h5")
    assert names == {"X": ["k", "t"], "y": ["f"]}
    assert found["X"].tolist() == [[1, 0], [2, 1]]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    x = np.random.default_rng(0).normal(size=(30_000, 6)).astype("f4")
    labels = np.array(["dog", "cat", "cat"] * 10_000)
    save(tmp_path / "t.npz", X=x, y=x[:, 0] * 2, label=labels, test=np.zeros((10, 6)))
    options = {"target": "y", "drop": ["test"], "categories": ["label"], "memory": "4MB"}
    found = convert_files(tmp_path / "t.npz", tmp_path / "out.h5", **options)
    values, names = content(tmp_path / "out.h5")
    assert names == {"X": [*(f"X_{index}" for index in range(6)), "label"], "y": ["y"]}
    assert np.array_equal(values["X"][:, :6], x)
    assert np.array_equal(values["X"][:, 6], labels == "cat")
    assert np.array_equal(values["y"], x[:, 0] * 2)
    assert found.categories == {"label": ["dog", "cat"]}
    with pytest.raises(DataError, match=r"different numbers of rows: 'X' 30000, 'y' 30000, 'test' 10; drop some"):
        convert_files(tmp_path / "t.npz", tmp_path / "out.h5", drop=["label"])


def test_memory_stays_within_the_budget(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", X=np.arange(4 * 10**6, dtype="f8").reshape(-1, 10))
    np.save(tmp_path / "t.npy", np.arange(4 * 10**6, dtype="f8").reshape(-1, 10))
    for name in ("t.npz", "t.npy"):
        tracemalloc.start()
        try:
            convert_files(tmp_path / name, tmp_path / "out.h5", memory="4MB")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4.1e6
    with pytest.raises(MemoryBudgetError, match=r'least that works here is memory="4MB"'):
        convert_files(tmp_path / "t.npy", tmp_path / "out.h5", memory="1MB")


def test_no_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n")
    write_parquet(tmp_path / "t.parquet", {"a": np.zeros(0), "b": np.zeros(0)})
    np.save(tmp_path / "t.npy", np.zeros((0, 2)))
    for name in ("t.csv", "t.parquet", "t.npy"):
        assert convert_files(tmp_path / name, tmp_path / "out.h5").rows == 0
        assert content(tmp_path / "out.h5")[0]["X"].shape == (0, 2)


def bad_files(folder):
    write_csv(folder / "good.csv", columns_of(9))
    (folder / "empty.csv").write_bytes(b"")
    (folder / "ragged.csv").write_text("a,b\n1,2\n3\n")
    (folder / "twice.csv").write_text("a,a\n1,2\n")
    (folder / "huge.csv").write_text("a,b\n1,2\n1,1e39\n")
    (folder / "date.csv").write_text("a,when\n1,2020-01-01\n")
    (folder / "other.csv").write_text("a,n,farbe,y\n1,2,x,3\n")
    (folder / "none.parquet").write_bytes(b"none")
    (folder / "none.npy").write_bytes(b"none")
    (folder / "none.npz").write_bytes(b"none")
    (folder / "t.xlsx").write_bytes(b"none")
    np.save(folder / "objects.npy", np.array([None, 1]), allow_pickle=True)
    np.save(folder / "deep.npy", np.zeros((2, 2, 2)))
    np.savez(folder / "columns.npz", X=np.asfortranarray(np.ones((9, 2))))
    np.savez(folder / "nothing.npz")
    whole = (folder / "columns.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("gone.csv", {}, "there is no file"),
        ("gone*.csv", {}, "no file matches"),
        ("t.xlsx", {}, "of no known format; .*end in .csv, "),
        ("empty.csv", {}, "empty.csv: Empty CSV file"),
        ("ragged.csv", {}, "ragged.csv: .*Expected 2 columns, got 1"),
        ("twice.csv", {}, "more than one column is called 'a'"),
        ("huge.csv", {}, r"huge.csv: column 'b', row 1 is 1e\+39, more than float32 holds"),
        ("date.csv", {}, r"no numbers in column 'when' \(date32\[day\]\); leave it out \(--drop\)"),
        ("good.csv", {}, r"no numbers in column 'colour' \(text\)"),
        (
            "good.csv",
            {"target": "z"},
            "target names a column 'z', which is not there; there is 'a', 'n', 'colour', 'y'",
        ),
        ("good.csv", {"drop": ["Y"]}, "drop names a column 'Y', which is not there; there is 'y'"),
        ("good.csv", {"target": "y", "drop": ["y"]}, "column 'y' is named twice"),
        ("good.csv", {"drop": ["a", "n", "colour", "y"]}, "no column is left"),
        ("good.csv", {"dtype": "int8"}, "dtype is 'int8'"),
        (["good.csv", "other.csv"], {"drop": ["colour"]}, "good.csv and .*other.csv differ .*: 'colour' and 'farbe'"),
        (["good.csv", "huge.csv"], {"drop": ["colour"]}, "differ"),
        ("none.parquet", {}, "none.parquet: "),
        ("none.npy", {}, "none.npy: "),
        ("none.npz", {}, "none.npz: "),
        ("cut.npz", {}, "cut.npz: "),
        ("nothing.npz", {}, "no array in the file"),
        ("objects.npy", {}, "objects.npy: .*objects"),
        ("deep.npy", {}, r"no numbers in column '0' \(an array of shape \(2, 2, 2\)\)"),
        ("columns.npz", {}, r"array 'X' is stored by columns \(Fortran order\)"),
    ],
    ids=str,
)
def test_errors_name_the_thing(tmp_path, names, options, message):
    bad_files(tmp_path)
    (tmp_path / "out.h5").write_bytes(b"old")
    before = sorted(os.listdir(tmp_path))
    paths = [str(tmp_path / name) for name in ([names] if isinstance(names, str) else names)]
    with pytest.raises(DataError, match=message):
        convert_files(paths, tmp_path / "out.h5", **options)
    assert (tmp_path / "out.h5").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == before


def test_too_many_categories(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(200_000))
    with pytest.raises(DataError, match="column '0' has more than 100,000 different values"):
        convert_files(tmp_path / "t.npy", tmp_path / "out.h5", categories=["0"])


def test_room_is_asked_for_first(tmp_path):
    with open(tmp_path / "t.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|i1", "fortran_order": False, "shape": (10**13,)})
        file.truncate(10**13 + 128)
    with pytest.raises(OSError, match=r"40000.0 GB are needed, \d+"):
        convert_files(tmp_path / "t.npy", tmp_path / "out.h5")
    assert os.listdir(tmp_path) == ["t.npy"]


def test_without_pyarrow(tmp_path):
    """What needs it says how to get it; what does not works."""
    write_csv(tmp_path / "t.csv", columns_of(9))
    np.save(tmp_path / "t.npy", np.ones((3, 2)))
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from fastsgd.cli import run\n"
        "print(run(['convert', 't.npy', 'out.h5']), run(['convert', 't.csv', 'out.h5']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0 1\n"
    assert done.stderr.splitlines()[1] == (
        "fastsgd: to read 't.csv' takes pyarrow; install it with: pip install 'fastsgd[convert]'"
    )
