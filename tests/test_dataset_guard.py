"""What the guard accepts, and the reason it gives for everything else."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.bombs import gif_file, png_chunk, png_file, scan_bomb, segment
from tests.images import exif_bytes, image_bytes, make_image
from tlperf.core.choices import Encoding, Exif, ImageCheck, OnWarning
from tlperf.dataset.guard import (
    DECODER_WARNING,
    ImageFacts,
    Limits,
    RefusedError,
    check_image,
    decode_rgb,
)
from tlperf.dataset.headers import describe_other, named_format, read_orientation, sniff
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


SMALL_TEXT = zlib.compress(bytes(1000))
ONE_FRAME = struct.pack(">II", 1, 0)


def insert_png(chunk: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    return PNG[:33] + chunk + PNG[33:]


def png_of(bits: int, color: int, samples: int) -> bytes:
    """A black PNG of 16 x 16 pixels, of any color type and depth."""
    row = bytes(1 + 16 * samples * bits // 8)
    palette = (png_chunk(b"PLTE", bytes(3)),) if color == 3 else ()
    pixels = zlib.compress(row * 16)
    return png_file(16, 16, *palette, bits=bits, color=color, pixels=pixels)


def without_jfif(data: bytes) -> bytes:
    """A JPEG without the segment that Pillow writes first."""
    return data[:2] + data[20:]


GRAY, PALETTE = "converted:gray", "converted:palette"
DAMAGED = JPEG[:-2] + bytes(20) + JPEG[-2:]  # bytes behind the scan: a warning
OLD_JFIF = JPEG.replace(b"JFIF\0\1", b"JFIF\0\0")

# Name, file, format, height and width, flags.
ACCEPTED = [
    ("jpeg", JPEG, "jpeg", (48, 64), ()),
    ("progressive", image_bytes(1, progressive=True), "jpeg", (24, 32), ()),
    ("gray jpeg", image_bytes(1, mode="L"), "jpeg", (24, 32), (GRAY,)),
    ("cmyk jpeg", image_bytes(1, mode="CMYK"), "jpeg", (24, 32), ("cmyk", "no_jfif")),
    ("no jfif", without_jfif(JPEG), "jpeg", (48, 64), ("no_jfif",)),
    ("damaged", DAMAGED, "jpeg", (48, 64), (DECODER_WARNING,)),
    ("odd revision", OLD_JFIF, "jpeg", (48, 64), (DECODER_WARNING,)),
    ("png", PNG, "png", (24, 32), ()),
    ("gray png", image_bytes(1, "PNG", mode="L"), "png", (24, 32), (GRAY,)),
    ("palette png", image_bytes(1, "PNG", mode="P"), "png", (24, 32), (PALETTE,)),
    ("1 bit", png_of(1, 0, 1), "png", (16, 16), (GRAY,)),
    ("16 bits gray", png_of(16, 0, 1), "png", (16, 16), ("converted:16bit", GRAY)),
    ("16 bits", png_of(16, 2, 3), "png", (16, 16), ("converted:16bit",)),
    ("4 bits palette", png_of(4, 3, 1), "png", (16, 16), (PALETTE,)),
    ("gray alpha", png_of(8, 4, 2), "png", (16, 16), ("converted:gray_alpha",)),
    ("rgba", png_of(8, 6, 4), "png", (16, 16), ("converted:rgba",)),
    (
        "16 bits rgba",
        png_of(16, 6, 4),
        "png",
        (16, 16),
        ("converted:16bit", "converted:rgba"),
    ),
    ("gif of one frame", GIF, "gif", (24, 32), (PALETTE,)),
    ("least side", image_bytes(1, size=(8, 8)), "jpeg", (8, 8), ()),
    ("aspect of 100", image_bytes(1, size=(800, 8)), "jpeg", (8, 800), ()),
    ("more than 100", image_bytes(1, size=(8, 801)), "jpeg", (801, 8), ("aspect",)),
    ("bytes after the end", JPEG + b"tail", "jpeg", (48, 64), ()),
    (
        "small text",
        insert_png(png_chunk(b"zTXt", b"a\0\0" + SMALL_TEXT)),
        "png",
        (24, 32),
        (),
    ),
    (
        "damaged text",
        insert_png(png_chunk(b"zTXt", b"a\0\0garbage")),
        "png",
        (24, 32),
        (),
    ),
    (
        "apng of one frame",
        insert_png(png_chunk(b"acTL", ONE_FRAME)),
        "png",
        (24, 32),
        (),
    ),
]


@pytest.mark.parametrize("image_check", list(ImageCheck))
@pytest.mark.parametrize(
    ("data", "kind", "shape", "flags"),
    [c[1:] for c in ACCEPTED],
    ids=[c[0] for c in ACCEPTED],
)
def test_accepts_by_content(data, kind, shape, flags, image_check):
    limits = Limits(max_pixels=MAX_PIXELS, image_check=image_check)
    facts = check_image(data, limits=limits)
    if image_check is ImageCheck.HEADER:
        flags = tuple(flag for flag in flags if flag != DECODER_WARNING)
    height, width = shape
    assert facts == ImageFacts(kind, height, width, flags=flags)
    pixels = decode_rgb(data, kind)
    assert pixels.shape == (*shape, 3)
    assert pixels.dtype == np.uint8


LARGE_TEXT = zlib.compress(bytes((1 << 20) + 1))
FULL_TEXT = zlib.compress(bytes(1 << 20))

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
    ("bomb:pixels", insert_png(png_chunk(b"acTL", struct.pack(">II", 10**6, 0)))),
    ("bomb:pixels", gif_file(16, 16)[:19] + gif_file(9000, 9000)[19:]),  # its frame
    ("bomb:scans", scan_bomb(64, 64, scans=101)),
    ("bomb:scans", scan_bomb(64, 64, scans=101, progressive=False)),
    ("bomb:segments", JPEG[:2] + segment(0xFE, b"") * 10_001 + JPEG[2:]),
    ("bomb:text", insert_png(png_chunk(b"zTXt", b"a\0\0" + LARGE_TEXT))),
    ("bomb:text", insert_png(png_chunk(b"iTXt", b"a\0\1\0en\0b\0" + LARGE_TEXT))),
    ("bomb:text", insert_png(png_chunk(b"zTXt", b"a\0\0" + FULL_TEXT) * 9)),
    ("bomb:profile", insert_png(png_chunk(b"iCCP", b"a\0\0" + LARGE_TEXT))),
    ("bomb:chunks", insert_png(png_chunk(b"tEXt", b"a\0b") * 30_001)),
    ("bomb:blocks", gif_file(16, 16)[:-1] + b"!\xfe" + b"\1a" * 20_000 + b"\0;"),
    ("animated", gif_file(16, 16, frames=2)),
    ("format_not_allowed", gif_file(16, 16, whole=False)),
    ("truncated", gif_file(16, 16)[:-1]),
    ("undecodable", gif_file(16, 16, frames=0)),
    ("undecodable", gif_file(16, 16)[:-1] + b"?;"),
    ("undecodable", gif_file(16, 16).replace(b"\x80", b"\0", 1)),  # no palette
    ("undecodable", png_file(16, 16, bits=3)),
    ("undecodable", png_file(16, 16, bits=8, color=3)),  # no palette
    ("undecodable", insert_png(png_chunk(b"ABCD", b""))),  # critical and unknown
    ("undecodable", PNG[:8] + png_chunk(b"IDAT", bytes(13)) + PNG[33:]),  # no IHDR
    ("undecodable", PNG[:33] + PNG[-12:]),  # no pixels
    ("undecodable", JPEG[:2] + b"x" + JPEG[2:]),  # TensorFlow knows FF D8 FF only
    ("undecodable", JPEG[:-2] + JPEG),  # one begins inside of the other
    ("truncated", JPEG[:-2] + b"\xff\xfe\1\0" + JPEG[-2:]),  # a segment cut
]


@pytest.mark.parametrize(("reason", "data"), REFUSED, ids=[c[0] for c in REFUSED])
def test_refuses_with_a_reason(reason, data):
    with pytest.raises(RefusedError) as caught:
        check_image(data, limits=Limits(max_pixels=MAX_PIXELS))
    assert caught.value.reason == reason
    assert caught.value.detail


def test_a_refusal_tells_the_size():
    with pytest.raises(
        RefusedError, match="1001 x 1000 pixels, most 1000000"
    ) as caught:
        check_image(image_bytes(1, size=(1001, 1000)), limits=Limits(max_pixels=10**6))
    assert caught.value.format == "jpeg"
    assert (caught.value.width, caught.value.height) == (1001, 1000)
    with pytest.raises(RefusedError, match="50000 x 50001 pixels") as caught:
        check_image(png_header(50_000, 50_001), limits=Limits())
    assert (caught.value.width, caught.value.height) == (50_000, 50_001)


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


@pytest.mark.parametrize("data", [DAMAGED, OLD_JFIF])
def test_warnings_are_refused_where_asked(data):
    with pytest.raises(
        RefusedError, match=r"bytes before marker|JFIF revision"
    ) as caught:
        check_image(data, limits=Limits(on_warning=OnWarning.QUARANTINE))
    assert caught.value.reason == DECODER_WARNING
    # Without a decode there is no warning to refuse.
    limits = Limits(on_warning=OnWarning.QUARANTINE, image_check=ImageCheck.HEADER)
    assert check_image(data, limits=limits).flags == ()


def test_tfds_compat_leaves_out_what_tfds_does():
    limits = Limits(tfds_compat=True)
    assert check_image(JPEG, limits=limits).flags == ()
    assert check_image(PNG, limits=limits).format == "png"
    with pytest.raises(RefusedError) as caught:
        check_image(without_jfif(JPEG), limits=limits)
    assert caught.value.reason == "no_jfif"


@pytest.mark.parametrize(("reason", "data"), REFUSED, ids=[c[0] for c in REFUSED])
def test_all_but_the_decode_is_checked_with_header_alone(reason, data):
    limits = Limits(max_pixels=MAX_PIXELS, image_check=ImageCheck.HEADER)
    with pytest.raises(RefusedError) as caught:
        check_image(data, limits=limits)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "is_flagged"),
    [
        ("a/b.jpg", False),
        ("a/b.JPEG", False),
        ("a.png/b", False),
        ("b", False),
        ("b.dat", False),
        ("", False),
        ("a/b.png", True),
        ("a/b.jpg.GIF", True),
        ("b.bmp", True),
        ("b.webp", True),
        ("b.tif", True),
    ],
)
def test_flags_a_name_of_another_format(name, is_flagged):
    flags = check_image(JPEG, limits=Limits(), name=name).flags
    assert flags == (("ext_mismatch",) if is_flagged else ())


def test_every_extension_names_a_format():
    assert named_format("x.jpe") == "jpeg"
    assert named_format("x.avif") == "avif"
    assert named_format("x.txt") == named_format("jpg") == ""


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


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_only_where_it_is_sound(order):
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1)

    def entry(tag=0x0112, kind=3, values=1, value=6):
        return start + struct.pack(order + "HHIHH", tag, kind, values, value, 0)

    assert read_orientation(entry()) == 6
    assert read_orientation(entry(tag=0x0113)) == 1
    assert read_orientation(entry(kind=4)) == 1
    assert read_orientation(entry(values=2)) == 1
    assert read_orientation(entry(value=9)) == 1
    for length in range(len(start) + 10):
        assert read_orientation(entry()[:length]) == 1


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
