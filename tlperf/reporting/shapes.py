"""What a timed row has to hold: the kind of each value, by the part of the row.

list(find_unlike(row, shapes.ROW))
"""

from tlperf.core.choices import Protocol, Runtime
from tlperf.core.trials import TOLERANCES
from tlperf.reporting import kinds
from tlperf.reporting.rows import IMAGENET_MODEL

ROW = {
    "stage": kinds.one_of(["latency"]),
    "backbone": kinds.TEXT,
    "settings_digest": kinds.TEXT,
}
MACHINE = {
    "platform": kinds.TEXT,
    "python": kinds.TEXT,
    "cpu": kinds.TEXT,
    "cores": kinds.COUNT,
    "memory_bytes": kinds.COUNT,
}
VERSIONS = dict.fromkeys(("tensorflow", "keras", "numpy"), kinds.TEXT)
DEVICE = {
    "kind": kinds.one_of(["CPU", "GPU"]),
    "text": kinds.TEXT,
    "devices": kinds.TEXTS,
}
ASKED = {
    "protocols": kinds.TEXTS,
    "runtimes": kinds.TEXTS,
    "batches": kinds.COUNT,
    "repetitions": kinds.COUNT,
    "processes": kinds.COUNT,
    "min_secs": kinds.AMOUNT,
}
RUN = {
    "backbone": kinds.TEXT,
    "model": kinds.one_of([IMAGENET_MODEL, "finetuned"]),
    "protocol": kinds.one_of(Protocol),
    "protocol_text": kinds.TEXT,
    "runtime": kinds.one_of(Runtime),
    "runtime_version": kinds.TEXT,
    "winograd_convolutions": kinds.WHOLE,
    "batch_size": kinds.COUNT,
    "image_size": kinds.COUNT,
    "precision": kinds.one_of(TOLERANCES),
    "xla": kinds.FLAG,
    "tf32": kinds.FLAG,
    "device": kinds.TEXT,
    "requested_samples": kinds.COUNT,
    "gflop_per_step": kinds.or_none(kinds.POSITIVE),
    "gbytes_per_step": kinds.or_none(kinds.POSITIVE),
    "params": kinds.COUNT,
    "depth": kinds.COUNT,
    "size_mib": kinds.POSITIVE,
    "process_peak_memory_bytes": kinds.COUNT,
    "device_peak_memory_bytes": kinds.or_none(kinds.COUNTS),
    "seed": kinds.WHOLE,
    "code": kinds.OBJECT,
    "published": kinds.or_none(kinds.OBJECT),
    "valid": kinds.FLAG,
    "invalid": kinds.WORDS,
    "warnings": kinds.WORDS,
    "trials": kinds.SOME,
}
TRIAL = {
    "process": kinds.WHOLE,
    "samples_secs": kinds.POSITIVES,
    "first_step_secs": kinds.POSITIVE,
    "warmup_steps": kinds.COUNT,
    "steady": kinds.FLAG,
    "prepare_secs": kinds.AMOUNTS,
    "measured_secs": kinds.POSITIVE,
    "traces": kinds.COUNT,
    "retraces": kinds.WHOLE,
    "load": kinds.OBJECT,
    "matmul_tflops_per_sec": kinds.POSITIVE,
    "copy_gbytes_per_sec": kinds.POSITIVE,
    "machine": kinds.OBJECT,
    "device": kinds.OBJECT,
    "device_text": kinds.TEXT,
    "runtime_version": kinds.TEXT,
    "winograd_convolutions": kinds.WHOLE,
    "code": kinds.OBJECT,
}
LOAD = {
    **dict.fromkeys(("others_cores", "stolen_cores"), kinds.AMOUNT),
    "gpu_busy": kinds.or_none(kinds.AMOUNT),
}
CHECKS = {
    "outputs": kinds.COUNT,
    "difference": kinds.or_none(kinds.AMOUNT),
    "tolerance": kinds.POSITIVE,
    "variety": kinds.or_none(kinds.AMOUNT),
    "top1_changes": kinds.WHOLE,
    "repeat_ratios": kinds.POSITIVES,
}
