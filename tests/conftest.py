"""Shared fixtures. TensorFlow is imported by the tests that need it, and only through
`two_cpus`: the CPU must be split before TensorFlow first touches it."""

import dataclasses
import os
import signal
from typing import Any, TypeVar

import pytest

# Errors only; set before TensorFlow is imported, here and in child processes.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


Value = TypeVar("Value")


def pytest_addoption(parser):
    """Adds how much the promises' tests do."""
    parser.addoption(
        "--figures",
        choices=("reduced", "full"),
        default="reduced",
        help="reduced: seconds; full: the figures that the promises state",
    )


@dataclasses.dataclass(frozen=True)
class Figures:
    """How much a promise's test does: `full`, or enough to see it break."""

    full: bool

    def pick(self, reduced: Value, full: Value) -> Value:
        """One of the two."""
        return full if self.full else reduced


@pytest.fixture(scope="session")
def figures(request):
    """The figures asked for."""
    return Figures(full=request.config.getoption("--figures") == "full")


@pytest.fixture(autouse=True, scope="session")
def heard():
    """Tests that run under nohup or in the background begin with signals ignored, and
    so would the processes that they start."""
    handlers: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {one: signal.signal(one, handler) for one, handler in handlers.items()}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.fixture(scope="session")
def two_cpus():
    """A Compute of one of two logical CPU devices, float32, no XLA."""
    from tlperf.core.choices import Strategy
    from tlperf.core.settings import DeviceConfig
    from tlperf.device.setup import setup_compute

    config = DeviceConfig(devices="cpu", logical_devices=2, strategy=Strategy.ONE)
    return setup_compute(config)


@pytest.fixture(scope="session")
def mirrored(two_cpus):
    """A Compute that mirrors over both logical CPU devices."""
    from tlperf.core.settings import DeviceConfig
    from tlperf.device.setup import setup_compute

    return setup_compute(DeviceConfig(devices="cpu", logical_devices=2))


@pytest.fixture(scope="session")
def photos_dir(tmp_path_factory):
    """A TFRecord data directory of the embedded photos: 24/8/8 images, 2 classes."""
    from tlperf.core.settings import DataConfig
    from tlperf.dataset.shard import write_dataset

    folder = tmp_path_factory.mktemp("photos")
    write_dataset(DataConfig(source="photos", limit=40, workers=1), folder)
    return folder


@pytest.fixture
def photos(photos_dir):
    """The dataset of that directory, open."""
    from tlperf.dataset.store import open_dataset

    with open_dataset(photos_dir) as dataset:
        yield dataset


@pytest.fixture(scope="session")
def tiny_workdir(two_cpus, photos_dir, tmp_path_factory):
    """A workdir with a training of the one-block backbone on those photos, and its
    evaluation: its settings, and the result of the training."""
    from tests.tiny import TINY, train_and_evaluate

    workdir = tmp_path_factory.mktemp("tiny")
    return train_and_evaluate(TINY, photos_dir, workdir, compute=two_cpus)
