"""Options of the benchmarks, and the device in pytest-benchmark's machine info.

pytest benchmarks --benchmark-only --source=FOLDER --weights=DIR
"""

import os

import pytest

from tlperf.core.machine import machine_facts

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_addoption(parser):
    """Adds what the benchmarks vary."""
    group = parser.getgroup("tlperf")
    group.addoption("--source", default="photos", help="photos or a folder")
    group.addoption("--weights", default="none", help="as tlperf run --weights")
    group.addoption("--image-size", type=int, default=75, help="of training")
    group.addoption("--batch-size", type=int, default=1, help="of a timed step")
    group.addoption("--epochs", type=int, default=2, help="of training, each side")
    group.addoption("--files", type=int, default=20_000, help="to shard")
    group.addoption("--rounds", type=int, default=3, help="of each side of a pair")
    group.addoption("--backbones", default="all", help="all, or a comma list")


def pytest_generate_tests(metafunc):
    """One benchmark a backbone."""
    if "spec" in metafunc.fixturenames:
        from tlperf.reference.backbones import parse_backbones

        specs = parse_backbones(metafunc.config.getoption("--backbones"))
        metafunc.parametrize("spec", specs, ids=[spec.name for spec in specs])


def pytest_benchmark_update_machine_info(config, machine_info):
    """Cores, memory and versions beside what pytest-benchmark collects."""
    machine_info["tlperf"] = machine_facts()


@pytest.fixture(scope="session")
def compute():
    """The device that `--devices=auto` chooses."""
    from tlperf.core.settings import DeviceConfig
    from tlperf.device.setup import setup_compute

    return setup_compute(DeviceConfig())
