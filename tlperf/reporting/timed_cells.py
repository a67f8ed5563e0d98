"""Cells of tables about the times of a backbone's ImageNet model.

measured_protocols(run), format_ms(results, "compiled", "p50_ms"), timed_on(results)
"""

from collections.abc import Callable

from tlperf.core.choices import Precision, Protocol, Runtime
from tlperf.core.settings import LatencyConfig
from tlperf.core.units import format_number
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.rows import (
    IMAGENET_MODEL,
    BackboneRows,
    RunRows,
    finite,
    is_valid,
)


def measured_protocols(run: RunRows) -> tuple[str, ...]:
    """Protocols that any backbone's ImageNet model was timed under; where none was, the
    usual two."""
    found = {
        str(timed.get("protocol"))
        for results in run.backbones
        for timed in results.latency_runs
        if timed.get("model") == IMAGENET_MODEL
    }
    known = [protocol.value for protocol in Protocol]
    ordered = [name for name in known if name in found] + sorted(found - set(known))
    return tuple(ordered) or tuple(item.value for item in LatencyConfig().protocols)


# Of a timed run, beside its device and pixels; `tf` and `float32` go without saying.
_WAYS: dict[str, Callable[[object], str]] = {
    "batch_size": lambda value: f"batch {value}",
    "runtime": str,
    "precision": str,
}


def format_ms(results: BackboneRows, protocol: str, key: str) -> str:
    """A time of the ImageNet model; says so where it is marked invalid, and what is
    unlike the run that `timed_on` describes."""
    timed, told = results.find_latency(protocol), results.find_latency(None)
    if not timed:
        return NOT_MEASURED
    marks = [
        word(timed.get(name))
        for name, word in _WAYS.items()
        if timed.get(name) != told.get(name)
    ]
    marks += [] if is_valid(timed) else ["invalid"]
    text = format_number(finite(timed.get(key)), 2)
    return f"{text} ({', '.join(marks)})" if marks else text


def timed_on(results: BackboneRows) -> str:
    """Device, batch and image size of the timed ImageNet model, and how it computed
    where that is unusual."""
    timed = results.find_latency(None)
    if not timed:
        return NOT_MEASURED
    usual = (None, Runtime.TF, Precision.FLOAT32)
    parts = [str(timed.get("device"))]
    parts += [
        word(timed.get(name))
        for name, word in _WAYS.items()
        if timed.get(name) not in usual
    ]
    return ", ".join([*parts, f"{timed.get('image_size')} px"])
