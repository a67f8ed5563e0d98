"""The preprocessing check: its distance, its statistics, and what it finds of trunks
whose statistics are known."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.tiny import TINY, run_config
from tests.trunks import learn_statistics
from tlperf.core.choices import OnBadRecord, Preprocess
from tlperf.core.results import latest, read_results
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import open_dataset
from tlperf.model.build import build_backbone, dtype_policy
from tlperf.model.fit import (
    LIMITS,
    Finding,
    Moments,
    Rule,
    Shift,
    _join,
    _moments,
    build_probe,
    check_fit,
    find_advice,
    find_shift,
    judge,
)
from tlperf.model.preprocess import normalise
from tlperf.model.weights import WeightsSource, save_keras_weights
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.sample import sample_training
from tlperf.reference.backbones import (
    CAFFE_MODE,
    NORMALISATIONS,
    PAPER_MODE,
    RAW_PIXELS,
    TF_MODE,
    find_backbone,
    normalisation_name,
)
from tlperf.training.loop import train_backbone

pytestmark = pytest.mark.usefixtures("two_cpus")

# Its pixels as ResNet50 and VGG16 take them; no BatchNormalization.
PLAIN = dataclasses.replace(
    TINY,
    name="plain",
    title="Plain",
    constructor="tests.trunks:plain_net",
    normalisation=CAFFE_MODE,
    first_active="second",
)
RAW_TINY = dataclasses.replace(TINY, normalisation=RAW_PIXELS)


def photos(dataset, *, size=32, count=24):
    """uint8 [N, S, S, 3], of the embedded photos."""
    with InputPipeline(dataset, InputConfig(batch_size=8), image_size=size) as pipeline:
        return sample_training(pipeline, count=count, seed=0)


def textures(count=48, size=32):
    """Coarse noise, uint8 [N, S, S, 3]: as varied in one half as in the other."""
    shape = (count, size // 4, size // 4, 3)
    rows = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return rows.repeat(4, axis=1).repeat(4, axis=2)


def by_logarithm(mean, sd, other_mean, other_sd):
    """The Fisher-Rao distance in its other form (Atkinson and Mitchell, 1981)."""
    far = np.hypot((mean - other_mean) / np.sqrt(2), sd + other_sd)
    near = np.hypot((mean - other_mean) / np.sqrt(2), sd - other_sd)
    return np.sqrt(2) * np.log((far + near) / (far - near))


def shift(mean, sd, other_mean=0.0, other_sd=1.0):
    """Of one channel."""
    found = Moments(np.array([mean]), np.array([sd**2]))
    expected = Moments(np.array([other_mean]), np.array([other_sd**2]))
    return find_shift("layer", found, expected)


@pytest.mark.parametrize(
    ("mean", "sd", "distance"),
    [
        (0.0, 1.0, 0.0),
        (1.0, 1.0, 0.98),  # one standard deviation off
        (0.0, 2.0, 0.98),  # twice the spread
        (0.0, 0.5, 0.98),  # half of it
        (0.0, 127.5, 6.86),  # 0 to 255 where -1 to 1 is expected
        (0.0, 1 / 255, 7.84),  # divided by 255 once too often
    ],
)
def test_a_shift_counts_mean_and_spread_alike(mean, sd, distance):
    assert shift(mean, sd).distance == pytest.approx(distance, abs=0.06)
    back = shift(0.0, 1.0, mean, sd).distance
    assert back == pytest.approx(shift(mean, sd).distance, rel=0.01)


def test_the_distance_is_fisher_and_raos():
    values = np.random.default_rng(0).uniform(0.01, 5, (50, 4))
    for mean, sd, other_mean, other_sd in values:
        found = shift(mean, sd, other_mean, other_sd).distance
        wanted = by_logarithm(mean, sd, other_mean, other_sd)
        assert found == pytest.approx(wanted, rel=1e-3)


def test_channels_without_variance_here_and_there_do_not_differ():
    """Beside a live one; alone, such a spread is a spread like any other."""
    found = Moments(np.zeros(3), np.array([1e-18, 1e-18, 1.0]))
    expected = Moments(np.zeros(3), np.array([1e-12, 1e-12, 1.0]))
    assert find_shift("layer", found, expected).distance < 1e-3
    assert shift(0.0, 1e-9, 0.0, 1e-6).distance > 9


def test_a_few_dead_channels_do_not_decide():
    """Up to a quarter of them."""
    found = Moments(np.array([0.0, 0.0, 0.0, 0.0, 90.0]), np.ones(5))
    one = find_shift("layer", found, Moments(np.zeros(5), np.ones(5)))
    assert (one.distance, one.offset) == (0.0, 0.0)


def test_parts_have_the_moments_of_the_whole():
    values = np.random.default_rng(1).normal(3, 2, (11, 4, 5, 6)).astype(np.float32)
    parts = [_moments(values[:8]), _moments(values[8:])]
    joined = _join(parts, [8, 3])
    np.testing.assert_allclose(joined.mean, values.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(joined.variance, values.var(axis=(0, 1, 2)), rtol=1e-5)


def test_limits_part_the_findings():
    for rule, (mild, severe) in LIMITS.items():
        assert 0 < mild < severe
        cases = {0.0: Finding.FITS, mild: Finding.MILD, severe: Finding.SEVERE}
        for distance, finding in cases.items():
            assert judge(Shift("layer", distance, 1.0, 0.0), rule) is finding


def test_every_normalisation_has_a_word_and_every_backbone_one_of_them():
    assert len(set(NORMALISATIONS.values())) == len(NORMALISATIONS)
    for name, normalisation in NORMALISATIONS.items():
        assert normalisation_name(normalisation) == name
    words = {
        name: normalisation_name(find_backbone(name).normalisation)
        for name in ("resnet50", "efficientnetb0", "xception", "keras:DenseNet121")
    }
    assert list(words.values()) == ["caffe", "raw", "tf", "torch"]


def test_a_probe_sees_what_batch_normalisation_is_given(photos_dir):
    with open_dataset(photos_dir) as dataset:
        image = photos(dataset)
    backbone = build_backbone(TINY, image_size=32)
    (found,) = build_probe(backbone).measure(image, TF_MODE)
    inner = keras.Model(backbone.input, backbone.get_layer("conv2").output)
    values = inner(normalise(image, TF_MODE)).numpy()
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found.variance, values.var(axis=(0, 1, 2)), rtol=1e-4)


def test_a_probe_is_a_copy(photos_dir):
    """Trained or changed later, the trunk does not change what was seen."""
    backbone = build_backbone(TINY, image_size=32)
    before = [weight.numpy().copy() for weight in backbone.weights]
    probe = build_probe(backbone)
    for weight in probe.model.weights:
        weight.assign(weight * 0)
    for weight, was in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), was)


@pytest.mark.parametrize(
    ("name", "rule", "layers"),
    [
        ("efficientnetb0", Rule.BATCH_NORM, ("stem_bn", "block1a_bn")),
        ("resnet50", Rule.BATCH_NORM, ("conv1_bn", "conv2_block1_1_bn")),
        ("xception", Rule.BATCH_NORM, ("block1_conv1_bn", "block1_conv2_bn")),
        ("vgg16", Rule.FIRST_LAYER, ("block1_conv1",)),
        ("keras:ConvNeXtTiny", Rule.FIRST_LAYER, ("convnext_tiny_stem",)),
        ("keras:MobileNetV3Small", Rule.BATCH_NORM, None),
    ],
)
def test_the_first_layers_of_real_networks(name, rule, layers):
    spec = find_backbone(name)
    backbone = build_backbone(spec, image_size=max(spec.min_size, 75))
    probe = build_probe(backbone)
    assert probe.rule is rule
    assert layers is None or probe.layers == layers
    image = np.random.default_rng(0).integers(0, 256, (3, *backbone.input_shape[1:]))
    found = probe.measure(image.astype(np.uint8), spec.normalisation)
    for moments in found:
        assert np.isfinite(moments.mean).all()
        assert moments.variance.max() > 0


@pytest.mark.parametrize("name", ["tf", "torch", "caffe", "raw", "x/255"])
def test_the_normalisation_of_the_statistics_fits_and_is_the_best(photos_dir, name):
    spec = dataclasses.replace(TINY, normalisation=NORMALISATIONS[name])
    with open_dataset(photos_dir) as dataset:
        image = photos(dataset)
    # Once a net as small as this, drawn anew, was found to be off no more than mildly.
    keras.utils.set_random_seed(0)
    backbone = build_backbone(spec, image_size=32)
    learn_statistics(backbone, image, spec.normalisation)
    report = check_fit(spec, build_probe(backbone), image, used=spec.normalisation)
    assert (report["best"], report["used"], report["finding"]) == (name, name, "fits")
    shifts = {one["preprocess"]: one["shift"] for one in report["verdicts"]}
    assert shifts[name] < 0.01
    assert set(shifts) == set(NORMALISATIONS)
    # Of the others those that are about 100 times larger or smaller are severe.
    large, small = {"raw", "caffe"}, {"tf", "torch", "x/255"}
    for other in small if name in large else large:
        (verdict,) = [x for x in report["verdicts"] if x["preprocess"] == other]
        assert verdict["finding"] == "severe"
        assert verdict["layer"] == "norm"
        assert verdict["layer"] in verdict["text"]


def test_efficientnet_on_pixels_divided_twice_hardly_varies(photos_dir):
    """Whatever its weights: what matters are statistics of right pixels."""
    spec = find_backbone("efficientnetb0")
    with open_dataset(photos_dir) as dataset:
        image = photos(dataset, size=64)
    backbone = build_backbone(spec, image_size=64)
    learn_statistics(backbone, image, spec.normalisation)
    probe = build_probe(backbone)
    report = check_fit(spec, probe, image, used=PAPER_MODE)
    assert (report["finding"], report["best"]) == ("severe", "raw")
    assert "hardly varies" in report["text"]
    (verdict,) = [x for x in report["verdicts"] if x["preprocess"] == "x/255"]
    assert verdict["spread"] < 1 / 8
    assert "--preprocess=backbone" in find_advice(report, spec)
    right = check_fit(spec, probe, image, used=RAW_PIXELS)
    assert right["finding"] == "fits"


def test_without_batch_normalisation_other_photos_are_the_measure():
    image = textures()
    backbone = build_backbone(PLAIN, image_size=32)
    report = check_fit(PLAIN, build_probe(backbone), image, used=PAPER_MODE)
    assert report["rule"] == "first_layer"
    assert (report["best"], report["finding"]) == ("caffe", "mild")
    assert "hardly varies" in report["text"]
    verdicts = {one["preprocess"]: one for one in report["verdicts"]}
    assert verdicts["caffe"]["finding"] == "fits"
    assert verdicts["caffe"]["shift"] > 0  # of two halves, not of one with itself
    assert verdicts["x/255"]["layer"] == "first"


def test_what_the_first_layer_gives_is_taken_before_its_activation():
    image = textures()
    backbone = build_backbone(PLAIN, image_size=32)
    (found,) = build_probe(backbone).measure(image, CAFFE_MODE)
    first = backbone.get_layer("first")
    values = keras.ops.conv(normalise(image, CAFFE_MODE), first.kernel) + first.bias
    wanted = values.numpy()
    np.testing.assert_allclose(found.mean, wanted.mean(axis=(0, 1, 2)), rtol=1e-3)
    assert wanted.min() < 0


def test_weights_of_another_preprocessing_are_named(photos_dir):
    """Right settings, wrong weights: the backbone's own word is not the best."""
    with open_dataset(photos_dir) as dataset:
        image = photos(dataset)
    backbone = build_backbone(TINY, image_size=32)
    learn_statistics(backbone, image, RAW_PIXELS)
    report = check_fit(TINY, build_probe(backbone), image, used=TF_MODE)
    assert (report["best"], report["finding"]) == ("raw", "severe")
    assert "trained on raw" in find_advice(report, TINY)


def test_a_trunk_in_float16_is_looked_at_in_float32(photos_dir):
    with open_dataset(photos_dir) as dataset:
        image = photos(dataset)
    plain = build_backbone(TINY, image_size=32)
    learn_statistics(plain, image, TF_MODE)
    with dtype_policy("mixed_float16"):
        mixed = build_backbone(TINY, image_size=32)
    mixed.set_weights(plain.get_weights())
    reports = [
        check_fit(TINY, build_probe(one), image, used=TF_MODE) for one in (plain, mixed)
    ]
    assert reports[0] == reports[1]


def test_the_sample_is_what_training_begins_with(photos_dir):
    with open_dataset(photos_dir) as dataset:
        config = InputConfig(batch_size=8, seed=3)
        with InputPipeline(dataset, config, image_size=32) as pipeline:
            sample = sample_training(pipeline, count=24, seed=3, images=16)
            first = [batch.image.numpy() for batch in pipeline.training(0)][:2]
    assert sample.dtype == np.uint8
    np.testing.assert_array_equal(sample, np.concatenate(first))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_sample_has_each_photo_once_whatever_the_batch(photos_dir, batch_size):
    with open_dataset(photos_dir) as dataset:
        config = InputConfig(
            batch_size=batch_size, on_bad_record=OnBadRecord.SKIP, seed=0
        )
        with InputPipeline(dataset, config, image_size=16) as pipeline:
            sample = sample_training(pipeline, count=24, seed=0)
    assert len(sample) == 24
    assert len({image.tobytes() for image in sample}) == 24


def trained_weights(spec, photos_dir, folder, *, normalisation):
    """A file of a trunk that knows its photos under a normalisation."""
    with open_dataset(photos_dir) as dataset:
        image = photos(dataset)
    backbone = build_backbone(spec, image_size=32)
    learn_statistics(backbone, image, normalisation)
    path = folder / f"{spec.name}.weights.h5"
    save_keras_weights(backbone, path)
    return WeightsSource("file", path=path, sha256="0" * 64)


@pytest.mark.parametrize("preprocess", [Preprocess.BACKBONE, Preprocess.PAPER])
def test_training_looks_first_and_warns_of_a_severe_misfit(
    two_cpus, photos_dir, tmp_path, capsys, preprocess
):
    weights = trained_weights(RAW_TINY, photos_dir, tmp_path, normalisation=RAW_PIXELS)
    config = run_config(tmp_path / "w", inputs={"preprocess": preprocess}, epochs=1)
    with open_dataset(photos_dir) as dataset:
        train_backbone(
            RAW_TINY, config, dataset=dataset, compute=two_cpus, weights=weights
        )
    row = latest(read_results(tmp_path / "w"), "preprocess")["tiny"]
    result, said = row["result"], capsys.readouterr().err
    assert result["images"] == 24
    assert result["weights"]["file"] == "tiny.weights.h5"
    assert result["best"] == "raw"
    assert result["secs"] > 0
    if preprocess is Preprocess.BACKBONE:
        assert (result["used"], result["finding"]) == ("raw", "fits")
        assert row["warnings"] == []
        assert "warning" not in said
    else:
        assert (result["used"], result["finding"]) == ("x/255", "severe")
        (warning,) = row["warnings"]
        assert f"warning: tiny: {warning}" in said
        assert "--preprocess=backbone" in warning
        # Before training, not after it.
        assert said.index("warning: tiny") < said.index("epoch 1/1")


def test_random_weights_expect_nothing(two_cpus, photos_dir, tmp_path):
    config = run_config(tmp_path, epochs=1)
    with open_dataset(photos_dir) as dataset:
        train_backbone(
            TINY,
            config,
            dataset=dataset,
            compute=two_cpus,
            weights=WeightsSource("none"),
        )
    assert latest(read_results(tmp_path), "preprocess") == {}
