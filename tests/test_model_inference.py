"""A network rewritten for inference computes the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import difference, normal_values
from tlperf.model import frozen
from tlperf.model.deploy import with_preprocessing
from tlperf.model.frozen import apply_constant
from tlperf.model.inference import count_winograd, rewrite
from tlperf.reference.backbones import TF_MODE

pytestmark = pytest.mark.usefixtures("two_cpus")

SHAPE = (15, 14, 48)
FILTERS = 64


def build(*layers, more=lambda x, made: x):
    """Layers in a row."""
    inputs = keras.Input(SHAPE)
    made = layers[0](inputs)
    x = made
    for layer in layers[1:]:
        x = layer(x)
    return with_values(keras.Model(inputs, more(x, made)))


def with_values(network):
    """Statistics that are no ones and zeros."""
    generator = np.random.default_rng(0)
    for variable in network.variables:
        least = 0.1 if "variance" in variable.path or "gamma" in variable.path else -1
        variable.assign(generator.uniform(least, 1, variable.shape))
    return network


def convolution(**options):
    return keras.layers.Conv2D(FILTERS, 3, **options)


def depthwise(**options):
    return keras.layers.DepthwiseConv2D(3, **{"depth_multiplier": 2, **options})


def padded(*padding):
    return keras.layers.ZeroPadding2D(padding)


def norm(**options):
    return keras.layers.BatchNormalization(**options)


def relu():
    return keras.layers.Activation("relu")


class DoubledNorm(keras.layers.BatchNormalization):
    """A normalisation and something else."""

    def call(self, x, **options):
        return 2 * super().call(x, **options)


class LoweredReLU(keras.layers.ReLU):
    """A ReLU and something else."""

    def call(self, x):
        return super().call(x) - 1


class LoweredActivation(keras.layers.Activation):
    """A ReLU and something else."""

    def call(self, x):
        return super().call(x) - 1


def run(network, images):
    function = tf.function(lambda x: apply_constant(network, x)[0], autograph=False)
    return function(tf.constant(images))


def assert_same(fast, network):
    """Of each output, its type too."""
    images = normal_values((2, *network.input.shape[1:]), seed=3)
    pairs = zip(
        keras.tree.flatten(run(fast, images)),
        keras.tree.flatten(network(images, training=False)),
        strict=True,
    )
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        assert difference(found.numpy(), expected.numpy()) < 1e-5


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        # With those that become a part of the convolution, which the rewritten network
        # has no longer.
        ([convolution], 2),
        ([lambda: convolution(padding="same", activation="relu")], 2),
        ([convolution, norm], 2),
        ([lambda: convolution(use_bias=False), norm, relu], 2),
        ([convolution, lambda: norm(scale=False, center=False), keras.layers.ReLU], 2),
        ([convolution, relu, norm], 3),
        ([lambda: convolution(activation="relu"), norm], 3),
        ([convolution, norm, lambda: keras.layers.Activation("swish")], 3),
        ([convolution, lambda: norm(axis=1)], 3),
        ([convolution, lambda: keras.layers.ReLU(max_value=6)], 3),
        ([convolution, lambda: keras.layers.ReLU(negative_slope=0.1)], 3),
        ([convolution, convolution, relu], 3),
        # Not a ReLU, though it ends with one.
        ([convolution, lambda: convolution(activation="relu")], 3),
        ([convolution, norm, lambda: keras.layers.Dense(8, activation="relu")], 3),
        ([convolution, DoubledNorm], 3),
        ([convolution, LoweredReLU], 3),
        ([convolution, lambda: LoweredActivation("relu")], 3),
        ([depthwise, norm], 2),
        ([depthwise, lambda: norm(scale=False, center=False), relu], 3),
        ([lambda: depthwise(use_bias=False, padding="same"), norm], 2),
        # At 15 x 14 pixels "same" is one row on each side, and one column on the right.
        ([lambda: padded((1, 1), (0, 1)), lambda: depthwise(strides=2), norm], 2),
        ([lambda: padded((0, 1), (0, 1)), lambda: depthwise(strides=2), norm], 3),
        ([lambda: padded((1, 1), (0, 1)), lambda: depthwise(), norm], 3),
        ([lambda: padded((1, 1), (1, 1)), lambda: depthwise(dilation_rate=2), norm], 3),
        (
            [
                # Zeros around columns and channels.
                lambda: keras.layers.ZeroPadding2D(1, data_format="channels_first"),
                depthwise,
                norm,
            ],
            3,
        ),
        ([lambda: keras.layers.Rescaling(1 / 255, -0.5), convolution], 3),
        (
            [
                lambda: keras.layers.Rescaling(1 / 255),
                lambda: keras.layers.Normalization(
                    mean=[0.5] * 48, variance=[0.2] * 48
                ),
                lambda: keras.layers.Rescaling([2.0] * 48),
                convolution,
            ],
            3,
        ),
    ],
)
def test_a_rewritten_network_computes_the_same(layers, kept):
    network = build(*(make_layer() for make_layer in layers))
    before = [layer.name for layer in network.layers]
    fast = rewrite(network, cpu=True)
    assert count_winograd(fast) == sum(
        type(layer) is keras.layers.Conv2D for layer in network.layers
    )
    assert len(fast.layers) == kept
    images = normal_values((2, *SHAPE), seed=3)
    expected = network(images, training=False)
    found = run(fast, images)
    assert difference(found.numpy(), expected.numpy()) < 1e-5
    # The network itself stays as it was.
    assert [layer.name for layer in network.layers] == before
    np.testing.assert_array_equal(network(images, training=False), expected)


@pytest.mark.parametrize(
    "more",
    [
        lambda x, made: keras.layers.Concatenate()([x, made]),
        lambda x, made: x + made,  # no layer
        lambda x, made: [x, made],
    ],
)
@pytest.mark.parametrize("first", [convolution, depthwise])
def test_what_is_read_elsewhere_too_is_kept(first, more):
    network = build(first(), norm(), relu(), more=more)
    fast = rewrite(network, cpu=True)
    assert count_winograd(fast) == (first is convolution)
    names = {type(layer).__name__ for layer in fast.layers}
    assert {"BatchNormalization", "Activation"} <= names
    assert_same(fast, network)


def other(x):
    """Unlike what it reads, of its shape."""
    return keras.layers.Activation("tanh")(x)


def as_model(shape, *layers):
    """Layers in a row, in a model of their own."""
    inputs = keras.Input(shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def read_by_a_model(x):
    made = convolution()(x)
    return norm()(made) + as_model(made.shape[1:], keras.layers.Softmax())(made)


def called_twice(x):
    layer = convolution()
    return norm()(layer(x)) + layer(other(x))


def normalised_by_one(x):
    layer = norm()
    return layer(convolution()(x)) + layer(convolution()(other(x)))


def rectified_by_one(x):
    layer = keras.layers.ReLU()
    return layer(norm()(convolution()(layer(norm()(convolution()(x))))))


def called_in_a_model_before(x):
    layers = [convolution(), norm()]
    as_model(SHAPE, *layers)
    made = layers[0](x)
    return [made, layers[1](made)]


def padded_at_another_size_before(x):
    layers = [padded((0, 1), (0, 1)), depthwise(strides=2), norm()]
    as_model((14, 14, SHAPE[-1]), *layers)
    for layer in layers:
        x = layer(x)
    return x


def in_two_models(x):
    layers = [convolution(), norm()]
    whole, part = as_model(SHAPE, *layers), as_model(SHAPE, layers[0])
    return whole(x) + part(x)


def in_a_sequence_too(x):
    model = as_model(SHAPE, convolution(), norm())
    return keras.Sequential([model])(x) + model(other(x))


def a_model_twice(x):
    model = as_model(SHAPE, convolution(), norm())
    return model(x) + model(other(x))


class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self):
        super().__init__()
        self.inside = convolution()

    def call(self, x):
        return self.inside(x)


def before_a_model_that_is_no_graph(x):
    return Subclassed()(norm()(convolution()(x)))


@pytest.mark.parametrize(
    ("connect", "count"),
    [
        (read_by_a_model, 1),
        (called_twice, 0),
        (normalised_by_one, 2),
        (rectified_by_one, 2),
        (called_in_a_model_before, 1),
        (padded_at_another_size_before, 0),
        (in_two_models, 0),
        (in_a_sequence_too, 0),
        (a_model_twice, 1),
        (before_a_model_that_is_no_graph, 1),
    ],
)
def test_layers_may_be_called_elsewhere_too(connect, count):
    inputs = keras.Input(SHAPE)
    network = with_values(keras.Model(inputs, connect(inputs)))
    fast = rewrite(network, cpu=True)
    assert count_winograd(fast) == count
    assert_same(fast, network)


def test_layers_may_be_called_with_keywords():
    inputs = keras.Input(SHAPE)
    x = keras.layers.Rescaling(0.5)(inputs=inputs)
    x = norm()(inputs=depthwise()(inputs=x), training=False)
    x = relu()(inputs=norm()(inputs=convolution()(inputs=x)))
    network = with_values(keras.Model(inputs, x))
    fast = rewrite(network, cpu=True)
    assert len(fast.layers) == 4
    assert_same(fast, network)


def test_a_layers_data_format_is_its_own():
    """Whatever Keras takes by default by now."""
    network = build(depthwise(), norm())
    keras.config.set_image_data_format("channels_first")
    try:
        fast = rewrite(network, cpu=True)
        assert len(fast.layers) == 2
        assert_same(fast, network)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_what_is_rewritten_may_be_rewritten_again():
    """Its layers were first called in the network that it is made of."""
    inputs = keras.Input(SHAPE)
    made = convolution()(norm()(depthwise()(inputs)))
    network = with_values(keras.Model(inputs, [made, norm()(made)]))
    twice = rewrite(rewrite(network, cpu=False), cpu=True)
    assert count_winograd(twice) == 1
    assert_same(twice, network)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Conv2D(FILTERS, 1),
        lambda: keras.layers.Conv2D(FILTERS, (1, 3)),
        lambda: keras.layers.Conv2D(32, 3),
        lambda: convolution(strides=2),
        lambda: convolution(dilation_rate=2),
        lambda: convolution(groups=2),
        lambda: convolution(activation="swish"),
        lambda: convolution(dtype="mixed_bfloat16"),
        depthwise,
        lambda: keras.layers.SeparableConv2D(FILTERS, 3),
        # Of rows, of columns and channels.
        lambda: keras.layers.Normalization(axis=1, mean=[0.5] * 15, variance=[2] * 15),
        lambda: keras.layers.Rescaling(np.ones(SHAPE[1:])),
    ],
)
def test_others_are_left_alone(layer):
    network = build(layer())
    assert rewrite(network, cpu=True) is network


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (convolution, lambda: norm(dtype="mixed_bfloat16")),
        (convolution, lambda: keras.layers.ReLU(dtype="mixed_bfloat16")),
        (lambda: depthwise(dtype="mixed_bfloat16"), lambda: norm(dtype="float32")),
    ],
)
def test_what_computes_in_another_dtype_is_kept(first, then):
    network = build(first(), then())
    assert rewrite(network, cpu=True).layers[-1] is network.layers[-1]


def test_pixels_may_be_bytes():
    inputs = keras.Input((5, 4, 3), dtype="uint8")
    network = keras.Model(inputs, keras.layers.Rescaling(1 / 255, -0.5)(inputs))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 5, 4, 3), np.uint8)
    found = run(rewrite(network, cpu=True), pixels).numpy()
    assert difference(found, network(pixels).numpy()) < 1e-6


class OwnInitializer(keras.initializers.Initializer):
    """One that Keras does not find by its name."""

    def __call__(self, shape, dtype=None):
        return keras.ops.ones(shape, dtype)


def residual(**options):
    inputs = keras.Input(SHAPE)
    x = norm(dtype=options.get("dtype"))(
        keras.layers.Conv2D(SHAPE[-1], 1, **options)(inputs)
    )
    return with_values(keras.Model(inputs, relu()(keras.layers.Add()([inputs, x]))))


@pytest.mark.parametrize(
    "options", [{}, {"kernel_initializer": OwnInitializer()}, {"lora_rank": 2}]
)
def test_a_normalisation_before_a_residual_sum_is_folded(options):
    network = residual(**options)
    fast = rewrite(network, cpu=True)
    kinds = [type(layer).__name__ for layer in fast.layers]
    assert kinds == ["InputLayer", "Conv2D", "Add", "Activation"]
    assert_same(fast, network)


@pytest.mark.parametrize("cpu", [False, True])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", [keras.layers.Conv2D, keras.layers.SeparableConv2D])
def test_in_mixed_precision_every_normalisation_is_folded(kind, policy, cpu):
    """TensorFlow's own graph says so: a product a normalisation is left otherwise, and
    casts to float32 around it."""
    network = build(
        kind(FILTERS, 3, strides=2, dtype=policy),
        norm(dtype=policy),
        keras.layers.Activation("relu", dtype=policy),
        kind(FILTERS, 1, use_bias=False, padding="same", dtype=policy),
        norm(scale=False, dtype=policy),
    )
    fast = rewrite(network, cpu=cpu)
    names = [type(layer).__name__ for layer in fast.layers]
    assert "BatchNormalization" not in names
    images = normal_values((2, *SHAPE), seed=3)
    operations = [node.op for node in optimised(fast, images)]
    assert "Mul" not in operations
    assert operations.count("Cast") == 1  # of the images
    # As near to float32 as Keras' own call is.
    exact = keras.models.clone_model(network, clone_function=in_float32)
    exact.set_weights(network.get_weights())
    expected = exact(images, training=False).numpy()
    own = difference(network(images, training=False).numpy().astype("f4"), expected)
    found = run(fast, images)
    assert found.dtype == network.output.dtype
    assert difference(found.numpy().astype("f4"), expected) < 1.5 * own + 1e-4


def in_float32(layer):
    return type(layer).from_config({**layer.get_config(), "dtype": "float32"})


def optimised(network, images):
    """The nodes of the graph that TensorFlow runs."""
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.framework import meta_graph
    from tensorflow.python.grappler import tf_optimizer

    function = tf.function(lambda x: apply_constant(network, x)[0], autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec(images.shape)).graph
    fetch = [one.op.name for one in graph.outputs]
    stored = meta_graph.create_meta_graph_def(graph=graph)
    stored.collection_def["train_op"].node_list.value.extend(fetch)
    return tf_optimizer.OptimizeGraph(config_pb2.ConfigProto(), stored).node


@pytest.mark.parametrize(
    "layer",
    [
        lambda policy: convolution(groups=2, dtype=policy),
        lambda policy: convolution(activation="relu", dtype=policy),
    ],
)
def test_in_mixed_precision_others_are_left_alone(layer):
    network = build(layer("mixed_bfloat16"), norm(dtype="mixed_bfloat16"))
    assert rewrite(network, cpu=True) is network


def test_before_a_residual_sum_a_mixed_normalisation_is_folded():
    network = residual(dtype="mixed_bfloat16")
    fast = rewrite(network, cpu=True)
    assert "BatchNormalization" not in [type(layer).__name__ for layer in fast.layers]
    images = normal_values((2, *SHAPE), seed=3)
    expected = network(images, training=False).numpy()
    assert difference(run(fast, images).numpy(), expected) < 0.02


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (lambda: depthwise(activation="relu"), norm),
        (depthwise, lambda: norm(axis=1)),
        (convolution, norm),
        (lambda: keras.layers.Rescaling(2.0), convolution),
    ],
)
def test_what_only_a_cpu_gains_by_is_left_to_others(first, then):
    """A depthwise convolution's own activation comes before its normalisation."""
    network = build(first(), then())
    assert rewrite(network, cpu=False) is network


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_network_is_rewritten_while_a_step_is_traced(policy):
    """As the frozen part is, where no features are kept."""
    network = build(depthwise(dtype=policy), norm(dtype=policy), relu())

    @tf.function(autograph=False)
    def step(x):
        with tf.init_scope():
            fast = rewrite(network, cpu=False)
            kinds.append([type(layer).__name__ for layer in fast.layers])
        return apply_constant(fast, x)[0]

    kinds: list[list[str]] = []
    images = normal_values((2, *SHAPE), seed=3)
    found = step(tf.constant(images)).numpy()
    assert all("BatchNormalization" not in names for names in kinds)
    expected = network(images, training=False).numpy()
    assert difference(found, expected) < (1e-5 if policy == "float32" else 0.02)


def test_a_large_matrix_is_no_constant_of_the_graph(monkeypatch):
    """TensorFlow would copy it in each pass of its optimiser."""
    network = build(keras.layers.Flatten(), keras.layers.Dense(16))
    images = normal_values((2, *SHAPE), seed=3)
    expected = network(images, training=False).numpy()
    sizes = []
    for handed_bytes in (2**30, 2**10):
        monkeypatch.setattr(frozen, "_HANDED_BYTES", handed_bytes)
        function = tf.function(lambda x: apply_constant(network, x)[0], autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec(images.shape))
        sizes.append(graph.graph.as_graph_def().ByteSize())
        assert difference(graph(tf.constant(images)).numpy(), expected) < 1e-5
    matrix_bytes = 4 * 16 * int(np.prod(SHAPE))
    assert sizes[1] < sizes[0] - 0.9 * matrix_bytes


def test_a_network_in_a_network_is_rewritten():
    """As the one with preprocessing around it."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(48, 3, strides=2)(inputs)
    x = relu()(norm()(convolution()(x)))
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    whole = with_preprocessing(network, TF_MODE)
    fast = rewrite(whole, cpu=True)
    assert count_winograd(fast) == count_winograd(rewrite(network, cpu=True)) == 1
    pixels = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = whole(pixels, training=False)
    assert difference(run(fast, pixels).numpy(), expected.numpy()) < 1e-5
