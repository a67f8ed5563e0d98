"""The data directory: manifest, sizes, checksums, and where its bytes are.

check_data(patient); check_page_cache(patient)
"""

import ctypes
import mmap
import os
import pathlib
import stat

import numpy as np

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes
from tlperf.core.units import format_bytes
from tlperf.doctor.findings import Check, Patient

# Every byte is read of as much (about a second, twice that from a disk); of more data
# some records of each split, evenly spread.
_MOST_BYTES = 512 * 2**20
_SAMPLE = 64
_PAGE_BYTES = mmap.PAGESIZE


def check_data(patient: Patient) -> Check:
    """Whether what is stored is what was written: every byte of a small dataset, else
    names, sizes and a sample."""
    from tlperf.dataset.manifest import read_manifest
    from tlperf.dataset.verify import verify_dataset

    folder = patient.config.data_path
    try:
        report = verify_dataset(folder, full=False)
        if report["ok"] and report["bytes"] <= _MOST_BYTES:
            report = verify_dataset(folder)
    except TlperfError as error:
        if error.code == ExitCode.NO_INPUT:
            return Check.ok("no dataset yet: run or shard will make it")
        raise
    if not report["ok"]:
        first, count = report["problems"][0], len(report["problems"])
        more = f" ({count - 1} more)" if count > 1 else ""
        advice = "run tlperf verify for all problems, then tlperf shard again"
        return Check.bad(f"{first['file']}: {first['what']}{more}", advice)
    read = report["records"] if report["full"] else _read_sample(folder)
    size = format_bytes(report["bytes"])
    images = read_manifest(folder).counts.accepted
    found = f"{images} images in {report['shards']} shards, {size}"
    return Check.ok(f"{found}; {read} records read and sound")


def _read_sample(folder: pathlib.Path) -> int:
    """How many records were read; each is checked by its checksum."""
    from tlperf.dataset.store import open_dataset

    read = 0
    with open_dataset(folder) as dataset:
        for name in dataset.manifest.splits:
            split = dataset.split(name)
            if split.count:
                wanted = np.linspace(0, split.count - 1, _SAMPLE).astype(int)
                read += len(split.read(np.unique(wanted)))
    return read


def check_page_cache(patient: Patient) -> Check:
    """Which part of the shards is in memory already, and whether all of it fits."""
    from tlperf.dataset.manifest import read_manifest

    folder = patient.config.data_path
    try:
        manifest = read_manifest(folder)
    except TlperfError:
        return Check.ok("no dataset to look at")
    paths = [folder / shard.file for shard in manifest.shards]
    paths = [path for path in paths if path.is_file()]
    size = sum(path.stat().st_size for path in paths)
    found = _resident_text(paths, size)
    limit = memory_limit_bytes()
    if size > limit:
        told = f"{found}; that is more than the {format_bytes(limit)} of memory"
        advice = "expect each epoch to read from the disk: see tlperf input"
        return Check.warn(told, advice)
    return Check.ok(found)


def _resident_text(paths: list[pathlib.Path], size: int) -> str:
    if not all(map(_is_tellable, paths)):
        return f"{format_bytes(size)}; the system tells owners alone what is in memory"
    resident = sum(map(resident_bytes, paths))
    share = resident / size if size else 0.0
    return f"{share:.0%} of {format_bytes(size)} in the page cache"


def _is_tellable(path: pathlib.Path) -> bool:
    """Whether mincore(2) says the truth: to whoever may write the file or owns it."""
    info = path.stat()
    return stat.S_ISREG(info.st_mode) and (
        info.st_uid == os.geteuid() or os.access(path, os.W_OK)
    )


def resident_bytes(path: pathlib.Path) -> int:
    """Bytes of a file that are in the page cache, in whole pages, at most its size."""
    size = path.stat().st_size
    if not size:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    pages = -(-size // _PAGE_BYTES)
    vector = (ctypes.c_ubyte * pages)()
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), size, prot=mmap.PROT_READ) as mapped,
    ):
        view = np.frombuffer(mapped, np.uint8)
        address = ctypes.c_void_p(view.ctypes.data)
        failed = libc.mincore(address, ctypes.c_size_t(size), vector)
        del view  # the map cannot be closed while an array points into it
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    present = np.frombuffer(bytes(vector), np.uint8) & 1
    return min(size, int(present.sum()) * _PAGE_BYTES)
