"""Durable files: whole or not there, and every failure names its path."""

import errno
import json
import os

import pytest

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError


def test_atomic_write_replaces_the_whole_file(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    files.write_text(target, "one")
    files.write_text(target, "two")
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def fail_half_way():
        with files.atomic_path(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "disk_full"), (errno.EACCES, "io_error")],
)
def test_a_system_error_names_the_path_and_ends_in_74(tmp_path, number, reason):
    target = tmp_path / "a.txt"
    with pytest.raises(TlperfError) as caught, files.atomic_path(target):
        raise OSError(number, os.strerror(number))
    assert caught.value.code is ExitCode.IO
    assert caught.value.reason == reason
    assert str(target) in caught.value.line("shard")


def test_json_lines_leave_out_an_unfinished_last_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.append_json_line(path, {"a": 1})
    files.append_json_line(path, {"a": 2})
    with open(path, "a") as stream:
        stream.write('{"a": 3')  # the writer was killed here
    assert files.read_json_lines(path) == [{"a": 1}, {"a": 2}]
    files.append_json_line(path, {"a": 4})
    assert files.read_json_lines(path) == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_a_last_line_may_end_within_a_letter(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.append_json_line(path, {"a": "ñ"})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: whole.index("ñ".encode()) + 1])
    assert files.read_json_lines(path) == [{"a": "ñ"}]


@pytest.mark.parametrize("line", [b'{"a": ', b"\xff\xfe", b""])
def test_a_damaged_line_in_the_middle_is_an_integrity_failure(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(TlperfError) as caught:
        files.read_json_lines(path)
    assert caught.value.code is ExitCode.INTEGRITY
    assert "(record 1)" in str(caught.value)


def test_not_a_number_is_refused_rather_than_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.append_json_line(tmp_path / "rows.jsonl", {"loss": float("nan")})


def test_what_went_wrong_first_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TlperfError) as caught:
        files.write_text(tmp_path / "file" / "x.png", "x")
    assert caught.value.code == ExitCode.IO
    assert caught.value.path == str(tmp_path / "file" / "x.png")


@pytest.mark.parametrize("line", ["", "{}", "00000000 {}", "99c9a213 {} ", "99c9a213"])
def test_a_line_that_was_not_sealed_is_damaged(line):
    with pytest.raises(ValueError, match="damaged line"):
        files.unseal_line(line)


def test_json_is_the_same_for_any_key_order():
    assert files.to_json({"b": 1, "a": 2}) == files.to_json({"a": 2, "b": 1})


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert files.sha256_file(tmp_path / "f") == files.sha256_bytes(data)


def test_missing_and_damaged_json_are_told_apart(tmp_path):
    with pytest.raises(TlperfError) as missing:
        files.read_json(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TlperfError) as damaged:
        files.read_json(tmp_path / "bad.json")
    assert (missing.value.code, damaged.value.code) == (66, 76)
    files.write_json(tmp_path / "good.json", {"a": [1, None]})
    assert json.loads((tmp_path / "good.json").read_text()) == {"a": [1, None]}
