"""One shard's work, done whole by one worker process.

entry = write_shard(task)                # ShardEntry for the manifest
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import google_crc32c

from tlperf.core.choices import Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset import hdf5, tfrecord
from tlperf.dataset.examples import StoredExample
from tlperf.dataset.findings import Inspected, Refusal, read_item
from tlperf.dataset.manifest import ShardEntry
from tlperf.dataset.payload import Layout, encode_payload
from tlperf.dataset.plan import ShardPlan
from tlperf.dataset.resume import write_note
from tlperf.dataset.sources.listing import reading_place

# Of one whole shard by default: less would pass through a container more often.
WINDOW_BYTES = 64 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything a worker needs.

    Attributes:
        plan: the file and what part of its split it holds.
        data_dir: where it goes.
        records: its images in stored order.
        classes: names by label.
        layout: how images are stored.
        format: of the file.
        choices: settings and versions that decide the file's bytes, with the records.
    """

    plan: ShardPlan
    data_dir: pathlib.Path
    records: tuple[Inspected, ...]
    classes: tuple[str, ...]
    layout: Layout
    format: Format
    choices: str

    @property
    def label_of(self) -> dict[str, int]:
        """Labels by class name."""
        return {name: label for label, name in enumerate(self.classes)}

    def plan_digest(self) -> str:
        """sha256 of all that decides the file's bytes."""
        digest = hashlib.sha256(self.choices.encode())
        label_of = self.label_of
        for one in self.records:
            label = label_of[one.item.class_name]
            facts = one.facts and (one.facts.format, one.facts.orientation)
            digest.update(f"\n{one.item.id}\0{label}\0{one.sha256}\0{facts}".encode())
        return digest.hexdigest()


def write_shard(task: ShardTask) -> ShardEntry:
    """Reads the images again, writes their shard, and notes that it is finished.

    Raises:
        TlperfError: exit code 65, where a file is not what was inspected.
    """
    path = task.data_dir / task.plan.file
    if task.format is Format.TFRECORD:
        write = functools.partial(tfrecord.write_shard, classes=task.classes)
    else:
        write = functools.partial(
            hdf5.write_split,
            classes=task.classes,
            count=len(task.records),
            image_size=task.layout.raw_size,
        )
    labels = dict.fromkeys(task.classes, 0)
    for one in task.records:
        labels[one.item.class_name] += 1
    entry = ShardEntry(
        file=task.plan.file,
        split=task.plan.split,
        count=len(task.records),
        labels=labels,
        plan=task.plan_digest(),
        **dataclasses.asdict(write(path, _examples(task))),
    )
    write_note(task.data_dir, entry)
    return entry


def _examples(task: ShardTask) -> Iterator[StoredExample]:
    label_of = task.label_of
    for one, data in _read_records(task.records):
        assert one.facts is not None, "only accepted images are planned"
        payload = encode_payload(data, one.facts, layout=task.layout)
        yield StoredExample(
            encoded=payload.encoded,
            label=label_of[one.item.class_name],
            filename=one.item.id,
            orientation=payload.orientation,
            height=payload.height,
            width=payload.width,
            sha256=one.sha256,
        )


def _read_records(
    records: Sequence[Inspected],
) -> Iterator[tuple[Inspected, bytes]]:
    """Each record with its file's bytes. Those of a container that is best read from
    front to back are read so, a window at a time."""
    places = [reading_place(one.item.origin) for one in records]
    if not any(places):
        yield from ((one, _read_again(one)) for one in records)
        return
    ready: dict[int, bytes] = {}
    sizes = itertools.accumulate(one.bytes or 0 for one in records)
    windows = itertools.groupby(enumerate(sizes), lambda pair: pair[1] // WINDOW_BYTES)
    for _, window in windows:
        indexes = [index for index, _ in window]
        for index in sorted(indexes, key=places.__getitem__):
            ready[index] = _read_again(records[index])
        for index in indexes:
            yield records[index], ready.pop(index)


def _read_again(one: Inspected) -> bytes:
    assert one.bytes is not None
    data = read_item(one.item, max_bytes=one.bytes)
    if isinstance(data, bytes) and google_crc32c.value(data) == one.crc32c:
        return data
    found = "other bytes than before"
    if isinstance(data, Refusal) and data.reason.startswith("unreadable"):
        found = data.detail
    raise TlperfError(
        ExitCode.DATA,
        "changed",
        path=one.item.id,
        found=found,
        remedy="leave the source alone while it is read, and run again",
    )
