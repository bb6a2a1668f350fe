"""Values that lie in other files: never what HDF5 makes up for those that are missing, short or changed."""

import os
import subprocess
import sys

import h5py
import hdf5plugin
import numpy as np
import pytest
from data_files import features_of, numbers_of, write_rows

from fastsgd import Dense, Sequential
from fastsgd.cli import run
from fastsgd.data import HDF5Dataset, repack_file, shuffle_file
from fastsgd.data.inspection import inspect_file
from fastsgd.errors import DataError

ROWS = 30  # of each source
ENDLESS = h5py.h5s.UNLIMITED


def write_virtual(path, sources, *, rows=ROWS, name="X"):
    """X, of a source after the other."""
    layout = h5py.VirtualLayout((rows * len(sources), 3), "f4")
    for part, source in enumerate(sources):
        layout[rows * part : rows * (part + 1)] = h5py.VirtualSource(source, name, (rows, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("X", layout)
    return path


def write_pattern(path, file_name, dataset_name="X"):
    """X, of as many sources of that pattern as there are, in blocks of ROWS rows."""
    with h5py.File(path, "w", libver="latest") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((ROWS, 3), (ENDLESS, 3))
        space.select_hyperslab((0, 0), (ENDLESS, 1), (ROWS, 3), (ROWS, 3))
        source = h5py.h5s.create_simple((ROWS, 3))
        plist.set_virtual(space, file_name.encode(), dataset_name.encode(), source)
        h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((ROWS, 3), (ENDLESS, 3)), plist)
    return path


def refused(make, *parts):
    with pytest.raises(DataError) as caught:
        make()
    for part in parts:
        assert str(part) in str(caught.value), str(caught.value)


@pytest.fixture
def parts(tmp_path):
    return [write_rows(tmp_path / f"part-{k}.h5", ROWS, start=ROWS * k, chunk=7) for k in range(3)]


def read(path, name="X", **options):
    return np.sort(numbers_of(HDF5Dataset(path, name, **options).batches(16)))


class TestVirtual:
    @pytest.mark.parametrize("place", ["beside", "absolute", "moved", "linked"])
    def test_sources_are_found_where_hdf5_finds_them(self, tmp_path, parts, place):
        # Moved: an absolute name that is no more, and a file of that name beside.
        folder = {"absolute": f"{tmp_path}/", "moved": "/nowhere/"}.get(place, "")
        path = write_virtual(tmp_path / "v.h5", [folder + part.name for part in parts])
        if place == "linked":
            (tmp_path / "deep").mkdir()
            (tmp_path / "deep" / "link.h5").symlink_to(path)
            path = tmp_path / "deep" / "link.h5"
        # HDF5 looks elsewhere first, where it has nothing to find.
        found = read(path, allow_external=place in ("moved", "linked"))
        assert np.array_equal(found, np.arange(3 * ROWS))

    def test_nested(self, tmp_path, parts):
        inner = write_virtual(tmp_path / "inner.h5", [part.name for part in parts])
        outer = write_virtual(tmp_path / "outer.h5", ["inner.h5"], rows=3 * ROWS)
        assert np.array_equal(read(outer), np.arange(3 * ROWS))
        parts[1].unlink()
        refused(lambda: HDF5Dataset(outer, "X"), inner, "draws on 'part-1.h5', and there is no such file", parts[1])

    def test_of_the_same_file(self, tmp_path):
        path = write_rows(tmp_path / "a.h5", ROWS)
        with h5py.File(path, "r+") as file:
            layout = h5py.VirtualLayout((10, 3), "f4")
            layout[:] = h5py.VirtualSource(file["X"])[5:15]
            file.create_virtual_dataset("part", layout)
        assert np.array_equal(read(path, "part"), np.arange(5, 15))

    def test_of_itself(self, tmp_path):
        path = write_virtual(tmp_path / "v.h5", ["v.h5"])
        refused(lambda: HDF5Dataset(path, "X"), path, "'/X' draws on itself")

    def test_a_source_that_is_missing(self, tmp_path, parts):
        path = write_virtual(tmp_path / "v.h5", [part.name for part in parts])
        parts[2].unlink()
        refused(lambda: HDF5Dataset(path, "X"), path, "'/X' draws on 'part-2.h5', and there is no such file")

    @pytest.mark.parametrize("make", [lambda file: None, lambda file: file.create_group("X")], ids=["none", "group"])
    def test_a_source_without_the_dataset(self, tmp_path, parts, make):
        path = write_virtual(tmp_path / "v.h5", [part.name for part in parts])
        with h5py.File(parts[1], "w") as file:
            make(file)
        refused(
            lambda: HDF5Dataset(path, "X"), path, f"draws on 'X' of {str(parts[1])!r}, and there is no such dataset"
        )

    @pytest.mark.parametrize("shape", [(ROWS - 1, 3), (ROWS + 1, 3), (ROWS, 2), (0,)], ids=str)
    def test_a_source_of_another_shape(self, tmp_path, parts, shape):
        path = write_virtual(tmp_path / "v.h5", [part.name for part in parts])
        with h5py.File(parts[1], "w") as file:
            file["X"] = np.ones(shape, "f4")
        refused(lambda: HDF5Dataset(path, "X"), f"draws on {3 * ROWS} values of 'X' of", parts[1], f"shape {shape}")

    def test_a_part_of_a_source_that_is_too_short(self, tmp_path):
        write_rows(tmp_path / "a.h5", 14, chunk=5)
        layout = h5py.VirtualLayout((10, 3), "f4")
        layout[:] = h5py.VirtualSource("a.h5", "X", (20, 3))[5:15]
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file.create_virtual_dataset("X", layout)
        refused(lambda: HDF5Dataset(tmp_path / "v.h5", "X"), "draws on values (15, 3)", "shape (14, 3)")
        write_rows(tmp_path / "a.h5", 16, chunk=5)
        assert np.array_equal(read(tmp_path / "v.h5"), np.arange(5, 15))

    def test_a_source_of_another_type(self, tmp_path, parts):
        path = write_virtual(tmp_path / "v.h5", [part.name for part in parts])
        with h5py.File(parts[1], "w") as file:
            file["X"] = features_of(np.arange(ROWS, 2 * ROWS)).astype(">f8")
        assert np.array_equal(read(path), np.arange(3 * ROWS))
        with h5py.File(parts[1], "w") as file:
            file["X"] = np.full((ROWS, 3), b"text")
        refused(lambda: read(path), path, "rows 0 to 89 of 'X' cannot be read", "conversion path")

    def test_values_without_a_source(self, tmp_path, parts):
        layout = h5py.VirtualLayout((3 * ROWS, 3), "f4")
        for part in (0, 2):
            layout[ROWS * part : ROWS * (part + 1)] = h5py.VirtualSource(parts[part].name, "X", (ROWS, 3))
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file.create_virtual_dataset("X", layout)
        refused(lambda: HDF5Dataset(tmp_path / "v.h5", "X"), "'/X' has 270 values and says where 180 of them lie")

    def test_a_pattern_of_files(self, tmp_path, parts):
        path = write_pattern(tmp_path / "v.h5", "part-%b.h5")
        assert np.array_equal(read(path), np.arange(3 * ROWS))
        parts[1].unlink()
        refused(lambda: HDF5Dataset(path, "X"), "part-1.h5', which is missing, while there is", "part-2.h5'")
        for part in (parts[0], parts[2]):
            part.unlink()
        refused(lambda: HDF5Dataset(path, "X"), path)

    def test_a_pattern_of_datasets(self, tmp_path):
        with h5py.File(tmp_path / "a%0.h5", "w") as file:
            for part in range(11):
                file[f"group/{part} of %"] = features_of(np.arange(ROWS * part, ROWS * (part + 1)))
            file["group/other"] = 1
        path = write_pattern(tmp_path / "v.h5", "a%%0.h5", "group/%b of %%")
        assert np.array_equal(read(path), np.arange(11 * ROWS))
        with h5py.File(tmp_path / "a%0.h5", "r+") as file:
            del file["group/4 of %"]
        refused(lambda: HDF5Dataset(path, "X"), "draws on 'group/4 of %', which is missing", "'group/10 of %'")

    def test_a_pattern_of_which_one_is_short(self, tmp_path, parts):
        path = write_pattern(tmp_path / "v.h5", "part-%b.h5")
        write_rows(parts[1], ROWS - 1, start=ROWS, chunk=7)
        refused(lambda: HDF5Dataset(path, "X"), "draws on 90 values of 'X' of", parts[1], "shape (29, 3)")

    def write_growing(self, tmp_path, lengths):
        """X, whose three columns come from three sources that may grow."""
        layout = h5py.VirtualLayout((max(lengths), 3), "f4", maxshape=(None, 3))
        for column, length in enumerate(lengths):
            with h5py.File(tmp_path / f"column{column}.h5", "w", libver="latest") as file:
                file.create_dataset("c", data=features_of(np.arange(length))[:, column], maxshape=(None,))
            source = h5py.VirtualSource(f"column{column}.h5", "c", (length,), maxshape=(None,))
            layout[0:ENDLESS, column] = source[0:ENDLESS]
        with h5py.File(tmp_path / "v.h5", "w", libver="latest") as file:
            file.create_virtual_dataset("X", layout, fillvalue=-7)
        return tmp_path / "v.h5"

    def test_sources_without_an_end(self, tmp_path):
        assert np.array_equal(read(self.write_growing(tmp_path, [20, 20, 20])), np.arange(20))

    def test_sources_without_an_end_of_other_lengths(self, tmp_path):
        path = self.write_growing(tmp_path, [20, 18, 20])
        refused(lambda: HDF5Dataset(path, "X"), "'/X' has 20 rows, and 'column1.h5' has values for 18 of them")

    @pytest.mark.parametrize("change", ["removed", "written", "cut"])
    def test_a_source_that_changes_between_epochs(self, tmp_path, parts, change):
        dataset = HDF5Dataset(write_virtual(tmp_path / "v.h5", [part.name for part in parts]), "X")
        assert len(numbers_of(dataset.batches(16, memory="10kB"))) == 3 * ROWS
        if change == "removed":
            parts[1].unlink()
        elif change == "cut":
            os.truncate(parts[1], 100)
        else:
            write_rows(parts[1], ROWS, chunk=7)
            os.utime(parts[1], ns=(1, 1))
        said = {"removed": "it is gone", "cut": "it was cut short", "written": "it was written to"}[change]
        refused(lambda: list(dataset.batches(16, memory="10kB", epoch=1)), f"{parts[1]} has changed: {said}")


class TestExternal:
    @pytest.fixture
    def path(self, tmp_path):
        values = features_of(np.arange(ROWS))
        files = [(str(tmp_path / "a.raw"), 8, 120), (str(tmp_path / "b.raw"), 0, ENDLESS)]
        with h5py.File(tmp_path / "e.h5", "w") as file:
            file.create_dataset("X", data=values, external=files)
        return tmp_path / "e.h5"

    def test_is_read(self, path, tmp_path):
        assert np.array_equal(read(path), np.arange(ROWS))
        assert (tmp_path / "a.raw").stat().st_size == 128

    @pytest.mark.parametrize("name", ["a.raw", "b.raw"])
    def test_missing(self, path, tmp_path, name):
        (tmp_path / name).unlink()
        refused(lambda: HDF5Dataset(path, "X"), path, f"'/X' draws on {str(tmp_path / name)!r}, and there is no such")

    @pytest.mark.parametrize(("name", "size"), [("a.raw", 128), ("b.raw", 240)])
    def test_short(self, path, tmp_path, name, size):
        os.truncate(tmp_path / name, size - 1)
        refused(
            lambda: HDF5Dataset(path, "X"), path, tmp_path / name, f"is cut short: it has {size - 1} bytes of {size}"
        )

    def test_changed_between_epochs(self, path, tmp_path):
        dataset = HDF5Dataset(path, "X")
        numbers_of(dataset.batches(16))
        (tmp_path / "b.raw").unlink()
        refused(lambda: list(dataset.batches(16)), f"{tmp_path / 'b.raw'} has changed: it is gone")

    def test_relative_to_the_working_directory(self, tmp_path, monkeypatch):
        (tmp_path / "data").mkdir()
        monkeypatch.chdir(tmp_path / "data")
        with h5py.File("e.h5", "w") as file:
            file.create_dataset("X", data=features_of(np.arange(ROWS)), external="x.raw")
        assert np.array_equal(read("e.h5"), np.arange(ROWS))
        monkeypatch.chdir(tmp_path)
        refused(lambda: HDF5Dataset("data/e.h5", "X"), "draws on 'x.raw'", repr(str(tmp_path / "x.raw")))


def write_link(path, other):
    with h5py.File(path, "w") as file:
        file["X"] = h5py.ExternalLink(str(other), "/X")


def write_external(path, other):
    """X, whose values are the bytes of any file."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_external(str(other).encode(), 0, ROWS * 12)
    space = h5py.h5s.create_simple((ROWS, 3))
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, plist)


WRITERS = {
    "virtual": lambda path, other: write_virtual(path, [other]),
    "pattern": lambda path, other: write_pattern(path, str(other).replace("0", "%b")),
    "external": write_external,
    "link": write_link,
}
WAY_OUT = "allow_external=True (--allow-external at the command line)"


@pytest.mark.parametrize("kind", WRITERS)
class TestOutside:
    @pytest.fixture
    def home(self, tmp_path, monkeypatch):
        """A folder, which is the working directory too, and beside it a file that may not be read."""
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.chdir(home)
        write_rows(tmp_path / "part-0.h5", ROWS, chunk=7)
        return home

    @pytest.mark.parametrize("name", ["../part-0.h5", "sub/../../part-0.h5", "{0}/part-0.h5", "{0}/home/../part-0.h5"])
    def test_a_file_outside_is_refused(self, home, kind, name):
        (home / "sub").mkdir()
        WRITERS[kind](home / "a.h5", name.format(home.parent))
        for path in (home / "a.h5", "a.h5"):
            refused(lambda path=path: HDF5Dataset(path, "X"), path, "'X'" if kind == "link" else "'/X'")
            refused(lambda path=path: HDF5Dataset(path, "X"), repr(str(home.parent / "part-0.h5")), home, WAY_OUT)
        if kind == "external":
            assert len(HDF5Dataset("a.h5", "X", allow_external=True)) == ROWS
        else:
            assert np.array_equal(read("a.h5", allow_external=True), np.arange(ROWS))

    def test_a_link_to_a_file_outside_is_refused(self, home, kind):
        (home / "part-0.h5").symlink_to("../part-0.h5")
        WRITERS[kind](home / "a.h5", "part-0.h5")
        refused(lambda: HDF5Dataset("a.h5", "X"), repr(str(home.parent / "part-0.h5")), WAY_OUT)

    def test_a_folder_that_is_a_link_is_what_it_links_to(self, home, kind):
        (home.parent / "deep" / "er").mkdir(parents=True)
        write_rows(home.parent / "deep" / "part-0.h5", ROWS, chunk=7)
        write_rows(home / "part-0.h5", ROWS, chunk=7)
        (home / "sub").symlink_to("../deep/er")
        WRITERS[kind](home / "a.h5", "sub/../part-0.h5")
        refused(lambda: HDF5Dataset("a.h5", "X"), repr(str(home.parent / "deep" / "part-0.h5")), WAY_OUT)

    def test_a_file_below_is_read(self, home, kind):
        (home / "sub").mkdir()
        (home / "alias").symlink_to("sub")
        write_rows(home / "sub" / "part-0.h5", ROWS, chunk=7)
        for name in ("sub/part-0.h5", f"{home}/sub/part-0.h5", "alias/part-0.h5"):
            WRITERS[kind](home / "a.h5", name)
            if kind == "external":
                assert len(HDF5Dataset("a.h5", "X")) == ROWS
            else:
                assert np.array_equal(read("a.h5"), np.arange(ROWS))

    def test_whether_a_file_outside_is_there_is_not_told(self, home, kind):
        """Nor is it opened: a pipe, as which nobody writes to it, would never be."""
        os.mkfifo(home.parent / "pipe0")
        WRITERS[kind](home / "a.h5", home.parent / "pipe0")
        WRITERS[kind](home / "b.h5", home.parent / "none0")
        said = []
        for name in ("a.h5", "b.h5"):
            for make in (lambda name=name: HDF5Dataset(name, "X"), lambda name=name: _raise_problem(name)):
                with pytest.raises(DataError) as caught:
                    make()
                said.append(str(caught.value).replace("none0", "pipe0").replace("b.h5", "a.h5"))
        assert set(said[:2]) == set(said[2:])

    def test_it_is_listed_for_what_it_is(self, home, kind):
        WRITERS[kind](home / "a.h5", "../part-0.h5")
        [report] = inspect_file("a.h5")
        assert report.layout == {"pattern": "virtual"}.get(kind, kind)
        assert report.shape == (() if kind == "link" else (ROWS, 3))
        assert WAY_OUT in report.problem
        [report] = inspect_file("a.h5", allow_external=True)
        assert (report.shape, report.problem) == ((ROWS, 3), None)

    @pytest.mark.parametrize("command", ["train", "evaluate", "predict", "inspect", "shuffle", "repack"])
    def test_the_command_line_refuses_it_too(self, home, kind, command, capsys):
        if (kind, command) == ("link", "repack"):
            return  # the link stays one
        WRITERS[kind](home / "a.h5", home.parent / "part-0.h5")
        with h5py.File(home / "a.h5", "r+") as file:
            file["y"] = np.zeros(ROWS)
        Sequential([Dense(1)], input_dim=3).save("model")
        words = {
            "train": "train a.h5 -x X -y y --out run --quiet --learning-rate 1e-9",
            "evaluate": "evaluate model a.h5 -x X -y y",
            "predict": "predict model a.h5 -x X --out p.csv",
            "inspect": "inspect a.h5 -x X",
            "shuffle": "shuffle a.h5 out.h5",
            "repack": "repack a.h5 out.h5",
        }[command].split()
        assert run(words) == 1
        assert WAY_OUT in capsys.readouterr().err
        assert not {"run", "p.csv", "out.h5"} & set(os.listdir(home))
        if kind == "virtual":
            assert run([*words, "--allow-external"]) == 0


def _raise_problem(path):
    raise DataError(inspect_file(path)[0].problem)


def test_the_password_file_is_not_read(tmp_path):
    write_external(tmp_path / "a.h5", "/etc/passwd")
    refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X"), "'/X' draws on '/etc/passwd'", WAY_OUT)
    for rewrite in (shuffle_file, repack_file):
        refused(lambda rewrite=rewrite: rewrite(tmp_path / "a.h5", tmp_path / "out.h5"), "'/etc/passwd'", WAY_OUT)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_what_is_drawn_on_may_not_lead_outside(tmp_path):
    """A source of a source is bound to the folder of the file that was given; by each of the ways there are."""
    (tmp_path / "home" / "sub").mkdir(parents=True)
    write_rows(tmp_path / "part-0.h5", ROWS, chunk=7)
    for kind, write in WRITERS.items():
        write(tmp_path / "home" / "sub" / f"{kind}0.h5", tmp_path / "part-0.h5")
        for wrap in ("virtual", "pattern", "link"):
            path = tmp_path / "home" / f"{wrap}-of-{kind}.h5"
            WRITERS[wrap](path, f"sub/{kind}0.h5")
            refused(lambda path=path: HDF5Dataset(path, "X"), tmp_path / "part-0.h5", WAY_OUT)
    # Up to that folder it may go.
    write_rows(tmp_path / "home" / "b.h5", ROWS, chunk=7)
    write_virtual(tmp_path / "home" / "sub" / "a.h5", ["../b.h5"])
    write_link(tmp_path / "home" / "c.h5", "sub/a.h5")
    assert np.array_equal(read(tmp_path / "home" / "c.h5"), np.arange(ROWS))
    refused(lambda: HDF5Dataset(tmp_path / "home" / "sub" / "a.h5", "X"), tmp_path / "home" / "b.h5", WAY_OUT)


@pytest.mark.parametrize("variable", ["HDF5_VDS_PREFIX", "HDF5_EXTFILE_PREFIX", "HDF5_EXT_PREFIX"])
def test_where_the_environment_points_is_no_exception(tmp_path, variable):
    (tmp_path / "home").mkdir()
    write_rows(tmp_path / "part-0.h5", ROWS, chunk=7)
    kind = {"HDF5_VDS_PREFIX": "virtual", "HDF5_EXTFILE_PREFIX": "external", "HDF5_EXT_PREFIX": "link"}[variable]
    WRITERS[kind](tmp_path / "home" / "a.h5", "part-0.h5")
    code = """
from fastsgd.data import HDF5Dataset
print(len(HDF5Dataset("home/a.h5", "X", allow_external=True)))
HDF5Dataset("home/a.h5", "X")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {variable: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{ROWS}\n"
    assert WAY_OUT in done.stderr


class TestLinks:
    def test_soft_and_external_links_are_followed(self, tmp_path):
        write_rows(tmp_path / "a.h5", ROWS, chunk=7)
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file["deep/soft"] = h5py.SoftLink("../X")  # no way up in HDF5
            file["deep/root"], file["deep/here"] = h5py.SoftLink("/X"), h5py.SoftLink("./root")
            file["to"] = h5py.SoftLink("deep")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["other"] = h5py.ExternalLink("a.h5", "/to")
        for path, name in (("a.h5", "to/here"), ("b.h5", "other/here"), ("b.h5", "/other//./root")):
            dataset = HDF5Dataset(tmp_path / path, name)
            assert np.array_equal(np.sort(numbers_of(dataset.batches(16))), np.arange(ROWS))
        assert list(dataset.through_hdf5().values()) == ["it lies in another file, which a link leads into"]
        refused(lambda: HDF5Dataset(tmp_path / "a.h5", "deep/soft"), "there is no dataset 'deep/soft'")

    def test_the_file_behind_a_link_is_watched(self, tmp_path):
        write_rows(tmp_path / "a.h5", ROWS, chunk=7)
        write_link(tmp_path / "b.h5", "a.h5")
        dataset = HDF5Dataset(tmp_path / "b.h5", "X")
        os.utime(tmp_path / "a.h5", ns=(1, 1))
        refused(lambda: list(dataset.batches(16)), f"{tmp_path / 'a.h5'} has changed: it was written to")

    def test_links_without_an_end(self, tmp_path):
        write_link(tmp_path / "a.h5", "b.h5")
        write_link(tmp_path / "b.h5", "a.h5")
        refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X"), "'X', behind a link, leads through more than 16 links")

    def test_compressed_values_behind_a_link(self, tmp_path):
        write_rows(tmp_path / "a.h5", ROWS, chunk=7, **hdf5plugin.Zstd())
        write_link(tmp_path / "b.h5", "a.h5")
        assert np.array_equal(read(tmp_path / "b.h5"), np.arange(ROWS))


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write_link(tmp_path / "a.h5", "pipe")
    refused(lambda: HDF5Dataset(tmp_path / "a.h5", "X"), f"draws on {str(tmp_path / 'pipe')!r}, which is a device or")


def test_compact(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        space = h5py.h5s.create_simple((ROWS, 3))
        h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32BE, space, plist)
        file["X"][...] = features_of(np.arange(ROWS))
    assert np.array_equal(read(tmp_path / "c.h5"), np.arange(ROWS))


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"fillvalue": 5.0}], ids=str)
def test_chunks_that_were_never_written_are_the_fill_value(tmp_path, options):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        made = file.create_dataset("X", (20, 3), "f4", chunks=(6, 2), **options)
        made[6:12] = 1
    wanted = np.full((20, 3), options.get("fillvalue", 0), "f4")
    wanted[6:12] = 1
    assert np.array_equal(HDF5Dataset(tmp_path / "f.h5", "X").take(20).x, wanted)
