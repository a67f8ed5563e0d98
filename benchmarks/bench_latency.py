"""A step of the 1000-class network at its native size, protocol `compiled`.

    pytest benchmarks/bench_latency.py --benchmark-only --batch-size=1

pytest-benchmark has no percentiles: p50, p90 and p99 of the rounds, the device and the
published figure are in `extra_info` (`--benchmark-json`). Measured on 2 cores of a
2.8 GHz Xeon, batch 1, float32: VGG16 about 190 ms a step.
"""

import pytest

from tlperf.core.choices import Protocol
from tlperf.core.settings import LatencyConfig
from tlperf.core.statistics import summarise
from tlperf.latency.measure import Subject, make_images, published_figure
from tlperf.latency.protocols import PROTOCOLS
from tlperf.model.build import build_imagenet_model, dtype_policy

ROUNDS = 30  # the published text's batches in one repetition


@pytest.mark.benchmark(group="latency-compiled")
def test_compiled_step(benchmark, spec, compute, request):
    batch_size = request.config.getoption("--batch-size")
    config = LatencyConfig(batch_size=batch_size, batches=ROUNDS, repetitions=1)
    with dtype_policy(compute.precision):
        model = build_imagenet_model(spec)
    subject = Subject(spec, "imagenet", model, spec.native_size)
    images = make_images(batch_size, subject.image_size)
    steps, traces = PROTOCOLS[Protocol.COMPILED](subject.model, images, compute)
    (first_call_secs,) = steps(1, float("inf"))
    samples = []

    def step():
        samples.extend(steps(1, float("inf")))

    benchmark.pedantic(
        step, rounds=config.requested_samples, warmup_rounds=config.warmup_steps
    )
    summary = summarise(samples[config.warmup_steps :])
    benchmark.extra_info.update(
        backbone=spec.name,
        batch_size=batch_size,
        p50_ms=summary.p50_ms,
        p90_ms=summary.p90_ms,
        p99_ms=summary.p99_ms,
        first_call_secs=first_call_secs,
        device=compute.facts(),
        published=published_figure(subject),
    )
    assert traces() == 1
    assert summary.samples == ROUNDS
