"""I5: what is refused is counted alike everywhere, under every policy."""

import json
import os

import pytest

from tests.images import image_bytes, make_folder
from tests.test_dataset_guard import REFUSED
from tlperf import cli
from tlperf.core.choices import OnBad
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig, RunConfig
from tlperf.dataset.manifest import read_manifest
from tlperf.dataset.shard import write_dataset
from tlperf.job.run import shard_job
from tlperf.reporting.report import write_report

# One file a reason: the guard's own table, and what only reading a file finds.
FILES = dict(REFUSED)
UNREADABLE = ("special_file", "bomb:bytes")
MAX_FILE_BYTES = 2**20


def plant(root, reason, name):
    path = root / "cats" / f"bad{name}.jpg"
    if reason == "special_file":
        os.mkfifo(path)
    elif reason == "bomb:bytes":
        path.write_bytes(image_bytes(9) + bytes(MAX_FILE_BYTES))
    else:
        path.write_bytes(FILES[reason])


def config(root, **values):
    return DataConfig(
        source=str(root),
        workers=1,
        max_file_bytes=MAX_FILE_BYTES,
        # The guard's table was made for this limit.
        max_pixels=1_000_000,
        **values,
    )


@pytest.mark.I5
def test_every_reason_is_counted_alike_everywhere(tmp_path, record_property, capsys):
    root = make_folder(tmp_path / "pets", {"cats": 10, "dogs": 10})
    planted = [*FILES, *UNREADABLE]
    for number, reason in enumerate(planted):
        plant(root, reason, number)
    run = RunConfig(
        workdir=str(tmp_path / "w"), data=config(root, max_bad=len(planted))
    )
    result = shard_job(run)
    expected = {reason: 1 for reason in sorted(planted)}
    rows = [
        json.loads(line)
        for line in (run.data_path / "quarantine.jsonl").read_text().splitlines()
    ]
    assert {row["reason"]: 1 for row in rows} == expected
    assert len(rows) == len(planted) == result["quarantined"]
    manifest = read_manifest(run.data_path)
    assert manifest.reasons == result["reasons"] == expected
    assert manifest.counts.quarantined == len(planted)
    assert result["seen"] == result["accepted"] + len(planted) == 20 + len(planted)
    report = write_report(tmp_path / "w")
    text = (tmp_path / "w" / "report" / "report.md").read_text()
    assert report["report"]
    for reason in planted:
        assert f"quarantined: {reason} | 1" in " ".join(text.split())
    assert cli.main(["inspect", f"--data_dir={run.data_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reasons"] == expected
    record_property("figures", f"{len(planted)} reasons: log = manifest = report")


@pytest.mark.I5
@pytest.mark.parametrize("reason", [*FILES, *UNREADABLE])
def test_every_reason_under_the_other_policies(reason, tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 3, "dogs": 3})
    plant(root, reason, 0)
    for values in ({"on_bad": OnBad.FAIL}, {"max_bad": 0}):
        data_dir = tmp_path / "data"
        with pytest.raises(TlperfError) as caught:
            write_dataset(config(root, **values), data_dir)
        error = caught.value
        assert error.code == ExitCode.DATA
        assert error.path == "cats/bad0.jpg"
        if "max_bad" in values:
            assert error.reason == "too_many_bad"
            assert error.found.startswith("1 of 7 files are unusable (1 ")
            assert reason in error.found
        else:
            assert error.reason == reason
        assert not (data_dir / "COMPLETE").exists()
