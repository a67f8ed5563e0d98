"""Files that cannot be used: quarantined or refused, always named and counted."""

import base64
import json
import os

import pytest

from tests.images import image_bytes, make_folder, read_all
from tlperf.core.choices import Encoding, Exif, Format, OnBad
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_bytes
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import Inspected, Refusal, inspect_item
from tlperf.dataset.guard import Limits
from tlperf.dataset.payload import Layout
from tlperf.dataset.plan import ShardPlan
from tlperf.dataset.shard import plan_dataset, write_dataset
from tlperf.dataset.sources.folder import FileOrigin
from tlperf.dataset.sources.listing import Item
from tlperf.dataset.writing import ShardTask, write_shard


def config(root, **values):
    return DataConfig(source=str(root), workers=1, **values)


@pytest.fixture
def broken(tmp_path):
    """Ten good images a class, three broken ones and two to ignore."""
    root = make_folder(tmp_path / "pets", {"cats": 10, "dogs": 10})
    (root / "cats" / "empty.jpg").write_bytes(b"")
    (root / "dogs" / "cut.jpg").write_bytes(image_bytes(501)[:-50])
    (root / "dogs" / "page\n.jpg").write_bytes(b"<html>not found</html>")
    (root / "dogs" / "Thumbs.db").write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    return root


def test_three_broken_files_are_quarantined_and_counted(broken, tmp_path):
    data_dir = tmp_path / "data"
    summary = write_dataset(config(broken, format=Format.HDF5), data_dir)
    counts = ("seen", "accepted", "quarantined", "ignored", "duplicates")
    assert [summary[name] for name in counts] == [25, 20, 3, 2, 0]
    stored = [one.filename for split in read_all(data_dir).values() for one in split]
    assert len(stored) == 20
    rows = [
        json.loads(line)
        for line in (data_dir / "quarantine.jsonl").read_text().splitlines()
    ]
    assert [(row["path_text"], row["reason"]) for row in rows] == [
        ("cats/empty.jpg", "empty"),
        ("dogs/cut.jpg", "truncated"),
        ("dogs/page\\n.jpg", "not_image:html"),
    ]
    assert base64.b64decode(rows[2]["path_b64"]) == b"dogs/page\n.jpg"
    assert rows[1]["sha256"] == sha256_bytes((broken / "dogs/cut.jpg").read_bytes())
    assert (rows[1]["width"], rows[1]["height"]) == (32, 24)
    assert sorted(rows[0]) == sorted(
        "path_b64 path_text sha256 bytes reason detail format_sniffed width height "
        "stage tool_version".split()
    )


def test_files_that_are_not_regular_are_never_opened(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    os.mkfifo(root / "cats" / "pipe.jpg")  # opening it would block
    (root / "cats" / "link.jpg").symlink_to("/etc/hostname")
    (root / "dogs" / "loop.jpg").symlink_to("loop.jpg")
    plan = plan_dataset(config(root), tmp_path / "data")
    assert plan["quarantined"] == 3
    write_dataset(config(root, format=Format.HDF5), tmp_path / "data")
    lines = (tmp_path / "data" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["special_file"] * 3
    assert json.loads(lines[0])["sha256"] is None


def test_on_bad_fail_stops_at_the_first(broken, tmp_path):
    with pytest.raises(TlperfError) as caught:
        write_dataset(config(broken, on_bad=OnBad.FAIL), tmp_path / "data")
    assert caught.value.code == ExitCode.DATA
    assert caught.value.line("shard") == (
        "tlperf shard: E65 empty: cats/empty.jpg: 0 bytes; mend or remove it, or give "
        "--on_bad=quarantine"
    )


def test_too_many_bad_files_leave_no_dataset(broken, tmp_path):
    data_dir = tmp_path / "data"
    with pytest.raises(TlperfError) as caught:
        write_dataset(config(broken, max_bad=2), data_dir)
    assert caught.value.code == ExitCode.DATA
    text = "3 of 23 files are unusable (1 empty, 1 not_image:html, 1 truncated), "
    assert f"{text}at most 2 are accepted" in caught.value.text()
    assert not (data_dir / "COMPLETE").exists()
    assert len((data_dir / "quarantine.jsonl").read_text().splitlines()) == 3
    # The unfinished directory is ours: with a larger bound it is done anew.
    summary = write_dataset(config(broken, max_bad=3, format=Format.HDF5), data_dir)
    assert summary["quarantined"] == 3


def test_duplicates_within_a_class_are_kept_once(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 5, "dogs": 5})
    (root / "cats" / "zz.jpg").write_bytes((root / "cats" / "002.jpg").read_bytes())
    summary = write_dataset(config(root, format=Format.HDF5), tmp_path / "data")
    assert (summary["accepted"], summary["duplicates"], summary["seen"]) == (10, 1, 11)
    names = [
        one.filename for split in read_all(tmp_path / "data").values() for one in split
    ]
    assert "cats/002.jpg" in names
    assert "cats/zz.jpg" not in names


def test_duplicates_across_classes_are_an_error_naming_both(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 5, "dogs": 5})
    (root / "dogs" / "zz.jpg").write_bytes((root / "cats" / "002.jpg").read_bytes())
    with pytest.raises(TlperfError) as caught:
        write_dataset(config(root), tmp_path / "data")
    assert caught.value.code == ExitCode.DATA
    text = "duplicate: dogs/zz.jpg: same bytes as cats/002.jpg of another class; "
    assert caught.value.text().startswith(text)


def test_a_class_too_small_for_three_splits_is_refused(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 9, "dogs": 2})
    with pytest.raises(TlperfError, match=r"empty_split: split .* no image of class"):
        write_dataset(config(root), tmp_path / "data")


def test_a_file_that_is_gone_is_unreadable(tmp_path):
    path = os.fsencode(tmp_path / "gone.jpg")
    item = Item("cats/gone.jpg", b"cats/gone.jpg", "cats", FileOrigin(path))
    found = inspect_item(item, limits=Limits(max_pixels=100), max_bytes=10**6)
    assert found.refusal == Refusal("unreadable:ENOENT", "No such file or directory")
    assert (found.sha256, found.bytes) == ("", None)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / "1.jpg"
    path.write_bytes(image_bytes(1))
    item = Item("cats/1.jpg", b"cats/1.jpg", "cats", FileOrigin(os.fsencode(path)))
    found = inspect_item(item, limits=Limits(), max_bytes=10**6)
    path.write_bytes(image_bytes(2))
    task = ShardTask(
        plan=ShardPlan("s", "train", 0, 1, forecast_bytes=1000),
        data_dir=tmp_path / "data",
        records=(Inspected.of(item, found),),
        classes=("cats",),
        layout=Layout(Encoding.SOURCE, None, Exif.IGNORE),
        format=Format.TFRECORD,
        choices="",
    )
    with pytest.raises(TlperfError) as caught:
        write_shard(task)
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text().startswith(
        "changed: cats/1.jpg: other bytes than before"
    )
    assert list((tmp_path / "data").iterdir()) == []
