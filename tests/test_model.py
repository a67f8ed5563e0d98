"""The six networks: Tables 1-4, the cut, weights; each built once for all tests."""

import functools

import keras
import numpy as np
import pytest

from tests.study import value
from tests.tiny import TINY
from tlperf.core.errors import SettingsError, TlperfError
from tlperf.model.build import (
    build_backbone,
    build_classifier,
    build_imagenet_model,
    first_active_index,
)
from tlperf.model.cut import crossing_tensors, cut_model, extend_frozen
from tlperf.model.facts import count_macs, depth, size_mib
from tlperf.model.weights import (
    find_weights,
    load_keras_weights,
    parse_weights,
    save_keras_weights,
)
from tlperf.reference import paper
from tlperf.reference.backbones import BACKBONES, EFFICIENTNETB0, VGG16, XCEPTION

pytestmark = pytest.mark.usefixtures("two_cpus")
each_backbone = pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)


@functools.cache
def classifier(spec):
    """The study's network at the smallest size every backbone accepts."""
    return build_classifier(spec, image_size=75, classes=2)


@functools.cache
def imagenet_model(spec):
    return build_imagenet_model(spec)


def _range(text):
    first, last = map(int, text.split(":"))
    return first, last


@each_backbone
def test_trainable_layers_are_table_2(spec):
    built = classifier(spec)
    reference = build_backbone(spec, image_size=75)
    frozen = _range(value(spec.name, "Table 2", "frozen layers"))
    active = _range(value(spec.name, "Table 2", "active layers"))
    layers = built.backbone.layers
    # The study counts one layer too many in InceptionV3: its last is 310.
    last = min(active[1], len(layers) - 1)
    assert last == active[1] - (spec.name == "inceptionv3")
    assert [layer.trainable for layer in layers] == [
        not frozen[0] <= i <= frozen[1] for i in range(len(layers))
    ]
    assert active[0] == frozen[1] + 1
    assert len(layers) == len(reference.layers) == last + 1
    trained = {id(v) for v in built.active.trainable_variables}
    by_hand = [v for layer in layers[active[0] :] for v in layer.trainable_variables]
    assert {id(v) for v in by_hand} <= trained
    head = [v for v in built.active.trainable_variables if "head_" in v.path]
    assert len(trained) == len(by_hand) + len(head)


def test_the_boundary_holds_with_efficientnets_extra_layer(tmp_path, monkeypatch):
    """`weights="imagenet"` builds one Rescaling more; the real Keras code builds it."""
    from keras.src.applications import efficientnet

    path = tmp_path / "b0.weights.h5"
    plain = build_backbone(EFFICIENTNETB0, image_size=32)
    plain.save_weights(path)
    # Only the download is left out: the file is one that Keras itself wrote.
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *a, **k: path)
    extra = keras.applications.EfficientNetB0(
        weights="imagenet", include_top=False, input_shape=(32, 32, 3)
    )
    assert len(extra.layers) == len(plain.layers) + 1
    first = first_active_index(extra, EFFICIENTNETB0, "paper")
    assert first == 161
    # Names up to `stem` are numbered by what was built before; the rest are Keras'.
    names = [layer.name for layer in extra.layers[:first]]
    kept = [layer.name for layer in plain.layers[:160]]
    assert names[names.index("stem_conv") :] == kept[kept.index("stem_conv") :]


@each_backbone
def test_the_head_is_table_3(spec):
    built = classifier(spec)
    expected = value(spec.name, "Table 3", "appended layers")
    assert ", ".join(built.head_text) == expected
    layers = built.whole.layers[len(built.backbone.layers) :]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == [
        part.split("(")[0] for part in expected.split(", ") if part[0] < "a"
    ]
    assert layers[-1].units == 2
    assert layers[-1].activation is keras.activations.softmax


CROSSING = {  # of the paper's notes: native size
    "efficientnetb0": [(14, 14, 112), (14, 14, 112)],
    "inceptionv3": [(8, 8, 192), (8, 8, 320), (8, 8, 768)],
    "inceptionresnetv2": [(8, 8, 192), (8, 8, 256), (8, 8, 2080)],
    "resnet50": [(14, 14, 1024)],
    "vgg16": [(14, 14, 512)],
    "xception": [(10, 10, 1024)],
}


@each_backbone
def test_frozen_and_active_make_the_whole(spec):
    built = classifier(spec)
    x = np.random.default_rng(0).normal(size=(2, 75, 75, 3)).astype(np.float32)
    whole = built.whole(x, training=False).numpy()
    parts = built.active(built.frozen(x, training=False), training=False).numpy()
    np.testing.assert_array_equal(parts, whole)
    assert not built.frozen.trainable_variables
    crossing = crossing_tensors(built.whole, built.frozen_names)
    channels = sorted(tensor.shape[-1] for tensor in crossing)
    assert channels == sorted(shape[-1] for shape in CROSSING[spec.name])


@each_backbone
def test_table_1_parameters_size_depth_and_multiply_adds(spec):
    model = imagenet_model(spec)
    figures = {
        column: value(spec.name, "Table 1", column)
        for column in paper.TABLE_1_COLUMNS[:3]
    }
    # Published to the nearest 0.1 M, except 23,851,784, printed as 23.9 M.
    assert abs(model.count_params() - figures["parameters"]) <= 0.05e6
    assert depth(model) == figures["depth"]
    assert count_macs(model) / 1e9 == pytest.approx(spec.gmacs, rel=0.002)
    gap = size_mib(model) / figures["size MB"] - 1
    if spec.name == "efficientnetb0":
        assert gap == pytest.approx(-0.30, abs=0.01)  # 20.3 MiB, 29 printed
    else:
        assert abs(gap) < 0.02


@each_backbone
def test_frozen_multiply_adds_of_the_table(spec):
    """At 75 pixels rounding of odd sizes moves the share a little."""
    built = classifier(spec)
    share = count_macs(built.frozen) / count_macs(built.backbone)
    assert share == pytest.approx(spec.frozen_gmacs / spec.gmacs, abs=0.12)


@pytest.mark.parametrize(
    ("freeze", "frozen", "trainable"),
    [
        ("all", ["input", "conv1", "conv2", "norm", "relu", "add"], 2),
        ("none", ["input"], 2 + 2 + 2 + 2),
        ("paper", ["input", "conv1", "conv2"], 2 + 2),
        ("conv2", ["input", "conv1"], 2 + 2 + 2),
    ],
)
def test_freeze_boundaries(freeze, frozen, trainable):
    built = build_classifier(TINY, image_size=32, classes=3, freeze=freeze)
    names = [name for name in built.frozen_names if not name.startswith("input")]
    assert names == frozen[1:]
    assert len(built.active.trainable_variables) == trainable
    assert (built.frozen is None) == (freeze == "none")


def test_a_layer_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean conv2"):
        build_classifier(TINY, image_size=32, classes=3, freeze="conv_2")


def test_an_image_too_small_names_the_smallest():
    with pytest.raises(SettingsError, match="give 71 or more: Xception"):
        build_backbone(XCEPTION, image_size=70)


def test_a_cut_through_a_skip_lets_both_tensors_cross():
    whole = build_classifier(TINY, image_size=32, classes=2).whole
    names = [layer.name for layer in whole.layers]
    below = names[: names.index("relu")]
    # norm, and conv2 that the skip reads
    assert len(crossing_tensors(whole, below)) == 2
    frozen, active = cut_model(whole, below)
    assert frozen is not None
    assert len(frozen.outputs) == 1  # what follows holds no weights up to the pool
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(active(frozen(x)), whole(x))


def test_the_softmax_is_float32_under_mixed_precision():
    built = build_classifier(TINY, image_size=32, classes=2, precision="mixed_float16")
    assert built.whole.layers[-1].compute_dtype == "float32"
    assert built.whole.get_layer("conv1").compute_dtype == "float16"
    assert keras.config.dtype_policy().name == "float32"  # put back


def test_weights_survive_saving_under_the_contracts_name(tmp_path):
    one = build_classifier(TINY, image_size=32, classes=2).whole
    two = build_classifier(TINY, image_size=32, classes=2).whole
    x = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype(np.float32)
    assert not np.array_equal(one(x), two(x))
    save_keras_weights(one, tmp_path / "weights.h5")
    load_keras_weights(two, tmp_path / "weights.h5")
    np.testing.assert_array_equal(one(x), two(x))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.h5"]


def test_keras_2_files_are_known_by_their_content(tmp_path):
    """Keras' own ImageNet files have the Keras 2 layout; a folder may hold either."""
    one = build_classifier(TINY, image_size=32, classes=2).whole
    two = build_classifier(TINY, image_size=32, classes=2).whole
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(tmp_path / "old.weights.h5", "w") as stored:
        legacy_h5_format.save_weights_to_hdf5_group(stored, one)
    load_keras_weights(two, tmp_path / "old.weights.h5")
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_another_network_are_refused(tmp_path):
    save_keras_weights(
        build_backbone(TINY, image_size=32), tmp_path / "vgg16_notop.weights.h5"
    )
    source = find_weights(VGG16, str(tmp_path))
    with pytest.raises(TlperfError, match="does not fit vgg16") as caught:
        source.load(build_backbone(VGG16, image_size=32))
    assert caught.value.code == 78


def test_keras_2_weights_of_another_network_are_counted(tmp_path):
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(tmp_path / "vgg16_notop.h5", "w") as stored:
        tiny = build_backbone(TINY, image_size=32)
        legacy_h5_format.save_weights_to_hdf5_group(stored, tiny)
    source = find_weights(VGG16, str(tmp_path / "vgg16_notop.h5"))
    with pytest.raises(
        TlperfError, match=r"expected 13 layers, found 3 saved layers\)"
    ):
        source.load(build_backbone(VGG16, image_size=32))


def test_efficientnets_imagenet_file_gives_keras_own_outputs(tmp_path, monkeypatch):
    """A file with Keras' published hash was trained with one more division by
    sqrt(std): folding it into the variance must equal Keras' own network."""
    import dataclasses
    import hashlib

    from keras.src.applications import efficientnet

    from tlperf.model import weights

    trunk = build_backbone(EFFICIENTNETB0, image_size=32)
    (norm,) = [x for x in trunk.layers if isinstance(x, keras.layers.Normalization)]
    norm.adapt_mean.assign(np.reshape([0.485, 0.456, 0.406], norm.adapt_mean.shape))
    std = np.reshape([0.229, 0.224, 0.225], norm.adapt_variance.shape)
    norm.adapt_variance.assign(std**2)
    norm.finalize_state()
    path = tmp_path / "efficientnetb0_notop.weights.h5"
    trunk.save_weights(path)
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *a, **k: path)
    expected = keras.applications.EfficientNetB0(
        weights="imagenet", include_top=False, input_shape=(32, 32, 3)
    )
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert EFFICIENTNETB0.imagenet is not None
    file = dataclasses.replace(EFFICIENTNETB0.imagenet, file_hash=md5)
    spec = dataclasses.replace(EFFICIENTNETB0, imagenet=file)
    source = weights.find_weights(spec, str(tmp_path))
    assert source.kind == "imagenet"
    ours = build_backbone(EFFICIENTNETB0, image_size=32)
    source.load(ours)
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)

    def stem(model):
        # Random weights shrink what comes later to nothing.
        return keras.Model(model.input, model.get_layer("stem_conv").output)(x).numpy()

    np.testing.assert_allclose(stem(ours), stem(expected), rtol=1e-4, atol=1e-4)
    # A file that Keras 3 saved from that network needs the same, whatever its hash.
    saved = tmp_path / "saved.weights.h5"
    expected.save_weights(saved)
    found = weights.find_weights(EFFICIENTNETB0, str(saved))
    assert (found.kind, found.extra_rescaling) == ("file", True)
    found.load(ours)
    np.testing.assert_allclose(stem(ours), stem(expected), rtol=1e-4, atol=1e-4)
    dataclasses.replace(source, extra_rescaling=False).load(ours)
    assert np.max(np.abs(stem(ours) - stem(expected))) > 0.1


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("imagenet", "imagenet"),
        ("/a/b", "/a/b"),
        ("Xception:/a/b.h5,vgg-16:none", {"xception": "/a/b.h5", "vgg16": "none"}),
        ("vgg16:imagenet", {"vgg16": "imagenet"}),
    ],
)
def test_weights_words(text, parsed):
    assert parse_weights(text) == parsed


# Layers that are computed on the frozen side, though Table 2 calls them active.
EXTENDED = {
    "paper": {
        "inceptionv3": ("mixed8",),
        "inceptionresnetv2": ("block8_1_mixed",),
    },
    "all": {
        "inceptionresnetv2": ("head_0_global_average_pooling",),
        "resnet50": ("head_0_flatten",),
        "vgg16": ("head_0_flatten",),
        "xception": ("head_0_global_average_pooling",),
    },
}


@pytest.mark.parametrize("freeze", EXTENDED)
@each_backbone
def test_what_holds_no_weights_is_computed_on_the_frozen_side(spec, freeze):
    built = build_classifier(spec, image_size=75, classes=2, freeze=freeze)
    extended = extend_frozen(built.whole, built.frozen_names)
    added = [built.whole.get_layer(name) for name in extended if name not in
             built.frozen_names]  # fmt: skip
    assert tuple(layer.name for layer in added) == EXTENDED[freeze].get(spec.name, ())
    assert not any(layer.weights for layer in added)
    before = crossing_tensors(built.whole, built.frozen_names)
    assert built.frozen is not None
    numbers = [sum(np.prod(x.shape[1:]) for x in tensors)
               for tensors in (built.frozen.outputs, before)]  # fmt: skip
    assert numbers[0] <= numbers[1]


def test_the_boundary_stays_where_random_layers_begin():
    """Dropout does something else in training: it is never computed once."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="dense")(inputs)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.Activation("relu", name="relu")(x)
    whole = keras.Model(inputs, keras.layers.Dense(2, name="top")(x))
    names = (whole.layers[0].name, "dense")
    assert extend_frozen(whole, names) == names
