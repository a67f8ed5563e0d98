"""Hostile images, built in memory: small files that ask a decoder for much, and damaged
ones; and a process of its own to meet them in.

for name, data in pixel_bombs().items(): ...
data = scan_bomb(8192, 8192, scans=1024, progressive=True)
for kind, data in mutants(seed=1, count=500): ...

python -m tests.bombs measure FOLDER     # a JSON line a file: reason, time, memory
python -m tests.bombs fuzz SEED COUNT    # one JSON object of counts
"""

import collections
import json
import pathlib
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.images import exif_bytes, image_bytes
from tlperf.dataset.guard import Limits, RefusedError, check_image, decode_rgb

MAX_SIDE = 65_500  # the most libjpeg takes


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its right checksum."""
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def png_file(
    width: int,
    height: int,
    *chunks: bytes,
    bits: int = 8,
    color: int = 2,
    pixels: bytes = b"",
) -> bytes:
    """A PNG of `chunks` between its header and the compressed `pixels`."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = (
        png_chunk(b"IHDR", header),
        *chunks,
        png_chunk(b"IDAT", pixels),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(mebibytes: int) -> bytes:
    """A zlib stream that inflates to that many MiB of zeros, a thousandth as long."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush the next piece is compressed alike, so once is enough.
    piece = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    checksum = ((mebibytes << 20) % 65_521) << 16 | 1
    end = b"\x03\0" + struct.pack(">I", checksum)
    return b"\x78\x9c" + piece * mebibytes + end


def gif_file(width: int, height: int, *, frames: int = 1, whole: bool = True) -> bytes:
    """A GIF of frames of one color; each is the canvas, or without `whole` 1 x 1."""
    size = (width, height) if whole else (1, 1)
    # Code size 2: clear, color 0, end.
    frame = b"," + struct.pack("<4HB", 0, 0, *size, 0) + b"\2\2\x44\1\0"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    return header + bytes(6) + frame * frames + b";"


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_header(
    width: int, height: int, *, components: int, progressive: bool, restart: int = 0
) -> bytes:
    """All that stands before the first scan; one code of one bit in each table."""
    frame = struct.pack(">BHHB", 8, height, width, components)
    for number in range(components):
        frame += bytes((number + 1, 0x11, 0))
    # The bit 0: a DC difference of 0, and 32,767 empty blocks (with 14 more bits).
    codes = bytes((1, *[0] * 15))
    tables = b"\x00" + codes + b"\x00" + b"\x10" + codes
    tables += b"\xe0" if progressive else b"\x00"
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(0xC2 if progressive else 0xC0, frame),
            segment(0xC4, tables),
            segment(0xDD, struct.pack(">H", restart)) if restart else b"",
        )
    )


def scan_header(components: tuple[int, ...], spectral: bytes) -> bytes:
    """A scan's header; `spectral` is first and last coefficient, and the bits."""
    parts = b"".join(bytes((number, 0)) for number in components)
    return segment(0xDA, bytes([len(components)]) + parts + spectral)


def entropy_bits(blocks: int, bits: bytes, *, restart: int = 0) -> bytes:
    """`bits` (text of 0 and 1) for each of `blocks`, markers after every `restart`."""
    step = restart or blocks
    parts = []
    for index, first in enumerate(range(0, blocks, step)):
        text = bits * min(step, blocks - first)
        text += b"1" * (-len(text) % 8)
        packed = int(text, 2).to_bytes(len(text) // 8, "big")
        parts.append((b"\xff%c" % (0xD0 + (index - 1) % 8)) if index else b"")
        parts.append(packed.replace(b"\xff", b"\xff\0"))
    return b"".join(parts)


def scan_bomb(
    width: int,
    height: int,
    *,
    scans: int,
    progressive: bool = True,
    components: int = 1,
    restart: int = 0,
    filled: bool = True,
) -> bytes:
    """A sound JPEG of gray pixels in `scans` scans; a scan holds one component.

    Progressive: all DC values, then the empty AC values of one component again and
    again. Otherwise each scan holds a component whole, two bits a block. What is not
    `filled` has the data of one block a scan, and decoders make up the rest.
    """
    blocks = -(-width // 8) * -(-height // 8) if filled else 1
    numbers = tuple(range(1, components + 1))
    parts = [
        jpeg_header(
            width,
            height,
            components=components,
            progressive=progressive,
            restart=restart,
        )
    ]
    if progressive:
        # The three-component scan has a block of each in an MCU.
        whole = entropy_bits(blocks, b"0" * components, restart=restart)
        parts += [scan_header(numbers, b"\0\0\0"), whole]
        spectral, bits, blocks_a_code = b"\1\x3f\0", b"0" + b"1" * 14, 32_767
        if restart:
            assert restart <= blocks_a_code
            again = entropy_bits(-(-blocks // restart), bits, restart=1)
        else:
            again = entropy_bits(-(-blocks // blocks_a_code), bits)
    else:
        spectral, again = b"\0\x3f\0", entropy_bits(blocks, b"00", restart=restart)
    for index in range(scans - progressive):
        parts += [scan_header((numbers[index % components],), spectral), again]
    return b"".join([*parts, b"\xff\xd9"])


def sized_files() -> dict[str, bytes]:
    """Headers of formats that are not allowed, each of the greatest size."""
    most = 2**31 - 1
    bmp = struct.pack(
        "<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, *(most, most), 1, 24, *[0] * 6
    )
    webp = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10)
    tags = ((256, most), (257, most), (258, 8), (273, 8))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return {
        "bmp": bmp,
        "webp": webp + bytes(4) + b"\xff" * 6,
        "tiff": b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4),
        "jxl": b"\xff\x0a" + b"\xff" * 16,
        "jxl box": b"\0\0\0\x0cJXL \r\n\x87\n" + b"\xff" * 32,
        "heif": b"\0\0\0\x18ftypheic" + bytes(4) + b"mif1heic",
        "avif": b"\0\0\0\x18ftypavif" + bytes(4) + b"mif1avif",
    }


def pixel_bombs() -> dict[str, bytes]:
    """Row I2: every file asks for gigabytes."""
    gib = zeros(1024)
    frames = png_chunk(b"acTL", struct.pack(">II", 10**6, 0))
    jpeg = jpeg_header(MAX_SIDE, MAX_SIDE, components=3, progressive=True)
    small = jpeg_header(16, 16, components=3, progressive=True)
    return {
        "png 1-bit": png_file(46_340, 46_340, bits=1, color=0, pixels=zeros(256)),
        "png rgba16": png_file(23_170, 23_170, bits=16, color=6, pixels=zeros(4096)),
        "gif canvas": gif_file(32_767, 32_767),
        "gif frame": gif_file(16, 16)[:19] + gif_file(32_767, 32_767)[19:],
        "gif frames of 1": gif_file(1, 1, frames=10**6),
        "gif frames of 16": gif_file(16, 16, frames=10**6),
        "gif comments": gif_file(16, 16)[:-1] + b"!\xfe\0" * 2 * 10**6 + b";",
        "gif pieces": gif_file(16, 16)[:-1] + b"!\xfe" + b"\1a" * 2 * 10**6 + b"\0;",
        "jpeg": jpeg + scan_header((1, 2, 3), b"\0\0\0") + b"\0\xff\xd9",
        "jpeg two sizes": small
        + jpeg[2:]
        + scan_header((1, 2, 3), b"\0\0\0")
        + b"\xff\xd9",
        "jpeg segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 10**6,
        "jpeg fill": b"\xff\xd8" + b"\xff" * 10**7,
        "apng": png_file(1000, 1000, frames),
        "png zTXt": png_file(16, 16, png_chunk(b"zTXt", b"a\0\0" + gib)),
        "png zTXt small": png_file(16, 16, png_chunk(b"zTXt", b"a\0\0" + zeros(900))),
        "png iTXt": png_file(16, 16, png_chunk(b"iTXt", b"a\0\1\0\0\0" + gib)),
        "png iCCP": png_file(16, 16, png_chunk(b"iCCP", b"a\0\0" + gib)),
        "png texts": png_file(
            16, 16, *[png_chunk(b"zTXt", b"a\0\0" + zeros(1))] * 1000
        ),
        "png chunks": png_file(16, 16, *[png_chunk(b"tEXt", b"a\0b")] * 200_000),
        **sized_files(),
    }


def bit_flips(data: bytes, random_: random.Random) -> bytes:
    """One to five bits flipped."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 5))):
        changed[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _cut(data: bytes, random_: random.Random) -> bytes:
    return data[: random_.randrange(len(data))]


def _splice(data: bytes, random_: random.Random) -> bytes:
    """A part taken out, doubled or replaced by noise."""
    start = random_.randrange(len(data))
    end = min(len(data), start + random_.randrange(1, 64))
    part = data[start:end]
    noise = random_.randbytes(random_.randrange(32))
    return data[:start] + random_.choice((b"", part * 2, noise)) + data[end:]


def _edit_header(data: bytes, random_: random.Random) -> bytes:
    """Extreme bytes in the first 64, where sizes and lengths stand."""
    start = random_.randrange(min(64, len(data)))
    value = random_.choice((b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\x7f\xff\xff\xff"))
    return data[:start] + value + data[start + len(value) :]


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    bit_flips,
    _cut,
    _splice,
    _edit_header,
)


def sound_files() -> dict[str, bytes]:
    """Small files of every kind to start from, as good encoders write them."""
    size = (64, 48)
    options: dict[str, dict[str, Any]] = {
        "jpeg": {"quality": 90},
        "jpeg progressive": {"progressive": True},
        "jpeg restarts": {"restart_marker_blocks": 2},
        "jpeg 4:4:4": {"subsampling": 0},
        "jpeg progressive restarts": {"progressive": True, "restart_marker_blocks": 3},
        "jpeg gray": {"mode": "L"},
        "jpeg cmyk": {"mode": "CMYK"},
        "jpeg exif": {"exif": exif_bytes(6)},
        "png": {},
        "png gray": {"mode": "L"},
        "png palette": {"mode": "P"},
        "png alpha": {"mode": "RGBA"},
        "png exif": {"exif": exif_bytes(6)},
        "gif": {"mode": "P"},
        "bmp": {},
        "webp": {},
        "tiff": {},
    }
    made = {
        name: image_bytes(index, name.partition(" ")[0].upper(), size=size, **values)
        for index, (name, values) in enumerate(options.items())
    }
    return made | {name: sized_files()[name] for name in ("jxl", "jxl box", "heif")}


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes of damaged files; the same for the same seed."""
    random_ = random.Random(seed)
    kinds = list(sound_files().items())
    for index in range(count):
        kind, data = kinds[index % len(kinds)]
        for _ in range(random_.choice((1, 1, 1, 2))):
            data = random_.choice(_MUTATIONS)(data, random_) or data
        yield kind, data


def fuzz(seed: int, count: int) -> dict[str, Any]:
    """What the guard says to mutants; accepted ones are decoded as the writer does."""
    reasons: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for _, data in mutants(seed, count):
        start = time.perf_counter()
        try:
            facts = check_image(data, limits=Limits(), name="a.jpg")
        except RefusedError as error:
            reasons[error.reason] += 1
        else:
            reasons["accepted"] += 1
            assert decode_rgb(data, facts.format).shape == (
                facts.height,
                facts.width,
                3,
            )
        slowest = max(slowest, time.perf_counter() - start)
    return {"reasons": dict(sorted(reasons.items())), "slowest_secs": slowest}


def _status_bytes(name: str) -> int:
    """A figure of this process' memory."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name} in /proc/self/status")


def measure(path: pathlib.Path) -> dict[str, Any]:
    """Reason, seconds and memory growth in bytes of one file's check. Linux only."""
    data = path.read_bytes()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status_bytes("VmRSS")
    start, reason = time.perf_counter(), "accepted"
    try:
        check_image(data, limits=Limits())
    except RefusedError as error:
        reason = error.reason
    secs = time.perf_counter() - start
    return {
        "name": path.name,
        "reason": reason,
        "secs": secs,
        "grown_bytes": _status_bytes("VmHWM") - before,
    }


def main(arguments: list[str]) -> None:
    """See the top of this file."""
    if arguments[0] == "fuzz":
        print(json.dumps(fuzz(int(arguments[1]), int(arguments[2]))))
        return
    for kind in ("JPEG", "PNG", "GIF"):  # what is imported or made at the first use
        check_image(image_bytes(1, kind, mode="L"), limits=Limits())
    for path in sorted(pathlib.Path(arguments[1]).iterdir()):
        print(json.dumps(measure(path)))


if __name__ == "__main__":
    main(sys.argv[1:])
