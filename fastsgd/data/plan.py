"""How a memory budget is spent: window, slabs, blocks in flight."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import NamedTuple

from fastsgd.errors import MemoryBudgetError

DEFAULT_MEMORY = 1_000_000_000
_SLAB_BYTES = 4 << 20
_SLABS = 3  # one being trained on, one ready, one being filled
# Blocks that are read ahead, and threads that decode them, at most; and the share that both may take of what the budget
# has beside the least that works. None depends on the machine: the window takes what they leave, and the order depends
# on the window.
_BLOCKS_AHEAD, _DECODERS, _SHARE = 8, 16, 4


def parse_memory(memory: int | str | None) -> int:
    """Bytes of a budget given as a number, as text like "512MB" or "2GiB", or as None: 1 GB.

    Raises
    ------
    MemoryBudgetError
        If it is none of these.
    """
    if memory is None:
        return DEFAULT_MEMORY
    count = 0.0
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", memory.upper())
        if match is not None and (match[2] or not match[3]):
            count = float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2] or " ")
    elif isinstance(memory, numbers.Real) and not isinstance(memory, bool) and math.isfinite(memory):
        count = float(memory)
    if count < 1:
        raise MemoryBudgetError(f'memory is {memory!r}; it is a number of bytes, or like "512MB", "2GB" or "1GiB"')
    return int(count)


def require_memory(plan: MemoryPlan, root: str = "/") -> None:
    """Raise MemoryBudgetError if the machine that `root` tells of, or a limit of the process, cannot give what a plan
    takes: the process would be ended in the middle of an epoch, or run out of memory there."""
    from fastsgd.kernels import host

    for most, whose in (
        (host.memory_limit(root), "the control group of this process allows"),
        (host.memory_available(root), "this machine has left"),
        (host.address_space_left(root), "the limit of this process's address space (ulimit -v) leaves"),
    ):
        if most is not None and plan.total_bytes > most:
            raise MemoryBudgetError(
                f"memory is {as_bytes(plan.budget)}, of which {as_bytes(plan.total_bytes)} would be taken; {whose} "
                f'{as_bytes(most)}. Give memory="{max(1, most * 3 // 4 // 10**6)}MB", with which rows are drawn in '
                "another order, or more memory to the process"
            )


def shortage(error: BaseException, plan: MemoryPlan) -> MemoryBudgetError | None:
    """What to say of an error that tells that memory or a thread was not to be had; None of others."""
    from fastsgd.kernels import host

    if isinstance(error, MemoryError):
        what = "ran out: " + (str(error) or "no more can be allocated")
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        what = "or the number of threads has reached a limit: no thread could be started"
    else:
        return None
    left = host.address_space_left()
    limit = "" if left is None else f"; the limit of this process's address space (ulimit -v) leaves {as_bytes(left)}"
    return MemoryBudgetError(
        f"memory {what}{limit}. Planned was {plan}. Give a smaller memory=..., with which rows are drawn in another "
        "order, or raise the limits of the process"
    )


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
        Slabs that exist at once; where training and reading take turns, one in the memory of all.
    window_bytes, slab_bytes, block_bytes : int
        Bytes of the window, of all slabs, and of blocks that are being read.
    blocks_ahead : int
        Blocks that are read ahead of the one that is taken.
    decoders : int
        Threads that decode blocks, at most.
    """

    budget: int
    whole: bool
    window_rows: int
    slab_rows: int
    slabs: int
    window_bytes: int
    slab_bytes: int
    block_bytes: int
    blocks_ahead: int
    decoders: int

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


class BlockCost(NamedTuple):
    """What the largest block takes: its rows and bytes, bytes that reading it takes besides, and bytes of each thread
    that decodes."""

    rows: int
    block: int
    reading: int
    decoder: int

    @property
    def least(self) -> int:
        """Bytes with which one can be read."""
        return self.block + self.reading + self.decoder

    def spend(self, spare: int) -> tuple[int, int, int]:
        """(bytes, blocks that are read ahead, threads that decode) with so many bytes more than the least."""
        spare = min(spare, _BLOCKS_AHEAD * self.block + (_DECODERS - 1) * self.decoder)
        ahead = min(_BLOCKS_AHEAD, spare // 2 // max(1, self.block))
        decoders = min(_DECODERS, 1 + (spare - ahead * self.block) // max(1, self.decoder))
        return self.least + spare, ahead, decoders


def plan_memory(
    *,
    n_rows: int,
    row_bytes: int,
    slab_row_bytes: int,
    cost: BlockCost,
    batch_size: int,
    budget: int,
    shuffle: bool,
    in_memory: bool = False,
) -> MemoryPlan:
    """Spend a budget, in the same way on every machine, for any number of threads and any network: the order of rows
    depends on it.

    Parameters
    ----------
    n_rows, row_bytes : int
        The data as stored.
    slab_row_bytes : int
        Bytes of a row as it is handed over.
    cost : BlockCost
    batch_size : int
        Rows of a batch; slabs hold whole batches.
    budget : int
        Bytes.
    shuffle : bool
        Whether a window is needed.
    in_memory : bool
        The rows lie in memory already and cost nothing.

    Raises
    ------
    MemoryBudgetError
        If it cannot hold three batches and a window of one block; names the least that works.
    """
    batch_size = min(batch_size, n_rows)
    batches = max(1, min(_SLAB_BYTES, budget // 16) // (batch_size * slab_row_bytes))
    slab_rows = batch_size * min(batches, -(-n_rows // batch_size))
    if in_memory:
        cost = BlockCost(0, 0, 0, 0)
    slabs = 1 if in_memory else _SLABS
    window = cost.rows if shuffle else 0
    least = slabs * batch_size * slab_row_bytes + cost.least + window * row_bytes
    spare = max(0, budget - least) // _SHARE
    room = budget - slabs * slab_rows * slab_row_bytes - cost.least - n_rows * row_bytes
    if shuffle and room >= 0:
        spare = min(spare, room)  # rather all rows in memory than blocks that are read ahead
    flight, ahead, decoders = cost.spend(spare)
    for rows in (slab_rows, batch_size):
        slab_bytes = slabs * rows * slab_row_bytes
        left = budget - slab_bytes - flight
        if left < window * row_bytes:
            continue
        if in_memory:
            return MemoryPlan(budget, True, n_rows, rows, slabs, 0, slab_bytes, flight, ahead, decoders)
        held = min(n_rows, left // row_bytes) if shuffle else 0
        return MemoryPlan(
            budget, held == n_rows, held, rows, slabs, held * row_bytes, slab_bytes, flight, ahead, decoders
        )
    blocks = f"read blocks of {cost.rows} rows ({as_bytes(cost.rows * row_bytes)}) and " if cost.rows else ""
    raise MemoryBudgetError(
        f"memory is {as_bytes(budget)}, too little to {blocks}hand over batches of {batch_size} rows "
        f'({as_bytes(batch_size * slab_row_bytes)}); the least that works here is memory="{-(-least // 10**6)}MB"'
    )
