"""Options of the benchmarks, and the device in pytest-benchmark's machine info.

pytest benchmarks --benchmark-only --source=FOLDER --weights=DIR
"""

import os

import pytest

from tlperf.core.machine import machine_and_gpu_facts

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_addoption(parser):
    """Adds what the benchmarks vary."""
    group = parser.getgroup("tlperf")
    group.addoption("--source", default="photos", help="photos or a folder")
    group.addoption("--weights", default="none", help="as tlperf run --weights")
    group.addoption("--image-size", type=int, default=75, help="of training")
    group.addoption("--batch-size", default="1", help="of timed steps, a comma list")
    group.addoption("--runtime", default="tf", help="of timed steps, a comma list")
    group.addoption("--epochs", type=int, default=2, help="of training, each side")
    group.addoption("--files", type=int, default=20_000, help="to shard")
    group.addoption(
        "--rounds",
        type=int,
        default=0,
        help="of each side of a pair (default 3), timed steps (100), or runtimes (15)",
    )
    group.addoption("--backbones", default="all", help="all, or a comma list")


def pytest_generate_tests(metafunc):
    """One benchmark a backbone, and of a latency one a case."""
    option = metafunc.config.getoption
    if "spec" in metafunc.fixturenames:
        from tlperf.reference.backbones import parse_backbones

        specs = parse_backbones(option("--backbones"))
        metafunc.parametrize("spec", specs, ids=[spec.name for spec in specs])
    if "case" in metafunc.fixturenames:
        from benchmarks.cases import plan_cases
        from tlperf.core.choices import Runtime, parse_choice

        cases = plan_cases(
            [int(word) for word in option("--batch-size").split(",")],
            [parse_choice(Runtime, word) for word in option("--runtime").split(",")],
        )
        metafunc.parametrize("case", cases, ids=[case.text for case in cases])


def pytest_benchmark_update_machine_info(config, machine_info):
    """Cores, memory, versions and GPUs beside what pytest-benchmark collects; asked for
    before TensorFlow may start."""
    machine_info["tlperf"] = machine_and_gpu_facts()


def pytest_benchmark_compare_machine_info(
    config, benchmarksession, machine_info, compared_benchmark
):
    """One line where a run is compared with one of another machine or install."""
    theirs = compared_benchmark["machine_info"]
    then, now = theirs.get("tlperf"), machine_info["tlperf"]
    if then is None:
        told = f"another machine ({theirs.get('machine')})"
    else:
        unlike = sorted(key for key in now if then.get(key) != now[key])
        told = f"a run of unlike {', '.join(unlike)}" if unlike else ""
    if told:
        benchmarksession.logger.info(f"Compared with {told}")


@pytest.fixture(scope="session")
def compute():
    """The first of the devices that `--devices=auto` chooses, as inference takes it."""
    from tlperf.core.choices import Strategy
    from tlperf.core.settings import DeviceConfig
    from tlperf.device.setup import setup_compute

    return setup_compute(DeviceConfig(strategy=Strategy.ONE))
