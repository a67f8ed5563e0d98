"""From listed files to accepted images: read, hash, check, count; nothing is dropped
without being counted.

    ingest = ingest_items(listing, items, config=config, workers=workers)
    ingest.accepted, ingest.refused, ingest.counts

What is refused is described by one JSON object a file (`quarantine_lines`).
"""

import base64
import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from tlperf.core.choices import OnBad
from tlperf.core.errors import ExitCode, TlperfError, escape_text
from tlperf.core.files import sha256_bytes, to_json
from tlperf.core.progress import ImageBar
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import (
    Inspected,
    format_finding,
    inspect_item,
    is_bad,
    parse_finding,
    read_item,
)
from tlperf.dataset.guard import Limits
from tlperf.dataset.manifest import Counts, tlperf_version
from tlperf.dataset.resume import Journal
from tlperf.dataset.sources.listing import Item, Listing, reading_place
from tlperf.dataset.workers import Workers

# Items a task: enough to hide its cost, few enough for a lively progress bar and to
# keep each worker busy to the end.
_MIN_TASK_ITEMS, _MAX_TASK_ITEMS = 8, 128
_TASKS_A_WORKER = 8
MIN_MAX_BAD = 5


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
    def first_bad(self) -> str:
        """The first unusable file, "" where there is none."""
        bad = (
            one.item.id
            for one in self.refused
            if one.refusal and is_bad(one.refusal.reason)
        )
        return next(bad, "")

    @property
    def reasons(self) -> dict[str, int]:
        """Refused files by reason."""
        counter = collections.Counter(
            one.refusal.reason for one in self.refused if one.refusal
        )
        return dict(sorted(counter.items()))


def _inspect_task(
    items: Sequence[Item], *, limits: Limits, max_bytes: int
) -> list[str]:
    """Findings as lines: the journal takes them as they are, and text passes from
    process to process at half the cost of objects."""
    inspect = functools.partial(inspect_item, limits=limits, max_bytes=max_bytes)
    return [format_finding(item.id, inspect(item)) for item in items]


def _hash_task(items: Sequence[Item], *, max_bytes: int) -> list[tuple[str, int]]:
    """sha256 and size of each; of what cannot be read "" and 0."""
    read = (read_item(item, max_bytes=max_bytes) for item in items)
    return [
        (sha256_bytes(data), len(data)) if isinstance(data, bytes) else ("", 0)
        for data in read
    ]


def _tasks(items: Sequence[Item], *, workers: int) -> list[Sequence[Item]]:
    ordered = sorted(items, key=lambda item: reading_place(item.origin))
    size = len(items) // (workers * _TASKS_A_WORKER)
    size = min(max(size, _MIN_TASK_ITEMS), _MAX_TASK_ITEMS)
    return [ordered[i : i + size] for i in range(0, len(items), size)]


def source_digest(
    classes: Sequence[str], items: Iterable[Item], sha256_of: Mapping[str, str]
) -> str:
    """sha256 over (id, label, sha256) of every file, accepted or not, by id; and over
    the split and the group where the source gives them.

    It needs no decoding, and with equal settings it decides what is stored.
    """
    digest = hashlib.sha256()
    label_of = {name: label for label, name in enumerate(classes)}
    for item in sorted(items, key=lambda item: item.id):
        label = label_of[item.class_name]
        digest.update(f"{item.id}\0{label}\0{sha256_of[item.id]}".encode())
        for given in (item.split, item.group):
            digest.update(f"\0{given}".encode() if given else b"")
        digest.update(b"\n")
    return digest.hexdigest()


def hash_items(
    listing: Listing, items: Sequence[Item], *, max_bytes: int, workers: Workers
) -> str:
    """The source digest, reading every file and decoding none."""
    task = functools.partial(_hash_task, max_bytes=max_bytes)
    parts = _tasks(items, workers=workers.count)
    sha256_of: dict[str, str] = {}
    with ImageBar(len(items), "hash") as bar:
        for part, found in zip(parts, workers.map(task, parts), strict=True):
            for item, (sha256, _) in zip(part, found, strict=True):
                sha256_of[item.id] = sha256
            bar.add(len(part), sum(size for _, size in found))
    return source_digest(listing.classes, items, sha256_of)


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
    found = list(known.values())  # none of them refused: those are inspected again
    task = functools.partial(
        _inspect_task, limits=Limits.of(config), max_bytes=config.max_file_bytes
    )
    unknown = [item for item in items if item.id not in known]
    parts = _tasks(unknown, workers=workers.count)
    with ImageBar(len(items), "inspect") as bar:
        bar.add(len(found))
        for part, lines in zip(parts, workers.map(task, parts), strict=True):
            if journal:
                journal.append(lines)
            pairs = zip(part, map(parse_finding, lines), strict=True)
            inspected = [Inspected.of(item, finding) for item, (_, finding) in pairs]
            if config.on_bad is OnBad.FAIL:
                _stop_at_bad(inspected)
            found.extend(inspected)
            bar.add(len(part), sum(one.bytes or 0 for one in inspected))
    return sorted(found, key=lambda one: one.item.id)


def _stop_at_bad(inspected: Sequence[Inspected]) -> None:
    for one in inspected:
        if one.refusal and is_bad(one.refusal.reason):
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
        digest=source_digest(
            listing.classes, items, {one.item.id: one.sha256 for one in inspected}
        ),
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


def check_bad(
    reasons: Mapping[str, int], counts: Counts, *, config: DataConfig, path: str
) -> None:
    """Refuses more unusable files than allowed.

    Args:
        reasons: refused files by reason.
        counts: where all went.
        config: what is allowed.
        path: where to look, for the error: the first such file, or the list of all.

    Raises:
        TlperfError: exit code 65.
    """
    bad = {reason: count for reason, count in reasons.items() if is_bad(reason)}
    offered = counts.seen - counts.ignored
    most = (
        max(MIN_MAX_BAD, offered // 100) if config.max_bad is None else config.max_bad
    )
    if config.on_bad is OnBad.FAIL:
        most = 0
    if sum(bad.values()) > most:
        listed = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        raise TlperfError(
            ExitCode.DATA,
            "too_many_bad",
            path=path,
            found=f"{sum(bad.values())} of {offered} files are unusable ({listed}), "
            f"at most {most} are accepted",
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
