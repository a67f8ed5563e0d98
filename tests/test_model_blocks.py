"""Networks in a few blocks, for a drawing: nothing left out, the cut where it is."""

import keras
import pytest

from tests.study import value
from tlperf.model.blocks import describe_blocks
from tlperf.model.build import build_classifier
from tlperf.reference.backbones import BACKBONES, find_backbone

pytestmark = pytest.mark.usefixtures("two_cpus")

# Blocks at 75 pixels: name, shape that leaves, layers, of them frozen. Read off Keras'
# own summary of each network.
EXPECTED = {
    "vgg16": [
        ("block1", [37, 37, 64], 3, 3),
        ("block2", [18, 18, 128], 3, 3),
        ("block3", [9, 9, 256], 4, 4),
        ("block4", [4, 4, 512], 4, 4),
        ("block5", [2, 2, 512], 4, 0),
        ("Flatten", [2048], 1, 0),
        ("Dense(512, relu)", [512], 1, 0),
        ("Dropout(0.5)", [512], 1, 0),
        ("Dense(256, relu)", [256], 1, 0),
        ("Dense(2, softmax)", [2], 1, 0),
    ],
    "resnet50": [
        ("conv1", [38, 38, 64], 4, 4),
        ("pool1", [19, 19, 64], 2, 2),
        ("conv2", [19, 19, 256], 32, 32),
        ("conv3", [10, 10, 512], 42, 42),
        ("conv4", [5, 5, 1024], 62, 62),
        ("conv5", [3, 3, 2048], 32, 0),
        ("Flatten", [18432], 1, 0),
        ("BatchNormalization", [18432], 1, 0),
        ("Dense(2, softmax)", [2], 1, 0),
    ],
}
# Layers that make what crosses Table 2's cut, at 75 pixels.
CROSSING = {
    "efficientnetb0": {"block5c_project_bn": [5, 5, 112], "block5b_add": [5, 5, 112]},
    "vgg16": {"block4_pool": [4, 4, 512]},
    "resnet50": {"conv4_block6_out": [5, 5, 1024]},
}
each_backbone = pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)


def described(spec, **values):
    return describe_blocks(build_classifier(spec, image_size=75, classes=2, **values))


@each_backbone
def test_blocks_hold_every_layer_once(spec):
    classifier = build_classifier(spec, image_size=75, classes=2)
    facts = describe_blocks(classifier)
    blocks = facts["blocks"]
    assert facts["input"] == [75, 75, 3]
    inputs = 1
    assert sum(block["layers"] for block in blocks) + inputs == len(
        classifier.whole.layers
    )
    frozen = sum(block["frozen_layers"] for block in blocks) + inputs
    first, last = map(int, value(spec.name, "Table 2", "frozen layers").split(":"))
    assert frozen == last - first + 1
    assert sum(block["params"] for block in blocks) == classifier.whole.count_params()
    assert 5 <= len(blocks) <= 22
    assert blocks[-1]["shape"] == [2]
    trunk = [block for block in blocks if not block["is_head"]]
    assert trunk[-1]["shape"] == list(classifier.backbone.output.shape[1:])
    assert [b["name"] for b in blocks if b["is_head"]] == list(classifier.head_text)
    # At most one block is cut; before it all is frozen, after it nothing.
    states = [
        (0 < block["frozen_layers"]) + (block["frozen_layers"] == block["layers"])
        for block in blocks
    ]
    assert states == sorted(states, reverse=True)
    assert states.count(1) <= 1
    assert facts["cut"]


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_are_those_of_keras_source(name):
    blocks = described(find_backbone(name))["blocks"]
    keys = ("name", "shape", "layers", "frozen_layers")
    assert [tuple(block[key] for key in keys) for block in blocks] == EXPECTED[name]


@pytest.mark.parametrize("name", CROSSING)
def test_what_crosses_the_cut(name):
    cut = described(find_backbone(name))["cut"]
    assert {one["layer"]: one["shape"] for one in cut} == CROSSING[name]


def test_blocks_that_are_alike_are_one():
    facts = described(find_backbone("xception"))
    names = [(block["name"], block["parts"]) for block in facts["blocks"]]
    assert ("block4 to block12", 9) in names
    facts = described(find_backbone("efficientnetb0"))
    cut = [b for b in facts["blocks"] if 0 < b["frozen_layers"] < b["layers"]]
    assert [block["name"] for block in cut] == ["block5c"]


@pytest.mark.parametrize(
    ("freeze", "crossing"), [("none", []), ("all", ["block5_pool"])]
)
def test_ends_of_the_cut(freeze, crossing):
    facts = described(find_backbone("vgg16"), freeze=freeze)
    assert [one["layer"] for one in facts["cut"]] == crossing


@pytest.mark.parametrize(
    "name", ["keras:MobileNet", "keras:ConvNeXtTiny", "keras:DenseNet121"]
)
def test_other_networks_have_blocks_too(name):
    facts = described(find_backbone(name))
    assert 4 <= len(facts["blocks"]) <= 60
    assert all(block["name"] for block in facts["blocks"])


def test_names_do_not_depend_on_what_was_built_before():
    """But for those of layers that Keras itself numbers."""
    spec = find_backbone("xception")
    keras.layers.Conv2D(1, 1)(keras.Input((4, 4, 3)))
    first, second = described(spec), described(spec)
    assert first["blocks"] == second["blocks"]
