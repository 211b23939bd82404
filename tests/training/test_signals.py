"""Ctrl-C, SIGTERM and SIGHUP as requests."""

import signal
import threading

import pytest

from policy_gradients.training.signals import StopRequests


def send(number):
    """Raised in this process; Python handles it before the next line."""
    signal.raise_signal(number)


def test_nothing_is_asked_until_a_signal_comes():
    with StopRequests() as stop:
        assert not stop
        assert stop.status == ""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "disconnected")],
)
def test_a_signal_is_noted_and_not_acted_on(number, status):
    with StopRequests() as stop:
        send(number)
        assert stop
        assert stop.status == status


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_stops_at_once(first):
    with StopRequests() as stop:
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop


def test_a_first_ctrl_c_is_patient_where_another_process_was_asked_to_stop_before():
    with StopRequests() as stop:
        stop.status = "terminated"  # what the others agreed on
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_sigterm_is_patient():
    """A scheduler may repeat it while the checkpoint is being written."""
    with StopRequests() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.status == "terminated"


def test_a_closed_terminal_is_nothing_to_a_run_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            send(signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("fails", [False, True])
def test_the_handlers_of_before_come_back_whatever_happens(fails):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ZeroDivisionError) if fails else StopRequests(), StopRequests():
        assert signal.getsignal(signal.SIGINT) != before[0]
        if fails:
            raise ZeroDivisionError
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_status_stays_after_the_context():
    with StopRequests() as stop:
        send(signal.SIGTERM)
    assert stop.status == "terminated"


def test_outside_the_main_thread_it_does_nothing():
    """Python sets signal handlers in the main thread alone; a run elsewhere is stopped by its owner."""
    results = []

    def work():
        with StopRequests() as stop:
            results.append((bool(stop), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=10)
    assert results == [(False, before)]
