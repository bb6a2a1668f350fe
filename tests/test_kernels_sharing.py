"""Work that several threads do at the same time, and the threads that wait for more of it."""

import os
import signal
import threading

import pytest

from fastsgd.kernels.sharing import keep_threads, share


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "fastsgd-worker"]


def identities(threads=3):
    """Who did the work, in the order of its numbers."""
    found, all_there = {}, threading.Barrier(threads)

    def work(index):
        found[int(index)] = threading.current_thread()
        all_there.wait()

    share(work, threads)
    return [found[index] for index in range(threads)]


@pytest.fixture(autouse=True)
def _nobody_is_left():
    yield
    assert workers() == []


def test_threads_end_with_their_work():
    assert len(set(identities())) == 3
    assert workers() == []


def test_threads_are_kept_for_the_next_work():
    with keep_threads():
        first = identities()
        assert set(workers()) == set(first[1:])
        assert set(identities()) == set(first)
        with keep_threads():  # as where one fits a model in a callback of another
            assert set(identities(2)) < set(first)
        assert len(set(identities(5)) - set(first)) == 2


def test_threads_are_kept_for_one_caller():
    """They have its priority."""
    others = []
    with keep_threads():
        mine = identities(2)
        caller = threading.Thread(target=lambda: others.extend(identities(2)))
        caller.start()
        caller.join()
    assert not set(mine) & set(others)


def test_an_error_is_raised_when_all_have_ended():
    def work(index):
        if index == 1:
            raise ZeroDivisionError("beside")

    with keep_threads():
        with pytest.raises(ZeroDivisionError, match="beside"):
            share(work, 3)
        assert len(identities()) == 3


def test_an_interrupt_waits_for_those_who_work():
    begun, interrupted, ended = threading.Event(), threading.Event(), []

    def work(index):
        if index == 0:
            begun.wait()
            interrupted.set()
            signal.raise_signal(signal.SIGINT)
        begun.set()
        interrupted.wait()
        ended.append(int(index))

    with keep_threads():
        with pytest.raises(KeyboardInterrupt):
            share(work, 2)
        assert ended == [1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    with keep_threads():
        identities(2)
        child = os.fork()
        if child == 0:
            found = set()
            try:
                found.update(identities(2))
            finally:
                os._exit(len(found))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
