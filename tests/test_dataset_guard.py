"""What the guard accepts, and the reason it gives for everything else."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.images import exif_bytes, image_bytes, make_image
from tlperf.core.choices import Encoding, Exif
from tlperf.dataset.guard import (
    DECODER_WARNING,
    ImageFacts,
    Limits,
    RefusedError,
    check_image,
    decode_rgb,
)
from tlperf.dataset.headers import describe_other, sniff
from tlperf.dataset.payload import Layout, encode_payload

MAX_PIXELS = 1_000_000
JPEG = image_bytes(1, size=(64, 48))
PNG = image_bytes(1, "PNG")
GIF = image_bytes(1, "GIF", mode="P")


def animated(kind: str) -> bytes:
    stream = io.BytesIO()
    frames = [make_image(seed) for seed in (1, 2)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size by its header, with no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc


def jpeg_with(process: int, precision: int) -> bytes:
    """JPEG with another SOF marker or precision in its header."""
    at = JPEG.index(b"\xff\xc0")
    return JPEG[:at] + bytes([0xFF, 0xC0 + process, 0, 17, precision]) + JPEG[at + 5 :]


ACCEPTED = [
    ("jpeg", JPEG, "jpeg", (48, 64)),
    ("progressive", image_bytes(1, progressive=True), "jpeg", (24, 32)),
    ("gray jpeg", image_bytes(1, mode="L"), "jpeg", (24, 32)),
    ("cmyk jpeg", image_bytes(1, mode="CMYK"), "jpeg", (24, 32)),
    ("png", PNG, "png", (24, 32)),
    ("gray png", image_bytes(1, "PNG", mode="L"), "png", (24, 32)),
    ("palette png", image_bytes(1, "PNG", mode="P"), "png", (24, 32)),
    ("alpha png", image_bytes(1, "PNG", mode="RGBA"), "png", (24, 32)),
    ("gif of one frame", GIF, "gif", (24, 32)),
    ("least side", image_bytes(1, size=(8, 8)), "jpeg", (8, 8)),
    ("bytes after the end", JPEG + b"tail", "jpeg", (48, 64)),
]


@pytest.mark.parametrize(
    ("data", "kind", "shape"), [c[1:] for c in ACCEPTED], ids=[c[0] for c in ACCEPTED]
)
def test_accepts_by_content(data, kind, shape):
    facts = check_image(data, limits=Limits(max_pixels=MAX_PIXELS))
    assert facts == ImageFacts(kind, *shape)
    pixels = decode_rgb(data, kind)
    assert pixels.shape == (*shape, 3)
    assert pixels.dtype == np.uint8


REFUSED = [
    ("empty", b""),
    ("not_image:html", b"<!DOCTYPE html><html>404</html>"),
    ("not_image:lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ("not_image:text", "grüße\n".encode()),
    ("not_image:unknown", bytes(range(128, 256))),
    ("format_not_allowed", image_bytes(1, "BMP")),
    ("format_not_allowed", image_bytes(1, "WEBP")),
    ("format_not_allowed", image_bytes(1, "TIFF")),
    ("format_not_allowed", b"\xff\x0a" + bytes(50)),  # JPEG XL
    ("format_not_allowed", jpeg_with(process=9, precision=8)),  # arithmetic
    ("format_not_allowed", jpeg_with(process=1, precision=12)),
    ("truncated", JPEG[:2]),
    ("truncated", JPEG[:200]),
    ("truncated", JPEG[:-2]),
    ("truncated", JPEG[: JPEG.index(b"\xff\xda") + 40]),
    ("truncated", PNG[:20]),
    ("truncated", PNG[:-20]),
    ("truncated", PNG[:-4]),
    ("truncated", GIF[:9]),
    ("truncated", GIF[: len(GIF) // 2]),
    ("undecodable", JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9"),  # no scan
    ("undecodable", PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:]),  # checksum
    ("format_not_allowed", GIF[:6] + struct.pack("<H", 40) + GIF[8:]),  # wide canvas
    ("animated", animated("GIF")),
    ("animated", animated("PNG")),
    ("too_small", image_bytes(1, size=(7, 200))),
    ("bomb:pixels", png_header(60_000, 60_000)),
    ("bomb:pixels", b"GIF89a" + struct.pack("<HH", 32_767, 32_767) + bytes(30)),
    ("bomb:pixels", image_bytes(1, size=(1001, 1000))),
]


@pytest.mark.parametrize(("reason", "data"), REFUSED)
def test_refuses_with_a_reason(reason, data):
    with pytest.raises(RefusedError) as caught:
        check_image(data, limits=Limits(max_pixels=MAX_PIXELS))
    assert caught.value.reason == reason
    assert caught.value.detail
    if reason.startswith("bomb"):
        width, height = caught.value.width, caught.value.height
        assert width is not None
        assert height is not None
        assert width * height > MAX_PIXELS


def test_every_cut_of_a_jpeg_is_refused():
    data = image_bytes(3, size=(16, 16))
    for length in range(len(data)):
        with pytest.raises(RefusedError):
            check_image(data[:length], limits=Limits(max_pixels=MAX_PIXELS))


def test_a_larger_limit_than_pillows_own_holds():
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(RefusedError) as caught:
        check_image(png_header(20_000, 20_000), limits=Limits(max_pixels=500_000_000))
    # The header passes; the missing pixels are what is wrong.
    assert caught.value.reason == "truncated"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_damaged_scan_that_still_decodes_is_flagged():
    damaged = JPEG[:-2] + bytes(20) + JPEG[-2:]
    facts = check_image(damaged, limits=Limits(max_pixels=MAX_PIXELS))
    assert facts.flags == (DECODER_WARNING,)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_reads_the_orientation(kind, orientation):
    data = image_bytes(1, kind, exif=exif_bytes(orientation))
    expected = orientation if 1 <= orientation <= 8 else 1
    assert (
        check_image(data, limits=Limits(max_pixels=MAX_PIXELS)).orientation == expected
    )


def test_a_damaged_exif_block_does_no_harm():
    data = image_bytes(1, exif=b"Exif\0\0garbage")
    assert check_image(data, limits=Limits(max_pixels=MAX_PIXELS)).orientation == 1


def test_sixteen_bits_keep_the_high_byte():
    gray = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "PNG")
    pixels = decode_rgb(stream.getvalue(), "png")
    np.testing.assert_array_equal(pixels, np.repeat((gray >> 8)[..., None], 3, axis=2))


def test_describes_text_cut_inside_a_character():
    assert describe_other(("é" * 600).encode()) == "text"
    assert sniff(b"RIFF\0\0\0\0WEBPVP8 ") == "webp"
    assert sniff(b"\0\0\0\x20ftypavif") == "avif"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_orientation_as_pillow_does(orientation):
    from PIL import ImageOps

    data = image_bytes(5, "PNG", exif=exif_bytes(orientation), size=(40, 20))
    facts = check_image(data, limits=Limits(max_pixels=MAX_PIXELS))
    payload = encode_payload(
        data, facts, layout=Layout(Encoding.RAW, image_size=16, exif=Exif.APPLY)
    )
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    expected = upright.resize((16, 16), Image.Resampling.BILINEAR)
    pixels = np.frombuffer(payload.encoded, np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert (payload.height, payload.width, payload.orientation) == (16, 16, 1)


def test_ignored_orientation_is_kept_as_a_fact():
    data = image_bytes(5, exif=exif_bytes(6))
    facts = check_image(data, limits=Limits(max_pixels=MAX_PIXELS))
    for encoding in (Encoding.JPEG, Encoding.RAW):
        layout = Layout(encoding, image_size=16, exif=Exif.IGNORE)
        assert encode_payload(data, facts, layout=layout).orientation == 6
    layout = Layout(Encoding.SOURCE, image_size=None, exif=Exif.APPLY)
    payload = encode_payload(data, facts, layout=layout)
    assert (payload.encoded, payload.orientation) == (data, 6)
