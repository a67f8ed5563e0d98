"""Networks in each runtime compute what Keras does; nobody is told of it."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.promises import environment
from tests.tiny import tiny_net
from tlperf.core.choices import Runtime
from tlperf.latency.runtimes import RUNTIMES
from tlperf.model.deploy import with_preprocessing
from tlperf.reference.backbones import (
    CAFFE_MODE,
    PAPER_MODE,
    RAW_PIXELS,
    TF_MODE,
    TORCH_MODE,
)

_PACKAGES = {
    Runtime.TF: (),
    Runtime.ONNXRUNTIME: ("onnxruntime", "tf2onnx"),
    Runtime.OPENVINO: ("openvino",),
}


def skip_unless_installed(runtime):
    for name in _PACKAGES[runtime]:
        # Not imported: `tlperf.latency.sessions` sees to what that does.
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (extra runtimes)")


def random_images(count):
    """uint8 [N, 32, 32, 3]."""
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("normalisation", [TF_MODE, CAFFE_MODE, TORCH_MODE, RAW_PIXELS])
def test_a_runtime_computes_what_keras_does(two_cpus, runtime, normalisation):
    """With its preprocessing inside, and a Normalization of the network's own, as
    EfficientNet has one."""
    skip_unless_installed(runtime)
    inputs = tf.keras.Input((32, 32, 3))
    own = tf.keras.layers.Normalization()
    x = own(inputs)
    own.adapt(np.random.default_rng(0).normal(3, 2, (64, 32, 32, 3)))
    x = tiny_net(input_shape=(32, 32, 3), classes=5)(x)
    network = with_preprocessing(tf.keras.Model(inputs, x, name="own"), normalisation)
    images = random_images(3)
    loaded = RUNTIMES[runtime](network, images.shape, two_cpus)
    expected = network(images, training=False).numpy()
    assert np.std(expected) > 1e-3
    for given in (images, loaded.place(images)):
        np.testing.assert_allclose(loaded.run(given), expected, atol=1e-5)
    # The network stays what it was.
    assert own.mean is not None
    np.testing.assert_array_equal(network(images, training=False), expected)


@pytest.mark.parametrize(
    "normalisation", [TF_MODE, CAFFE_MODE, TORCH_MODE, RAW_PIXELS, PAPER_MODE]
)
def test_preprocessing_inside_is_that_of_training(normalisation):
    """All pixel values, through a network that gives what it is given."""
    from tlperf.model.preprocess import normalise

    inputs = tf.keras.Input((16, 16, 3))
    same = tf.keras.Model(inputs, tf.keras.layers.Identity()(inputs), name="same")
    images = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    found = with_preprocessing(same, normalisation)(images).numpy()
    expected = normalise(tf.constant(images), normalisation).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


LOAD = """
import sys
import numpy as np
from tests.tiny import tiny_net
from tlperf.core.choices import Runtime
from tlperf.core.settings import DeviceConfig
from tlperf.device.setup import setup_compute
from tlperf.latency.runtimes import RUNTIMES
network = tiny_net(input_shape=(32, 32, 3), classes=2)
images = np.zeros((1, 32, 32, 3), np.float32)
compute = setup_compute(DeviceConfig(devices="cpu"))
RUNTIMES[Runtime(sys.argv[1])](network, images.shape, compute).run(images)
"""


@pytest.mark.parametrize("runtime", list(Runtime))
def test_nobody_is_told_of_what_is_done(runtime, tmp_path):
    """Telemetry would keep numbers of this machine in the home folder."""
    skip_unless_installed(runtime)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, runtime],
        env=environment(HOME=str(tmp_path), CI=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = {path.name.lower() for path in tmp_path.rglob("*")}
    assert not names & {"intel", "microsoft"}
