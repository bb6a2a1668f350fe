"""Threads that decode, and whoever waits for them."""

import gc
import os
import sys
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from fastsgd.data.helpers import Helpers
from fastsgd.kernels import aside
from fastsgd.kernels.sharing import Job


@pytest.fixture
def helpers():
    made = Helpers(2)
    yield made
    made.close()


def held_up(helpers):
    """A job that the only thread of its own does until it is let go; returns the job and what lets it go."""
    begun, free = threading.Event(), threading.Event()

    def hold():
        begun.set()
        free.wait()

    job = helpers.hand_over(hold)
    begun.wait()
    return job, free


def test_whoever_waits_does_what_is_left(helpers):
    job, free = held_up(helpers)
    done = []
    others = [helpers.hand_over(lambda i=i: done.append((i, threading.current_thread()))) for i in range(3)]
    helpers.finish(others[1])
    assert done == [(i, threading.current_thread()) for i in range(2)]
    free.set()
    helpers.finish(job)
    helpers.finish(others[2])
    assert [i for i, _ in done] == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
@pytest.mark.parametrize("give_way", [False, True])
def test_decoders_give_way_to_what_computes_beside_them(give_way):
    helpers, found = Helpers(2, give_way=give_way), []
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    job = helpers.hand_over(lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
    job.wait()
    helpers.close()
    assert (found[0] > own) == give_way


def test_an_error_is_for_whoever_asks_for_the_job(helpers):
    job, free = held_up(helpers)

    def fail():
        raise OSError("no disk")

    failing, other = helpers.hand_over(fail), helpers.hand_over(lambda: None)
    helpers.finish(other)
    with pytest.raises(OSError, match="no disk"):
        helpers.finish(failing)
    free.set()
    helpers.finish(job)


def test_an_exit_beside_is_for_whoever_asks_and_ends_no_thread(helpers):
    job = helpers.hand_over(lambda: sys.exit(3))
    job.wait()
    goes_on = threading.Event()
    helpers.hand_over(goes_on.set)
    assert goes_on.wait(60)
    with pytest.raises(SystemExit):
        helpers.finish(job)


def test_an_interrupt_ends_the_wait_whatever_is_being_done(helpers):
    _, free = held_up(helpers)

    def interrupt():
        raise KeyboardInterrupt

    interrupted, other = helpers.hand_over(interrupt), helpers.hand_over(lambda: None)
    with pytest.raises(KeyboardInterrupt):
        helpers.finish(other)
    assert interrupted.done()
    assert not other.done()
    free.set()


def test_what_is_interrupted_before_it_begins_is_done(helpers, monkeypatch):
    """Nobody must wait for it."""
    _, free = held_up(helpers)

    def interrupt(job):
        raise KeyboardInterrupt

    left, other = (helpers.hand_over(lambda: None) for _ in range(2))
    with monkeypatch.context() as patched:
        patched.setattr(Job, "do", interrupt)
        with pytest.raises(KeyboardInterrupt):
            helpers.finish(other)
    free.set()
    assert left.done()
    with pytest.raises(CancelledError):
        left.result()


def test_what_nobody_began_is_dropped_at_the_end(helpers):
    job, free = held_up(helpers)
    done = []
    left = helpers.hand_over(lambda: done.append(1))
    closing = threading.Thread(target=helpers.close)
    closing.start()
    left.wait()
    free.set()
    closing.join()
    assert (job.done(), done) == (True, [])
    with pytest.raises(CancelledError):
        left.result()
    assert not any(thread.name == "fastsgd-decoder" for thread in threading.enumerate())


def test_threads_end_with_whoever_has_them():
    helpers = Helpers(3)
    helpers.finish(helpers.hand_over(lambda: None))
    mine = [thread for thread in threading.enumerate() if thread.name == "fastsgd-decoder"]
    assert len(mine) == 2
    del helpers
    gc.collect()
    assert not any(thread.is_alive() for thread in mine)


def test_an_error_that_nobody_asks_for_keeps_nothing(helpers):
    class Memory:
        pass

    def work(memory):
        raise ValueError("damaged")

    _, free = held_up(helpers)
    memory = Memory()
    failing, other = helpers.hand_over(lambda memory=memory: work(memory)), helpers.hand_over(lambda: None)
    found = weakref.ref(memory)
    gc.disable()
    try:
        helpers.finish(other)
        del memory, failing
        assert found() is None
    finally:
        gc.enable()
        free.set()


def test_where_the_system_has_no_thread_the_one_that_waits_does_all(monkeypatch):
    monkeypatch.setattr(aside, "started", lambda thread: False)
    helpers, done = Helpers(3), []
    jobs = [helpers.hand_over(lambda: done.append(threading.current_thread())) for _ in range(4)]
    helpers.finish(jobs[-1])
    helpers.close()
    assert done == [threading.current_thread()] * 4


def test_a_single_thread_is_the_one_that_waits():
    assert not Helpers(1)
    assert Helpers(2)
