"""What an unfinished run leaves: used where it is still true, done again elsewhere."""

import json
import os
import subprocess
import sys

import pytest

from tests.images import image_bytes, make_folder
from tests.promises import ROOT, environment
from tlperf.core.files import seal_line, unseal_line
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import (
    Finding,
    Refusal,
    format_finding,
    parse_finding,
)
from tlperf.dataset.guard import ImageFacts
from tlperf.dataset.job import plan_job
from tlperf.dataset.manifest import read_manifest
from tlperf.dataset.resume import WORK, Journal, find_finished, write_note
from tlperf.dataset.shard import write_dataset


def config(root, **values):
    return DataConfig(source=str(root), workers=1, **values)


class Unfinished:
    """A source, and a data directory whose run ended after the inspection."""

    def __init__(self, folder):
        self.root = make_folder(folder / "pets", {"cats": 6, "dogs": 6})
        self.data_dir = folder / "data"
        self.job = plan_job(config(self.root))
        self.path = self.data_dir / WORK / "inspected.jsonl"

    def journal(self):
        return Journal(self.data_dir, self.job.limits)

    def inspect(self, ids=None):
        """Writes the lines of some items, all by default."""
        items = [item for item in self.job.items if ids is None or item.id in ids]
        self.data_dir.mkdir(exist_ok=True)
        (self.data_dir / ".tlperf-data").write_text("pets\n")
        self.journal().append(
            [
                format_finding(
                    item.id,
                    Finding(
                        bytes=1,
                        sha256="0" * 64,
                        stamp=item.origin.stamp(),
                        facts=ImageFacts("jpeg", 1, 1),
                    ),
                )
                for item in items
            ]
        )

    def known(self):
        return sorted(self.journal().find(self.job.items))


@pytest.fixture
def unfinished(tmp_path):
    return Unfinished(tmp_path)


@pytest.mark.parametrize("name", ["cats/1.jpg", 'd"\n\x1b.jpg', "猫.jpg"])
def test_a_finding_reads_as_it_was_written(name):
    facts = ImageFacts("png", 3, 4, orientation=6, flags=("aspect", "no_jfif"))
    found = Finding(bytes=9, sha256="ab", crc32c=7, stamp="s", facts=facts)
    assert parse_finding(format_finding(name, found)) == (name, found)


def test_what_is_known_goes_by_item(unfinished):
    unfinished.inspect(["cats/001.jpg", "dogs/002.jpg"])
    assert unfinished.known() == ["cats/001.jpg", "dogs/002.jpg"]


@pytest.mark.parametrize("size", [1, 40, 300])
def test_a_torn_line_costs_its_own_work_alone(size, unfinished):
    unfinished.inspect([item.id for item in unfinished.job.items[:4]])
    os.truncate(unfinished.path, unfinished.path.stat().st_size - size)
    known = unfinished.known()
    assert known == [item.id for item in unfinished.job.items[: len(known)]]
    assert len(known) >= 2
    unfinished.inspect([item.id for item in unfinished.job.items[4:]])
    assert len(unfinished.known()) == len(known) + 8


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace('"sha256": "0', '"sha256": "1'),
        lambda line: line.replace('"sha256"', '"sha1"'),
        lambda line: "{}",
        lambda line: "\0" * len(line),
        lambda line: "\xff",
    ],
)
def test_a_damaged_line_is_not_taken_for_a_finding(change, unfinished):
    unfinished.inspect()
    lines = unfinished.path.read_text().split("\n")
    lines[3] = change(lines[3])
    unfinished.path.write_bytes("\n".join(lines).encode("latin-1"))
    assert len(unfinished.known()) == 2  # behind the head
    assert unfinished.path.read_bytes().count(b"\n") == 3


def test_lines_of_other_limits_are_dropped(unfinished):
    unfinished.inspect()
    limits = {**unfinished.job.limits, "min_side": 2}
    journal = Journal(unfinished.data_dir, limits)
    assert journal.find(unfinished.job.items) == {}
    unfinished.inspect(["cats/001.jpg"])
    assert unfinished.known() == ["cats/001.jpg"]


def test_a_file_replaced_under_its_old_times_is_read_again(unfinished):
    unfinished.inspect()
    path = unfinished.root / "cats" / "001.jpg"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert "cats/001.jpg" not in unfinished.known()
    assert len(unfinished.known()) == 11


def test_a_refused_file_gets_another_chance(unfinished):
    """What kept it from being read, e.g. a disk that was away, shows in no stamp."""
    unfinished.inspect(["cats/001.jpg"])
    item = unfinished.job.items[2]
    refusal = Refusal("unreadable:EIO", "Input/output error")
    refused = Finding(stamp=item.origin.stamp(), refusal=refusal)
    unfinished.journal().append([format_finding(item.id, refused)])
    assert item.id in unfinished.path.read_text()
    assert unfinished.known() == ["cats/001.jpg"]


def test_a_damaged_note_is_none(unfinished, tmp_path):
    write_dataset(config(unfinished.root), unfinished.data_dir)
    manifest = json.loads((unfinished.data_dir / "manifest.json").read_text())
    assert len(manifest["shards"]) == 3
    (unfinished.data_dir / WORK).mkdir()
    entry = read_manifest(unfinished.data_dir).shards[0]
    write_note(unfinished.data_dir, entry)
    (note,) = (unfinished.data_dir / WORK).iterdir()
    assert find_finished(unfinished.data_dir) == {entry.file: entry}
    text = unseal_line(note.read_text())
    for changed in (
        note.read_text().replace('"count": ', '"count": 1'),
        seal_line(text.replace('"count"', '"counts"')),
        seal_line("1"),
        "",
    ):
        note.write_text(changed)
        assert find_finished(unfinished.data_dir) == {}


def test_a_locale_without_unicode_changes_nothing(tmp_path):
    """Everything written is UTF-8, whatever the system prefers."""
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    (root / "cats" / "猫.jpg").write_bytes(image_bytes(50))
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "import locale; print(locale.getpreferredencoding())"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "UTF-8" not in shown.stdout.upper(), "the premise of this test"
    for data_dir, values in (("one", variables), ("two", {})):
        subprocess.run(
            [
                *(sys.executable, "-m", "tlperf", "shard", f"--source={root}"),
                *(f"--data_dir={tmp_path / data_dir}", "--workers=1"),
                f"--workdir={tmp_path / 'w'}{data_dir}",
            ],
            env=environment(**values),
            cwd=ROOT,
            check=True,
        )
    digests = [
        json.loads((tmp_path / name / "manifest.json").read_text("utf-8"))["shards"]
        for name in ("one", "two")
    ]
    assert digests[0] == digests[1]
