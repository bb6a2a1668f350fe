"""Files appear whole or not at all, whatever goes wrong."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastsgd.atomic import replacing, write_whole


def content(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask():
    """Files are made for the owner and to be read by the group."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_appears_when_the_block_ends(tmp_path, umask):
    path = tmp_path / "file"
    with replacing(path) as temporary:
        with open(temporary, "w") as file:
            file.write("new")
        assert not path.exists()
        assert os.path.dirname(temporary) == str(tmp_path)
    assert path.read_text() == "new"
    assert mode(path) == 0o640
    assert content(tmp_path) == ["file"]


def test_a_replaced_file_hands_its_permissions_on(tmp_path, umask):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o604)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o604


def fails_with(error, path, moved=None):
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(b"half")
        if moved is not None:
            os.rename(temporary, moved)
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_of_a_block_that_fails(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error):
        fails_with(error, path)
    assert path.read_bytes() == b"old"
    assert content(tmp_path) == ["file"]


def test_the_error_of_the_block_is_the_one_raised(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fails_with(ZeroDivisionError, tmp_path / "file", tmp_path / "moved")
    assert content(tmp_path) == ["moved"]


def test_a_temporary_file_that_vanished(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file") as temporary:
        os.unlink(temporary)
    assert content(tmp_path) == []


def test_the_target_turned_into_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "file"):
        (tmp_path / "file").mkdir()
    assert content(tmp_path) == ["file"]


def test_links_are_followed(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "link").symlink_to("../there/file")
    for data in (b"first", b"second"):
        write_whole(tmp_path / "here" / "link", data)
        assert (tmp_path / "there" / "file").read_bytes() == data
        assert (tmp_path / "here" / "link").is_symlink()
    assert (content(tmp_path / "here"), content(tmp_path / "there")) == (["link"], ["file"])


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, ".hidden", "with space\nand line", "a'b\"c"])
def test_any_name(name, tmp_path, monkeypatch):
    write_whole(tmp_path / name, b"1")
    monkeypatch.chdir(tmp_path)
    write_whole(name, b"2")
    write_whole(os.fsencode(name), b"3")
    assert content(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"3"


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("missing/file", FileNotFoundError),
        ("folder", IsADirectoryError),
        ("folder/", IsADirectoryError),
        ("absent/", IsADirectoryError),
        ("file/inside", NotADirectoryError),
        ("pipe", OSError),
        ("loop", OSError),
        ("x" * 300, OSError),
    ],
)
def test_what_cannot_be_written_is_known_before_the_block(target, error, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"stays")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before, entered = content(tmp_path), False
    path = f"{tmp_path}/{target}"
    with pytest.raises(error) as raised, replacing(path):
        entered = True
    assert not entered
    assert raised.value.filename == path
    assert content(tmp_path) == before
    assert (tmp_path / "file").read_bytes() == b"stays"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_many_writers_at_once(tmp_path, umask):
    # None of them touches the umask of the process, so that files made meanwhile have the right permissions.
    data = [bytes([i]) * 5000 for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: write_whole(tmp_path / "shared", part), data))
        list(pool.map(lambda part: write_whole(tmp_path / str(part[0]), part), data))
    assert (tmp_path / "shared").read_bytes() in data
    assert {mode(path) for path in tmp_path.iterdir()} == {0o640}
    assert content(tmp_path) == sorted(["shared", *map(str, range(64))])
