"""tf.data service: real servers, killed and lied to; each batch once, in order.

The servers are processes of `tlperf serve`, as users start them.
"""

import contextlib
import dataclasses
import json
import os
import queue
import random
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.images import exif_bytes, image_bytes, make_folder
from tests.promises import environment
from tests.tiny import TINY
from tlperf import cli
from tlperf.core import network
from tlperf.core.batch import Batch
from tlperf.core.choices import Cache, Decode, Encoding, Exif, Format, OnBadRecord
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.settings import DataConfig, InputConfig, RunConfig, TrainConfig
from tlperf.dataset.framing import frame, masked_crc, unmask
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.dataset.tfrecord import fresh_memory
from tlperf.model.weights import WeightsSource
from tlperf.pipeline import decode, service, worker
from tlperf.pipeline.ceilings import Target
from tlperf.pipeline.checksum import crc32c
from tlperf.pipeline.input import InputPipeline, input_options
from tlperf.pipeline.measure import measure_input
from tlperf.pipeline.order import plan_evaluation, plan_training
from tlperf.pipeline.serve import ServeConfig
from tlperf.pipeline.service import WINDOW, End, ServiceBatches, ServiceCounts
from tlperf.training.loop import train_backbone

pytestmark = pytest.mark.usefixtures("two_cpus")
SIDE = 20


# Putting in order what comes, without servers.


@dataclasses.dataclass
class Script:
    """A puller that gives what is written down; None is a silence."""

    items: list

    def get(self, timeout_secs):
        """The next line; after the last one, silence for ever."""
        item = self.items.pop(0) if self.items else None
        if item is None:
            raise queue.Empty
        return item

    def stop(self):
        """Nothing to end."""


def run_script(items, steps, batch_size=2):
    """Indexes of the batches that came out, and the counts; label 1 is loaded here."""
    plan = plan_training(
        count=steps * batch_size, batch_size=batch_size, seed=1, epoch=0
    )
    counts = ServiceCounts("grpc://127.0.0.1:1")

    def load(part):
        for step in range(part.steps):
            rows = slice(step * batch_size, (step + 1) * batch_size)
            yield Batch(None, 1, part.weight[rows], part.index[rows], None)

    given_items = [
        (tf.constant(item, tf.int64), None, 0) if isinstance(item, int) else item
        for item in items
    ]
    made = ServiceBatches(plan, lambda: Script(given_items), local=load, counts=counts)
    batches = list(made)
    index = np.concatenate([np.asarray(batch.index) for batch in batches])
    np.testing.assert_array_equal(index, plan.index)
    assert counts.missed + counts.from_service == len(batches) == steps
    assert counts.missed == sum(batch.label for batch in batches)
    return counts


@pytest.mark.L4
@given(st.integers(1, 45), st.data())
def test_whatever_comes_each_batch_is_given_once_and_in_order(steps, data):
    """Any losses, copies, order, silences, and an end or none."""
    step = st.one_of(st.integers(0, steps - 1), st.none())
    items = data.draw(st.lists(step, max_size=3 * steps))
    if data.draw(st.booleans()):
        items.append(End())
    run_script(items, steps)


@pytest.mark.parametrize(
    ("items", "steps", "missed", "repeated", "error"),
    [
        ([2, 0, 1, End()], 3, 0, 0, None),
        ([0, 2, End()], 3, 1, 0, "it ended without 1 of 3 batches"),
        ([End()], 3, 3, 0, "it ended without 3 of 3 batches"),
        ([0, 0, 1, 1, 2], 3, 0, 2, None),
        ([0, *range(2, WINDOW + 4)], WINDOW + 4, 1, 0, None),  # 1 is given up
        ([0, None], 3, 2, 0, "no dispatcher answers at grpc://127.0.0.1:1"),
        ([None, 0, WINDOW, End()], WINDOW + 1, WINDOW, 1, "no dispatcher answers"),
        ([0, End(tf.errors.InternalError(None, None, "a\nb"))], 2, 1, 0, "a b"),
        ([0, End(FileNotFoundError(2, "no such file"))], 2, 1, 0, "[Errno 2] no such"),
    ],
)
def test_what_became_of_the_steps_is_counted(items, steps, missed, repeated, error):
    counts = run_script(items, steps)
    assert (counts.missed, counts.repeated) == (missed, repeated)
    assert (counts.error or "").startswith(error or "")
    assert (counts.error is None) == (error is None)


def test_an_error_of_ours_is_not_taken_for_the_services():
    with pytest.raises(ZeroDivisionError):
        run_script([0, End(ZeroDivisionError())], 2)


@pytest.mark.parametrize(
    "size", [4, 5, 255, 256, 257, 1 << 14, (1 << 14) + 1, (1 << 20) + 1]
)
def test_a_worker_sums_as_the_reader_does(two_cpus, size):
    """Either side of the sizes at which it folds once more; eagerly and in tf.data."""
    data = random.Random(size).randbytes(size)
    expected = google_crc32c.value(data)
    assert int(crc32c(tf.constant(data))) == expected
    (found,) = tf.data.Dataset.from_tensors(data).map(crc32c)
    assert int(found) == expected
    assert unmask(np.array([masked_crc(data)])) == [expected]


@pytest.mark.parametrize("orientation", range(10))
def test_a_worker_turns_images_as_the_loader_does(two_cpus, orientation):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = worker.turn(tf.constant(pixels), tf.constant(orientation, tf.int64))
    np.testing.assert_array_equal(turned, decode.turn(pixels, orientation))


# What is refused.


def run_refused(*arguments, capsys):
    """The exit code and error line of a command line."""
    start = time.perf_counter()
    code = cli.main(list(arguments))
    assert time.perf_counter() - start < 10
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--format=hdf5"], 78, "service_refused: --data_service does not work with "
                                "--format=hdf5; use --format=tfrecord"),
        (["--cache=decoded"], 78, "not work with --cache=decoded; use --cache=none"),
        (["--decode=fast"], 78, "not work with --decode=fast; use --decode=exact"),
        ([], 69, "no_dispatcher: no dispatcher answers at grpc://127.0.0.1:"),
    ],
)  # fmt: skip
def test_a_job_is_refused_before_anything_is_made(flags, code, text, tmp_path, capsys):
    address = f"grpc://127.0.0.1:{free_port()}"
    values = [f"--workdir={tmp_path / 'w'}", f"--data_service={address}"]
    found, line = run_refused("run", *values, "--weights=none", *flags, capsys=capsys)
    assert (found, text in line) == (code, True), line
    assert "; " in line
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "address", ["localhost:1", "grpc://a", "grpc://a:0", "grpc://a:65536", "http://a:1"]
)
def test_an_address_of_another_form_is_a_bad_setting(address, tmp_path, capsys):
    flags = [f"--data_service={address}", f"--workdir={tmp_path}"]
    code, line = run_refused("train", *flags, capsys=capsys)
    assert code == ExitCode.USAGE
    assert f"data_service is '{address}'; give grpc://HOST:PORT" in line


def test_addresses_of_the_right_form():
    for address in ("", "grpc://a:1", "grpc://10.0.0.1:65535", "grpc://[::1]:5050"):
        assert InputConfig(data_service=address).data_service == address


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"dispatcher": "a"}, "dispatcher is 'a'; give HOST:PORT"),
        ({"port": -1}, "port is -1; give 0 to 65535"),
        ({"worker_host": ""}, "worker_host is ''"),
        ({"dispatcher": "a:1", "journal_dir": "j"}, "journal_dir is 'j'"),
    ],
)
def test_servers_that_cannot_be(values, text):
    with pytest.raises(SettingsError, match="bad_setting") as caught:
        ServeConfig(**values)
    assert text in str(caught.value)


@pytest.mark.skipif(not network.find_public_interfaces(), reason="no network here")
def test_a_server_that_others_would_reach_is_refused(capsys):
    code, line = run_refused("serve", capsys=capsys)
    assert code == ExitCode.CONFIG
    assert line.startswith("tlperf serve: E78 public_bind: ")
    assert line.endswith("give --allow_public_bind")


def test_a_worker_without_its_dispatcher_is_refused(capsys):
    flags = ["--allow_public_bind", f"--dispatcher=127.0.0.1:{free_port()}"]
    code, line = run_refused("serve", *flags, capsys=capsys)
    assert code == ExitCode.UNAVAILABLE
    assert "no_dispatcher: no dispatcher answers at 127.0.0.1:" in line


@contextlib.contextmanager
def silent_server():
    """The port of a server that takes a call and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class Greeter(socketserver.StreamRequestHandler):
    """Speaks another protocol."""

    def handle(self):
        """Says so, and hangs up."""
        self.wfile.write(b"SSH-2.0-another\r\n")


@contextlib.contextmanager
def other_server():
    """The port of a server that speaks another protocol."""
    with socketserver.TCPServer(("127.0.0.1", 0), Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def refusal(command, address, why):
    """The line that tells what answers at an address."""
    return (
        f"tlperf {command}: E69 no_dispatcher: what answers at {address} is no "
        f"dispatcher ({why}); start one with tlperf serve --port=PORT"
    )


def test_a_job_asks_whether_a_dispatcher_answers(tmp_path, capfd):
    with silent_server() as port:
        address, workdir = f"grpc://127.0.0.1:{port}", tmp_path / "w"
        flags = [f"--data_service={address}", f"--workdir={workdir}"]
        found = run_refused("run", *flags, capsys=capfd)
    assert found == (69, refusal("run", address, "deadline exceeded"))
    assert not workdir.exists()


def test_a_worker_asks_whether_a_dispatcher_answers(capfd):
    with other_server() as port:
        address = f"127.0.0.1:{port}"
        flags = [f"--dispatcher={address}", "--allow_public_bind"]
        found = run_refused("serve", *flags, capsys=capfd)
    assert found == (69, refusal("serve", address, "unavailable"))


# From here on, with servers.


class Cluster:
    """A dispatcher and workers, each a process.

    Attributes:
        address: of the dispatcher.
        worker_addresses: of all that ever were.
    """

    def __init__(self, workers, *flags):
        self._flags = flags
        self.workers, self.worker_addresses = [], []
        self._running = []
        try:
            self.address = self._start_dispatcher()
            self.add(workers)
        except BaseException:
            self.kill()
            raise

    def _popen(self, *flags):
        command = [sys.executable, "-m", "tlperf", "serve", "--json"]
        process = subprocess.Popen(
            [*command, "--allow_public_bind", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        self._running.append(process)
        return process

    def _start_dispatcher(self, *flags):
        self.dispatcher = self._popen(*self._flags, *flags)
        facts = json.loads(self.dispatcher.stdout.readline())
        assert facts["role"] == "dispatcher"
        return facts["address"]

    def add(self, workers):
        """So many more, when they are there."""
        place = self.address.removeprefix("grpc://")
        started = [self._popen(f"--dispatcher={place}") for _ in range(workers)]
        for process in started:
            facts = json.loads(process.stdout.readline())
            assert facts["role"] == "worker"
            self.worker_addresses.append(facts["address"])
        self.workers += started

    def kill_worker(self):
        """SIGKILL to one."""
        self._kill(self.workers.pop())

    def kill_dispatcher(self):
        """SIGKILL to it."""
        self._kill(self.dispatcher)

    def restart_dispatcher(self):
        """A new one at the address of the killed one, with its journal."""
        port = self.address.rpartition(":")[2]
        assert self._start_dispatcher(f"--port={port}") == self.address

    def _kill(self, process):
        process.kill()
        process.wait()
        process.stdout.close()
        self._running.remove(process)

    def kill(self):
        """SIGKILL to all that are left."""
        for process in [*self._running]:
            self._kill(process)

    def close(self):
        """Ends all as users do, and looks how they end."""
        start = time.perf_counter()
        try:
            for process in self._running:
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(10) for process in self._running]
        finally:
            self.kill()
        assert set(codes) <= {0}
        assert time.perf_counter() - start < 5


def test_a_port_that_is_taken_is_told(capfd):
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        port = sock.getsockname()[1]
        code = cli.main(["serve", "--allow_public_bind", f"--port={port}"])
    assert code == ExitCode.UNAVAILABLE
    text = f"no_server: the dispatcher does not start on port {port}"
    assert text in capfd.readouterr().err


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, figures):
    journal_dir = tmp_path_factory.mktemp("journal") / "new"
    made = Cluster(figures.pick(2, 3), f"--journal_dir={journal_dir}")
    yield made
    made.close()  # workers end, too, when their dispatcher is gone


def make_source(folder):
    """Images of all kinds, some to be turned."""
    root = make_folder(folder, {"cats": 60, "dogs": 60})
    for number in range(8):
        turned = image_bytes(900 + number, size=(40, 24), exif=exif_bytes(number + 1))
        (root / "cats" / f"turned{number}.jpg").write_bytes(turned)
    for number, (kind, mode) in enumerate(
        [("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("JPEG", "CMYK"), ("PNG", "L")]
    ):
        data = image_bytes(950 + number, kind, mode=mode, size=(50, 40))
        (root / "dogs" / f"kind{number}.{kind.lower()}").write_bytes(data)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data directories by encoding, all of one source."""
    folder = tmp_path_factory.mktemp("service")
    root = make_source(folder / "pets")
    for encoding in Encoding:
        config = DataConfig(
            source=str(root),
            workers=1,
            encoding=encoding,
            exif=Exif.APPLY,
            image_size=None if encoding is Encoding.SOURCE else 24,
            shard_bytes=20_000,
        )
        write_dataset(config, folder / encoding)
    return {encoding: folder / encoding for encoding in Encoding}


def input_config(address="", **changes):
    values = {"batch_size": 2, "seed": 3, "data_service": address, **changes}
    return InputConfig(**values)


def all_arrays(batches):
    return [tuple(map(np.asarray, batch)) for batch in batches]


def assert_like_local(found, local):
    """Order, ids, labels, weights and draws are equal, pixels to within 1."""
    assert len(found) == len(local)
    for one, two in zip(found, local, strict=True):
        assert [x.dtype for x in one] == [x.dtype for x in two]
        assert np.abs(one[0].astype(int) - two[0]).max() <= 1
        for left, right in zip(one[1:], two[1:], strict=True):
            np.testing.assert_array_equal(left, right)


def service_epoch(pipeline, epoch, *, patience_secs=2.5):
    """An epoch that soon loses its patience."""
    batches = pipeline.training(epoch)
    batches.source.patience_secs = patience_secs
    return batches


def counts_of(batches):
    """Its counts, which there are."""
    counts = batches.service_counts()
    assert counts is not None
    return counts


def assert_ledger(counts, steps):
    assert counts["missed"] + counts["from_service"] == steps


def test_a_worker_is_no_dispatcher(cluster, tmp_path, capfd):
    address = f"grpc://{cluster.worker_addresses[0]}"
    flags = [f"--workdir={tmp_path / 'w'}", f"--data_service={address}"]
    found = run_refused("run", *flags, capsys=capfd)
    assert found == (69, refusal("run", address, "unimplemented"))


@pytest.mark.L4
def test_batches_are_the_local_ones(two_cpus, folders, cluster, figures):
    copied = (Encoding.RAW, 24)
    others = [(one, SIDE) for one in Encoding]
    for encoding, side in (copied, *figures.pick(others[:1], others)):
        assert_as_local(folders[encoding], cluster.address, side, compute=two_cpus)


def assert_as_local(folder, address, side, *, compute):
    """An epoch from the service is the one that is made here."""
    with open_dataset(folder) as dataset:
        with InputPipeline(dataset, input_config(), image_size=side) as pipeline:
            local = all_arrays(pipeline.training(1))
            assert pipeline.training(1).service_counts() is None
            assert pipeline.service_totals() is None
        config = input_config(address, deterministic=False)
        with InputPipeline(dataset, config, image_size=side) as pipeline:
            batches = pipeline.training(1)
            found = all_arrays(batches.distribute(compute))
            assert pipeline.evaluation("test").service_counts() is None
    assert_like_local(found, local)
    counts = counts_of(batches)
    assert_ledger(counts, len(local))
    # Of batches this small, one may be late by more than the window.
    assert counts["from_service"] > len(local) / 2


@pytest.mark.L4
@pytest.mark.L2
def test_replicas_get_their_parts_from_any_step(mirrored, folders, cluster):
    config = input_config(cluster.address)
    with open_dataset(folders[Encoding.RAW]) as dataset:
        with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
            whole = pipeline.training(0).plan
            batches = pipeline.training(0, step=20)
            parts = [batch.index.values for batch in batches.distribute(mirrored)]
    index = np.concatenate([np.concatenate(pair) for pair in parts])
    np.testing.assert_array_equal(index, whole.index[20 * whole.batch_size :])


@pytest.mark.L4
def test_a_killed_worker_costs_its_batches_time_alone(
    two_cpus, folders, cluster, figures, record_property
):
    """SIGKILL at random moments of an epoch."""
    kills, totals = figures.pick(1, 20), {"steps": 0, "missed": 0}
    generator = random.Random(7)
    with open_dataset(folders[Encoding.SOURCE]) as dataset:
        with InputPipeline(dataset, input_config(), image_size=SIDE) as pipeline:
            local = [all_arrays(pipeline.training(epoch)) for epoch in range(kills)]
        config = input_config(cluster.address)
        with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
            for epoch in range(kills):
                batches = service_epoch(pipeline, epoch)
                at, found = generator.randrange(len(local[epoch])), []
                start = time.perf_counter()
                for step, batch in enumerate(batches):
                    if step == at:
                        time.sleep(generator.random() / 10)
                        cluster.kill_worker()
                    found.append(tuple(map(np.asarray, batch)))
                assert time.perf_counter() - start < 20
                assert_like_local(found, local[epoch])
                counts = counts_of(batches)
                assert_ledger(counts, len(local[epoch]))
                totals["steps"] += len(local[epoch])
                totals["missed"] += counts["missed"]
                if len(cluster.workers) < 2 and epoch < kills - 1:
                    cluster.add(1)
    # However many have died before, the living go on. Of one epoch as short as these,
    # a single wait in vain costs nearly half.
    assert totals["missed"] < totals["steps"] / figures.pick(1, 2)
    record_property(
        "figures",
        f"{kills} kills: {totals['steps']} of {totals['steps']} batches once and in "
        f"order, {totals['missed']} loaded here",
    )


@pytest.mark.L4
def test_a_restarted_dispatcher_goes_on_from_its_journal(
    two_cpus, folders, cluster, figures, record_property
):
    """SIGKILL at random moments; a new one in its place gives the rest of the epoch to
    the workers that were there."""
    kills, totals = figures.pick(1, 20), {"left": 0, "missed": 0}
    generator = random.Random(8)
    with open_dataset(folders[Encoding.SOURCE]) as dataset:
        with InputPipeline(dataset, input_config(), image_size=SIDE) as pipeline:
            local = [all_arrays(pipeline.training(epoch)) for epoch in range(kills)]
        config = input_config(cluster.address)
        with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
            for epoch in range(kills):
                batches = service_epoch(pipeline, epoch, patience_secs=20)
                at, found = generator.randrange(len(local[epoch]) // 3), []
                for step, batch in enumerate(batches):
                    if step == at:
                        time.sleep(generator.random() / 10)
                        cluster.kill_dispatcher()
                        cluster.restart_dispatcher()
                    found.append(tuple(map(np.asarray, batch)))
                assert_like_local(found, local[epoch])
                counts = counts_of(batches)
                assert_ledger(counts, len(local[epoch]))
                totals["left"] += len(local[epoch]) - at
                totals["missed"] += counts["missed"]
    # What had come before is a part of a third; the rest cannot but come after.
    assert totals["missed"] < totals["left"] / 4
    record_property(
        "figures",
        f"{kills} kills and restarts: of {totals['left']} batches that were left "
        f"{totals['missed']} loaded here",
    )


def place_of(data_dir, number):
    """The first training shard; where a record of it begins and its size."""
    path = min(data_dir.glob("*-train.tfrecord-?????-of-?????"))
    lines = path.with_name(path.name + ".idx").read_text().splitlines()
    offset, size = map(int, lines[number].split())
    return path, offset, size


def flip(data_dir, number):
    """Alters a byte of a record's payload."""
    path, offset, size = place_of(data_dir, number)
    data = bytearray(path.read_bytes())
    data[offset + size // 2] ^= 1
    path.write_bytes(data)


def swap(data_dir, number):
    """Puts a copy of the next record, of as many bytes, in a record's place."""
    path, offset, size = place_of(data_dir, number)
    assert place_of(data_dir, number + 1)[2] == size
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = data[offset + size : offset + 2 * size]
    path.write_bytes(data)


def shorten(data_dir, number):
    """A shorter record that holds, the end of the one before behind it."""
    path, offset, size = place_of(data_dir, number)
    data = bytearray(path.read_bytes())
    data[offset : offset + size - 20] = frame(bytes(size - 36))
    path.write_bytes(data)


def read_locally(split):
    """Records that this process can read."""
    for index in range(split.count):
        with contextlib.suppress(TlperfError):
            split.view(index, fresh_memory)
            yield index


@pytest.mark.L4
def test_a_worker_refuses_what_the_local_reader_refuses(two_cpus, folders, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(folders[Encoding.RAW], data_dir)
    with open_dataset(data_dir) as dataset:
        batches = worker_batches(dataset)
        for number, alter in enumerate((flip, swap, shorten)):
            alter(data_dir, 2 * number)
        split = dataset.split("train")
        whole = list(read_locally(split))
        assert set(range(split.count)) - {*whole} == {0, 2, 4}
    assert steps_of(batches) == whole


@pytest.mark.L4
def test_a_worker_leaves_out_what_is_cut_off_or_gone(two_cpus, folders, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(folders[Encoding.RAW], data_dir)
    with open_dataset(data_dir) as dataset:
        batches = worker_batches(dataset)
        count = dataset.split("train").count
        cut, gone, *others = dataset.manifest.shards_of("train")
        os.truncate(data_dir / cut.file, cut.bytes - 1)
        (data_dir / gone.file).unlink()
    left = count - sum(shard.count for shard in others)
    assert steps_of(batches) == [*range(cut.count - 1), *range(left, count)]


def steps_of(batches):
    """The steps that are there."""
    return sorted(int(step) for step, *_ in batches)


def worker_batches(dataset):
    """What a worker makes of the training split, a step a record."""
    decoder = decode.Decoder.of(dataset.manifest, Decode.EXACT, image_size=SIDE)
    made = worker.WorkerRecipe.of(dataset, "train", decoder=decoder)
    plan = plan_evaluation(count=dataset.split("train").count, batch_size=1)
    options = input_options(deterministic=True)
    return made.batches(plan, options=options)


@pytest.mark.L4
def test_bad_records_are_skipped_or_named_here(two_cpus, cluster, folders, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(folders[Encoding.RAW], data_dir)
    flip(data_dir, 3)
    swap(data_dir, 5)
    config = input_config(cluster.address, on_bad_record=OnBadRecord.SKIP)
    with open_dataset(data_dir) as dataset:
        with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
            batches = service_epoch(pipeline, 0)
            found = all_arrays(batches)
            skipped = pipeline.skipped()
        index = np.concatenate([batch[3] for batch in found])
        np.testing.assert_array_equal(index, batches.plan.index)
        weight = np.concatenate([batch[2] for batch in found])
        name = place_of(data_dir, 0)[0].name
        assert [(one["index"], one["file"]) for one in skipped] == [
            (3, name),
            (5, name),
        ]
        assert sorted(index[weight == 0].tolist()) == [3, 5]
        assert "a sound record, but another" in skipped[1]["found"]
        assert counts_of(batches)["missed"] >= 1
        config = dataclasses.replace(config, on_bad_record=OnBadRecord.FAIL)
        with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
            with pytest.raises(TlperfError) as caught:
                all_arrays(service_epoch(pipeline, 0))
    assert caught.value.reason == "damaged_record"
    assert caught.value.record in (3, 5)


def test_a_pipeline_refuses_what_the_command_line_refuses(two_cpus, tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 6, "dogs": 6})
    config = DataConfig(source=str(root), workers=1, format=Format.HDF5)
    write_dataset(config, tmp_path / "data")
    inputs = input_config("grpc://127.0.0.1:1")
    with open_dataset(tmp_path / "data") as dataset:
        for changes in ({}, {"cache": Cache.ENCODED}, {"decode": Decode.FAST}):
            config = dataclasses.replace(inputs, **changes)
            with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
                with pytest.raises(TlperfError) as caught:
                    pipeline.training(0)
            assert caught.value.code == ExitCode.CONFIG
        with pytest.raises(TypeError, match="expected a TFRecord split, got hdf5"):
            dataset.split("train").find_places(np.arange(2))


@pytest.mark.L4
def test_a_training_tells_what_the_service_gave(
    two_cpus, folders, cluster, tmp_path, capsys
):
    config = RunConfig(
        workdir=str(tmp_path),
        input=InputConfig(image_size=32, batch_size=8, data_service=cluster.address),
        training=TrainConfig(epochs=2, learning_rate=0.01),
    )
    with open_dataset(folders[Encoding.SOURCE]) as dataset:
        result = train_backbone(
            TINY,
            config,
            dataset=dataset,
            compute=two_cpus,
            weights=WeightsSource("none"),
        ).result
    totals = result["data_service"]
    assert totals["address"] == cluster.address
    assert totals["guarantee"] == service.GUARANTEE
    assert totals["steps"] == sum(row["steps"] for row in result["epochs"])
    assert totals["from_service"] + totals["missed"] == totals["steps"]
    for row in result["epochs"]:
        assert_ledger(row["data_service"], row["steps"])
    text = f"{totals['missed']} of {totals['steps']} batches were loaded here, not by "
    assert [text in one for one in result["warnings"]].count(True) == (
        totals["missed"] > 0
    )
    came = f"{totals['from_service']} of {totals['steps']} batches came from it"
    line = f"tiny: data service: {service.GUARANTEE}; {came}"
    assert line in capsys.readouterr().err.splitlines()


@pytest.mark.L4
def test_a_measurement_tells_what_the_service_gave(two_cpus, folders, cluster):
    config = input_config(cluster.address)
    with open_dataset(folders[Encoding.RAW]) as dataset:
        result = measure_input(
            dataset,
            config,
            Target(SIDE, two_cpus, lambda image, draw: image),
            secs=0.5,
        )
    totals = result["data_service"]
    # And the first batch, which is not timed, and the one that is placed ahead.
    assert totals["steps"] - result["batches"] in (1, 2)
    assert totals["from_service"] + totals["missed"] == totals["steps"]
    assert totals["from_service"] > 0
    assert totals["guarantee"] == service.GUARANTEE
    assert result["ways"] == []


@pytest.mark.L4
def test_a_dead_dispatcher_is_told_and_the_epoch_is_whole(two_cpus, folders, cluster):
    """Killed in the first of two epochs. The last test: the cluster is no more."""
    with open_dataset(folders[Encoding.SOURCE]) as dataset:
        with InputPipeline(dataset, input_config(), image_size=SIDE) as pipeline:
            local = [all_arrays(pipeline.training(epoch)) for epoch in range(2)]
        config = input_config(cluster.address)
        with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
            for epoch in range(2):
                batches, found = service_epoch(pipeline, epoch), []
                start = time.perf_counter()
                for step, batch in enumerate(batches):
                    if (epoch, step) == (0, 10):
                        cluster.kill_dispatcher()
                    found.append(tuple(map(np.asarray, batch)))
                assert time.perf_counter() - start < 15
                assert_like_local(found, local[epoch])
                counts = counts_of(batches)
                assert_ledger(counts, len(local[epoch]))
                assert counts["missed"] > 0
                assert counts["error"].startswith("no dispatcher answers at grpc://")
