"""Archives: the same data set as the folder, and what is refused."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib

import pytest

from tests.archives import (
    TAR_END,
    ZipEntry,
    deflated,
    gnu_long,
    good_tar,
    pack,
    pax,
    raw_tar,
    raw_zip,
    tar_entry,
    tar_header,
    with_zip64,
    zip64_end,
)
from tests.images import image_bytes, make_folder
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import Refusal, read_item
from tlperf.dataset.sources import open_source
from tlperf.dataset.sources.archive import ArchiveSource
from tlperf.dataset.sources.gzip_index import (
    MAX_INDEX_BYTES,
    WINDOW_BYTES,
    spacing_bytes,
)
from tlperf.dataset.sources.listing import OriginError
from tlperf.dataset.sources.members import Ledger
from tlperf.dataset.sources.tar_members import HeaderError, parse_number, parse_size
from tlperf.dataset.workers import Workers

SUFFIXES = ("zip", "tar", "tar.gz")
MOST = 1 << 27


def read_listing(path, **settings):
    return open_source(DataConfig(source=str(path), **settings)).read_listing()


def facts(listing):
    """All of a listing but where bytes come from, and the bytes."""
    return [
        (i.id, i.path, i.class_name, i.split, i.origin.read(max_bytes=MOST))
        for i in listing.items
    ]


def messy_folder(tmp_path):
    """Classes with deep, hidden, ignored, odd and non-UTF-8 names."""
    root = make_folder(tmp_path / "pets", {"Zebra": 2, "cats/siam": 2, "été": 1})
    for name in ("README.txt", "Zebra/Thumbs.db", "Zebra/.hidden.jpg", "stray.jpg"):
        (root / name).write_bytes(b"x")
    for name in (".git", "__MACOSX/deep", "cats/__MACOSX"):
        (root / name).mkdir(parents=True)
        (root / name / "junk.jpg").write_bytes(b"x")
    (root / "Zebra" / "a b\n'.jpg").write_bytes(image_bytes(90))
    (root / "Zebra" / "empty.jpg").write_bytes(b"")
    return root


@pytest.mark.parametrize("top", [".", "pets"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equals_the_folder(tmp_path, suffix, top):
    root = messy_folder(tmp_path)
    if suffix != "zip":  # zipfile refuses to write such a name
        with open(os.path.join(os.fsencode(root), b"cats", b"\xff.jpg"), "wb") as file:
            file.write(image_bytes(91))
    listing = read_listing(root)
    packed = read_listing(pack(root, suffix, top=top))
    assert packed.classes == listing.classes == ("Zebra", "cats", "été")
    assert packed.ignored == listing.ignored == 7
    assert facts(packed) == facts(listing)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_given_splits_equal_the_folder(tmp_path, suffix):
    classes = ("train/cats", "train/dogs", "val/cats", "val/dogs", "test/cats")
    root = make_folder(tmp_path / "pets", dict.fromkeys(classes, 2))
    packed = read_listing(pack(root, suffix, top="pets"))
    assert facts(packed) == facts(read_listing(root))
    assert {item.split for item in packed.items} == {"train", "validation", "test"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_workers_read_equal_bytes(tmp_path, suffix):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    listing = read_listing(pack(root, suffix))
    assert len(pickle.dumps(listing.items[0])) < 600
    shuffled = sorted(listing.items, key=lambda item: zlib.crc32(item.path))
    with Workers(2) as workers:
        got = dict(workers.map(_read, shuffled))
    assert got == {i.id: (root / i.id).read_bytes() for i in listing.items}


def refusal_of(item, *, max_bytes=MOST):
    refusal = read_item(item, max_bytes=max_bytes)
    assert isinstance(refusal, Refusal)
    return refusal


def _read(item):
    return item.id, item.origin.read(max_bytes=MOST)


def test_the_layout_of_the_cats_and_dogs_download(tmp_path):
    path = tmp_path / "kagglecatsanddogs_5340.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in ("Cat/0.jpg", "Cat/666.jpg", "Dog/1.jpg", "Dog/11702.jpg"):
            data = b"" if len(name) > 9 else image_bytes(len(name))
            made.writestr(f"PetImages/{name}", data)
        for name in ("PetImages/Cat/Thumbs.db", "readme[1].txt", "MSR-LA - 3467.docx"):
            made.writestr(name, b"x")
    source = open_source(DataConfig(source=str(path)))
    listing = source.read_listing()
    assert source.name == "kagglecatsanddogs_5340"
    assert listing.classes == ("Cat", "Dog")
    ids = ["Cat/0.jpg", "Cat/666.jpg", "Dog/1.jpg", "Dog/11702.jpg"]
    assert [item.id for item in listing.items] == ids
    assert listing.ignored == 3


@pytest.mark.parametrize(
    ("suffix", "disguise"), [("zip", "tar"), ("tar", "zip"), ("tar.gz", "bin")]
)
def test_the_content_tells_the_kind(tmp_path, suffix, disguise):
    path = pack(make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1}), suffix)
    disguised = path.rename(tmp_path / f"pets.{disguise}")
    assert len(read_listing(disguised).items) == 2


@pytest.mark.parametrize(
    "kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_formats_of_tar(tmp_path, kind):
    path = tmp_path / "pets.tar"
    names = ["./cats/1.jpg", f"dogs/{'d' * 90}/{'e' * 60}/ü.jpg"]
    if kind != tarfile.USTAR_FORMAT:
        names.append(f"dogs/{'long' * 60}.jpg")
    with tarfile.open(path, "w", format=kind) as made:
        for index, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(image_bytes(index))
            made.addfile(info, io.BytesIO(image_bytes(index)))
    listing = read_listing(path)
    expected = sorted(name.removeprefix("./") for name in names)
    assert [item.id for item in listing.items] == expected
    assert {f[-1] for f in facts(listing)} == {
        image_bytes(i) for i in range(len(names))
    }


def test_a_tar_older_than_ustar(tmp_path):
    path = tmp_path / "pets.tar"
    old = {"magic": b"", "kind": b"\0"}
    entries = [
        tar_entry(b"cats/", **old),
        tar_entry(b"cats/1.jpg", image_bytes(1), **old),
        tar_entry(b"dogs/1.jpg", image_bytes(2), **old),
    ]
    path.write_bytes(b"".join(entries) + TAR_END)
    assert len(read_listing(path).items) == 2


def test_sizes_and_names_from_pax_and_base_256(tmp_path):
    path = tmp_path / "pets.tar"
    data = image_bytes(5)
    wide = tar_header(b"cats/2.jpg", len(data))
    size = b"\x80" + len(data).to_bytes(11, "big")
    wide = wide[:124] + size + wide[136:148] + b" " * 8 + wide[156:]
    wide = wide[:148] + b"%06o\0 " % sum(wide) + wide[156:]
    long = pax(path=b"dogs/\xff.jpg", size=b"%d" % len(data)) + tar_header(b"x")
    fill = bytes(-len(data) % 512)
    path.write_bytes(raw_tar(wide + data + fill, long + data + fill))
    items = {item.id: item for item in read_listing(path).items}
    assert items["cats/2.jpg"].origin.read(max_bytes=MOST) == data
    assert items["dogs/\\xff.jpg"].origin.read(max_bytes=MOST) == data


def test_a_zip_name_that_is_not_utf8_is_kept_as_bytes(tmp_path):
    path = tmp_path / "pets.zip"
    names = (b"cats/\xff\x81.jpg", "cats/é.jpg".encode(), b"cats/a\\b.jpg")
    path.write_bytes(raw_zip(*(ZipEntry(name, image_bytes(7)) for name in names)))
    items = {item.path: item.id for item in read_listing(path).items}
    assert items[names[0]] == "cats/\\xff\\x81.jpg"
    assert items[names[1]] == "cats/é.jpg"
    assert names[2] in items


LISTING_ERRORS = [
    # content, reason, what the line tells
    (b"PK\3\4 and no table", "damaged_archive", "a .zip without its table"),
    (raw_zip()[:-30], "damaged_archive", "a .zip without its table"),
    (raw_zip().replace(b"PK\1\2", b"XX\1\2"), "damaged_archive", "not a readable .zip"),
    (raw_zip(ZipEntry(b"\xff", flags=0x800)), "damaged_archive", "not a readable .zip"),
    (b"PK\3\4" + zip64_end(9, 2**40, 4), "damaged_archive", "contradict each other"),
    (
        b"PK\3\4" + bytes(5_000_000) + zip64_end(9, 5_000_000, 4),
        "bomb:members",
        "by a table of 5,000,000 bytes",
    ),
    (
        raw_zip()[:-12] + b"\xff" * 4 + raw_zip()[-8:],
        "damaged_archive",
        "not a readable",
    ),
    (raw_tar()[:-1024], "damaged_archive", "without its end mark (cut off?), at byte"),
    (raw_tar()[:700], "damaged_archive", "a member is cut, at byte 0"),
    (good_tar() + b"\1" * 512 + TAR_END, "damaged_archive", "is no number, at byte"),
    (raw_tar() + good_tar(), "damaged_archive", "data follow the end mark"),
    (raw_tar(tar_header(b"a", 2**63)), "bomb:ratio", "inflate to 9,223,372,036,854,"),
    (raw_tar(pax(size=b"-1") + tar_header(b"a")), "damaged_archive", "is no size"),
    (raw_tar(tar_header(b"a", 2**21, kind=b"x")), "damaged_archive", "header of 2,097"),
    (raw_tar(tar_entry(b"a", b"11 x", kind=b"x")), "damaged_archive", "pax records"),
    (raw_tar(tar_entry(b"a", b"9 path=a\n", kind=b"g")), "damaged_archive", "for all"),
    (raw_tar(tar_entry(b"a/", b"x")), "unsafe_archive", "file named like a folder"),
    (raw_tar(tar_entry(b"a", b"x", kind=b"D")), "unsafe_archive", "entry of type b'D'"),
    (raw_tar(pax(GNU_sparse_major=b"1") + tar_entry(b"a")), "unsafe_archive", "sparse"),
    (gzip.compress(raw_tar())[:-9], "damaged_archive", "no whole gzip data"),
    (gzip.compress(b"a,b\n" * 900), "damaged_archive", "no .tar header, at byte 0"),
    (gzip.compress(raw_tar()) + b"more", "damaged_archive", "no whole gzip data"),
    (b"BZh91AY", "unsupported_archive", "a .bz2 file; unpack it, or pack the folders"),
    (b"\xfd7zXZ\0", "unsupported_archive", "a .xz file"),
    (b"\x28\xb5\x2f\xfd", "unsupported_archive", "a .zst file"),
    (b"7z\xbc\xaf\x27\x1c", "unsupported_archive", "a .7z file"),
    (b"Rar!\x1a\7", "unsupported_archive", "a .rar file"),
    (b"<html>", "not_an_archive", "it starts with b'<html>'; give a folder, a .zip"),
    (b"", "not_an_archive", "it is empty"),
    (raw_zip(ZipEntry(b"a", flags=1)), "unsupported_archive", "'a' is encrypted; pack"),
    (raw_zip(ZipEntry(b"a", method=12)), "unsupported_archive", "by method 12; pack"),
    (raw_zip(ZipEntry(b"CATS/2.jpg", b"x")), "unsafe_archive", "but for case"),
    (raw_tar()[1536:], "one_class", "only one class folder, 'dogs'"),
    (TAR_END, "no_classes", "no class folder"),
    # Sizes below zero: a stream is read to its end by -1, a ledger credited.
    (raw_tar(tar_header(b"a", -1, kind=b"x")), "damaged_archive", "is no number, at"),
    (raw_tar(tar_header(b"a", -(8**8))), "damaged_archive", "is no number, at"),
    (raw_tar(tar_header(b"a", -(8**11))), "damaged_archive", "is no number, at"),
    (
        gzip.compress(raw_tar(tar_header(b"a", -1, kind=b"x"))),
        "damaged_archive",
        "is no number, at",
    ),
    (
        gzip.compress(raw_tar(tar_header(b"a", -(8**8)), tar_entry(b"b", bytes(9)))),
        "damaged_archive",
        "is no number, at",
    ),
    # More stored than the file needs.
    (
        raw_zip(ZipEntry(b"a", bytes(600), size=10)),
        "damaged_archive",
        "'a': 10 bytes stored as 600",
    ),
    (
        raw_zip(deflated(b"a", b"", size=600), ZipEntry(b"b", b"", size=1)),
        "damaged_archive",
        "'b': 1 bytes stored as 0",
    ),
    (
        raw_zip(ZipEntry(b"a", bytes(89), size=10, method=8)),
        "damaged_archive",
        "'a': 10 bytes stored as 89",
    ),
    # Other numbers in the two end records.
    (with_zip64(raw_zip(), old=(1, 46, 0)), "damaged_archive", "contradict each other"),
    (with_zip64(raw_zip(), located=9), "damaged_archive", "contradict each other"),
    (with_zip64(raw_zip(), signature=9), "damaged_archive", "contradict each other"),
    (zip64_end(0, 0, 0)[56:], "not_an_archive", "it starts with b'PK"),
    # Equal but for case or accents, by the rule that classes have too.
    (
        raw_zip(ZipEntry("a/ß".encode()), ZipEntry(b"a/SS")),
        "unsafe_archive",
        "for case",
    ),
    (
        raw_tar(tar_entry("é".encode()), tar_entry("e\u0301".encode())),
        "unsafe_archive",
        "but for case",
    ),
    (
        raw_tar(tar_entry(b"a\xff"), tar_entry(b"a\\xff")),
        "unsafe_archive",
        "but for case",
    ),
    (
        raw_tar(tar_entry(b"a\nb/1", b"x"), tar_entry(b"a\\nb/1", b"x")),
        "same_name",
        "two classes are shown as 'a\\\\nb'; rename one",
    ),
]


@pytest.mark.parametrize(("content", "reason", "text"), LISTING_ERRORS)
def test_refuses(tmp_path, content, reason, text):
    path = tmp_path / "pets.bin"
    path.write_bytes(content)
    with pytest.raises(TlperfError) as caught:
        read_listing(path)
    assert caught.value.code == ExitCode.DATA
    assert caught.value.reason == reason
    line = caught.value.line("shard")
    assert text in line
    assert str(path) in line
    assert "\n" not in line
    assert "; " in line  # what to do


NUMBERS = [b"-0000000001\0", b"+00000000001", b"0_0000000010", b"\xff" * 12, b"8" * 12]


@pytest.mark.parametrize("field", [*NUMBERS, b"0x0000000010", b"\t00000000001"])
def test_numbers_of_a_tar_are_octal_digits_or_base_256(field):
    with pytest.raises(HeaderError, match="is no number"):
        parse_number(field)


@pytest.mark.parametrize("text", [b"-1", b"+1", b"1_0", b" 1", b"1" * 21])
def test_sizes_of_pax_are_digits(text):
    with pytest.raises(HeaderError, match="is no size"):
        parse_size(text)


def test_a_size_of_zero_in_pax_is_one(tmp_path):
    path = tmp_path / "pets.tar"
    path.write_bytes(raw_tar(pax(size=b"0") + tar_header(b"cats/2.jpg", 512)))
    assert read_listing(path).items[1].origin.read(max_bytes=MOST) == b""


def test_a_ledger_gives_no_credit():
    with pytest.raises(TlperfError, match=r"damaged_archive: pets: a member of -1 byt"):
        Ledger("pets", archive_bytes=9).count_bytes(-1)


@pytest.mark.parametrize("old", [(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), None])
def test_two_ends_of_a_zip_that_agree(tmp_path, old):
    path = tmp_path / "pets.zip"
    facts = struct.unpack("<10xHLL2x", raw_zip()[-22:])
    path.write_bytes(with_zip64(raw_zip(), old=old or facts))
    assert len(read_listing(path).items) == 2


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 3_000_000])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED])
def test_the_worst_that_zlib_packs_is_read(tmp_path, size, strategy):
    data = os.urandom(size).translate(bytes([255 - n % 100 for n in range(256)]))
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 1, strategy)
    stored = packer.compress(data) + packer.flush()
    entry = ZipEntry(b"cats/2.jpg", stored, size=size, crc=zlib.crc32(data), method=8)
    path = tmp_path / "pets.zip"
    path.write_bytes(raw_zip(entry))
    assert read_listing(path).items[1].origin.read(max_bytes=MOST) == data


@pytest.mark.parametrize("name", ["pets.zip", "pets.csv"])
def test_what_is_no_file_is_refused_unopened(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)  # to open it would wait for ever
    for source in (path, "/dev/zero"):
        with pytest.raises(TlperfError) as caught:
            read_listing(source)
        assert caught.value.code == ExitCode.DATA
        assert caught.value.reason == "special_file"
        assert ", not a regular file; store it as a file" in caught.value.text()
    with pytest.raises(TlperfError, match="special_file"):
        ArchiveSource(path).read_listing()


def test_every_cut_of_a_tar_and_a_zip_is_refused(tmp_path):
    tar, path = raw_tar(), tmp_path / "pets.tar"
    end = len(tar) - len(TAR_END)
    for content, lengths in (
        (tar, [*range(0, end + 1, 512), *range(1, end, 777)]),
        (raw_zip(), range(0, len(raw_zip()), 211)),
        (gzip.compress(tar), range(0, len(gzip.compress(tar)), 211)),
    ):
        for length in lengths:
            path.write_bytes(content[:length])
            with pytest.raises(TlperfError) as caught:
                read_listing(path)
            assert caught.value.code == ExitCode.DATA


def test_every_flipped_byte_of_a_gzip_stream_is_noticed(tmp_path):
    whole = gzip.compress(raw_tar(), mtime=0)
    path = tmp_path / "pets.tgz"
    for place in range(10, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(TlperfError) as caught:
            read_listing(path)
        assert caught.value.code == ExitCode.DATA


MEMBER_ERRORS = [
    (deflated(b"cats/2.jpg", b"x" * 99, size=98), "does not inflate to the 98 bytes"),
    (deflated(b"cats/2.jpg", b"x" * 99, size=100), "does not inflate to the 100 bytes"),
    (deflated(b"cats/2.jpg", b"x" * 99, crc=1), "its CRC-32 does not match"),
    (ZipEntry(b"cats/2.jpg", b"abc", crc=1), "its CRC-32 does not match"),
    (ZipEntry(b"cats/2.jpg", b"\xff" * 9, method=8), "Error -3 while decompressing"),
    (ZipEntry(b"cats/2.jpg", b"abc", local_name=b"dogs/2.jpg"), "header differs"),
]


@pytest.mark.parametrize(("entry", "text"), MEMBER_ERRORS)
def test_a_damaged_member_of_a_zip_is_refused_alone(tmp_path, entry, text):
    path = tmp_path / "pets.zip"
    path.write_bytes(raw_zip(entry))
    good, bad, other = read_listing(path).items
    assert good.origin.read(max_bytes=MOST) == image_bytes(1)
    assert other.origin.read(max_bytes=MOST) == image_bytes(2)
    refusal = refusal_of(bad)
    assert refusal.reason == "damaged_member"
    assert text in refusal.detail


@pytest.mark.parametrize("suffix", ["folder", *SUFFIXES])
def test_large_members_are_refused_unread(tmp_path, suffix):
    path = make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1})
    size = (path / "cats" / "000.jpg").stat().st_size
    if suffix != "folder":
        path = pack(path, suffix)
    refusal = refusal_of(read_listing(path).items[0], max_bytes=size - 1)
    assert (refusal.reason, refusal.detail) == (
        "bomb:bytes",
        f"{size} bytes, most {size - 1} (--max_file_bytes)",
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_or_lost_archive_is_noticed(tmp_path, suffix):
    root = make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1})
    path = pack(root, suffix)
    one, other = read_listing(path).items
    assert one.origin.stamp() not in ("", other.origin.stamp())
    assert one.origin.stamp() == read_listing(path).items[0].origin.stamp()
    with open(path, "ab") as stream:
        stream.write(b"\0")
    with pytest.raises(OriginError, match=r"changed: .* changed after it was"):
        one.origin.read(max_bytes=MOST)
    path.unlink()
    assert one.origin.stamp() == ""
    assert refusal_of(one).reason == "unreadable:ENOENT"


def test_a_local_archive_may_be_pinned(tmp_path):
    path = pack(make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1}), "tar")
    with pytest.raises(TlperfError) as caught:
        read_listing(path, source_sha256="0" * 64)
    assert caught.value.code == ExitCode.INTEGRITY
    assert f"expected {'0' * 64}; get the file again" in caught.value.text()


def test_long_gnu_names_and_a_long_link_before_a_member(tmp_path):
    path = tmp_path / "pets.tar"
    name = b"cats/" + b"n" * 200 + b".jpg"
    path.write_bytes(raw_tar(gnu_long(name) + tar_entry(b"cats/nn", b"x")))
    assert name.decode() in [item.id for item in read_listing(path).items]


@pytest.mark.parametrize("archive", [1 << 16, 1 << 20, 1 << 30, 1 << 37])
@pytest.mark.parametrize("ratio", [1, 2, 100])
def test_the_index_stays_small(archive, ratio):
    inflated = archive * ratio
    index = inflated // spacing_bytes(archive, inflated) * WINDOW_BYTES
    assert index <= max(WINDOW_BYTES * 64, archive // 2)
    assert index <= MAX_INDEX_BYTES


def test_random_reads_of_a_gzip_reach_over_many_index_places(tmp_path):
    root = tmp_path / "pets"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for index in range(3):  # incompressible, so that the index has places
            data = os.urandom(1_500_000 + index)
            (root / name / f"{index}.jpg").write_bytes(data)
    listing = read_listing(pack(root, "tar.gz"))
    shutil.rmtree(root / "dogs")
    for item in (listing.items[2], listing.items[0], listing.items[1]):
        assert item.origin.read(max_bytes=MOST) == (root / item.id).read_bytes()
