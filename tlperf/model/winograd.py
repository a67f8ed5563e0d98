"""3 x 3 convolutions with a quarter of the products: Winograd's F(4 x 4, 3 x 3).

    kernel = transform_kernel(weights)          # once
    convolve(x, kernel, border=1)               # in a graph

A tile of 6 x 6 inputs gives 4 x 4 outputs from 36 products a pair of channels, instead
of 144 (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016). The
products are one matrix product for each of the 36 places; the sums around them are
compiled by XLA, which passes over memory once for each direction.

On CPUs TensorFlow, ONNX Runtime and OpenVINO convolve float32 directly; on GPUs cuDNN
chooses this by itself.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

TAPS = 3
_OUTPUTS = 4
_TILE = _OUTPUTS + TAPS - 1
# Where polynomials are evaluated, beside infinity. So errors are those of a direct
# convolution; with 0, 1, -1, 2 and -2, which are usual, they are four times as large.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
# Block of four and phase in it of a tile's places.
_PLACES = [divmod(place, _OUTPUTS) for place in range(_TILE)]
# Of tiles that are made at a time, so that they stay in a core's cache.
_TILES_BYTES = 2 * 2**20


class _Side(NamedTuple):
    """Of a part of an image, along one axis.

    Attributes:
        start, stop: of the inputs.
        before, after: zeros around them.
        tiles: of 4 outputs.
        outputs: that are kept.
    """

    start: int
    stop: int
    before: int
    after: int
    tiles: int
    outputs: int


def transform_kernel(weights: np.ndarray) -> tf.Tensor:
    """[3, 3, C, O] to a matrix [C, O] for each place of a tile, float32 [36, C, O]."""
    _, rows, _ = _transforms()
    # Tiles are made along the height first, so that the width's places come first.
    made = np.einsum("ya,abco,xb->xyco", rows, weights.astype(np.float64), rows)
    return tf.constant(made.reshape(_TILE**2, *weights.shape[2:]), tf.float32)


def convolve(
    x: tf.Tensor,
    kernel: tf.Tensor,
    *,
    border: int,
    shift: np.ndarray | None = None,
    relu: bool = False,
) -> tf.Tensor:
    """A convolution of stride 1.

    Its errors are relative to the largest of a tile's 36 inputs, those of a direct one
    to the largest of 9: an input that is infinite, or beyond 1e37, may leave no number
    in its tiles.

    Args:
        x: float32 [B, H, W, C], of a known shape.
        kernel: from `transform_kernel`.
        border: zeros on each side of an image: 1 for "same", 0 for "valid".
        shift: [O] to be added.
        relu: whether negative sums become 0.

    Returns:
        float32 [B, H + 2 border - 2, W + 2 border - 2, O].
    """
    batch, height, width, channels = x.shape
    if shift is None:
        shift = np.zeros(kernel.shape[-1], np.float32)
    (wide,) = _cut_side(width, border, -(-width // _OUTPUTS))
    row_bytes = x.dtype.size * _TILE**2 * wide.tiles * channels
    # No less than the kernel, which is read for each part.
    rows = max(_TILES_BYTES, x.dtype.size * kernel.shape.num_elements()) // row_bytes
    strips = list(_cut_side(height, border, max(rows, 1)))
    images = max(1, rows // sum(strip.tiles for strip in strips))
    images = max(count for count in range(1, images + 1) if batch % count == 0)
    made = []
    for part in tf.split(x, batch // images):
        for high in strips:
            tiles = _make_tiles(part[:, high.start : high.stop], high, wide)
            outputs = _join_tiles(tf.matmul(tiles, kernel), shift, high, wide, relu)
            made.append(tf.reshape(outputs, [-1]))
    shape = [batch, sum(strip.outputs for strip in strips), wide.outputs, len(shift)]
    return tf.reshape(tf.concat(made, axis=0), shape)


def _cut_side(length: int, border: int, most: int) -> Iterator[_Side]:
    """An axis in parts of equal numbers of tiles, `most` or fewer."""
    outputs = length + 2 * border - TAPS + 1
    tiles = -(-outputs // _OUTPUTS)
    step = -(-tiles // -(-tiles // most))
    for first in range(0, tiles, step):
        count = min(step, tiles - first)
        start = first * _OUTPUTS - border
        # The last tile reaches two places into the next block, which is whole.
        stop = start + (count + 1) * _OUTPUTS
        yield _Side(
            max(start, 0),
            min(stop, length),
            max(-start, 0),
            max(stop - length, 0),
            count,
            min(count * _OUTPUTS, outputs - first * _OUTPUTS),
        )


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _make_tiles(x: tf.Tensor, high: _Side, wide: _Side) -> tf.Tensor:
    """[B, H, W, C] to the tiles as the products take them, [36, B * tiles, C]."""
    _, _, rows = _transforms()
    batch, *_, channels = x.shape
    around = [(side.before, side.after) for side in (high, wide)]
    x = tf.pad(x[:, :, : wide.stop], [(0, 0), *around, (0, 0)])
    x = tf.reshape(x, [batch, high.tiles + 1, _OUTPUTS, -1, channels])
    x = tf.stack(_combine(rows, [x[:, at : at + high.tiles, i] for at, i in _PLACES]))
    x = tf.reshape(x, [-1, wide.tiles + 1, _OUTPUTS, channels])
    x = tf.stack(_combine(rows, [x[:, at : at + wide.tiles, i] for at, i in _PLACES]))
    return tf.reshape(x, [_TILE**2, batch * high.tiles * wide.tiles, channels])


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _join_tiles(
    products: tf.Tensor, shift: tf.Tensor, high: _Side, wide: _Side, relu: bool
) -> tf.Tensor:
    """[36, B * tiles, O] to the outputs, [B, H, W, O]."""
    rows, _, _ = _transforms()
    x = tf.reshape(
        products, [_TILE, _TILE, -1, high.tiles, wide.tiles, products.shape[-1]]
    )
    columns = [
        tf.stack(_combine(rows, tf.unstack(column)), axis=2)
        for column in _combine(rows, tf.unstack(x))
    ]
    x = tf.stack(columns, axis=4)
    x = tf.reshape(x, [-1, high.tiles * _OUTPUTS, wide.tiles * _OUTPUTS, x.shape[-1]])
    x = x[:, : high.outputs, : wide.outputs] + shift
    return tf.nn.relu(x) if relu else x


def _combine(rows: np.ndarray, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """For each row the sum of the parts times its numbers."""
    return [
        functools.reduce(
            tf.add,
            [
                part if factor == 1 else part * np.float32(factor)
                for factor, part in zip(row, parts, strict=True)
                if factor
            ],
        )
        for row in rows
    ]


@functools.cache
def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of outputs [4, 6], kernels [6, 3] and inputs [6, 6], float64.

    After Toom and Cook: kernel and outputs as polynomials, evaluated at five points and
    infinity; that of the inputs is the interpolation, transposed.
    """
    points = np.array(_POINTS)
    outputs = np.vander(points, _OUTPUTS, increasing=True).T
    kernels = np.vander(points, TAPS, increasing=True)
    inputs = np.zeros((_TILE, _TILE))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        kernels[row] /= np.prod(point - others)
        inputs[row, :-1] = np.poly(others)[::-1]
    inputs[-1] = np.poly(points)[::-1]
    outputs = np.column_stack([outputs, np.eye(_OUTPUTS)[-1]])
    kernels = np.vstack([kernels, np.eye(TAPS)[-1]])
    return outputs, kernels, inputs
