"""What an unfinished run leaves for the next: files inspected and shards finished.

    journal = Journal(data_dir, limits)
    journal.find(items)                      # {id: Inspected}, as far as still true
    finished = find_finished(data_dir)       # {file: ShardEntry}

All of it is in DATA_DIR/.work, which goes when the dataset is sealed. Nothing in there
is taken on trust: each line has a checksum; an inspected file counts while its stamp is
the same, and is compared when it is stored; a shard counts when its plan is the one
wanted and its bytes hash to what was written.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from tlperf.core.files import (
    fsync_directory,
    io_errors,
    seal_line,
    sha256_file,
    to_json,
    unseal_line,
    write_text,
)
from tlperf.dataset.findings import Finding, Inspected, parse_finding
from tlperf.dataset.manifest import ShardEntry, codec_versions, tlperf_version
from tlperf.dataset.sources.listing import Item

WORK = ".work"
_JOURNAL = "inspected.jsonl"
_NOTE_SUFFIX = ".json"


class Journal:
    """Files inspected so far, a line each, under the limits they were inspected by.

    Not fsynced: after a crash of the machine the lines that are lost, or torn, cost
    their work alone.
    """

    def __init__(self, data_dir: pathlib.Path, limits: dict[str, Any]):
        self._path = data_dir / WORK / _JOURNAL
        by = {"tlperf_version": tlperf_version(), "decoders": codec_versions()}
        self._head = to_json({"limits": limits, **by})

    def find(self, items: Iterable[Item]) -> dict[str, Inspected]:
        """By id, what is known of items whose stamp is the same; a journal of other
        limits is dropped."""
        findings = self._read()
        found = {}
        for item in items:
            finding = findings.get(item.id)
            # A file whose bytes nothing identifies has no stamp. One that was refused
            # gets another chance: what kept it from being read may be over.
            if finding is None or not finding.stamp or finding.refusal:
                continue
            if finding.stamp == item.origin.stamp():
                found[item.id] = Inspected.of(item, finding)
        return found

    def _read(self) -> dict[str, Finding]:
        if not self._path.is_file():
            return {}
        findings: dict[str, Finding] = {}
        with io_errors(self._path), open(self._path, "r+b") as stream:
            head, sound = f"{self._head}\n", 0
            for line in stream:
                try:
                    text = line.decode()
                    if not text.endswith("\n") or not (sound or text == head):
                        break
                    if sound:
                        name, finding = parse_finding(text[:-1])
                        findings[name] = finding
                except ValueError:
                    break  # torn: what follows was lost with it
                sound += len(line)
            # What comes next must begin a line of its own.
            stream.truncate(sound)
        return findings

    def append(self, lines: Sequence[str]) -> None:
        """Adds files just inspected (`format_finding`)."""
        with io_errors(self._path):
            self._path.parent.mkdir(exist_ok=True)
            with open(self._path, "ab") as stream:
                head = () if stream.tell() else (self._head,)
                text = "".join(f"{line}\n" for line in (*head, *lines))
                stream.write(text.encode())


def write_note(data_dir: pathlib.Path, entry: ShardEntry) -> None:
    """Says that a shard is finished, after its files are on disk."""
    path = data_dir / WORK / (entry.file + _NOTE_SUFFIX)
    write_text(path, seal_line(to_json(dataclasses.asdict(entry))))


def find_finished(data_dir: pathlib.Path) -> dict[str, ShardEntry]:
    """Shards noted as finished, by file; a note that cannot be read is none."""
    found = {}
    for path in sorted((data_dir / WORK).glob(f"*{_NOTE_SUFFIX}")):
        try:
            entry = ShardEntry(**json.loads(unseal_line(path.read_text("utf-8"))))
        except (ValueError, TypeError):
            continue  # of another version, or damaged: the shard is written again
        found[entry.file] = entry
    return found


def is_whole(data_dir: pathlib.Path, entry: ShardEntry) -> bool:
    """Whether the shard and its sidecars are there and hash to what was written."""
    hashes = {entry.file: entry.sha256, **entry.sidecars}
    return all(
        (data_dir / name).is_file() and sha256_file(data_dir / name) == digest
        for name, digest in hashes.items()
    )


def clear_work(data_dir: pathlib.Path) -> None:
    """Removes what only an unfinished run needs."""
    folder = data_dir / WORK
    if folder.exists():
        with io_errors(folder):
            shutil.rmtree(folder)
            fsync_directory(data_dir)
