"""Networks in each runtime compute what Keras does; nobody is told of it."""

import dataclasses
import importlib.util
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.promises import environment
from tests.tiny import tiny_net
from tlperf.core.choices import ExportFormat, Runtime
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes
from tlperf.core.recipe import PixelRecipe
from tlperf.evaluation.samples import read_sample_images
from tlperf.latency import export, runtimes, sessions
from tlperf.latency.export import export_network, onnx_memory_bytes
from tlperf.latency.parity import PARITY_LIMIT, centred_logits, relative_difference
from tlperf.latency.runtimes import RUNTIMES, split_requests
from tlperf.latency.sessions import (
    Cuda,
    import_onnxruntime,
    import_openvino,
    open_onnx,
    open_openvino,
)
from tlperf.model.build import build_imagenet_model, dtype_policy
from tlperf.model.deploy import with_preprocessing
from tlperf.model.preprocess import normalise
from tlperf.model.variety import spread_outputs
from tlperf.reference.backbones import (
    BACKBONES,
    CAFFE_MODE,
    PAPER_MODE,
    RAW_PIXELS,
    TF_MODE,
    TORCH_MODE,
)

PARITY_IMAGES = 4
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


@pytest.mark.parametrize(("cores", "streams"), [(2, 2), (8, 2), (8, 1), (32, 16)])
def test_onnxruntime_takes_a_thread_a_core(tmp_path, monkeypatch, cores, streams):
    """Of a session, beside the threads that run it."""
    skip_unless_installed(Runtime.ONNXRUNTIME)
    onnx = importlib.import_module("onnx")
    monkeypatch.setattr(sessions, "usable_cores", lambda: cores)
    shape = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "relu", shape[:1], shape[1:])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, tmp_path / "relu.onnx")
    open_onnx(tmp_path / "relu.onnx")  # what the first one of a process starts stays
    before = len([*pathlib.Path("/proc/self/task").iterdir()])
    session = open_onnx(tmp_path / "relu.onnx", streams=streams)
    more = len([*pathlib.Path("/proc/self/task").iterdir()]) - before
    assert session.run(None, {"x": np.array([-1], np.float32)})[0] == 0
    assert streams + more == cores


def test_onnxruntime_without_cuda_does_not_take_the_cpu_for_a_gpu(tmp_path):
    skip_unless_installed(Runtime.ONNXRUNTIME)
    onnxruntime = import_onnxruntime()
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(TlperfError, match="built without CUDA") as caught:
        open_onnx(tmp_path / "any.onnx", cuda=Cuda(0, tf32=True))
    assert caught.value.code == ExitCode.UNAVAILABLE


def test_openvino_does_not_take_the_cpu_for_a_gpu(two_cpus):
    gpu = dataclasses.replace(two_cpus, kind="GPU", texts=("Tesla T4",))
    with pytest.raises(TlperfError, match="on the CPU, and Tesla T4") as caught:
        RUNTIMES[Runtime.OPENVINO](tiny_net(), (1, 32, 32, 3), gpu)
    assert caught.value.code == ExitCode.CONFIG


def test_a_model_of_openvino_has_no_outputs_that_the_network_has_not(tmp_path):
    """Keras' exporter gives it one of each swish."""
    skip_unless_installed(Runtime.OPENVINO)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="swish")(inputs)
    x = keras.layers.Conv2D(4, 3, activation="swish")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    by_hand, path = tmp_path / "hand.xml", tmp_path / "network.xml"
    openvino = import_openvino()
    network.export(str(by_hand), format="openvino", verbose=False)
    export_network(network, path, ExportFormat.OPENVINO)
    core = openvino.Core()
    outputs = [len(core.read_model(one).outputs) for one in (by_hand, path)]
    assert outputs == [3, 1]
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    found = open_openvino(path)({0: images})[0]
    np.testing.assert_allclose(found, network(images), atol=1e-6)


@pytest.mark.parametrize(
    ("batch_size", "cores", "expected"),
    [
        # Requests, and how many at a time.
        (16, 2, (8, 2)),
        (16, 1, (1, 1)),
        (1, 2, (1, 1)),
        (2, 8, (1, 1)),
        (7, 4, (1, 1)),
        (6, 2, (1, 1)),
        (6, 4, (3, 3)),
        (32, 6, (16, 4)),
        (32, 64, (16, 16)),
    ],
)
def test_requests_share_a_batch_and_the_cores_evenly(batch_size, cores, expected):
    network = tiny_net(input_shape=(32, 32, 3), classes=5)
    assert split_requests(network, batch_size, cores) == expected


def test_weights_that_each_request_would_read_are_read_once(monkeypatch):
    network = tiny_net(input_shape=(32, 32, 3), classes=5)
    monkeypatch.setattr(runtimes, "_MOST_WEIGHTS_BYTES", 4 * network.count_params() - 1)
    assert split_requests(network, 16, 2) == (1, 1)


@pytest.mark.parametrize("runtime", list(Runtime))
def test_parts_of_a_batch_are_put_together_in_its_order(two_cpus, runtime):
    skip_unless_installed(runtime)
    network = tiny_net(input_shape=(32, 32, 3), classes=5)
    images = random_images(8).astype(np.float32) / 255
    loaded = RUNTIMES[runtime](network, images.shape, two_cpus)
    expected = network(images, training=False).numpy()
    assert np.std(expected, axis=0).max() > 1e-4
    for given in (images, loaded.place(images)):
        np.testing.assert_allclose(loaded.run(given), expected, atol=1e-6)


@pytest.mark.parametrize("limit", [1 << 30, 1 << 40])
def test_an_export_that_the_system_would_kill_is_refused(tmp_path, monkeypatch, limit):
    """Which takes minutes, and with it whatever else the memory would have held."""
    skip_unless_installed(Runtime.ONNXRUNTIME)
    monkeypatch.setattr(export, "memory_limit_bytes", lambda: limit)
    path = tmp_path / "tiny.onnx"
    network = tiny_net(input_shape=(32, 32, 3), classes=2)
    if limit > 1 << 30:
        export_network(network, path, ExportFormat.ONNX)
        assert path.exists()
        return
    with pytest.raises(TlperfError, match=r"as ONNX takes about 1\.0 GiB") as caught:
        export_network(network, path, ExportFormat.ONNX)
    assert caught.value.code == ExitCode.CONFIG
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_each_backbone_is_the_same_network_in_each_runtime(spec, two_cpus):
    """The 1000-class one on photos, with random weights and the photos' statistics:
    logits within 1e-4 of the largest."""
    network = build_imagenet_model(spec)
    recipe = PixelRecipe(spec.native_size)
    pixels = read_sample_images(recipe, count=PARITY_IMAGES)
    images = normalise(tf.constant(pixels), spec.normalisation).numpy()
    spread_outputs(network, images)
    expected = network(images, training=False).numpy()
    # Photos that it tells apart.
    assert np.ptp(centred_logits(expected), axis=0).max() > 0.1
    for runtime in Runtime:
        skip_unless_installed(runtime)
        needed = onnx_memory_bytes(network)
        if runtime is Runtime.ONNXRUNTIME and needed > memory_limit_bytes():
            print(f"{spec.name} in {runtime}: not here, it takes {needed} bytes")
            continue
        loaded = RUNTIMES[runtime](network, images.shape, two_cpus)
        difference = relative_difference(loaded.run(images), expected)
        print(f"{spec.name} in {runtime}: {difference:.1e} of the largest logit")
        assert difference <= PARITY_LIMIT


def test_probabilities_of_float16_are_compared_where_they_are_known():
    """Below its smallest normal a rounding is a large share, or all, of one."""
    logits = np.array([[0.0, 1.0, 2.0, -12.0, -17.0]])
    exact = np.exp(logits) / np.exp(logits).sum()
    half = exact.astype(np.float16)
    assert relative_difference(half, exact) < 1e-3
    assert relative_difference(exact, half) < 1e-3
    other = exact[:, [1, 0, 2, 3, 4]].astype(np.float16)
    assert relative_difference(other, half) > 0.1


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_unlike_images_are_told_apart_in_every_precision(policy, two_cpus):
    """Of probabilities in float16 most would be 0."""
    with dtype_policy(policy):
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Flatten()(inputs)
        network = keras.Model(inputs, keras.layers.Dense(1000, "softmax")(x))
    images = 100 * np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    spread_outputs(network, images.astype(np.float32))
    flat = images.reshape(4, -1) @ keras.ops.convert_to_numpy(
        network.layers[-1].kernel
    ).astype(np.float64)
    assert (flat - flat.mean(axis=0)).std() == pytest.approx(1, rel=0.01)
