"""T4, T5, T6: trainings by several devices and several processes are one training, and
none of the processes waits for one that is gone.

`--figures=full` kills each of four workers at four places.
"""

import sys
import time

import pytest

from tests.passes import make_source, store
from tests.trainings import (
    BATCH,
    at_once,
    outcome,
    run_together,
    train,
    train_together,
)
from tlperf.core import files
from tlperf.core.errors import ExitCode
from tlperf.core.results import read_results
from tlperf.training.checkpoint import Checkpoints

# A worker notices within this time that another one is gone, its exit included.
END_SECS = 120
HOW = {"epochs": 2, "save_every": 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """40 training images: 10 steps an epoch."""
    folder = tmp_path_factory.mktemp("training")
    store(make_source(folder / "source", 10 * BATCH), folder / "data")
    return folder / "data"


def mirrored(count):
    return {"logical_devices": count}


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory):
    """A training on two logical devices of one process."""
    workdir = tmp_path_factory.mktemp("mirrored")
    done = train(stored, workdir, device=mirrored(2), **HOW)
    assert done.returncode == 0, done.stderr
    return outcome(workdir)


@pytest.mark.T4
def test_two_processes_train_as_two_devices_of_one_do(stored, whole, tmp_path):
    """Dropout and BatchNormalization's statistics included, to the last bit."""
    found = train_together(2, stored, tmp_path, **HOW)
    assert [one.code for one in found.values()] == [0, 0], found
    assert outcome(tmp_path) == whole
    other = tmp_path / "workers" / "1"
    assert not [*other.glob("tiny/checkpoints/*"), *other.glob("tiny/*.h5")]
    steps = [
        files.read_json_lines(folder / "tiny" / "steps.jsonl")
        for folder in (tmp_path, other)
    ]
    assert steps[0] == steps[1]
    rows = [read_results(folder)[0] for folder in (tmp_path, other)]
    for row in rows:
        assert (row["result"]["workers"], row["result"]["replicas"]) == (2, 2)
        assert row["device"]["strategy"] == "CollectiveAllReduceStrategy"
    assert rows[1]["result"]["weights_sha256"] is None


@pytest.mark.slow
@pytest.mark.T4
def test_each_process_keeps_its_own_features(stored, tmp_path):
    found = train_together(2, stored, tmp_path, features="on", **HOW)
    for one in found.values():
        assert one.code == 0, one.text
        assert "frozen part of" in one.text
    losses = [
        files.read_json_lines(folder / "tiny" / "steps.jsonl")
        for folder in (tmp_path, tmp_path / "workers" / "1")
    ]
    assert losses[0] == losses[1]
    assert len([*tmp_path.rglob("train.rows")]) == 2


# Where workers are killed.
PLACES = ("met", "built", "checked:3", "trained:12", "validated:1")
SAVING = "checkpoint.written:3"


@pytest.mark.T4
def test_the_death_of_one_ends_the_others(
    stored, whole, tmp_path, figures, record_property
):
    count = figures.pick(2, 4)
    every = [(worker, place) for worker in range(4) for place in PLACES]
    every.append((0, SAVING))  # the chief alone saves
    longest, deaths = 0.0, figures.pick([(1, "trained:12")], every)
    device = {"startup_timeout": 60.0}
    for worker, place in deaths:
        fault = f"{place}=kill"
        workdir = tmp_path / f"{worker}-{fault}"
        how = {"features": "on", **HOW}
        found = train_together(
            count, stored, workdir, faults={worker: fault}, device=device, **how
        )
        killed = found.pop(worker)
        assert killed.code == -9, killed.text
        for one in found.values():
            if place == "met":  # TensorFlow never connected them
                assert one.code == ExitCode.UNAVAILABLE, one.text
                assert "E69 workers_missing: worker" in one.text
            else:
                assert one.code == ExitCode.RETRY, one.text
                assert "E75 worker_lost: another worker went away" in one.text
            assert "Traceback" not in one.text
            longest = max(longest, one.at - killed.at)
        assert longest < END_SECS
        again = train_together(count, stored, workdir, resume=True, **how)
        assert [one.code for one in again.values()] == [0] * count, again
        made = outcome(workdir)
        assert len(made["losses"]) == 20
        assert count > 2 or made == whole
    record_property(
        "figures",
        f"{len(deaths)} deaths among {count} workers: the others "
        f"ended within {longest:.0f} s with 75, and all went on",
    )


@pytest.mark.T4
def test_a_signal_to_one_stops_all_after_the_same_step(stored, tmp_path):
    found = train_together(2, stored, tmp_path, faults={1: "trained:13=term"}, **HOW)
    for one in found.values():
        assert one.code == ExitCode.RETRY, one.text
    assert "a signal to another worker in epoch 2" in found[0].text
    assert "SIGTERM in epoch 2" in found[1].text
    done = [
        one.text.partition(" after ")[2].partition(" steps")[0]
        for one in found.values()
    ]
    assert done[0] == done[1]
    saved = Checkpoints(tmp_path / "tiny" / "checkpoints").load()
    assert saved is not None
    assert str(saved.step) == done[0]


@pytest.mark.slow
@pytest.mark.T4
def test_a_sweep_of_two_workers_trains_each_backbone(photos_dir, tmp_path):
    """By the command line: a process a backbone, which all meet anew."""
    flags = [
        *("--backbones=vgg16,resnet50", "--weights=none", "--image_size=32"),
        *("--batch_size=8", "--epochs=1", "--allow_public_bind", "--json"),
        *(f"--data_dir={photos_dir}", f"--workdir={tmp_path}"),
    ]
    found = run_together(2, [sys.executable, "-m", "tlperf", "train", *flags])
    for one in found.values():
        assert one.code == 0, one.text
    rows = [read_results(folder) for folder in (tmp_path, tmp_path / "workers" / "1")]
    for own in rows:
        assert [row["backbone"] for row in own] == ["vgg16", "resnet50"]
    losses = [[row["result"]["epochs"][0]["loss"] for row in own] for own in rows]
    assert losses[0] == losses[1]
    refused = run_together(
        2, [sys.executable, "-m", "tlperf", "run", f"--workdir={tmp_path}"]
    )
    for one in refused.values():
        assert one.code == ExitCode.CONFIG
        assert "workers_refused: TF_CONFIG names workers" in one.text


@pytest.mark.T4
def test_a_worker_that_never_comes_is_named(stored, tmp_path):
    start = time.monotonic()
    device = {"startup_timeout": 3.0}
    (chief,) = train_together(
        2, stored, tmp_path, absent=(1,), device=device, **HOW
    ).values()
    assert chief.code == ExitCode.UNAVAILABLE
    assert "workers_missing: worker 1 (127.0.0.1:" in chief.text
    assert chief.at - start < 60


@pytest.mark.slow
@pytest.mark.T1
def test_killed_replicas_go_on_bit_for_bit(stored, whole, tmp_path):
    how = {"device": mirrored(2), **HOW}
    killed = train(stored, tmp_path, faults="trained:14=kill", **how)
    assert killed.returncode == -9
    resumed = train(stored, tmp_path, resume=True, **how)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(tmp_path) == whole


@pytest.mark.T5
def test_replicas_train_as_one_device_does(stored, tmp_path, record_property):
    """Without what is drawn or taken from a replica's own part of the batch."""

    def losses(count):
        workdir = tmp_path / str(count)
        done = train(
            stored,
            workdir,
            epochs=5,
            batch_norm="inference",
            dropout=False,
            device=mirrored(count) if count > 1 else {},
        )
        assert done.returncode == 0, done.stderr
        found = outcome(workdir)
        return (
            [float.fromhex(loss) for loss in found["losses"]],
            [float.fromhex(row[1]) for row in found["rows"]],
        )

    (one, accuracies), *others = at_once(losses, [(1,), (2,), (4,)])
    assert len(one) == 50
    for steps, found in others:
        assert steps == pytest.approx(one, rel=1e-5)
        assert found == accuracies
    worst = max(
        abs(a - b) / b for steps, _ in others for a, b in zip(steps, one, strict=True)
    )
    record_property("figures", f"50 steps, 2 and 4 replicas: {worst:.1e} apart")


@pytest.mark.slow
@pytest.mark.T6
def test_deterministic_operations_give_the_same_twice(stored, tmp_path):
    how = {"epochs": 3, "device": {"op_determinism": True}}
    folders = (tmp_path / "one", tmp_path / "two")
    for done in at_once(
        lambda folder: train(stored, folder, **how), [(folder,) for folder in folders]
    ):
        assert done.returncode == 0, done.stderr
    assert outcome(folders[0]) == outcome(folders[1])
    (row,) = read_results(folders[0])
    assert row["device"]["op_determinism"] is True
    assert row["device"]["xla_update"] is False
