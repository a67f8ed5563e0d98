"""Locks of folders: one writer or several readers, and none that outlives its owner."""

import shutil
import subprocess
import sys

import pytest

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.locks import FolderLock, directory_lock

_HOLDER = """
import sys
from tlperf.core.locks import directory_lock
with directory_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_refused_while_held_and_dies_with_its_owner(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(TlperfError) as caught, directory_lock(tmp_path):
            pass
        assert caught.value.code is ExitCode.RETRY
        assert f"pid {owner.pid}" in str(caught.value)
        owner.kill()
    with directory_lock(tmp_path):
        pass


def test_readers_share_what_a_writer_has_alone(tmp_path):
    writer = FolderLock.take(tmp_path, alone=True)
    assert writer is not None
    assert FolderLock.take(tmp_path, alone=False) is None
    writer.share()
    reader = FolderLock.take(tmp_path, alone=False)
    assert reader is not None
    assert not writer.is_alone()
    assert FolderLock.take(tmp_path, alone=True) is None
    reader.let_go()
    assert writer.is_alone()
    writer.let_go()


def test_a_folder_that_was_removed_is_locked_anew(tmp_path):
    lock = FolderLock.take(tmp_path / "entry", alone=True)
    assert lock is not None
    shutil.rmtree(tmp_path / "entry")
    other = FolderLock.take(tmp_path / "entry", alone=True)
    assert other is not None
    lock.let_go()
    other.let_go()
