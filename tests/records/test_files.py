"""Files that appear as a whole."""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from grade_lightning.disks import disk_named
from grade_lightning.records.files import new_folder, write_atomically


def test_text_bytes_and_what_a_function_writes(tmp_path):
    write_atomically(tmp_path / "new" / "a", "ä\n")
    write_atomically(tmp_path / "b", b"\x00\n")
    write_atomically(tmp_path / "c", lambda partial: partial.write_text("c"))
    assert [(tmp_path / name).read_bytes() for name in ("new/a", "b", "c")] == ["ä\n".encode(), b"\x00\n", b"c"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "c", "new"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    def fails(partial):
        partial.write_text("half")
        raise RuntimeError("no space")

    write_atomically(tmp_path / "file", "old")
    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "file", fails)
    assert (tmp_path / "file").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_many_writers_never_mix(tmp_path):
    texts = [letter * 100_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_atomically(tmp_path / "file", text), texts * 4))
    assert (tmp_path / "file").read_text() in texts
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_permissions_are_those_of_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "file").chmod(0o600)
    write_atomically(tmp_path / "file", "y")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "x"), RuntimeError("I/O error: Read-only file system (os error 30)")]
)
def test_a_disk_that_takes_nothing_is_named_with_what_to_do(error, tmp_path):
    with (
        pytest.raises(ValueError, match=r"cannot be written \(.*(No space|Read-only).*\): free space .* or go elsewhere"),
        disk_named(tmp_path, "go elsewhere"),
    ):
        raise error


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "none", "x"), RuntimeError("os error"), ValueError("own")):
        with pytest.raises(type(error)) as raised, disk_named(tmp_path, "go elsewhere"):
            raise error
        assert raised.value is error


def test_the_disk_that_is_full_is_the_one_that_is_named(tmp_path):
    """A cache in another place than the run folder, inside whose block it is written; and a file of a third place."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    with pytest.raises(ValueError, match=r"cannot be written") as raised, disk_named(run, "another run.dir"):  # noqa: SIM117
        with disk_named(cache, "another cache"):
            raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert str(raised.value).startswith(f"{cache} cannot be written")
    assert str(raised.value).count("cannot be written") == 1
    with pytest.raises(ValueError, match="cannot be written") as raised, disk_named(run, "another run.dir"):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file")
    assert str(raised.value).startswith("/elsewhere/file cannot be written")
    with pytest.raises(ValueError, match="cannot be written") as raised, disk_named(run, "another run.dir"):
        raise OSError(errno.ENOSPC, "No space left on device", str(run / "metrics.csv"))
    assert str(raised.value).startswith(f"{run} cannot be written")


def filled(out, *, meanwhile=None):
    """Fill a new folder; what else happens before it is through."""
    with new_folder(out) as folder:
        (folder / "whole").write_text("x")
        if meanwhile is not None:
            meanwhile()


def test_a_new_folder_is_there_as_a_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"

    def stopped():
        assert not out.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(out, meanwhile=stopped)
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    filled(out)
    assert [file.name for file in sorted(out.parent.rglob("*"))] == ["out", "whole"]


def test_a_folder_that_was_filled_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"

    def theirs():
        out.mkdir()
        (out / "theirs").write_text("y")

    with pytest.raises(OSError, match="out"):
        filled(out, meanwhile=theirs)
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["out", "out/theirs"]
