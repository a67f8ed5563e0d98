"""From listed files to accepted images: read, hash, check, count; nothing is dropped
without being counted.

    ingest = ingest_items(listing, items, config=config, workers=workers)
    ingest.accepted, ingest.refused, ingest.counts

What is refused is described by one JSON object a file (`quarantine_lines`).
"""

import base64
import collections
import dataclasses
import errno
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, Self

import google_crc32c

from tlperf.core.choices import OnBad
from tlperf.core.errors import ExitCode, TlperfError, escape_text
from tlperf.core.files import sha256_bytes, to_json
from tlperf.core.progress import ImageBar
from tlperf.core.settings import DataConfig
from tlperf.dataset.guard import (
    NO_JFIF,
    ImageFacts,
    Limits,
    RefusedError,
    check_image,
)
from tlperf.dataset.manifest import Counts, tlperf_version
from tlperf.dataset.sources.listing import (
    Item,
    Listing,
    OriginError,
    reading_place,
)
from tlperf.dataset.workers import Workers

# Items a task: enough to hide its cost, few enough for a lively progress bar.
TASK_ITEMS = 32
MIN_MAX_BAD = 5


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a file is not used, with what its header told."""

    reason: str
    detail: str
    format: str = ""
    width: int | None = None
    height: int | None = None

    @property
    def is_bad(self) -> bool:
        """Whether it counts against --max_bad; left out on request does not."""
        return self.reason != NO_JFIF


class Journal(Protocol):
    """Where inspected files are kept for a run that goes on with this one's work."""

    def find(self, items: Iterable[Item]) -> dict[str, "Inspected"]:
        """By id, what is known."""

    def append(self, inspected: Sequence["Inspected"]) -> None:
        """Adds what was found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What an inspection found; either `facts` or `refusal` is given.

    Attributes:
        bytes: its size, None where it could not be read.
        sha256: of its bytes, hexadecimal; "" where it could not be read.
        crc32c: of its bytes, which tells at a tenth of the cost whether they are still
            the same when they are stored.
        stamp: of its origin, taken before it was read.
        facts: of an accepted image.
        refusal: of any other file.
    """

    bytes: int | None = None
    sha256: str = ""
    crc32c: int = 0
    stamp: str = ""
    facts: ImageFacts | None = None
    refusal: Refusal | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspected(Finding):
    """One file and what was found."""

    item: Item

    @classmethod
    def of(cls, item: Item, finding: Finding) -> Self:
        """The two together."""
        return cls(item=item, **vars(finding))


@dataclasses.dataclass(frozen=True)
class Ingest:
    """All files of a source, dealt to where they go; each tuple by id.

    Attributes:
        accepted: images to store.
        refused: for quarantine.
        duplicates: same bytes as an accepted image of the same class.
        counts: the sums.
        digest: of everything offered (see `source_digest`).
    """

    accepted: tuple[Inspected, ...]
    refused: tuple[Inspected, ...]
    duplicates: tuple[Inspected, ...]
    counts: Counts
    digest: str

    @property
    def flags(self) -> dict[str, int]:
        """Accepted images by what is odd about them."""
        counter: collections.Counter[str] = collections.Counter()
        for one in self.accepted:
            if one.facts is not None:
                counter.update(one.facts.flags)
                counter["oriented"] += one.facts.orientation != 1
        return {name: count for name, count in sorted(counter.items()) if count}

    @property
    def reasons(self) -> dict[str, int]:
        """Refused files by reason."""
        counter = collections.Counter(
            one.refusal.reason for one in self.refused if one.refusal
        )
        return dict(sorted(counter.items()))


def read_item(item: Item, *, max_bytes: int) -> bytes | Refusal:
    """The file's bytes, or why there are none."""
    try:
        return item.origin.read(max_bytes=max_bytes)
    except OriginError as error:
        return Refusal(error.reason, error.detail)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        return Refusal(f"unreadable:{name}", error.strerror or str(error))


def inspect_item(item: Item, *, limits: Limits, max_bytes: int) -> Finding:
    """Reads a file once and decides about it."""
    stamp = item.origin.stamp()
    data = read_item(item, max_bytes=max_bytes)
    if isinstance(data, Refusal):
        return Finding(stamp=stamp, refusal=data)
    facts, refusal = None, None
    try:
        facts = check_image(data, limits=limits, name=item.id)
    except RefusedError as error:
        refusal = Refusal(
            error.reason, error.detail, error.format, error.width, error.height
        )
    return Finding(
        bytes=len(data),
        sha256=sha256_bytes(data),
        crc32c=google_crc32c.value(data),
        stamp=stamp,
        facts=facts,
        refusal=refusal,
    )


def _inspect_task(
    items: Sequence[Item], *, limits: Limits, max_bytes: int
) -> list[Finding]:
    return [inspect_item(item, limits=limits, max_bytes=max_bytes) for item in items]


def _hash_task(items: Sequence[Item], *, max_bytes: int) -> list[Finding]:
    read = (read_item(item, max_bytes=max_bytes) for item in items)
    return [
        Finding(bytes=len(data), sha256=sha256_bytes(data))
        if isinstance(data, bytes)
        else Finding()
        for data in read
    ]


def _map_items(
    task: Callable[[Sequence[Item]], list[Finding]],
    items: Sequence[Item],
    workers: Workers,
) -> Iterator[list[Inspected]]:
    """What the workers find, some items at a time."""
    parts = _tasks(items)
    for part, findings in zip(parts, workers.map(task, parts), strict=True):
        pairs = zip(part, findings, strict=True)
        yield [Inspected.of(item, finding) for item, finding in pairs]


def _tasks(items: Sequence[Item]) -> list[Sequence[Item]]:
    ordered = sorted(items, key=lambda item: reading_place(item.origin))
    in_places = bool(ordered) and reading_place(ordered[-1].origin) > 0
    size = TASK_ITEMS * (4 if in_places else 1)  # longer runs of a container
    return [ordered[i : i + size] for i in range(0, len(items), size)]


def source_digest(listing: Listing, inspected: Iterable[Inspected]) -> str:
    """sha256 over (id, label, sha256) of every file, accepted or not, by id; and over
    the split and the group where the source gives them.

    It needs no decoding, and with equal settings it decides what is stored.
    """
    digest = hashlib.sha256()
    label_of = {name: label for label, name in enumerate(listing.classes)}
    for one in sorted(inspected, key=lambda one: one.item.id):
        label = label_of[one.item.class_name]
        digest.update(f"{one.item.id}\0{label}\0{one.sha256}".encode())
        for given in (one.item.split, one.item.group):
            digest.update(f"\0{given}".encode() if given else b"")
        digest.update(b"\n")
    return digest.hexdigest()


def hash_items(
    listing: Listing, items: Sequence[Item], *, max_bytes: int, workers: Workers
) -> str:
    """The source digest, reading every file and decoding none."""
    task = functools.partial(_hash_task, max_bytes=max_bytes)
    found: list[Inspected] = []
    with ImageBar(len(items), "hash") as bar:
        for part in _map_items(task, items, workers):
            found.extend(part)
            bar.add(len(part), sum(one.bytes or 0 for one in part))
    return source_digest(listing, found)


def inspect_items(
    items: Sequence[Item],
    *,
    config: DataConfig,
    workers: Workers,
    journal: Journal | None = None,
) -> list[Inspected]:
    """Every file inspected, or known from the journal; by id.

    Raises:
        TlperfError: exit code 65, at the first unusable file with `--on_bad=fail`.
    """
    known = journal.find(items) if journal else {}
    found = list(known.values())
    _stop_at_bad(found, config)
    task = functools.partial(
        _inspect_task, limits=Limits.of(config), max_bytes=config.max_file_bytes
    )
    unknown = [item for item in items if item.id not in known]
    with ImageBar(len(items), "inspect") as bar:
        bar.add(len(found))
        for part in _map_items(task, unknown, workers):
            if journal:
                journal.append(part)
            _stop_at_bad(part, config)
            found.extend(part)
            bar.add(len(part), sum(one.bytes or 0 for one in part))
    return sorted(found, key=lambda one: one.item.id)


def _stop_at_bad(inspected: Sequence[Inspected], config: DataConfig) -> None:
    for one in inspected:
        if one.refusal and config.on_bad is OnBad.FAIL and one.refusal.is_bad:
            raise TlperfError(
                ExitCode.DATA,
                one.refusal.reason,
                path=one.item.id,
                found=one.refusal.detail,
                remedy="mend or remove it, or give --on_bad=quarantine",
            )


def ingest_items(
    listing: Listing,
    items: Sequence[Item],
    *,
    config: DataConfig,
    workers: Workers,
    journal: Journal | None = None,
) -> Ingest:
    """Inspects the chosen items of a listing and deals them.

    Raises:
        TlperfError: exit code 65: an unusable file with `--on_bad=fail`, or equal bytes
            in two classes.
    """
    inspected = inspect_items(items, config=config, workers=workers, journal=journal)
    accepted, duplicates = split_duplicates([one for one in inspected if one.facts])
    refused = [one for one in inspected if one.refusal]
    return Ingest(
        accepted=tuple(accepted),
        refused=tuple(refused),
        duplicates=tuple(duplicates),
        counts=Counts(
            seen=len(items) + listing.ignored,
            accepted=len(accepted),
            quarantined=len(refused),
            ignored=listing.ignored,
            duplicates=len(duplicates),
        ),
        digest=source_digest(listing, inspected),
    )


def split_duplicates(
    images: Sequence[Inspected],
) -> tuple[list[Inspected], list[Inspected]]:
    """The first by id of each content, and the others.

    Raises:
        TlperfError: exit code 65, naming both, where equal bytes are in two classes.
    """
    first: dict[str, Inspected] = {}
    others: list[Inspected] = []
    for one in sorted(images, key=lambda one: one.item.id):
        kept = first.setdefault(one.sha256, one)
        if kept.item.class_name != one.item.class_name:
            raise TlperfError(
                ExitCode.DATA,
                "duplicate",
                path=one.item.id,
                found=f"same bytes as {kept.item.id} of another class",
                remedy="keep it in the right class only",
            )
        if kept is not one:
            others.append(one)
    return list(first.values()), others


def check_bad(ingest: Ingest, *, max_bad: int | None) -> None:
    """Refuses more unusable files than allowed (exit code 65)."""
    offered = ingest.counts.seen - ingest.counts.ignored
    most = max(MIN_MAX_BAD, offered // 100) if max_bad is None else max_bad
    refused = [one for one in ingest.refused if one.refusal and one.refusal.is_bad]
    if len(refused) > most:
        first, bad = refused[0], len(refused)
        assert first.refusal is not None
        raise TlperfError(
            ExitCode.DATA,
            "too_many_bad",
            path=first.item.id,
            found=f"{first.refusal.reason}, the first of {bad} unusable files of "
            f"{offered}, at most {most} are accepted",
            remedy="mend or remove them, or raise --max_bad",
        )


def quarantine_lines(ingest: Ingest) -> str:
    """quarantine.jsonl: one object a refused file, by path."""
    lines = []
    for one in sorted(ingest.refused, key=lambda one: one.item.path):
        assert one.refusal is not None
        row = {
            "path_b64": base64.b64encode(one.item.path).decode(),
            "path_text": escape_text(one.item.id),
            "sha256": one.sha256 or None,
            "bytes": one.bytes,
            "reason": one.refusal.reason,
            "detail": one.refusal.detail,
            "format_sniffed": one.refusal.format or None,
            "width": one.refusal.width,
            "height": one.refusal.height,
            "stage": "ingest",
            "tool_version": tlperf_version(),
        }
        lines.append(to_json(row) + "\n")
    return "".join(lines)
