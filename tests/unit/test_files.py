"""Whole files: nothing half written is left or seen, links stay, and one process at a time is at work in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ehr_tl.errors import RunError
from ehr_tl.files import LOCK, fingerprint, locked, whole


def dead() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_killed_process_left_of_the_same_file_is_removed(tmp_path):
    old, living, other = dead(), os.getppid(), "b.txt"
    (tmp_path / f".a.txt.{old}.partial").mkdir()
    (tmp_path / f".a.txt.{old}.partial" / "inside").touch()
    kept = {f".a.txt.{living}.partial", f".{other}.{old}.partial", ".a.txt.x.partial", "a.txt"}
    for name in kept:
        (tmp_path / name).touch()
    with whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_names_are_no_patterns(tmp_path):
    (tmp_path / f".ab.{dead()}.partial").touch()
    with whole(tmp_path / "[a]b") as temporary:
        temporary.write_text("new")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "target").write_text("old")
    (tmp_path / "link").symlink_to("disk/target")
    with whole(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "target").read_text() == "new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["target"]


def test_a_link_to_a_folder_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with whole(tmp_path / "link") as temporary:
        temporary.mkdir()
        (temporary / "inside").touch()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "inside").is_file()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
def test_a_place_that_takes_no_files_is_named_before_the_work():
    with pytest.raises(OSError, match="/proc"), whole("/proc/x"):
        pytest.fail("the work began")


def test_one_process_at_a_time(tmp_path):
    before = fingerprint(tmp_path)
    with locked(tmp_path):
        for shared in (False, True):
            with pytest.raises(RunError, match=f"Another ehr-tl is at work in {tmp_path}"), locked(tmp_path, shared):
                pass
    with locked(tmp_path, shared=True), locked(tmp_path, shared=True), pytest.raises(RunError), locked(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    assert fingerprint(tmp_path) == before


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom ehr_tl.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
def test_what_nobody_can_write_to_can_be_shared():
    with locked(Path("/proc"), shared=True):
        pass
    with pytest.raises(OSError), locked(Path("/proc")):
        pass
