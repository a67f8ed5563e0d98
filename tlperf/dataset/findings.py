"""One file of a source: read, hashed, checked; what was found, and its line.

finding = inspect_item(item, limits=limits, max_bytes=1 << 27)
finding.facts or finding.refusal
parse_finding(format_finding(item.id, finding))        # (item.id, finding)
"""

import dataclasses
import errno
import json
from typing import Self

import google_crc32c

from tlperf.core.files import seal_line, sha256_bytes, to_json, unseal_line
from tlperf.dataset.guard import (
    NO_JFIF,
    ImageFacts,
    Limits,
    RefusedError,
    check_image,
)
from tlperf.dataset.sources.listing import Item, OriginError


def is_bad(slug: str) -> bool:
    """Whether a refusal of that reason counts against --max_bad; left out on request
    does not."""
    return slug != NO_JFIF


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a file is not used, with what its header told."""

    reason: str
    detail: str
    format: str = ""
    width: int | None = None
    height: int | None = None


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


def format_finding(name: str, finding: Finding) -> str:
    """The finding of the item of that id as one line: a checksum and JSON."""
    # vars(): dataclasses.asdict copies each value, at several times the cost.
    row = {**vars(finding), "id": name}
    row["facts"] = finding.facts and vars(finding.facts)
    row["refusal"] = finding.refusal and vars(finding.refusal)
    return seal_line(to_json(row))


def parse_finding(line: str) -> tuple[str, Finding]:
    """The id and the finding of a line.

    Raises:
        ValueError: it is none that `format_finding` made.
    """
    row = json.loads(unseal_line(line))
    name, facts, refusal = row.pop("id"), row["facts"], row["refusal"]
    row["facts"] = facts and ImageFacts(**{**facts, "flags": tuple(facts["flags"])})
    row["refusal"] = refusal and Refusal(**refusal)
    return name, Finding(**row)
