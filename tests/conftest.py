"""What all tests share: at least two threads, on a machine of one core too."""

import os

os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, len(os.sched_getaffinity(0)))))
