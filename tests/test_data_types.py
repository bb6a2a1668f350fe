"""Types that few programs write: the values that h5py gives, or an error that says what they are."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from h5py import h5t

from fastsgd.data import HDF5Dataset
from fastsgd.errors import DataError

VALUES = [1, 2, 100, 3]


def number_type(base, size=None, precision=None, offset=None):
    made = base.copy()
    if size is not None:
        made.set_size(size)
    if precision is not None:
        made.set_precision(precision)
    if offset is not None:
        made.set_offset(offset)
    return made


def float_type(size, exponent, mantissa, order=h5t.ORDER_LE):
    """A float of a sign, an exponent and a mantissa of so many bits."""
    made = h5t.IEEE_F32LE.copy()
    made.set_fields(exponent + mantissa, mantissa, exponent, 0, mantissa)
    made.set_size(size)
    made.set_ebias(2 ** (exponent - 1) - 1)
    made.set_order(order)
    return made


def write(path, kind, values=None):
    """X of that HDF5 type; the values as HDF5 converts them, where some are given."""
    with h5py.File(path, "w") as file:
        made = h5py.h5d.create(file.id, b"X", kind, h5py.h5s.create_simple((4,)))
        if values is not None:
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.asarray(values))
    return path


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (number_type(h5t.STD_U32LE, precision=17), "u4"),
        (number_type(h5t.STD_I32BE, precision=17, offset=3), "i4"),
        (number_type(h5t.STD_I16LE, precision=9), "i2"),
        (float_type(2, 8, 7), "f4"),  # bfloat16
        (float_type(2, 8, 7, h5t.ORDER_BE), "f4"),
        (float_type(3, 8, 15), "f4"),
        (h5t.IEEE_F16BE, "f4"),
        (h5t.STD_U64BE, "u8"),
        (h5t.py_create(h5py.enum_dtype({"A": 1, "B": 2}, "u8")), "u8"),
        (h5t.py_create(h5py.enum_dtype({"A": 1, "B": 2}, ">i2")), "i2"),
    ],
    ids=["u17", "i17", "i9", "bf16", "bf16 be", "f24", "f16 be", "u8 be", "enum", "enum be"],
)
def test_numbers_of_other_widths(tmp_path, kind, dtype):
    path = write(tmp_path / "t.h5", kind, np.asarray(VALUES, kind.dtype))
    with h5py.File(path) as file:
        assert file["X"][...].tolist() == VALUES
    dataset = HDF5Dataset(path, "X", "X")
    assert dataset.dtype == np.dtype(dtype)
    assert dataset.take(4).x[:, 0].tolist() == VALUES
    assert np.concatenate([x for x, _ in dataset.batches(3, shuffle=False)])[:, 0].tolist() == VALUES


@pytest.mark.parametrize("kind", [h5t.NATIVE_B8, h5t.STD_B16BE, h5t.STD_B64LE], ids=["8", "16 be", "64"])
def test_bit_fields_are_their_numbers(tmp_path, kind):
    """As PyTables stores booleans."""
    path = write(tmp_path / "t.h5", kind)
    values = np.arange(4).astype(kind.dtype)
    with h5py.File(path, "r+") as file:
        file["X"].id.write(h5py.h5s.ALL, h5py.h5s.ALL, values, kind)
    assert HDF5Dataset(path, "X").take(4).x[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (number_type(h5t.STD_I32LE, size=3, precision=24), ["is of a type that NumPy does not have", "<i3"]),
        (h5t.UNIX_D32LE, ["is of a type that NumPy does not have", "TypeTimeID"]),
        (h5t.create(h5t.OPAQUE, 5), ["holds |V5"]),
        (h5t.array_create(h5t.IEEE_F32LE, (3,)), ["holds ('<f4', (3,))"]),
        (h5t.STD_REF_OBJ, ["holds text or objects"]),
        (h5t.py_create(h5py.opaque_dtype("M8[s]")), ["holds datetime64[s]"]),
        (h5t.py_create(np.dtype("c8")), ["holds complex64"]),
        (h5t.py_create(np.dtype([("real", "f8"), ("imag", "f8")])), ["holds complex numbers"]),
        (h5t.py_create(np.dtype(np.longdouble)), ["holds float128"]),
    ],
    ids=["i24", "time", "opaque", "array", "reference", "date", "complex", "real imag", "long double"],
)
def test_what_is_no_number(tmp_path, kind, parts):
    path = write(tmp_path / "t.h5", kind)
    with pytest.raises(DataError) as caught:
        HDF5Dataset(path, "X")
    for part in [f"{path}: dataset 'X' {parts[0]}", *parts[1:]]:
        assert part in str(caught.value), str(caught.value)
    assert "damaged" not in str(caught.value)


def test_large_integers_are_cast_once(tmp_path):
    values = np.array([2**24 + 1, 2**53 + 1, 2**63 - 1, -(2**63)], "i8")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["X"], file["u"] = values, values.astype("u8")
    for name, wanted in (("X", values), ("u", values.astype("u8"))):
        dataset = HDF5Dataset(tmp_path / "t.h5", name)
        assert np.array_equal(dataset.take(4).x[:, 0], wanted)
        for dtype in ("float32", "float64"):
            assert np.array_equal(next(dataset.batches(4, shuffle=False, dtype=dtype))[0][:, 0], wanted.astype(dtype))


def write_filtered(path, number):
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((10, 3))
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (3,))
        h5py.h5d.create(file.id, b"X", h5t.IEEE_F32LE, h5py.h5s.create_simple((20, 3)), plist)
    return path


@pytest.mark.parametrize(
    ("number", "name", "way"),
    [
        (32013, "zfp", "pip install hdf5plugin"),
        (305, "lzo", "ptrepack --complib=zlib"),
        (399, "number 399", "HDF5_PLUGIN_PATH"),
    ],
)
def test_a_filter_that_is_not_there_is_named_with_the_way_out(tmp_path, number, name, way):
    path = write_filtered(tmp_path / "f.h5", number)
    # In a process of its own: a plugin that was loaded once stays.
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from fastsgd.data import HDF5Dataset\n"
        "try: HDF5Dataset(sys.argv[1], 'X')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert f"{path}: dataset 'X' was written with the filter {name!r}, which HDF5 does not have here" in done.stdout
    assert way in done.stdout
