"""What all tests share: at least two threads, on a machine of one core too, and interrupts that arrive."""

import os
import signal

os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, len(os.sched_getaffinity(0)))))

# A shell lets what it starts in the background ignore SIGINT, and what that starts too: tests of interrupts would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
