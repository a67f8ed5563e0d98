"""A step of each 1000-class network at its native size, with percentiles.

    pytest benchmarks/bench_latency.py --benchmark-only --batch-size=1,32
    pytest benchmarks/bench_latency.py --benchmark-only --runtime=tf,openvino -k stream

Beside Keras' published table, and as a gate:

    python -m benchmarks.published --out=published.json
    pytest benchmarks/bench_latency.py --benchmark-only --batch-size=32 -k compiled \\
        --benchmark-compare=published.json --benchmark-sort=name
    pytest benchmarks/bench_latency.py --benchmark-only --benchmark-json=before.json
    pytest benchmarks/bench_latency.py --benchmark-only \\
        --benchmark-compare=before.json --benchmark-compare-fail=min:15%

A round is one step: the clock stops when its result is a NumPy array. Tracing, the
first step and the warm-up (until steady, as `tlperf latency` does) come before the
rounds, and nothing is traced in them. pytest-benchmark has no percentiles: p50, p90,
p95 and p99 with their 95 % intervals, jitter, tracing and compiling, the device and the
published figure are in `extra_info` (`--benchmark-json`). These intervals are of one
process' rounds, which move together: a row to publish is `tlperf latency`'s.
"""

import functools
import math

import numpy as np
import pytest

from benchmarks.cases import Case
from tlperf.core.choices import Precision, Xla
from tlperf.core.machine import peak_memory_bytes
from tlperf.core.statistics import percentile_interval, scaled_mad, summarise
from tlperf.core.trials import largest_difference
from tlperf.core.units import ratio
from tlperf.latency.cells import IMAGENET, Cell
from tlperf.latency.checks import output_difference
from tlperf.latency.protocols import PROTOCOLS, SEED
from tlperf.latency.subjects import build_imagenet_subject
from tlperf.latency.timer import Keeper, drop, warm_up
from tlperf.latency.trial import network_facts
from tlperf.reference.backbones import find_backbone
from tlperf.reference.paper import published_step

ROUNDS = 100  # the fewest that a p99 is given of
WARMUP_STEPS = 3
PERCENTILES = (50, 90, 95, 99)


@functools.lru_cache(maxsize=1)  # tests go backbone by backbone
def find_subject(name, precision):
    """The network of a backbone."""
    return build_imagenet_subject(find_backbone(name), precision)


def describe_rounds(rounds_secs):
    """What pytest-benchmark does not tell of its rounds."""
    jitter_secs = scaled_mad(rounds_secs)
    edges = {q: percentile_interval(rounds_secs, q) for q in PERCENTILES}
    summary = summarise(rounds_secs)
    return {
        **{f"p{q}_ms": getattr(summary, f"p{q}_ms") for q in PERCENTILES},
        "percentile_intervals_ms": {
            f"p{q}": None if found is None else [1e3 * edge for edge in found]
            for q, found in edges.items()
        },
        "jitter_ms": None if jitter_secs is None else 1e3 * jitter_secs,
    }


@pytest.mark.benchmark(disable_gc=True)
def test_step(benchmark, spec, case: Case, compute, request):
    benchmark.group = case.group
    subject = find_subject(spec.name, compute.precision)
    # A runtime that was named and is not there is an error: a gate that measures
    # nothing would pass.
    timed = PROTOCOLS[case.protocol](
        subject, case.batch_size, compute, runtime=case.runtime
    )
    images = timed.make_images(SEED)
    steps, keeper = timed.steps(timed.place(images)), Keeper(SEED)
    (first_step_secs,) = steps(1, math.inf, drop)
    warmup_steps, is_steady = warm_up(steps, least_steps=WARMUP_STEPS)
    traces = timed.traces()
    rounds = request.config.getoption("--rounds") or ROUNDS
    benchmark.pedantic(steps, args=(1, math.inf, keeper.offer), rounds=rounds)
    assert timed.traces() == traces  # nothing was compiled in a round
    assert all(isinstance(output, np.ndarray) for output in keeper.outputs)
    assert timed.reference is not None
    difference = output_difference(keeper.outputs, timed.reference(images))
    tf32 = compute.facts()["tf32"]
    assert difference <= largest_difference(compute.precision, tf32=tf32)
    figures = describe_rounds(benchmark.stats.stats.data)
    cell = make_cell(case, spec, compute)
    facts = network_facts(cell, subject, compute.precision)
    benchmark.extra_info.update(
        backbone=spec.name,
        protocol=case.protocol.value,
        runtime=case.runtime.value,
        runtime_version=timed.version,
        winograd_convolutions=timed.winograd,
        batch_size=case.batch_size,
        **figures,
        images_per_sec=ratio(case.batch_size * 1e3, figures["p50_ms"]),
        tflops_per_sec=ratio(facts["gflop_per_step"], figures["p50_ms"]),
        prepare_secs=timed.prepare_secs,
        first_step_secs=first_step_secs,
        compile_secs=max(0.0, first_step_secs - benchmark.stats.stats.median),
        warmup_steps=warmup_steps,
        is_steady=is_steady,
        traces=traces,
        output_difference=difference,
        process_peak_memory_bytes=peak_memory_bytes(),
        device=compute.facts(),
        **facts,
        published=published_step(spec.name, facts["gflop_per_step"], case.batch_size),
    )


def make_cell(case, spec, compute):
    """The case as `tlperf latency` would have it."""
    return Cell(
        spec.name,
        IMAGENET,
        case.protocol,
        case.runtime,
        case.batch_size,
        Precision(compute.precision),
        Xla.ON if compute.jit_compile else Xla.OFF,
        tf32=compute.facts()["tf32"],
    )
