"""Whether a file can hold what its header says. HDF5 has a value for each place where nothing was written, so that a
kilobyte may claim rows by the quintillion, of which the mere list would take all memory."""

from __future__ import annotations

from fastsgd.data.plan import as_bytes
from fastsgd.errors import DataError

# Bytes that are claimed for each that is there, at most: as many as gzip makes of one, and more than are found in data;
# and what any file may claim, since chunks that are still to be written are none yet.
_MOST_RATIO, _MOST_UNWRITTEN = 1024, 1 << 38


def require_credible(claimed: int, stored: int, what: str) -> None:
    """Raise DataError if files of `stored` bytes cannot hold values of `claimed` bytes; `what` names them."""
    most = max(_MOST_UNWRITTEN, _MOST_RATIO * stored)
    if claimed > most:
        raise DataError(
            f"{what} claims {as_bytes(claimed)} of values, and its files have {as_bytes(stored)}, which hold "
            f"{as_bytes(most)} at most; the file is damaged, or made to mislead"
        )
