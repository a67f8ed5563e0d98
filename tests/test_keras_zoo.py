"""`keras:NAME`: the table against the installed Keras, and a network on its way."""

import dataclasses
import hashlib
import http.server
import importlib
import inspect
import json
import re
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from tests.timings import make_cell, make_row, make_trial
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.settings import RunConfig
from tlperf.job.plan import plan_job
from tlperf.latency.protocols import Subject
from tlperf.latency.trial import network_facts
from tlperf.model.build import build_backbone, build_classifier, build_imagenet_model
from tlperf.model.facts import count_macs, depth
from tlperf.model.inference import rewrite
from tlperf.model.preprocess import normalise
from tlperf.model.weights import find_weights, parse_weights
from tlperf.reference.backbones import (
    BACKBONES,
    KERAS_BACKBONES,
    find_backbone,
    parse_backbones,
)
from tlperf.reference.keras_zoo import FAMILIES

pytestmark = pytest.mark.usefixtures("two_cpus")

each_family = pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda family: family.module
)
each_spec = pytest.mark.parametrize(
    "spec", KERAS_BACKBONES, ids=lambda spec: spec.title
)


def installed_module(family):
    return importlib.import_module(f"keras.src.applications.{family.module}")


def test_the_table_holds_every_network_of_the_installed_keras():
    found = {name for name in dir(keras.applications) if name[0].isupper()}
    listed = [spec.constructor for spec in KERAS_BACKBONES]
    assert set(listed) == found
    assert len(listed) == len(found)


@each_family
def test_a_network_stands_under_its_own_module(family):
    module = installed_module(family)
    for model in family.models:
        network = getattr(keras.applications, model.constructor)
        assert network is getattr(module, model.constructor)


@each_family
def test_pixels_become_what_the_modules_own_function_makes_of_them(family):
    spec = find_backbone(f"keras:{family.models[0].constructor}")
    image = np.arange(256 * 3).reshape(1, 16, 16, 3) % 256
    expected = installed_module(family).preprocess_input(image.astype(np.float32))
    found = normalise(image.astype(np.uint8), spec.normalisation)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@each_spec
def test_keras_names_the_native_size_where_another_is_asked_for(spec):
    """With ImageNet weights and the top it takes no other; before anything is built."""
    if spec.constructor.startswith("MobileNetV3"):
        # It only warns; its one file names its size.
        assert f"_{spec.native_size}_" in spec.imagenet.name
        return
    size = spec.native_size
    with pytest.raises(ValueError, match=rf"should be \({size}, {size}, 3\)"):
        getattr(keras.applications, spec.constructor)(input_shape=(8, 8, 3))


@each_spec
def test_keras_refuses_an_image_below_the_smallest_size(spec):
    size = spec.min_size
    with pytest.raises(ValueError, match=f"at least {size}x{size}"):
        getattr(keras.applications, spec.constructor)(
            weights=None, include_top=False, input_shape=(size - 1, size - 1, 3)
        )


@each_family
def test_hashes_and_folders_stand_in_the_modules_source(family):
    source = inspect.getsource(installed_module(family))
    if family.module == "resnet_v2":  # built by the module of the first version
        source += inspect.getsource(keras.src.applications.resnet)
    source = re.sub(r'"\s+f?"', "", source)  # long texts stand in two literals
    assert family.url in source
    for model in family.models:
        assert model.file_hash in source
        assert len(model.file_hash) in (0, 32, 64)
        assert model.remote_file in source
    hashed = [bool(model.file_hash) for model in family.models]
    assert any(hashed) == ("file_hash" in source)


class _AskedFor(Exception):
    """What Keras asked its downloader for."""


@pytest.mark.slow
@each_spec
def test_keras_asks_for_the_tables_file(spec, monkeypatch):
    """Builds each network at its smallest size; only the download is left out."""
    from keras.src.utils import file_utils

    def get_file(name, url, *, cache_subdir, file_hash=None):
        assert cache_subdir == "models"
        raise _AskedFor(name, url, file_hash or "")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    size = spec.min_size
    # The two MobileNets have files for other sizes too.
    if spec.constructor.startswith("MobileNet"):
        size = spec.native_size
    with pytest.raises(_AskedFor) as caught:
        getattr(keras.applications, spec.constructor)(
            include_top=False, input_shape=(size, size, 3)
        )
    file = spec.imagenet
    assert caught.value.args == (file.name, file.url, file.file_hash)
    keras.backend.clear_session()


@pytest.mark.slow
@each_spec
def test_every_network_is_cut_at_its_smallest_size(spec):
    built = build_classifier(spec, image_size=spec.min_size, classes=2)
    assert len(built.active.trainable_variables) == 2
    image = np.random.default_rng(0).uniform(0, 255, (1, *built.whole.input.shape[1:]))
    x = normalise(image.astype(np.uint8), spec.normalisation)
    assert built.frozen is not None
    parts = built.active(built.frozen(x)).numpy()
    np.testing.assert_allclose(parts, built.whole(x), rtol=1e-5)
    assert np.isfinite(parts).all()
    assert count_macs(built.whole) > 0
    keras.backend.clear_session()


@pytest.mark.slow
@each_spec
def test_every_network_is_the_same_rewritten_for_inference(spec):
    network = build_classifier(spec, image_size=spec.min_size, classes=2).whole
    generator = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Statistics that are no zeros and ones.
            size = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.02, size))
            layer.moving_variance.assign(generator.uniform(0.8, 1.2, size))
    image = generator.uniform(0, 255, (2, *network.input.shape[1:]))
    x = normalise(image.astype(np.uint8), spec.normalisation)
    features = keras.Model(network.input, network.layers[-1].input)
    expected = features(x, training=False).numpy()
    fast = rewrite(features, cpu=True)
    found = fast(x, training=False).numpy()
    # The deepest networks make a lot of the last bits of their pixels.
    noise = 1 + 1e-7 * generator.normal(size=x.shape)
    alike = features(np.asarray(x * noise, np.float32), training=False).numpy()
    most = max(1e-4 * np.abs(expected).max(), 3 * np.abs(alike - expected).max())
    assert np.abs(found - expected).max() < most
    keras.backend.clear_session()


@pytest.mark.parametrize("study", BACKBONES, ids=lambda spec: spec.name)
def test_the_studys_networks_have_the_same_facts_here(study):
    spec = find_backbone(f"keras:{study.constructor}")
    for name in ("native_size", "min_size", "normalisation", "imagenet"):
        assert getattr(spec, name) == getattr(study, name)
    assert spec.name != study.name


@pytest.mark.parametrize(
    "text",
    [
        "keras:MobileNetV2",
        "keras-mobilenetv2",
        "Keras: mobilenet_v2",
        "KERAS:MOBILENETV2",
    ],
)
def test_a_network_is_found_by_its_name_and_by_that_of_its_folder(text):
    spec = find_backbone(text)
    assert (spec.name, spec.title) == ("keras-mobilenetv2", "keras:MobileNetV2")
    assert find_backbone(spec.name) is find_backbone(spec.title)


def test_names_are_fit_for_folders_and_differ():
    names = [spec.name for spec in (*BACKBONES, *KERAS_BACKBONES)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)?", name) for name in names)


def test_a_list_may_mix_them_with_the_studys_and_all_is_the_studys():
    specs = parse_backbones("keras:VGG16, vgg16,keras:DenseNet121")
    assert [spec.name for spec in specs] == [
        "keras-vgg16",
        "vgg16",
        "keras-densenet121",
    ]
    assert parse_backbones("all") == BACKBONES
    with pytest.raises(SettingsError, match="name keras-vgg16 once"):
        parse_backbones("keras:VGG16,keras-vgg16")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("keras:MobilNetV2", "did you mean keras:MobileNetV2? choose from keras:Conv"),
        ("mobilenetv2", "did you mean keras:MobileNetV2? choose from efficientnetb0"),
        ("keras:resnet", "did you mean keras:ResNet50?"),
        ("keras:", "no backbone is called 'keras:'; choose from keras:ConvNeXtTiny"),
        ("zzz", "xception, all or keras:NAME"),
    ],
)
def test_a_bad_name_is_answered_with_what_to_write(text, found):
    with pytest.raises(SettingsError) as caught:
        parse_backbones(text)
    assert found in str(caught.value)
    assert caught.value.code == ExitCode.USAGE


def test_names_are_parsed_without_keras():
    code = (
        "import sys; from tlperf.reference.backbones import parse_backbones;"
        "parse_backbones('keras:ConvNeXtTiny');"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("freeze", "frozen", "trainable"),
    [("paper", 154, 2), ("all", 154, 2), ("none", 1, 158), ("Conv_1", 151, 5)],
)
def test_the_default_boundary_freezes_the_whole_trunk(freeze, frozen, trainable):
    spec = find_backbone("keras:MobileNetV2")
    built = build_classifier(spec, image_size=32, classes=2, freeze=freeze)
    assert len(built.frozen_names) == frozen
    assert len(built.active.trainable_variables) == trainable
    assert built.head_text == ("GlobalAveragePooling2D", "Dense(2, softmax)")
    # What crosses is pooled where the trunk is frozen.
    if freeze == "paper":
        assert built.frozen is not None
        assert [tensor.shape for tensor in built.frozen.outputs] == [(None, 1280)]


def test_what_is_stated_of_the_defaults_is_so():
    for spec in KERAS_BACKBONES:
        assert (spec.first_active, *map(str, spec.head), spec.optimizer) == (
            *(None, "GlobalAveragePooling2D", "adam"),
        )
        assert f"Adam at {spec.learning_rate}" in spec.defaults
    assert {spec.defaults for spec in BACKBONES} == {"Tables 2-4 of the study"}


def test_models_inside_a_model_are_counted_too():
    """ConvNeXt's paper: 4.5e9 multiply-adds. Its stem and down-sampling are models."""
    spec = find_backbone("keras:ConvNeXtTiny")
    model = build_imagenet_model(spec)
    assert count_macs(model) / 1e9 == pytest.approx(4.46, abs=0.01)
    weighted = [layer for layer in model.layers if layer.weights]
    assert depth(model) > len(weighted)
    built = build_classifier(spec, image_size=32, classes=2)
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    assert built.frozen is not None
    parts = built.active(built.frozen(x)).numpy()
    np.testing.assert_array_equal(parts, built.whole(x))


def test_an_open_network_is_built_at_its_native_size():
    model = build_imagenet_model(find_backbone("keras:MobileNetV3Small"))
    assert model.input.shape == (None, 224, 224, 3)
    assert count_macs(model) / 1e6 == pytest.approx(57, abs=2)  # the paper: 56


def test_an_image_too_small_is_refused_under_the_written_name():
    with pytest.raises(SettingsError, match="give 32 or more: keras:NASNetMobile"):
        build_backbone(find_backbone("keras:NASNetMobile"), image_size=31)


def test_a_plan_does_not_guess_multiply_adds(tmp_path):
    config = RunConfig(workdir=str(tmp_path / "w"), backbones="keras:VGG19,vgg16")
    one, two = plan_job(config)["runs"]
    assert (one["backbone"], one["image_size"]) == ("keras-vgg19", 224)
    assert one["train_gflop"] is None
    assert one["train_secs_at_cpu_matmul_rate"] is None
    assert two["train_gflop"] > 0


def test_nothing_is_published_of_it_and_no_batch_is_wrong(two_cpus):
    spec = find_backbone("keras:MobileNetV2")
    subject = Subject(
        spec, "imagenet", build_imagenet_model(spec), 224, spec.normalisation
    )
    cell = make_cell(backbone=spec.name, batch_size=1)
    facts = network_facts(cell, subject, "float32")
    row = make_row(*[make_trial(**facts)] * 5, cell=cell)
    assert row["published"] is None
    assert row["warnings"] == []
    assert row["params"] == 3_538_984


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("keras:VGG19:none", {"keras-vgg19": "none"}),
        (
            "keras:VGG19:a/b.h5,xception:none",
            {"keras-vgg19": "a/b.h5", "xception": "none"},
        ),
        ("keras-vgg19:imagenet", {"keras-vgg19": "imagenet"}),
    ],
)
def test_weights_may_name_it_either_way(text, parsed):
    assert parse_weights(text) == parsed


def with_file(**changes):
    """MobileNetV2 as if Keras stated other facts of its file."""
    spec = find_backbone("keras:MobileNetV2")
    assert spec.imagenet is not None
    file = dataclasses.replace(spec.imagenet, **changes)
    return dataclasses.replace(spec, imagenet=file)


CONTENT = b"weights"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A file in Keras' cache under the name of MobileNetV2's."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / with_file().imagenet.name
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_hash_is_checked_whichever_keras_states(cached, kind):
    good = hashlib.new(kind, CONTENT).hexdigest()
    assert find_weights(with_file(file_hash=good), "imagenet").kind == "imagenet"
    assert find_weights(with_file(file_hash=good), str(cached)).kind == "imagenet"
    bad = hashlib.new(kind, b"other").hexdigest()
    assert find_weights(with_file(file_hash=bad), str(cached)).kind == "file"
    with pytest.raises(TlperfError, match=f"{kind} {good}, expected {bad}") as caught:
        find_weights(with_file(file_hash=bad), "imagenet")
    assert caught.value.code == ExitCode.INTEGRITY


def test_a_file_without_a_stated_hash_is_taken_and_said_to_be(cached, capsys):
    source = find_weights(with_file(), "imagenet")
    assert source.facts()["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert "Keras states no hash of mobilenet_v2_weights" in capsys.readouterr().err
    # Whether a file given by its path is Keras' own cannot be told.
    assert find_weights(with_file(), str(cached)).kind == "file"


class _Cut(http.server.BaseHTTPRequestHandler):
    """Promises more bytes than it sends."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + 5))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args):
        """Says nothing."""


def test_a_download_that_ends_early_is_no_file(tmp_path, monkeypatch):
    """Without a hash only its length tells."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Cut) as server:
        threading.Thread(target=server.serve_forever).start()
        spec = with_file(url=f"http://127.0.0.1:{server.server_port}/file.h5")
        with pytest.raises(
            TlperfError, match="broke off after 7 of 12 bytes"
        ) as caught:
            find_weights(spec, "imagenet")
        server.shutdown()
    assert caught.value.code == ExitCode.UNAVAILABLE
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_network_goes_the_whole_way_from_the_command_line(tmp_path):
    """Two epochs, so that the second one trains on kept features."""
    command = [sys.executable, "-m", "tlperf"]
    flags = [
        *("--preset=quick", "--image_size=32", "--limit=40", "--epochs=2"),
        *("--latency_secs=0.2", "--batch_size=8", f"--workdir={tmp_path}", "--json"),
    ]
    done = subprocess.run(
        [*command, "run", "--backbones=keras:MobileNetV2", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    train = run["train"]
    assert (run["backbone"], train["freeze"]) == ("keras-mobilenetv2", "all")
    assert (train["frozen_layers"], train["active_layers"]) == (154, 0)
    assert train["first_active"] is None
    assert train["feature_cache"] == "on"
    assert train["defaults"].startswith("of this project, not of the study")
    assert train["optimizer"]["learning_rate"] == 1e-3
    assert run["evaluate"]["images"] == 8
    assert all(row["published"] is None for row in run["latency"])
    assert (tmp_path / "keras-mobilenetv2" / "weights.h5").is_file()
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| keras:MobileNetV2 | n/a | 13.50 | n/a | 3,538,984 | n/a | 105 |" in text
    assert "keras:MobileNetV2: defaults of this project, not of the study" in text
    # The stages of their own find it by both names.
    for name in ("keras:MobileNetV2", "keras-mobilenetv2"):
        again = subprocess.run(
            [*command, "evaluate", f"--backbones={name}", f"--workdir={tmp_path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 0, again.stderr
