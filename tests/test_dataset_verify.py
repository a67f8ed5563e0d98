"""Damage of every kind is found: by the fast check, or by the full one."""

import json
import shutil

import pytest

from tests.images import make_folder
from tlperf.core.choices import Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.framing import parse_seals
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.dataset.verify import verify_dataset

SHARD = {
    Format.TFRECORD: "pets-train.tfrecord-00000-of-00001",
    Format.HDF5: "pets-train.h5",
}


@pytest.fixture(scope="module", params=list(Format))
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    root = make_folder(folder / "pets", {"cats": 5, "dogs": 5})
    data_dir = folder / "data"
    write_dataset(
        DataConfig(source=str(root), workers=1, format=request.param), data_dir
    )
    return data_dir, SHARD[request.param]


@pytest.fixture
def data(whole, tmp_path):
    """A copy to damage, and its training shard."""
    shutil.copytree(whole[0], tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / whole[1]


def whats(report):
    return [(row["file"], row["what"]) for row in report["problems"]]


def test_a_whole_dataset_has_no_problem(whole):
    report = verify_dataset(whole[0])
    assert (report["ok"], report["problems"]) == (True, [])
    assert (report["shards"], report["records"]) == (3, 10)
    fast = verify_dataset(whole[0], full=False)
    assert (fast["ok"], fast["records"]) == (True, 0)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_cut_or_grown_shard_stops_the_reader(data, change):
    data_dir, shard = data
    size = shard.stat().st_size
    with open(shard, "ab") as stream:
        stream.truncate(size + change)
    word = "cut" if change < 0 else "too long"
    found = f"shard {word}: expected {size} bytes, found {size + change}"
    with pytest.raises(TlperfError) as caught:
        open_dataset(data_dir)
    assert caught.value.code == ExitCode.INTEGRITY
    assert caught.value.text() == (
        f"damaged_data: {shard}: {found}; run tlperf shard again"
    )
    for full in (False, True):
        report = verify_dataset(data_dir, full=full)
        assert not report["ok"]
        assert (shard.name, found) in whats(report)


def test_a_shard_cut_between_records_is_found(data):
    data_dir, shard = data
    if shard.suffix == ".h5":
        pytest.skip("HDF5 has no record boundary")
    last = shard.with_name(shard.name + ".idx").read_text().splitlines()[-1]
    with open(shard, "ab") as stream:
        stream.truncate(int(last.split()[0]))
    report = verify_dataset(data_dir)
    assert not report["ok"]
    texts = " ".join(what for _, what in whats(report))
    assert "shard cut" in texts
    assert "record cut: 0 of" in texts
    assert report["records"] == 9


def test_every_flipped_byte_of_a_shard_is_found(data):
    data_dir, shard = data
    original = shard.read_bytes()
    for position in range(0, len(original), max(1, len(original) // 60)):
        damaged = bytearray(original)
        damaged[position] ^= 0x80
        shard.write_bytes(damaged)
        report = verify_dataset(data_dir)
        assert not report["ok"], f"byte {position} passes"
        assert {file for file, _ in whats(report)} == {shard.name}


def test_a_flipped_payload_byte_names_its_record(data):
    data_dir, shard = data
    if shard.suffix == ".h5":
        pytest.skip("an HDF5 chunk holds several records")
    offset, size = (
        int(x)
        for x in shard.with_name(f"{shard.name}.idx")
        .read_text()
        .splitlines()[2]
        .split()
    )
    damaged = bytearray(shard.read_bytes())
    damaged[offset + size // 2] ^= 1
    shard.write_bytes(damaged)
    report = verify_dataset(data_dir)
    _, seals = parse_seals((data_dir / f"{shard.name}.seals").read_bytes())
    assert report["problems"][1:] == [
        {
            "file": shard.name,
            "record": 2,
            "what": f"checksum of the payload does not match (source file {seals[2]})",
        }
    ]
    assert report["records"] == 9


@pytest.mark.parametrize(
    "name", ["manifest.json", "COMPLETE", "quarantine.jsonl", "dataset_info.json"]
)
@pytest.mark.parametrize("action", ["alter", "delete"])
def test_the_other_files_are_guarded_too(data, name, action):
    data_dir, _ = data
    path = data_dir / name
    if not path.exists():
        pytest.skip("HDF5 has no tfds metadata")
    if action == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    report = verify_dataset(data_dir)
    assert not report["ok"]
    assert len(report["problems"]) == 1
    if name in ("manifest.json", "COMPLETE"):
        with pytest.raises(TlperfError) as caught:
            open_dataset(data_dir)
        assert caught.value.code == ExitCode.INTEGRITY


def test_missing_and_foreign_shards_are_found(data):
    data_dir, shard = data
    foreign = data_dir / shard.name.replace("train", "other")
    shard.rename(foreign)
    with pytest.raises(TlperfError, match="shard missing"):
        open_dataset(data_dir)
    report = verify_dataset(data_dir, full=False)
    assert (shard.name, "shard missing") in whats(report)
    assert (foreign.name, "not in the manifest") in whats(report)


def test_swapped_shards_are_found(data):
    data_dir, shard = data
    if shard.suffix != ".h5":
        (data_dir / f"{shard.name}.idx").unlink()
        assert (f"{shard.name}.idx", "missing") in whats(verify_dataset(data_dir))
    other = data_dir / shard.name.replace("train", "test")
    shard.write_bytes(other.read_bytes())
    assert not verify_dataset(data_dir)["ok"]


def test_no_dataset_is_missing_input(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        for check in (verify_dataset, open_dataset):
            with pytest.raises(TlperfError) as caught:
                check(folder)
            assert caught.value.code == ExitCode.NO_INPUT
            assert caught.value.text() == (
                f"missing_data: {folder}: no dataset here; run tlperf shard first"
            )


def test_another_schema_is_refused(data):
    from tlperf.core.files import sha256_file

    data_dir, _ = data
    path = data_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    (data_dir / "COMPLETE").write_text(f"{sha256_file(path)}\n")
    with pytest.raises(TlperfError) as caught:
        open_dataset(data_dir)
    assert caught.value.code == ExitCode.CONFIG
