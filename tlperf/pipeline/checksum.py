"""CRC-32C of a string by TensorFlow's operations, which have none for it.

    crc32c(tf.constant(b"123456789"))        # uint32 0xE3069283

A checksum is linear: that of a message is the exclusive or of what each byte gives
alone, which depends on its value and on how many bytes follow. So 256 bytes at once are
looked up in a table and folded to a word of 4; then 64 words at once, which are 256
bytes again; and so on.
"""

import functools

import numpy as np
import tensorflow as tf

# Castagnoli's polynomial, bits reversed.
_POLYNOMIAL = 0x82F63B78
_WIDTH = 256
_WORD_BYTES = 4
_WORDS = _WIDTH // _WORD_BYTES
# 64 MiB: each time after the first, 64 become one.
_FOLDS = 4


def crc32c(message: tf.Tensor) -> tf.Tensor:
    """The checksum, uint32, of a string of 4 bytes to 64 MiB."""
    data = tf.io.decode_raw(message, tf.uint8)
    # As if the register began with ones; zeros before a message change nothing then.
    first = tf.bitwise.invert(data[:_WORD_BYTES])
    data = tf.concat([first, data[_WORD_BYTES:]], axis=0)
    for table in _tables():
        data = _fold(data, table)
    return tf.bitwise.invert(
        tf.bitcast(tf.ensure_shape(data, [_WORD_BYTES]), tf.uint32)
    )


def _fold(data: tf.Tensor, table: np.ndarray) -> tf.Tensor:
    """The bytes of a word for each 256 of `data`, both uint8 [N]."""
    data = tf.pad(data, [[-tf.size(data) % _WIDTH, 0]])
    at = tf.cast(tf.reshape(data, [-1, _WIDTH]), tf.int32)
    words = tf.gather(tf.constant(table), at + np.arange(_WIDTH, dtype=np.int32) * 256)
    for _ in range(_WIDTH.bit_length() - 1):
        words = tf.bitwise.bitwise_xor(*tf.split(words, 2, axis=1))
    return tf.reshape(tf.bitcast(words, tf.uint8), [-1])


@functools.cache
def _tables() -> list[np.ndarray]:
    """For each fold what a byte gives, uint32 [256 * 256] by place and value."""
    values = np.arange(256, dtype=np.uint32)
    after = _zero_byte()
    first = [_apply(after, values)]  # the last byte of a message
    while len(first) < _WIDTH:
        first.append(_apply(after, first[-1]))
    tables = [np.stack(first[::-1])]
    for _ in range(8):
        after = _apply(after, after)  # 256 bytes follow
    while len(tables) < _FOLDS:
        words = [np.stack([values << 8 * place for place in range(_WORD_BYTES)])]
        while len(words) < _WORDS:
            words.append(_apply(after, words[-1]))
        tables.append(np.stack(words[::-1]))
        for _ in range(6):
            after = _apply(after, after)  # 64 times as many
    return [table.reshape(-1) for table in tables]


def _zero_byte() -> np.ndarray:
    """What a byte of zeros makes of each bit of the register: uint32 [32]."""
    register: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(8):
        register = (register >> 1) ^ (register & 1) * np.uint32(_POLYNOMIAL)
    return register


def _apply(change: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A linear change, uint32 [32] by bit, of registers: uint32, the same shape."""
    bits = registers[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(np.where(bits, change, np.uint32(0)), axis=-1)
