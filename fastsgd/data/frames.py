"""What an error keeps: the frames of its traceback hold what was local to them, as long as someone has the error."""

from __future__ import annotations

import traceback


def let_go(error: BaseException) -> None:
    """Clear the frames that an error, and what caused it, went through, but for those that still run."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
