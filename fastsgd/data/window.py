"""The swap window: rows that wait for others to push them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.blocks import Rows
from fastsgd.data.order import exchange_key

if TYPE_CHECKING:
    from fastsgd.data.loader import Loader


class Window:
    """Rows in their storage dtype that wait to be pushed out by others."""

    def __init__(self, loader: Loader, epoch: int) -> None:
        dataset, self.slots = loader.dataset, loader.plan.window_rows
        parts = (
            (dataset.n_features, dataset.dtype),
            (dataset.n_targets, dataset.target_dtype),
            (1, dataset.weight_dtype),
        )
        self.rows = Rows(*(None if dtype is None else np.empty((self.slots, width), dtype) for width, dtype in parts))  # type: ignore[arg-type]
        self.key = exchange_key(loader.seed, epoch)
        self.exchanged = 0
        self._held = 0

    @property
    def admitted(self) -> int:
        """Rows that have come."""
        return self._held + self.exchanged

    def places(self, first: int, last: int, taken: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The slots in which rows `first` to `last` of those that came are after all exchanges, or -1; see
        `find_places`."""
        from fastsgd.kernels.rows import find_places

        places = np.empty(max(0, last - first), np.int64)
        find_places(self.key, first, self.slots, taken, places)
        return places

    def put(self, rows: Rows, places: NDArray[np.int64]) -> None:
        """Put the first of some rows to their places, those left out that have none."""
        there = np.flatnonzero(places >= 0)
        for slots, part in zip(self.rows, rows, strict=True):
            if slots is not None and part is not None:
                slots[places[there]] = part[there]
        self._held += len(there)

    def admit(self, rows: Rows) -> Rows:
        """Put rows into the slots that are still free; returns the others."""
        entering = min(len(self.rows.x) - self._held, len(rows.x))
        for slots, part in zip(self.rows, rows, strict=True):
            if slots is not None and part is not None:
                slots[self._held : self._held + entering] = part[:entering]
        self._held += entering
        return rows.each(lambda part: part[entering:])

    def held(self) -> Rows:
        """The rows in the window: less than it has room for where many were left out."""
        return self.rows.each(lambda part: part[: self._held])
