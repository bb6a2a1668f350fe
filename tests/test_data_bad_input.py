"""Data that cannot be read or trained on: the message names the thing and the way out."""

import os
import re

import h5py
import numpy as np
import pytest
from data_files import ChunkByChunk, write_rows

from fastsgd.data import ArrayDataset, HDF5Dataset
from fastsgd.data.loader import Loader
from fastsgd.errors import DataError, FastSGDError


def refused(make, *parts):
    """The message with which it is refused; each of the parts stands in it."""
    with pytest.raises(DataError) as caught:
        make()
    assert isinstance(caught.value, FastSGDError)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    for part in parts:
        assert str(part) in message, message
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path):
    """A file with something of everything."""
    path = tmp_path / "train.h5"
    with h5py.File(path, "w") as file:
        file["X"], file["y"] = np.ones((8, 3)), np.ones(8)
        file["short"], file["none"], file["no_columns"] = np.ones(7), np.ones((0, 3)), np.ones((8, 0))
        file["text"], file["bytes"] = ["a"] * 8, np.array([b"a"] * 8)
        file.create_dataset("ragged", (8,), h5py.vlen_dtype("f4"))
        file["complex"], file["wide_float"] = np.ones(8, complex), np.ones(8, np.longdouble)
        file["cube"], file["scalar"], file["empty"] = np.ones((8, 2, 2)), 1.0, h5py.Empty("f4")
        file["group/inside"], file["group/other"] = np.ones(8), np.ones(8)
        file.create_group("hollow")
        file["type"] = np.dtype("f4")
        file["table"] = np.ones(8, [("height", "f4"), ("weight", "f4"), ("label", "S2")])
        file["table_2d"] = np.ones((8, 2), [("a", "f4")])
        file["gone"], file["outside"] = h5py.SoftLink("/nowhere"), h5py.ExternalLink("nowhere.h5", "/X")
        h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((8,)))
    return path


class TestFiles:
    def test_none_of_that_name(self, path):
        message = refused(lambda: HDF5Dataset(path.with_name("trian.h5"), "X"), "there is no file", "trian.h5")
        assert message.endswith("nearby there is 'train.h5'")

    def test_no_such_folder(self, tmp_path):
        message = refused(lambda: HDF5Dataset(tmp_path / "nowhere" / "a.h5", "X"), "there is no file")
        assert "nearby" not in message

    def test_a_folder(self, tmp_path):
        refused(lambda: HDF5Dataset(tmp_path, "X"), f"{str(tmp_path)!r} is a folder", repr(str(tmp_path / "*.h5")))

    def test_a_pattern_without_files(self, tmp_path):
        (tmp_path / "folder.h5").mkdir()
        refused(lambda: HDF5Dataset(tmp_path / "*.h5", "X"), "no file matches the pattern", "*.h5")

    @pytest.mark.parametrize("given", [5, None, [None], [["a.h5"]]])
    def test_no_path(self, given):
        refused(lambda: HDF5Dataset(given, "X"), f"path is {given!r}", "a file, a list of files, or a glob pattern")

    def test_an_empty_list(self):
        refused(lambda: HDF5Dataset([], "X"), "no files were given", "a file, a list of files, or a glob pattern")

    @pytest.mark.parametrize("content", [b"x,y\n1,2\n", b"\x89HD", b"PK\x03\x04" * 300])
    def test_not_hdf5(self, tmp_path, content):
        (tmp_path / "a.h5").write_bytes(content)
        refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X"), repr(str(tmp_path / "a.h5")), "is not an HDF5 file")

    def test_no_bytes(self, tmp_path):
        (tmp_path / "a.h5").touch()
        refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X"), "is empty: 0 bytes", "write it again")

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
    def test_truncated(self, path, share):
        os.truncate(path, int(path.stat().st_size * share))
        refused(lambda: HDF5Dataset(path, "X"), path, "is truncated: its end is missing", "copy or write it again")

    def test_each_length_of_a_truncated_file_is_refused(self, tmp_path):
        content = write_rows(tmp_path / "whole.h5", 4).read_bytes()
        for length in range(0, len(content), 97):
            (tmp_path / "a.h5").write_bytes(content[:length])
            refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X"), "a.h5")

    def test_damage_is_never_another_error(self, tmp_path):
        content = write_rows(tmp_path / "whole.h5", 40, chunk=10, compression="gzip").read_bytes()
        outcomes = set()
        for at in range(0, len(content), 61):
            (tmp_path / "a.h5").write_bytes(content[:at] + b"\xa5" * 16 + content[at + 16 :])
            try:
                list(HDF5Dataset(tmp_path / "a.h5", "X", "y").batches(16))
                outcomes.add("read")
            except DataError:
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}

    def test_a_second_file_that_lacks_the_dataset(self, path, tmp_path):
        other = write_rows(tmp_path / "a.h5", 5)
        refused(lambda: HDF5Dataset([path, other], "X", "group/inside"), other, "no dataset 'group/inside'")

    def test_files_of_other_widths(self, path, tmp_path):
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["X"] = np.ones((5, 4))
        refused(
            lambda: HDF5Dataset([path, tmp_path / "b.h5"], "X"),
            path,
            tmp_path / "b.h5",
            "'X' has 3 columns there, 4 here",
            "one schema",
        )

    def test_a_virtual_dataset_without_its_source(self, tmp_path):
        layout = h5py.VirtualLayout((10, 3), "f4")
        layout[:] = h5py.VirtualSource("part.h5", "X", (10, 3))
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file.create_virtual_dataset("X", layout)
        refused(lambda: HDF5Dataset(tmp_path / "v.h5", "X"), "v.h5", "'/X' draws on 'part.h5'", "no such file")


@pytest.mark.parametrize(
    ("features", "parts"),
    [
        ("x", ["no dataset 'x'; the file has 'X'"]),
        ("inside", ["no dataset 'inside'; the file has 'group/inside'"]),
        ("group/insid", ["no dataset 'group/insid'; the file has 'group/inside'"]),
        ("Bytse", ["no dataset 'Bytse'; the file has 'bytes'"]),
        ("zzzzz", ["no dataset 'zzzzz'; the file has 'X', 'bytes', "]),
        ("X/deeper", ["no dataset 'X/deeper'"]),
        ("gone", ["no dataset 'gone'"]),
        ("outside", ["dataset 'outside', behind a link, draws on 'nowhere.h5', and there is no such file"]),
        ("group", ["'group' is a group, not a dataset; it holds 'group/inside', 'group/other'"]),
        ("/", ["'/' is a group, not a dataset; it holds 'X', "]),
        ("hollow", ["'hollow' is a group, not a dataset; it holds nothing"]),
        ("type", ["'type' is a named datatype, not a dataset"]),
        ("text", ["dataset 'text' holds text or objects; fastsgd reads integers, booleans and float16"]),
        ("bytes", ["dataset 'bytes' holds text or objects; fastsgd reads integers"]),
        ("ragged", ["dataset 'ragged' holds text or objects"]),
        ("complex", ["dataset 'complex' holds complex128; fastsgd reads integers"]),
        ("wide_float", ["dataset 'wide_float' holds float128; fastsgd reads"]),
        ("time", ["dataset 'time' is of a type that NumPy does not have", "TypeTimeID"]),
        ("cube", ["dataset 'cube' has shape (8, 2, 2); it has one axis, or two: (rows, columns)"]),
        ("scalar", ["dataset 'scalar' has shape (); it has one axis, or two"]),
        ("empty", ["dataset 'empty' has shape None"]),
        ("none", ["dataset 'none' has shape (0, 3); it needs at least one row and one column"]),
        ("no_columns", ["dataset 'no_columns' has shape (8, 0); it needs at least one row and one column"]),
        (["X", "short"], ["'X' has 8 rows, 'short' has 7; they need the same number"]),
        ("table", ["'table' is a table with the fields 'height', 'weight', 'label'; name one as 'table::height'"]),
        ("table::", ["'table' is a table with the fields"]),
        ("table::Weigt", ["'table' is a table with no field 'Weigt'; it has 'weight', 'height'; name one as"]),
        ("table::label", ["dataset 'table::label' holds text or objects"]),
        ("table_2d::a", ["'table_2d' is a table of two axes"]),
        ("X::height", ["'X' has no fields, so no 'height'; name it as 'X'"]),
    ],
)
@pytest.mark.parametrize("role", ["features", "target", "weight"])
def test_datasets_that_cannot_be_used(path, features, parts, role):
    columns = {"features": "X"} | {role: features}
    refused(lambda: HDF5Dataset(path, **columns), path, *parts)


@pytest.mark.parametrize("given", [None, "", [], 5, ["X", None], b"X", {"X": 1}])
def test_features_that_are_no_names(path, given):
    refused(lambda: HDF5Dataset(path, given), f"features is {given!r}", "the path of a dataset in the file, or a list")
    if given is not None:
        refused(lambda: HDF5Dataset(path, "X", given), f"target is {given!r}")


def test_rows_of_target_and_weight(path):
    refused(lambda: HDF5Dataset(path, "X", "short"), path, "'X' has 8 rows, 'short' has 7")
    refused(lambda: HDF5Dataset(path, "X", "y", weight="short"), path, "'X' has 8 rows, 'short' has 7")
    refused(lambda: HDF5Dataset(path, "X", "y", weight="X"), path, "the weight has 3 columns; it is one column")


class TestArrays:
    @pytest.mark.parametrize(
        ("x", "part"),
        [
            ([], "x has shape (0,); it needs at least one row and one column"),
            (np.ones((0, 3)), "x has shape (0, 3); it needs"),
            (np.ones((3, 0)), "x has shape (3, 0); it needs"),
            (5.0, "x has shape (); it has one axis, or two"),
            (np.ones((2, 2, 2)), "x has shape (2, 2, 2)"),
            ([[1, 2], [3]], "x is no array: "),
            (["a"], "x holds text or objects; fastsgd reads"),
            ([None], "x holds text or objects"),
            ([1j], "x holds complex128; fastsgd reads"),
            (np.array(["2020-01-01"], "M8[D]"), "x holds datetime64[D]"),
        ],
    )
    def test_x(self, x, part):
        refused(lambda: ArrayDataset(x), part)

    def test_y_and_weight(self):
        x = np.ones((5, 2))
        refused(lambda: ArrayDataset(x, np.ones(4)), "x has 5 rows, y has 4; they need the same number")
        refused(lambda: ArrayDataset(x, np.ones((5, 0))), "y has shape (5, 0); it needs")
        refused(lambda: ArrayDataset(x, weight=np.ones(6)), "x has 5 rows, weight has 6")
        refused(lambda: ArrayDataset(x, weight=x), "weight has shape (5, 2); it has one value a row")


def stained(tmp_path, part, row, column, value, dtype="f4"):
    """Two files of 3,000 and 2,000 rows in chunks of 100, with one bad value; the row is counted over both."""
    paths = []
    for index, (start, stop) in enumerate(((0, 3000), (3000, 5000))):
        paths.append(tmp_path / f"{index}.h5")
        with h5py.File(paths[-1], "w") as file:
            for name, width in {"a": 2, "b": 3, "y": 2, "w": 1}.items():
                values = np.ones((stop - start, width), dtype)
                if name == part and start <= row < stop:
                    values[row - start, column] = value
                file.create_dataset(name, data=values, chunks=(100, width))
    return ChunkByChunk(paths, ["a", "b"], "y", weight="w")


def use(dataset, *, batch_size=64, memory="20MB", **options):
    """Consume an epoch."""
    return lambda: list(dataset.batches(batch_size, memory=memory, **options))


class TestValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize(
        ("part", "row", "column"), [("a", 0, 1), ("b", 2999, 2), ("a", 3000, 0), ("y", 3777, 1), ("w", 4999, 0)]
    )
    @pytest.mark.parametrize("how", [{}, {"memory": "60kB"}, {"shuffle": False}], ids=["held", "window", "stored"])
    def test_not_finite(self, tmp_path, part, row, column, value, how):
        dataset = stained(tmp_path, part, row, column, value)
        file, number = divmod(row, 3000)
        refused(
            use(dataset, **how),
            f"{tmp_path / str(file)}.h5: dataset {part!r}, row {number}, column {column} is {value}; ",
            "every value must be a finite number",
        )

    @pytest.mark.parametrize("memory", ["20MB", "70kB"])
    def test_after_a_split(self, tmp_path, memory):
        dataset = stained(tmp_path, "b", 3456, 1, np.nan)
        parts = [part for once in dataset.split(0.3, seed=2) for part in once.split(0.4)]
        refusals = []
        for part in parts:
            try:
                use(part, memory=memory)()
            except DataError as error:
                refusals.append(str(error))
        assert len(refusals) == 1
        assert refusals[0].startswith(f"{tmp_path / '1.h5'}: dataset 'b', row 456, column 1 is nan")

    @pytest.mark.parametrize("where", ["arrays", "split arrays", "hdf5"])
    def test_too_large_for_float32(self, tmp_path, where):
        x = np.ones((5000, 2))
        x[4000, 1] = -3.5e38
        if where == "hdf5":
            dataset, name = stained(tmp_path, "y", 4000, 1, -3.5e38, "f8"), "1.h5: dataset 'y', row 1000, column 1"
        else:
            dataset, name = ArrayDataset(x), "x[4000, 1]"
            if where == "split arrays":
                dataset = next(part for part in dataset.split(0.5) if (part.x < 0).any())
        refused(use(dataset), f"{name} is -3.5e+38; too large for float32")
        assert min(part.min() for batch in use(dataset, dtype="float64")() for part in batch) == -3.5e38

    def test_the_largest_float32_is_not_too_large(self):
        largest = np.array([np.finfo("f4").max, -np.finfo("f4").max], "f8")
        assert np.isfinite(next(ArrayDataset(largest).batches(2))[0]).all()

    def test_arrays(self):
        y = np.ones((50, 2))
        y[17, 1] = np.inf
        refused(use(ArrayDataset(np.ones(50), y)), "y[17, 1] is inf; every value must be a finite number")

    @pytest.mark.parametrize("memory", ["20MB", "60kB"])
    def test_a_target_that_the_loss_cannot_use(self, tmp_path, memory):
        def below_two(y):
            wrong = np.flatnonzero(y[:, 0] >= 2)
            return (int(wrong[0]), f"label {y[wrong[0], 0]:g} is not below 2") if wrong.size else None

        dataset = stained(tmp_path, "y", 3021, 0, 7.0)
        loader = Loader(dataset, batch_size=10, memory=memory, check_target=below_two)
        refused(
            lambda: list(loader.epoch()), f"{tmp_path / '1.h5'}: dataset 'y', row 21, column 0: label 7 is not below 2"
        )


class TestArguments:
    @pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, None])
    def test_batch_size(self, path, size):
        refused(lambda: HDF5Dataset(path, "X").batches(size), f"batch_size is {size!r}; it is a whole number from 1 on")

    @pytest.mark.parametrize("dtype", ["float16", "int32", "complex64"])
    def test_dtype(self, path, dtype):
        refused(lambda: HDF5Dataset(path, "X").batches(4, dtype=dtype), f"dtype is {dtype}", "float32 or float64")

    def test_seed(self, path):
        refused(lambda: HDF5Dataset(path, "X").batches(4, seed=None), "seed is None; it is a whole number")

    @pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "0.1", None])
    def test_split_share(self, path, share):
        refused(lambda: HDF5Dataset(path, "X").split(share), f"validation is {share!r}; it is a share of the rows")

    @pytest.mark.parametrize(("rows", "share"), [(1, 0.5), (4, 0.1), (4, 0.9)])
    def test_split_that_leaves_nothing(self, rows, share):
        dataset = ArrayDataset(np.ones(rows))
        refused(lambda: dataset.split(share), f"a validation share of {share} of {rows} rows leaves a part empty")

    @pytest.mark.parametrize(
        ("rows", "part"),
        [
            (0, "no rows"),
            (-3, "no rows"),
            ([], "no rows"),
            (slice(5, 5), "no rows"),
            ([8], "there is no row 8; {path}: rows 0 to 7"),
            ([0, -9], "there is no row -9; {path}: rows 0 to 7"),
            ([0.5], "rows is [0.5]; it is a count, a slice, row numbers, or a mask of 8 booleans"),
            ([True, False], "or a mask of 8 booleans"),
            ([[0, 1]], "rows is [[0, 1]]"),
            ("3", "rows is '3'"),
            (None, "rows is None"),
        ],
    )
    def test_take(self, path, rows, part):
        refused(lambda: HDF5Dataset(path, "X").take(rows), "take: ", part.format(path=path))


class TestFilesThatChange:
    """After the dataset was made, and while it is read."""

    def replaced(self, path, **columns):
        with h5py.File(path, "w") as file:
            for name, values in ({"X": np.ones((8, 3)), "y": np.ones(8)} | columns).items():
                if values is not None:
                    file[name] = values

    @pytest.mark.parametrize(
        ("columns", "part"),
        [
            ({"X": np.ones((9, 3)), "y": np.ones(9)}, "'X' has 9 rows of 3 float64 now, it had 8 of 3 float64"),
            ({"X": np.ones((8, 4))}, "'X' has 8 rows of 4 float64 now"),
            ({"y": np.ones(7)}, "'X' has 8 rows, 'y' has 7"),
            ({"y": np.ones(8, "f4")}, "'y' has 8 rows of 1 float32 now"),
            ({"X": None}, "there is no dataset 'X'"),
            ({"X": ["a"] * 8}, "dataset 'X' holds text or objects"),
        ],
        ids=["rows", "columns", "unequal", "type", "gone", "text"],
    )
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_replaced(self, path, columns, part, shuffle):
        dataset = HDF5Dataset(path, "X", "y")
        self.replaced(path, **columns)
        refused(use(dataset, shuffle=shuffle), path, part)

    def test_removed(self, path):
        dataset = HDF5Dataset(path, "X", "y")
        path.rename(path.with_name("train_old.h5"))
        message = refused(use(dataset), "there is no file", path)
        assert re.search(r"nearby there is '.*train_old.h5'", message)

    def test_truncated_before_reading(self, path):
        dataset = HDF5Dataset(path, "X", "y")
        os.truncate(path, path.stat().st_size // 2)
        refused(use(dataset), path, "is truncated")

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_truncated_while_it_is_read(self, tmp_path, shuffle):
        # HDF5 itself would read zeros past the end, in silence.
        path = write_rows(tmp_path / "cut.h5", 50_000, chunk=100)
        batches = ChunkByChunk(path, "X", "y").batches(10, memory="100kB", shuffle=shuffle)
        next(batches)
        os.truncate(path, path.stat().st_size // 4)
        refused(lambda: list(batches), path, "has changed", "it was cut short", "make the dataset again")

    def test_a_chunk_that_cannot_be_decoded(self, tmp_path):
        path = write_rows(tmp_path / "bad.h5", 1000, chunk=100, compression="gzip")
        with h5py.File(path) as file:
            chunk = file["X"].id.get_chunk_info(3)
        with open(path, "r+b") as file:
            file.seek(chunk.byte_offset)
            file.write(b"\xff" * chunk.size)
        dataset = ChunkByChunk(path, "X", "y")
        refused(use(dataset, shuffle=False), path, "rows 300 to 399 of 'X', 'y' cannot be read", "damaged")
