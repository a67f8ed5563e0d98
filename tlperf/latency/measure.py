"""Latency rows of one backbone: the 1000-class network and the fine-tuned one.

    runs = measure_backbone(spec, config, compute=compute, tuned=None)

Table 1 describes the 1000-class network with its top at its native size; the fine-tuned
network is another one and gets rows of its own. Writes WORKDIR/BACKBONE/latency.json.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from tlperf.core import files
from tlperf.core.choices import Protocol
from tlperf.core.machine import peak_memory_bytes
from tlperf.core.progress import log
from tlperf.core.settings import LatencyConfig, RunConfig
from tlperf.core.statistics import TimingSummary, summarise
from tlperf.core.units import format_secs, ratio
from tlperf.device.setup import Compute
from tlperf.latency.protocols import PROTOCOLS, SENTENCES
from tlperf.latency.timer import Timing, measure
from tlperf.model.build import build_imagenet_model, dtype_policy
from tlperf.model.facts import count_macs, depth, size_mib
from tlperf.reference import paper
from tlperf.reference.backbones import BackboneSpec

# Fewer samples than this are shown but never called a valid measurement.
_MIN_VALID_SAMPLES = 10
# A first quarter this much slower than the last says that warm-up was too short.
_DRIFT_WARNING = 1.2


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to time.

    Attributes:
        spec: row of the backbone table.
        kind: `imagenet` (1000 classes, native size) or `finetuned`.
        model: images float32 [B, S, S, 3] to probabilities.
        image_size: S.
    """

    spec: BackboneSpec
    kind: str
    model: keras.Model
    image_size: int


def measure_backbone(
    spec: BackboneSpec,
    config: RunConfig,
    *,
    compute: Compute,
    tuned: Subject | None,
) -> list[dict[str, Any]]:
    """Rows of every protocol for the 1000-class network, and of the tuned one if any.

    `keras_predict` is there to set beside the published text, which describes the
    1000-class network: the tuned one is timed under the other protocols only, unless
    `keras_predict` alone was asked for.

    Args:
        spec: row of the backbone table.
        config: its `latency` part says what to time.
        compute: its first device is timed.
        tuned: the fine-tuned network, or None.
    """
    rows = []
    with dtype_policy(compute.precision):
        model = build_imagenet_model(spec)
    imagenet = Subject(spec, "imagenet", model, spec.native_size)
    rows += _measure_subject(imagenet, config.latency, compute)
    if tuned is not None:
        own = tuple(
            protocol
            for protocol in config.latency.protocols
            if protocol is not Protocol.KERAS_PREDICT
        )
        latency = config.latency
        if own:
            latency = dataclasses.replace(latency, protocols=own)
        rows += _measure_subject(tuned, latency, compute)
    files.write_json(config.backbone_path(spec.name) / "latency.json", {"runs": rows})
    return rows


def _measure_subject(
    subject: Subject, config: LatencyConfig, compute: Compute
) -> list[dict[str, Any]]:
    rows = []
    for protocol in config.protocols:
        images = make_images(config.batch_size, subject.image_size)
        steps, traces = PROTOCOLS[protocol](subject.model, images, compute)
        timing = measure(steps, config)
        timing = dataclasses.replace(timing, traces=traces())
        row = latency_row(
            subject, timing, protocol=protocol, config=config, compute=compute
        )
        log(
            f"{subject.spec.name}: {subject.kind} {protocol} batch "
            f"{config.batch_size}: p50 {format_secs((row['p50_ms'] or 0) / 1e3)}, "
            f"{row['samples']} of {row['requested_samples']} samples"
        )
        rows.append(row)
    return rows


def make_images(batch_size: int, image_size: int) -> np.ndarray:
    """Preprocessed pixels: float32 [B, S, S, 3], uniform in [-1, 1], seeded."""
    shape = (batch_size, image_size, image_size, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def latency_row(
    subject: Subject,
    timing: Timing,
    *,
    protocol: Protocol,
    config: LatencyConfig,
    compute: Compute,
) -> dict[str, Any]:
    """One row of the `latency` JSON, raw samples included."""
    summary = summarise(timing.samples_secs)
    gflop = 2 * count_macs(subject.model) * config.batch_size / 1e9
    step_ms = summary.p50_ms
    warnings = find_warnings(subject, timing, config)
    return {
        "backbone": subject.spec.name,
        "model": subject.kind,
        "protocol": protocol.value,
        "protocol_text": SENTENCES[protocol],
        "runtime": "tf",
        "batch_size": config.batch_size,
        "image_size": subject.image_size,
        "precision": compute.precision,
        "xla": compute.jit_compile,
        "device": compute.texts[0],  # the only one that is timed
        **_without_count(summary),
        "samples": summary.samples,
        "requested_samples": config.requested_samples,
        "samples_secs": list(timing.samples_secs),
        "warmup_steps": timing.warmup_steps,
        "first_call_secs": timing.first_call_secs,
        "images_per_sec": ratio(config.batch_size * 1e3, step_ms),
        "gflop_per_step": gflop,
        "tflops_per_sec": ratio(gflop, step_ms),
        "params": subject.model.count_params(),
        "depth": depth(subject.model),
        "size_mib": size_mib(subject.model),
        "process_peak_memory_bytes": peak_memory_bytes(),
        "published": published_figure(subject),
        "valid": summary.samples >= _MIN_VALID_SAMPLES and timing.traces == 1,
        "warnings": warnings,
    }


def _without_count(summary: TimingSummary) -> dict[str, float | None]:
    values = dataclasses.asdict(summary)
    del values["samples"]
    return values


def find_warnings(subject: Subject, timing: Timing, config: LatencyConfig) -> list[str]:
    """What a reader of the row has to know."""
    found = []
    samples = timing.samples_secs
    if len(samples) < config.requested_samples:
        found.append(f"{len(samples)} of {config.requested_samples} samples")
    if len(samples) < _MIN_VALID_SAMPLES:
        found.append(f"fewer than {_MIN_VALID_SAMPLES} samples: not a measurement")
    if timing.traces != 1:
        found.append(f"traced {timing.traces} times: compile time is in the samples")
    quarter = len(samples) // 4
    if quarter and sum(samples[:quarter]) > _DRIFT_WARNING * sum(samples[-quarter:]):
        found.append("the first steps were slower than the last: warm-up too short")
    is_published = subject.spec.name in paper.UNROUNDED_GPU_MS
    if (
        subject.kind == "imagenet"
        and is_published
        and config.batch_size != paper.PUBLISHED_BATCH_SIZE
    ):
        found.append(
            f"batch {config.batch_size}, the published figure states batch "
            f"{paper.PUBLISHED_BATCH_SIZE}"
        )
    return found


def published_figure(subject: Subject) -> dict[str, Any] | None:
    """Table 1's milliseconds and what they imply at the stated batch, or None."""
    spec = subject.spec
    figure = paper.published(spec.name, "Table 1", paper.TABLE_1_COLUMNS[3])
    if figure is None or subject.kind != "imagenet":
        return None
    unrounded_ms = paper.UNROUNDED_GPU_MS[spec.name]
    gflop = 2 * count_macs(subject.model) * paper.PUBLISHED_BATCH_SIZE / 1e9
    return {
        "ms": figure.value,
        "unrounded_ms": unrounded_ms,
        "device": paper.PUBLISHED_DEVICE,
        "batch_size": paper.PUBLISHED_BATCH_SIZE,
        "implied_tflops_per_sec": gflop / unrounded_ms,
        "peak_tflops_per_sec": paper.A100_TF32_PEAK_TFLOPS,
    }
