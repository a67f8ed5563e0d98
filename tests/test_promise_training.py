"""T1, T2, T3, T7: a training that is killed, stopped or damaged goes on as if nothing
had happened, and stops by itself where its loss is no number.

`--figures=full` does what the promises state: 20 kills of 200 steps, 500 damages, 30
signals.
"""

import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.passes import make_source, store
from tests.promises import ROOT, environment
from tests.trainings import BATCH, at_once, command, outcome, train
from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.training.checkpoint import Checkpoint, Checkpoints


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """40 training images: 10 steps an epoch."""
    folder = tmp_path_factory.mktemp("training")
    store(make_source(folder / "source", 10 * BATCH), folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def epochs(figures):
    """Of 10 steps each."""
    return figures.pick(3, 20)


@pytest.fixture(scope="module")
def whole(stored, epochs, tmp_path_factory):
    """A training that nobody disturbed, by whether features are kept."""

    def make(features, workdir):
        done = train(stored, workdir, epochs=epochs, features=features)
        assert done.returncode == 0, done.stderr
        return features, outcome(workdir)

    modes = ("off", "on")
    made = dict(
        at_once(make, [(mode, tmp_path_factory.mktemp(mode)) for mode in modes])
    )
    assert len(made["off"]["losses"]) == 10 * epochs
    return made


@pytest.mark.T1
def test_killed_at_any_step_it_goes_on_bit_for_bit(
    stored, whole, epochs, tmp_path, figures, record_property
):
    generator = random.Random(7)
    steps = sorted(generator.sample(range(2, 10 * epochs), figures.pick(1, 20)))

    def kill(features, step):
        workdir = tmp_path / f"killed-{features}-{step}"
        how = {"epochs": epochs, "features": features, "save_every": 3}
        killed = train(stored, workdir, faults=f"trained:{step}=kill", **how)
        assert killed.returncode == -signal.SIGKILL
        resumed = train(stored, workdir, resume=True, **how)
        assert resumed.returncode == 0, resumed.stderr
        assert "goes on in epoch" in resumed.stderr or step < 3
        assert outcome(workdir) == whole[features], step

    at_once(kill, [(mode, step) for mode in ("off", "on") for step in steps])
    record_property(
        "figures",
        f"features off and on: killed at {len(steps)} of {10 * epochs} steps each, "
        "every loss the same as float hex",
    )


@pytest.mark.T1
def test_a_killed_fill_of_features_goes_on(stored, whole, epochs, tmp_path):
    how = {"epochs": epochs, "features": "on"}
    assert train(stored, tmp_path, faults="checked:6=kill", **how).returncode == -9
    resumed = train(stored, tmp_path, resume=True, **how)
    assert resumed.returncode == 0
    assert "nothing to go on from" in resumed.stderr
    assert outcome(tmp_path) == whole["on"]


# Where a signal comes and which, and the steps of the epoch that are done then.
STOPS = [
    ("trained:13=int", 3),
    ("validated:1=term", 10),
    ("checked:2=int", 0),
    ("trained:4=term", 4),
    ("validated:3=int", 10),
]


@pytest.mark.T2
def test_a_signal_saves_and_ends_with_75(stored, whole, epochs, tmp_path, figures):
    def stop(fault, steps):
        workdir, how = tmp_path / fault, {"epochs": epochs, "features": "on"}
        start = time.monotonic()
        stopped = train(stored, workdir, faults=fault, **how)
        assert stopped.returncode == ExitCode.RETRY, stopped.stderr
        assert time.monotonic() - start < 60
        (line,) = [one for one in stopped.stderr.splitlines() if "E75 stopped" in one]
        assert f"after {steps} steps; all is saved; run again with --resume" in line
        assert "Traceback" not in stopped.stderr
        resumed = train(stored, workdir, resume=True, **how)
        assert resumed.returncode == 0, resumed.stderr
        assert outcome(workdir) == whole["on"]

    at_once(stop, STOPS[: figures.pick(3, None)])


@pytest.mark.T2
def test_signals_at_any_time(stored, whole, epochs, tmp_path, figures, record_property):
    """From outside, while anything goes on: a save, validation, a step."""
    generator, count = random.Random(5), figures.pick(1, 30)

    def stop(number, secs, kind):
        workdir = tmp_path / str(number)
        how = {"epochs": epochs, "save_every": 1}
        with subprocess.Popen(
            command(stored, workdir, **how),
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            checkpoints = workdir / "tiny" / "checkpoints"
            while not checkpoints.is_dir() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(secs)
            process.send_signal(kind)
            start = time.monotonic()
            _, text = process.communicate(timeout=60)
            assert time.monotonic() - start < 10
        assert process.returncode in (0, ExitCode.RETRY), text
        resumed = train(stored, workdir, resume=True, **how)
        assert resumed.returncode == 0, resumed.stderr
        assert outcome(workdir) == whole["off"]
        return process.returncode == ExitCode.RETRY

    kinds = (signal.SIGTERM, signal.SIGINT)
    cases = [
        (number, generator.uniform(0, 0.4), kinds[number % 2])
        for number in range(count)
    ]
    saved = sum(at_once(stop, cases))
    assert saved or count == 1
    record_property("figures", f"{count} signals, {saved} of them before the end")


def checkpoint(step, scale=1.0):
    return Checkpoint(
        2,
        step,
        [np.arange(12, dtype=np.float32).reshape(3, 4) * scale, np.array(7)],
        {"rows": [{"loss": 0.1 + 0.2}], "done": [[1.5, 2.0, 4.0]]},
    )


def equal(found, wanted):
    assert (found.epoch, found.step, found.state) == (
        wanted.epoch,
        wanted.step,
        wanted.state,
    )
    for one, other in zip(found.arrays, wanted.arrays, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.T3
def test_two_checkpoints_are_kept_and_the_newest_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load() is None
    for step in range(5):
        checkpoints.save(checkpoint(step, scale=step))
        found = checkpoints.load()
        assert found is not None
        equal(found, checkpoint(step, scale=step))
    assert checkpoints.names() == [checkpoint(3).name, checkpoint(4).name]
    checkpoints.save(checkpoint(4, scale=9.0))  # the same moment once more
    found = checkpoints.load()
    assert found is not None
    equal(found, checkpoint(4, scale=9.0))


@pytest.mark.T3
def test_each_damage_is_seen_and_the_one_before_is_used(
    tmp_path, figures, record_property, capsys
):
    """Flipped, cut and missing at random places of the newest."""
    made = Checkpoints(tmp_path / "made")
    made.save(checkpoint(1))
    made.save(checkpoint(2))
    generator = random.Random(1)
    count = figures.pick(60, 500)
    for number in range(count):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made.folder, folder)
        newest = folder / checkpoint(2).name
        path = generator.choice(sorted(newest.iterdir()))
        data = bytearray(path.read_bytes())
        at = generator.randrange(len(data))
        if number % 3 == 0:
            path.write_bytes(data[:at])
        elif number % 3 == 1:
            data[at] ^= 1 << generator.randrange(8)
            path.write_bytes(data)
        else:
            path.unlink()
        found = Checkpoints(folder).load()
        assert found is not None
        equal(found, checkpoint(1))
        assert f"{checkpoint(2).name} is damaged" in capsys.readouterr().err
        for file in (folder / checkpoint(1).name).iterdir():
            file.write_bytes(b"")
        with pytest.raises(TlperfError) as caught:
            Checkpoints(folder).load()
        assert (caught.value.code, caught.value.reason) == (76, "damaged_checkpoints")
    record_property("figures", f"{count} of {count} damages seen, the other used")


# While it saves: killed, or the disk is full.
SAVES = [
    ("checkpoint.written:3=kill", -signal.SIGKILL),
    ("checkpoint.written:3=ENOSPC", int(ExitCode.IO)),
    ("checkpoint.renamed:3=kill", -signal.SIGKILL),
]


@pytest.mark.T3
def test_what_ends_a_save_ends_no_training(stored, whole, epochs, tmp_path, figures):
    def end(fault, code):
        workdir, how = tmp_path / fault, {"epochs": epochs, "save_every": 2}
        ended = train(stored, workdir, faults=fault, **how)
        assert ended.returncode == code
        assert ("disk_full" in ended.stderr) == (code == ExitCode.IO)
        resumed = train(stored, workdir, resume=True, **how)
        assert resumed.returncode == 0, resumed.stderr
        assert outcome(workdir) == whole["off"]
        assert not [*(workdir / "tiny" / "checkpoints").glob(".partial-*")]

    at_once(end, SAVES[: figures.pick(2, None)])


@pytest.mark.T3
def test_a_checkpoint_put_aside_is_found(tmp_path):
    """Killed between two renames of one moment that is saved twice."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(checkpoint(1))
    former = tmp_path / f".partial-7-{checkpoint(1).name}-former"
    (tmp_path / checkpoint(1).name).rename(former)
    (tmp_path / ".partial-7-weights-00001.h5").write_bytes(b"cut")
    (tmp_path / f".partial-7-{checkpoint(2).name}").mkdir()
    checkpoints.tidy()
    found = checkpoints.load()
    assert found is not None
    equal(found, checkpoint(1))
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint(1).name]


@pytest.mark.T3
def test_damaged_best_weights_are_a_damaged_checkpoint(stored, tmp_path):
    assert train(stored, tmp_path, epochs=2).returncode == 0
    for path in (tmp_path / "tiny" / "checkpoints").glob("weights-*.h5"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    done = train(stored, tmp_path, epochs=3, resume=True)
    assert done.returncode == ExitCode.INTEGRITY
    assert "is not what it says" in done.stderr
    assert "damaged_checkpoints" in done.stderr


def test_one_process_trains_a_backbone(stored, tmp_path):
    with directory_lock(tmp_path / "tiny"):
        done = train(stored, tmp_path, epochs=1)
    assert done.returncode == ExitCode.RETRY
    assert "another process writes here" in done.stderr


def test_fewer_epochs_than_are_done_are_refused(stored, tmp_path):
    assert train(stored, tmp_path, epochs=2, features="auto").returncode == 0
    done = train(stored, tmp_path, epochs=1, resume=True)
    assert done.returncode == ExitCode.CONFIG
    assert "fewer_epochs" in done.stderr
    # Features were used: they are again, whatever is asked for now.
    more = train(stored, tmp_path, epochs=3, resume=True, features="off")
    assert more.returncode == 0
    assert "frozen part of 0 images" in more.stderr


def test_other_settings_do_not_go_on(stored, tmp_path):
    assert train(stored, tmp_path, epochs=2, faults="trained:13=term").returncode == 75
    other = train(stored, tmp_path, epochs=2, resume=True, seed=4)
    assert other.returncode == ExitCode.CONFIG
    assert "seed 0 is now 4" in other.stderr
    assert "other_settings" in other.stderr
    # Without --resume it begins anew, and says so.
    anew = train(stored, tmp_path, epochs=1)
    assert anew.returncode == 0
    assert "begins anew; --resume would have gone on" in anew.stderr


def test_more_epochs_go_on_from_a_finished_training(stored, whole, epochs, tmp_path):
    assert train(stored, tmp_path, epochs=1).returncode == 0
    assert train(stored, tmp_path, epochs=epochs, resume=True).returncode == 0
    assert outcome(tmp_path) == whole["off"]


@pytest.mark.T7
def test_a_loss_that_is_no_number_stops_the_training_and_names_the_images(
    stored, tmp_path
):
    done = train(stored, tmp_path, epochs=3, learning_rate=1e30)
    assert done.returncode == ExitCode.DATA
    (line,) = [one for one in done.stderr.splitlines() if "E65" in one]
    assert "not_finite: the train loss of tiny is" in line
    told = files.read_json(tmp_path / "tiny" / "not_finite.json")
    assert told["split"] == "train"
    assert told["step"] <= 3  # the first step moved the weights out of all bounds
    assert len(told["ids"]) == BATCH
    assert all(name in line for name in told["ids"])
