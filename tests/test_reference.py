"""The table of backbones and the study's tables, against the text and Keras' source."""

import collections
import dataclasses
import importlib.util
import pathlib
import re

import pytest

from tests.study import value
from tlperf.core.errors import SettingsError
from tlperf.reference import paper
from tlperf.reference.backbones import BACKBONES, find_backbone, parse_backbones


def test_every_figure_of_the_study_is_there():
    counts = collections.Counter(figure.table for figure in paper.FIGURES)
    expected = {"Table 1": 24, "Table 2": 12, "Table 3": 6, "Table 4": 36}
    expected |= {f"Table {n}": 18 for n in range(5, 11)} | {"Table 11": 6}
    assert counts == expected
    assert len(set(paper.FIGURES)) == len(paper.FIGURES)


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_published_accuracies_are_whole_counts_of_800_images(spec):
    exact = value(spec.name, "Table 11", "accuracy")
    assert exact * 800 == pytest.approx(round(exact * 800), abs=1e-4)
    table = paper.REPORT_TABLES[spec.name]
    rounded = value(spec.name, table, "accuracy", "accuracy")
    assert abs(exact - rounded) <= 0.005 + 1e-6  # 0.885 in float32 is printed 0.89


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_supports_add_up(spec):
    table = paper.REPORT_TABLES[spec.name]
    supports = [value(spec.name, table, "support", row) for row in paper.REPORT_ROWS]
    assert supports == [395, 405, 800, 800, 800]


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_table_4_is_what_the_backbone_is_trained_with(spec):
    assert value(spec.name, "Table 4", "optimiser").lower() == spec.optimizer
    assert value(spec.name, "Table 4", "learning rate") == spec.learning_rate
    head = ", ".join([*map(str, spec.head), "Dense(2, softmax)"])
    assert value(spec.name, "Table 3", "appended layers") == head


def test_a_published_millisecond_rounds_from_its_source():
    for name, unrounded in paper.UNROUNDED_GPU_MS.items():
        printed = value(name, "Table 1", paper.TABLE_1_COLUMNS[3])
        # 4.55 is printed as 4.6 and 6.86 as 6.9.
        assert printed == pytest.approx(unrounded, abs=0.0501)


def test_a_row_the_study_did_not_have_publishes_nothing():
    assert paper.published("mobilenetv2", "Table 1", "depth") is None


def _keras_source(module: str) -> str:
    # Found, not imported: importing Keras starts TensorFlow.
    found = importlib.util.find_spec("keras")
    assert found is not None
    origin = found.origin
    assert origin is not None
    folder = pathlib.Path(origin).parent / "src" / "applications"
    return (folder / f"{module}.py").read_text()


@pytest.mark.parametrize(
    ("name", "module", "weights_name"),
    [
        ("efficientnetb0", "efficientnet", "b0"),
        ("inceptionv3", "inception_v3", None),
        ("inceptionresnetv2", "inception_resnet_v2", None),
        ("resnet50", "resnet", "resnet50"),
        ("vgg16", "vgg16", None),
        ("xception", "xception", None),
    ],
)
def test_imagenet_files_are_those_of_the_installed_keras(name, module, weights_name):
    file = find_backbone(name).imagenet
    assert file is not None
    # Long names stand in two string literals.
    source = re.sub(r'"\s+"', "", _keras_source(module))
    if weights_name is None:
        hashes = re.findall(r'file_hash="(\w+)"', source)
        assert file.file_hash == hashes[1]  # with the top first, without it second
        assert file.name in source
    else:
        pair = re.search(rf'"{weights_name}": \(\s*"(\w+)",\s*"(\w+)"', source)
        assert pair is not None
        assert file.file_hash == pair.group(2)
    base = file.url.removesuffix(file.name).rstrip("/").rpartition("/")[0]
    assert base in source


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_the_first_active_layer_is_named_in_keras_source(spec):
    """An auto-numbered name would move with what was built before."""
    assert not re.fullmatch(
        r"(add|activation|conv2d|max_pooling2d|batch_normalization|concatenate)_\d+",
        spec.first_active,
    )


@pytest.mark.parametrize(
    "text", ["Inception-ResNet-V2", "INCEPTIONRESNETV2", "inception_resnet v2"]
)
def test_case_and_punctuation_do_not_count(text):
    assert find_backbone(text).name == "inceptionresnetv2"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("xeption", "no backbone is called 'xeption'; did you mean xception?"),
        ("resnet", "did you mean resnet50?"),
        ("zzz", "no backbone is called 'zzz'; choose from efficientnetb0, "),
        ("", "name at least one, or all"),
        ("vgg16,VGG-16", "name vgg16 once"),
    ],
)
def test_a_bad_name_is_answered_with_the_good_ones(text, found):
    with pytest.raises(SettingsError) as caught:
        parse_backbones(text)
    assert found in str(caught.value)


def test_backbones_keep_the_order_given():
    names = [spec.name for spec in parse_backbones("xception, vgg16")]
    assert names == ["xception", "vgg16"]
    assert parse_backbones("all") == BACKBONES


def test_rows_are_frozen_and_named_alike():
    for spec in BACKBONES:
        assert re.fullmatch(r"[a-z0-9]+", spec.name)
        assert spec.min_size <= spec.native_size
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.native_size = 1  # type: ignore[misc]
