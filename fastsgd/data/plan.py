"""How a memory budget is spent: window, slabs, blocks in flight."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastsgd.errors import MemoryBudgetError

DEFAULT_MEMORY = 1_000_000_000
_SLAB_BYTES = 4 << 20
_SLABS = 3  # one being trained on, one ready, one being filled
_BLOCKS = 3  # one as read, one in HDF5's own cache, one on its way through a conversion
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_memory(memory: int | str | None) -> int:
    """Bytes of a budget given as a number, as text like "512MB" or "2GiB", or as None: 1 GB.

    Raises
    ------
    MemoryBudgetError
        If it is none of these.
    """
    if memory is None:
        return DEFAULT_MEMORY
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)\s*", memory.upper())
        unit = (
            None
            if match is None
            else _UNITS.get(match[2] if match[2].endswith("B") or not match[2] else match[2] + "B")
        )
        if match is None or unit is None:
            raise MemoryBudgetError(f'memory is {memory!r}; it is a number of bytes, or like "512MB", "2GB" or "1GiB"')
        return int(float(match[1]) * unit)
    if isinstance(memory, bool) or memory <= 0:
        raise MemoryBudgetError(f"memory is {memory!r}; it is a number of bytes above 0")
    return int(memory)


def as_bytes(count: float) -> str:
    """A number of bytes for people: "12.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


@dataclass(frozen=True)
class MemoryPlan:
    """What a loader allocates, in rows and bytes.

    Attributes
    ----------
    budget : int
        Bytes allowed.
    whole : bool
        Whether all rows are held, instead of a window of them.
    window_rows : int
        Rows that are held: all of them, those of the window, or none where nothing is shuffled.
    slab_rows : int
        Rows handed over at a time, whole batches.
    slabs : int
        Slabs that exist at once.
    window_bytes, slab_bytes, block_bytes : int
        Bytes of the window, of all slabs, and of blocks being read.
    """

    budget: int
    whole: bool
    window_rows: int
    slab_rows: int
    slabs: int
    window_bytes: int
    slab_bytes: int
    block_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes that are allocated."""
        return self.window_bytes + self.slab_bytes + self.block_bytes

    def __str__(self) -> str:
        held = f"all {self.window_rows} rows" if self.whole else f"a window of {self.window_rows} rows"
        if not self.window_rows:
            held = "no rows"
        return (
            f"memory {as_bytes(self.budget)}: {held} held ({as_bytes(self.window_bytes)}), "
            f"slabs {as_bytes(self.slab_bytes)}, blocks being read {as_bytes(self.block_bytes)}"
        )


def plan_memory(
    *,
    n_rows: int,
    row_bytes: int,
    slab_row_bytes: int,
    block_rows: int,
    batch_size: int,
    budget: int,
    shuffle: bool,
    in_memory: bool = False,
    slab_limit: int | None = None,
) -> MemoryPlan:
    """Spend a budget.

    Parameters
    ----------
    n_rows, row_bytes : int
        The data as stored.
    slab_row_bytes : int
        Bytes of a row as it is handed over.
    block_rows : int
        Rows of the largest block.
    batch_size : int
        Rows of a batch; slabs hold whole batches.
    budget : int
        Bytes.
    shuffle : bool
        Whether a window is needed.
    in_memory : bool
        The rows lie in memory already and cost nothing.
    slab_limit : int, optional
        Rows of a slab at most (but at least a batch), where a row is much work.

    Raises
    ------
    MemoryBudgetError
        If it cannot hold a window of one block; names the least that works.
    """
    batch_size = min(batch_size, n_rows)
    batches = max(1, min(_SLAB_BYTES, budget // 16) // (batch_size * slab_row_bytes))
    if slab_limit is not None:
        batches = max(1, min(batches, slab_limit // batch_size))
    slab_rows = batch_size * min(batches, -(-n_rows // batch_size))
    if in_memory:
        return MemoryPlan(budget, True, n_rows, slab_rows, 1, 0, slab_rows * slab_row_bytes, 0)
    blocks = _BLOCKS * block_rows * row_bytes
    for rows in (slab_rows, batch_size):
        slabs = _SLABS * rows * slab_row_bytes
        left = budget - slabs - blocks
        if shuffle and n_rows * row_bytes <= left:
            return MemoryPlan(budget, True, n_rows, rows, _SLABS, n_rows * row_bytes, slabs, blocks)
        window_rows = left // row_bytes if shuffle else 0
        if left >= 0 and (not shuffle or window_rows >= block_rows):
            return MemoryPlan(budget, False, window_rows, rows, _SLABS, window_rows * row_bytes, slabs, blocks)
    least = blocks + _SLABS * batch_size * slab_row_bytes + shuffle * block_rows * row_bytes
    raise MemoryBudgetError(
        f"memory is {as_bytes(budget)}, too little to read blocks of {block_rows} rows "
        f"({as_bytes(block_rows * row_bytes)}) and hand over batches of {batch_size}; "
        f'the least that works here is memory="{-(-least // 10**6)}MB"'
    )
