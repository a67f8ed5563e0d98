"""Promises about sources: I7 hostile archives.

Forty archives that attack whoever unpacks them, written byte by byte. Each is refused
whole with exit code 65, or read as plain data where it is only odd; nothing is written
outside, nothing grows.
"""

import gzip
import os
import pathlib
import signal
import struct
import subprocess
import sys
import zlib

import pytest

from tests.archives import (
    TAR_END,
    ZipEntry,
    deflated,
    gnu_long,
    good_tar,
    many_zip,
    pax,
    raw_tar,
    raw_zip,
    tar_entry,
    tar_header,
)
from tests.images import make_folder
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.sources import open_source
from tlperf.dataset.sources.gzip_index import GzipOrigin

LINK, FIFO, DEVICE, FOLDER = 0o120777, 0o010644, 0o060644, 0o040755
MIB = 1 << 20


def link(name, target):
    return tar_header(name, kind=b"2", link=target)


def long_link_chain():
    """Links whose expanded target is longer than a path may be, then a way out."""
    part = b"d" * 247
    steps, entries = b"abcdefghijklmnop", []
    path = b""
    for step in steps:
        entries.append(tar_header(path + part + b"/", kind=b"5"))
        entries.append(link(path + bytes([step]), part))
        path += bytes([step]) + b"/"
    entries.append(link(path + b"l" * 90, b"../" * len(steps)))
    entries.append(link(b"escape", path + b"l" * 90 + b"/../../../etc"))
    return entries


def zeros(size):
    """`size` zero bytes as a .tar.gz would hold them, without making them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = good_tar() + tar_header(b"cats/big.jpg", size)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, packer.compress(TAR_END), packer.flush()])


# Name, content, reason of the refusal ("" where it is read), what the line names.
ARCHIVES = [
    # 1-14: names that lead out, in both formats.
    ("zip ..", raw_zip(ZipEntry(b"../evil.jpg", b"x")), "unsafe", "'../evil.jpg'"),
    ("zip a/../..", raw_zip(ZipEntry(b"cats/../../evil", b"x")), "unsafe", "leaves"),
    ("zip ..\\", raw_zip(ZipEntry(b"..\\evil.jpg", b"x")), "unsafe", "leaves"),
    ("zip a\\..\\..", raw_zip(ZipEntry(b"cats\\..\\..\\e", b"x")), "unsafe", "leaves"),
    ("zip /", raw_zip(ZipEntry(b"/evil.jpg", b"x")), "unsafe", "absolute"),
    ("zip \\", raw_zip(ZipEntry(b"\\evil.jpg", b"x")), "unsafe", "absolute"),
    ("zip C:", raw_zip(ZipEntry(b"C:\\evil.jpg", b"x")), "unsafe", "absolute"),
    ("zip NUL", raw_zip(ZipEntry(b"cats/1\0.jpg", b"x")), "unsafe", "NUL"),
    ("tar ..", raw_tar(tar_entry(b"../evil.jpg", b"x")), "unsafe", "'../evil.jpg'"),
    ("tar ..\\", raw_tar(tar_entry(b"..\\evil.jpg", b"x")), "unsafe", "leaves"),
    ("tar /", raw_tar(tar_entry(b"/evil.jpg", b"x")), "unsafe", "absolute"),
    (
        "tar prefix ..",
        raw_tar(tar_entry(b"evil.jpg", b"x", prefix=b"cats/../..")),
        "unsafe",
        "leaves",
    ),
    (
        "tar long ..",
        raw_tar(gnu_long(b"cats/" * 40 + b"../" * 50 + b"evil"), tar_entry(b"n", b"x")),
        "unsafe",
        "leaves",
    ),
    (
        "tar pax NUL",
        raw_tar(pax(path=b"cats/2\0.jpg") + tar_entry(b"n", b"x")),
        "unsafe",
        "NUL",
    ),
    # 15-25: what is no file.
    ("zip link", raw_zip(ZipEntry(b"cats/l", b"/etc", mode=LINK)), "unsafe", "link"),
    ("zip FIFO", raw_zip(ZipEntry(b"cats/f", mode=FIFO)), "unsafe", "FIFO"),
    ("zip device", raw_zip(ZipEntry(b"cats/d", mode=DEVICE)), "unsafe", "device"),
    (
        "zip link chain",
        raw_zip(ZipEntry(b"c", b"/", mode=LINK), ZipEntry(b"c/etc/evil", b"x")),
        "unsafe",
        "'c' (symbolic link)",
    ),
    ("tar link", raw_tar(link(b"cats/l", b"/etc/passwd")), "unsafe", "symbolic link"),
    (
        "tar link chain",
        raw_tar(link(b"c", b".."), link(b"c/d", b".."), tar_entry(b"c/d/evil", b"x")),
        "unsafe",
        "'c/d' (symbolic link)",
    ),
    (
        "tar hard link",
        raw_tar(tar_header(b"cats/h", kind=b"1", link=b"/etc/passwd")),
        "unsafe",
        "hard link",
    ),
    ("tar FIFO", raw_tar(tar_header(b"cats/f", kind=b"6")), "unsafe", "FIFO"),
    ("tar device", raw_tar(tar_header(b"cats/d", kind=b"3")), "unsafe", "device"),
    ("tar long links", raw_tar(*long_link_chain()), "unsafe", "and more"),
    (
        "tar hard link to link",
        raw_tar(link(b"l", b"../x"), tar_header(b"h", kind=b"1", link=b"l")),
        "unsafe",
        "'h' (hard link)",
    ),
    # 26-33: names that meet, odd and long names.
    ("zip twice", raw_zip(*[ZipEntry(b"cats/1.jpg", b"x")]), "unsafe", "twice in it"),
    ("tar twice", raw_tar(tar_entry(b"./cats//1.jpg")), "unsafe", "twice in it"),
    ("zip case", raw_zip(ZipEntry(b"Cats/1.jpg", b"x")), "unsafe", "but for case"),
    ("tar case", raw_tar(tar_entry(b"cats/1.JPG", b"x")), "unsafe", "but for case"),
    (
        "tar file and folder",
        raw_tar(tar_entry(b"cats/1.jpg/evil", b"x")),
        "unsafe",
        "both a file and a folder",
    ),
    (
        "tar name of 4097",
        raw_tar(gnu_long(b"n" * 4097) + tar_entry(b"n", b"x")),
        "unsafe",
        "name of 4,097 bytes",
    ),
    ("zip not UTF-8", raw_zip(ZipEntry(b"cats/\xff.jpg", b"x")), "", ""),
    ("tar name of 4096", raw_tar(gnu_long(b"n" * 4096) + tar_entry(b"n")), "", ""),
    # 34-38: what is larger than it looks.
    (
        "zip ratio",
        raw_zip(deflated(b"cats/2.jpg", bytes(70 * MIB))),
        "bomb:ratio",
        "inflate to 73,",
    ),
    (
        "zip overlap",
        raw_zip(*[deflated(b"cats/%d" % n, bytes(MIB)) for n in (7, 8)], overlap=True),
        "damaged_archive",
        "lies over",
    ),
    (
        "zip declares 4 GiB",
        raw_zip(deflated(b"cats/2.jpg", b"x", size=0xFFFFFFFE)),
        "bomb:ratio",
        "inflate to 4,294,",
    ),
    ("tar.gz ratio", zeros(70 * MIB), "bomb:ratio", "inflate to 73,"),
    ("tar sparse", raw_tar(tar_header(b"s", 512, kind=b"S")), "unsafe", "sparse file"),
]


def tree(folder):
    return sorted(
        (str(path), path.lstat().st_size) for path in pathlib.Path(folder).rglob("*")
    )


@pytest.mark.I7
@pytest.mark.parametrize(
    ("content", "reason", "named"),
    [row[1:] for row in ARCHIVES],
    ids=[row[0] for row in ARCHIVES],
)
def test_hostile_archives_are_refused_and_nothing_is_written(
    tmp_path, monkeypatch, content, reason, named
):
    path = tmp_path / "deep" / "er" / "pets.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.chdir(path.parent)
    before = tree(tmp_path)
    source = open_source(DataConfig(source=str(path)))
    if reason:
        with pytest.raises(TlperfError) as caught:
            source.read_listing()
        assert caught.value.code == ExitCode.DATA
        assert caught.value.reason == reason.replace("unsafe", "unsafe_archive")
        assert named in caught.value.found
    else:
        source.read_listing()
    assert tree(tmp_path) == before


@pytest.mark.I7
def test_there_are_forty(record_property):
    archives = len(ARCHIVES) + len(MANY)
    assert archives == 40
    read = sum(not row[2] for row in ARCHIVES)
    record_property(
        "figures",
        f"{archives} hostile archives: {archives - read} refused, {read} read",
    )


def many_tar_gz(count):
    """A .tar.gz of so many empty members in two classes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [
        packer.compress(tar_header(b"c%d/%07d.jpg" % (index % 2, index)))
        for index in range(count)
    ]
    return b"".join([*parts, packer.compress(TAR_END), packer.flush()])


MANY = {"zip": many_zip, "tar.gz": many_tar_gz}

CHILD = """
import re, sys, time
from tlperf.core.errors import TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.sources import archive, open_source

def peak_mib():  # getrusage would tell the parent's, from before the exec
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024

start, idle = time.monotonic(), peak_mib()
try:
    open_source(DataConfig(source=sys.argv[1])).read_listing()
except TlperfError as error:
    print(error.text())
print(time.monotonic() - start, peak_mib() - idle)
"""


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def list_in_child(path):
    """The error line of listing a source, the seconds and MiB that it takes."""
    line, figure = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    ).stdout.splitlines()
    return line, *map(float, figure.split())


@pytest.mark.I7
@pytest.mark.parametrize("kind", MANY)
def test_a_million_empty_members(tmp_path, figures, record_property, kind):
    count = figures.pick(101_000, 1_000_000)
    path = tmp_path / "pets.bin"
    path.write_bytes(MANY[kind](count))
    line, seconds, mib = list_in_child(path)
    assert line.startswith(f"bomb:members: {path}: more than 100,000 empty files")
    # A loaded machine takes a few times the 10 s of an idle one.
    assert seconds < 60
    assert mib < 1024
    record_property(
        "figures", f"{count:,} empty members: {seconds:.1f} s, {mib:.0f} MiB"
    )


@pytest.mark.I7
def test_folders_that_names_imply_are_bounded(tmp_path):
    names = [b"c%d/" % n + b"a/" * 2040 + b"x" for n in range(200)]
    members = [gnu_long(name) + tar_entry(b"n") for name in names]
    path = tmp_path / "pets.tgz"
    path.write_bytes(gzip.compress(raw_tar(*members)))
    assert path.stat().st_size < 10_000
    line, _, mib = list_in_child(path)  # 4 MiB of folder names a member
    assert line.startswith(f"bomb:members: {path}: folders whose names take more than")
    assert mib < 512


@pytest.mark.I7
def test_a_sparse_zip_is_not_read_into_memory(tmp_path):
    path = tmp_path / "pets.zip"
    entry, stored = ZipEntry(b"cats/1.jpg", size=10), 600 * MIB
    row = entry.header(0)
    row = row[:20] + struct.pack("<L", stored) + row[24:]
    with open(path, "wb") as stream:
        stream.write(entry.header(None))
        stream.seek(stored, os.SEEK_CUR)
        place = stream.tell()
        end = struct.pack("<HHHHLLH", 0, 0, 1, 1, len(row), place, 0)
        stream.write(row + b"PK\5\6" + end)
    with pytest.raises(TlperfError, match=r"'cats/1.jpg': 10 bytes stored as 629,145"):
        open_source(DataConfig(source=str(path))).read_listing()


WAITING = """
import sys
from tlperf.core.settings import DataConfig
from tlperf.dataset.sources import open_source

item = open_source(DataConfig(source=sys.argv[1])).read_listing().items[-1]
print(len(item.origin.read(max_bytes=1 << 27)), flush=True)
sys.stdin.read()
"""


@pytest.mark.I7
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_terminated_process_leaves_no_index(tmp_path, number):
    path, scratch = tmp_path / "pets.tgz", tmp_path / "scratch"
    path.write_bytes(gzip.compress(raw_tar(tar_entry(b"rats/1.jpg", bytes(99)))))
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(TMPDIR=str(scratch)),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"99\n"
        child.send_signal(number)
    assert child.returncode == -number
    assert tree(scratch) == []


@pytest.mark.parametrize("follow", [False, True])
def test_folders_deeper_than_python_recurses(tmp_path, follow):
    root = make_folder(tmp_path / "pets", {"cats": 1, "dogs": 1})
    deep = [root / "cats"]
    try:
        for _ in range(1_200):
            deep.append(deep[-1] / "d")
            deep[-1].mkdir()
        (deep[-1] / "1.jpg").write_bytes(b"x")
        config = DataConfig(source=str(root), follow_links=follow)
        items = open_source(config).read_listing().items
        assert [len(item.path) for item in items] == [12, 2410, 12]
        assert items[1].origin.read(max_bytes=1) == b"x"
    finally:  # pytest's own clean-up recurses
        (deep[-1] / "1.jpg").unlink()
        for folder in reversed(deep[1:]):
            folder.rmdir()


@pytest.mark.I7
def test_disk_use_is_the_index_alone(tmp_path, record_property):
    path = tmp_path / "pets.tgz"
    data = os.urandom(4 * MIB)
    members = [tar_entry(b"cats/%d.jpg" % n, data) for n in range(2, 5)]
    path.write_bytes(gzip.compress(raw_tar(*members), 1))
    item = open_source(DataConfig(source=str(path))).read_listing().items[-2]
    assert isinstance(item.origin, GzipOrigin)
    assert item.origin.read(max_bytes=MIB * 8) == data
    index = os.path.getsize(item.origin.index)
    assert 0 < index < 0.05 * path.stat().st_size
    record_property("figures", f"index of {index:,} bytes for {path.stat().st_size:,}")
