"""Signals as a wish to stop: the first is noted, the second acts."""

import os
import signal
import threading

import pytest

from tlperf.core.stopping import stop_signals


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_noted_and_handlers_are_put_back(kind):
    before = signal.getsignal(kind)
    told: list[int] = []
    with stop_signals(told.append) as stop:
        assert stop.wanted == ""
        os.kill(os.getpid(), kind)
        assert stop.wanted == kind.name
    assert told == [kind]
    assert signal.getsignal(kind) is before


def test_a_second_interrupt_acts_as_it_always_did():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # by the parent, and by the system
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.wanted == "SIGTERM"


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.wanted == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_hear_nothing():
    heard = []

    def work():
        with stop_signals() as stop:
            heard.append(stop.wanted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [""]
