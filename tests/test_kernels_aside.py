"""Whoever waits for the compiler can be interrupted, and nothing of that is left at the end of the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from fastsgd.kernels.aside import NobodyWaitsError, interruptible, stop_with

PATIENCE = 60  # seconds until a process is taken to hang


def compilers():
    return [thread for thread in threading.enumerate() if thread.name == "fastsgd-compiler"]


def test_what_the_work_gives():
    assert interruptible(lambda: threading.current_thread().name) == "fastsgd-compiler"
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)
    assert compilers() == []


def test_work_within_work_is_done_in_place():
    names = interruptible(lambda: {threading.current_thread(), interruptible(threading.current_thread)})
    assert len(names) == 1


def test_an_interrupt_ends_the_wait_and_not_the_work():
    go_on, done = threading.Event(), threading.Event()

    def work():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        go_on.wait()
        done.set()

    with pytest.raises(KeyboardInterrupt):
        interruptible(work)
    assert not done.is_set()
    (thread,) = compilers()
    go_on.set()
    thread.join(PATIENCE)
    assert done.is_set()


def test_another_thread_waits_until_it_is_told_to_stop():
    stop, go_on, raised = threading.Event(), threading.Event(), []

    def wait():
        stop_with(stop)
        assert interruptible(lambda: 7) == 7
        try:
            interruptible(lambda: (stop.set(), go_on.wait()))
        except NobodyWaitsError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(raised) == 1
    (compiler,) = compilers()
    go_on.set()
    compiler.join(PATIENCE)


def test_another_thread_that_nobody_stops_does_it_itself():
    found = []
    thread = threading.Thread(target=lambda: found.append(interruptible(threading.current_thread)))
    thread.start()
    thread.join(PATIENCE)
    assert found == [thread]


UNENDING = """
import signal, sys, threading
from fastsgd.kernels import aside
class Losing:  # what is raised in it is lost
    def __del__(self):
        while True: pass
def work():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    Losing()
    while True: pass
try: aside.interruptible(work)
except KeyboardInterrupt: print("interrupted")
sys.exit(5)
"""


def test_the_end_of_the_process_ends_it():
    command = [sys.executable, "-c", UNENDING]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (5, "interrupted\n", "")


ANYWHERE = """
import sys, threading
from fastsgd.kernels import aside
def interrupted(at):
    returned = 0
    def interrupt(frame, event, argument):  # after a call of C, as Python handles signals
        nonlocal returned
        returned += event == "c_return"
        if returned == at:
            raise KeyboardInterrupt
    sys.setprofile(interrupt)
    try:
        assert aside.interruptible(lambda: threading.current_thread().name) == "fastsgd-compiler"
    except KeyboardInterrupt:
        pass
    sys.setprofile(None)
    return returned >= at
at = 1
while interrupted(at):
    at += 1
print(at > 50)
"""


def test_an_interrupt_anywhere_is_one_and_the_process_ends():
    command = [sys.executable, "-c", ANYWHERE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
