"""Locks and files that are replaced as a whole; what they rest on is the real file system."""

import os
from pathlib import Path

import pytest

from fabmon.durable import lock_directory, replace_durably
from fabmon.errors import StartError


def test_a_directory_is_one_process_own_until_its_lock_is_closed(tmp_path: Path) -> None:
    with (
        lock_directory(tmp_path / "new"),
        pytest.raises(StartError, match=f"new is in use by process {os.getpid()}: stop it"),
    ):
        lock_directory(tmp_path / "new")
    lock_directory(tmp_path / "new").close()


def test_a_directory_on_a_full_disk_can_be_locked(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/dev/full")
    with lock_directory(tmp_path):
        pass


def test_a_file_is_replaced_as_a_whole_and_not_by_way_of_another_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"kept")
    (tmp_path / "id.new").hardlink_to(tmp_path / "other")
    replace_durably(tmp_path / "id", b"one\ntwo\n")
    assert (tmp_path / "id").read_bytes() == b"one\ntwo\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "id"} == {"other": b"kept"}
