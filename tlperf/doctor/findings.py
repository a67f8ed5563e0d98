"""What a check finds, and what the checks share.

    Check.ok("24 GiB"); Check.warn("2 GiB", "give a smaller --batch_size")
    Check.joined([...])              # several findings as one: the worst level
    patient = Patient(config)

Nothing here imports TensorFlow: a broken one is a finding like any other.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, Self

from tlperf.core.errors import TlperfError
from tlperf.core.settings import RunConfig

# Sharding, six weights files and checkpoints of the study's size fit in this.
MIN_FREE_BYTES = 2 << 30


class Level(enum.StrEnum):
    """How bad a finding is, from the best on."""

    OK = "ok"
    WARN = "warn"  # it works, but slower, not all of it, or not as one may think
    BAD = "bad"  # a command will fail, or its result will be worth nothing


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        level: how bad it is.
        found: what is there.
        advice: what to do about it; "" where it is fine.
    """

    level: Level
    found: str
    advice: str = ""

    @classmethod
    def ok(cls, found: str) -> Self:
        """As it should be."""
        return cls(Level.OK, found)

    @classmethod
    def warn(cls, found: str, advice: str) -> Self:
        """Worth a look."""
        return cls(Level.WARN, found, advice)

    @classmethod
    def bad(cls, found: str, advice: str) -> Self:
        """To be mended first."""
        return cls(Level.BAD, found, advice)

    @classmethod
    def of_error(cls, error: TlperfError) -> Self:
        """What an error says, as a finding."""
        record = "" if error.record is None else f" (record {error.record})"
        where = f"{error.path}{record}: " if error.path else ""
        return cls(Level.BAD, f"{where}{error.found}", error.remedy)

    @classmethod
    def joined(cls, checks: Sequence["Check"]) -> Self:
        """Several as one, of the worst level; what is worst comes first."""
        order = list(Level)
        ranked = sorted(checks, key=lambda one: -order.index(one.level))
        advice = dict.fromkeys(one.advice for one in ranked if one.advice)
        found = dict.fromkeys(one.found for one in ranked)
        return cls(ranked[0].level, "; ".join(found), "; ".join(advice))


@dataclasses.dataclass
class Patient:
    """What is looked at, and what was found so far.

    Attributes:
        config: the settings that a command would have.
        found: the checks before this one, by name.
        probes: first layers of the trunks whose weights could be loaded, by backbone.
        min_free_bytes: of a disk.
    """

    config: RunConfig
    min_free_bytes: int = MIN_FREE_BYTES
    found: dict[str, Check] = dataclasses.field(default_factory=dict)
    probes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def is_bad(self, name: str) -> bool:
        """Whether an earlier check found that something does not work."""
        return name in self.found and self.found[name].level is Level.BAD
