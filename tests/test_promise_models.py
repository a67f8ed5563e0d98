"""I8: no command opens a model file that can run code, unless its user trusts it.

Each hostile file writes a canary file when its code is run.
"""

import ast
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.images import image_bytes
from tests.tiny import tiny_net
from tlperf import cli
from tlperf.core import files
from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.recipe import PixelRecipe
from tlperf.latency.description import (
    PIXELS_SIGNATURE,
    Description,
    description_path,
    find_format,
    hash_files,
)
from tlperf.model.weights import WeightsSource

pytestmark = [pytest.mark.I8, pytest.mark.usefixtures("two_cpus")]

PACKAGE = pathlib.Path(__file__).parents[1] / "tlperf"
SIDE = 16


def lambda_network(canary):
    """A network whose Lambda layer writes the canary when it is built or called."""

    def run(x, path=str(canary)):
        with open(path, "w"):
            pass
        return x

    inputs = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Lambda(run, output_shape=(SIDE, SIDE, 3))(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))


def write_keras(path, canary):
    lambda_network(canary).save(path)


def write_saved_model(path, canary):
    """Its signature writes a file by TensorFlow's own operation."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8)])
    def serve(images):
        tf.io.write_file(str(canary), "x")
        return tf.fill([tf.shape(images)[0], 2], 0.5)

    module.serve = serve
    signatures = {PIXELS_SIGNATURE: serve}
    tf.saved_model.save(module, str(path), signatures=signatures)


def write_old_keras(path, canary):
    """The HDF5 files of Keras 2, which hold a Lambda's code as well."""
    lambda_network(canary).save(path)


def write_description(path):
    """One with the right hashes: who makes the file makes that too."""
    kind = find_format(path)
    description = Description(
        backbone="tiny",
        format=kind,
        classes=("a", "b"),
        pixels=PixelRecipe(SIDE),
        preprocess="backbone",
        weights_sha256="0" * 64,
        parity={},
        files=hash_files(path, kind),
        versions={},
    )
    files.write_json(description_path(path), description.to_dict())


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


def hostile(tmp_path, canary, name):
    """The hostile file of that name, and an image to predict."""
    writers = {
        "m.keras": write_keras,
        "m.saved_model": write_saved_model,
        "m.h5": write_old_keras,
    }
    path = tmp_path / name
    writers[name](path, canary)
    canary.unlink(missing_ok=True)  # its maker ran it
    if name != "m.h5":
        write_description(path)
    (tmp_path / "a.jpg").write_bytes(image_bytes(1))
    return path


def predict(path, *flags):
    images = path.parent / "a.jpg"
    return cli.main(["predict", f"--images={images}", f"--model={path}", *flags])


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("m.keras", 78, "untrusted_model: {path}: a .keras file can name any layer"),
        ("m.saved_model", 78, "untrusted_model: {path}: a SavedModel is a TensorFlow"),
        ("m.h5", 64, "m.h5', which is no file of tlperf export"),
    ],
)
def test_without_trust_no_code_is_run(name, code, text, tmp_path, canary, capsys):
    path = hostile(tmp_path, canary, name)
    assert predict(path) == code
    assert text.format(path=path) in capsys.readouterr().err
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_trusted_or_not_layers_with_code_stay_shut(tmp_path, canary, capsys):
    """Of what tlperf exports none has any; HDF5 files it never opens."""
    path = hostile(tmp_path, canary, "m.keras")
    assert predict(path, "--trust_model") == ExitCode.DATA
    assert f"bad_model: {path}: cannot be opened (" in capsys.readouterr().err
    old = hostile(tmp_path, canary, "m.h5")
    assert predict(old, "--trust_model") == ExitCode.USAGE
    assert not canary.exists()


def test_the_canary_sings(tmp_path, canary):
    """Who trusts a SavedModel runs it: what the others would have seen."""
    path = hostile(tmp_path, canary, "m.saved_model")
    assert predict(path, "--trust_model") == ExitCode.OK
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_weights_are_arrays_whatever_file_they_are_in(name, tmp_path, canary):
    path = hostile(tmp_path, canary, name)
    network = tiny_net(include_top=False, input_shape=(SIDE, SIDE, 3))
    before = [np.array(one) for one in network.get_weights()]
    with pytest.raises(TlperfError):
        WeightsSource("file", path=path).load(network)
    assert not canary.exists()
    for one, other in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# What makes objects of what a file says; `load_weights` makes none.
LOADERS = {
    *("load_model", "TFSMLayer", "from_config", "model_from_json", "model_from_config"),
    *("deserialize_keras_object", "enable_unsafe_deserialization", "read_model"),
    *("InferenceSession", "clone_model", "load_from_saved_model"),
}
KNOWN = {
    ("latency/exported.py", "load_model"),
    ("latency/exported.py", "saved_model.load"),
    # Graphs of arrays and operators, without code.
    ("latency/sessions.py", "InferenceSession"),
    ("latency/sessions.py", "read_model"),
    # Of networks that the project built itself; no file is read.
    ("model/fit.py", "clone_model"),
    ("model/fit.py", "from_config"),
    ("model/inference.py", "clone_model"),
}


def find_loaders():
    """(file, name) of every call in the package that could open a model."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            if name in LOADERS and not called.startswith("openvino."):
                yield place, name
            elif called.endswith("saved_model.load"):
                yield place, "saved_model.load"


def test_models_are_opened_in_one_place_only():
    assert set(find_loaders()) == KNOWN


def test_every_way_to_open_one_asks_first():
    """Who calls `open_exported` asks `check_trust` before, or wrote the file itself."""
    callers = {
        path.relative_to(PACKAGE).as_posix(): path.read_text()
        for path in PACKAGE.rglob("*.py")
        if "open_exported(" in path.read_text()
    }
    assert set(callers) == {
        *("latency/exported.py", "latency/publish.py", "job/predict.py")
    }
    text = callers["job/predict.py"]
    assert text.index("check_trust(path") < text.index("open_exported(path")


def test_formats_without_code_need_no_trust(tmp_path):
    from tlperf.latency.exported import check_trust

    for kind in (ExportFormat.ONNX, ExportFormat.OPENVINO):
        check_trust(tmp_path / "m", kind, is_trusted=False)
