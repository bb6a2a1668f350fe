"""How alike the targets of neighbouring rows are, and whether a window of rows mixes them well enough."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsgd.data.loader import Loader

# Below so many blocks in the window, training on a file sorted by label loses accuracy: of that of a full shuffle a
# window of 20 blocks lost 0.4%, one of 10 1.4%, one of 5 a twentieth, with a linear model and a network alike
# (benchmarks/topics/shuffle.py).
ENOUGH_BLOCKS = 20
_CLUSTERED = 0.1  # share of the variance; of hundreds of rows a block, chance gives a hundredth
_SAMPLED, _LEAST_SAMPLED, _SAMPLED_BYTES = 32, 4, 1 << 26  # blocks, and about their bytes
_MOST_CLASSES = 100
# Values of targets that are looked at, each of which is a number for each class; and rows of a block at least.
_VALUES, _LEAST_ROWS = 1 << 13, 32


class Sample(NamedTuple):
    """Some blocks of a dataset, spread evenly.

    Attributes
    ----------
    clustering : float or None
        Intraclass correlation of the targets within blocks: the share of their variance that lies between blocks, 0 in
        a shuffled file and 1 in one whose blocks have one target each. None without targets, or with a single block.
    bytes_per_second : float
        At which they were read, decoded where they are compressed.
    """

    clustering: float | None
    bytes_per_second: float


def sample(loader: Loader) -> Sample:
    """Read some blocks of a dataset and tell how alike their targets are, and how fast they came.

    Raises
    ------
    DataError
        If they cannot be read.
    """
    dataset, blocks = loader.dataset, loader.blocks
    count = min(_SAMPLED, max(_LEAST_SAMPLED, _SAMPLED_BYTES // (blocks.largest * dataset.row_bytes)))
    picked = np.unique(np.linspace(0, len(blocks) - 1, count).astype(int))
    rng, most = np.random.default_rng(0), max(_LEAST_ROWS, _VALUES // (len(picked) * max(1, dataset.n_targets)))
    targets: list[NDArray[np.float64]] = []
    with dataset.open(loader.decoders()) as reader:
        begin, read = time.perf_counter(), 0
        for rows in loader.read(reader, (blocks[index] for index in picked.tolist()), unchecked=True):
            read += len(rows.x) * dataset.row_bytes
            if rows.y is not None:
                # By chance: every n-th row might be of one kind.
                some = rng.choice(len(rows.y), most, replace=False) if len(rows.y) > most else slice(None)
                targets.append(rows.y[some].astype(np.float64))
        seconds = time.perf_counter() - begin
    return Sample(intraclass_correlation(targets) if len(targets) > 1 else None, read / max(seconds, 1e-9))


def intraclass_correlation(blocks: list[NDArray[np.float64]]) -> float:
    """ICC(1,1) of targets (rows, columns) within blocks: (B - W) / (B + (n - 1) W), with the mean squares between and
    within blocks and n rows a block (P. E. Shrout and J. L. Fleiss, Psychol. Bull. 86, 1979); columns count alike.

    Numbers of few classes count as one column a class. Values that are not finite are left out. At least 0.
    """
    counted = [values[np.isfinite(values).all(axis=1)] for values in blocks]
    counted = [values for values in counted if len(values)]
    if len(counted) < 2:
        return 0.0
    classes = np.unique(np.concatenate(counted))
    if counted[0].shape[1] == 1 and len(classes) <= _MOST_CLASSES and (classes == np.round(classes)).all():
        counted = [(values == classes).astype(np.float64) for values in counted]
    sizes = np.array([len(values) for values in counted], np.float64)
    total, k = sizes.sum(), len(counted)
    whole = np.concatenate(counted)
    scale = np.where(whole.std(axis=0) > 0, whole.std(axis=0), 1)
    means = np.array([values.mean(axis=0) for values in counted])
    between = ((sizes[:, None] * ((means - whole.mean(axis=0)) / scale) ** 2).sum(axis=0) / (k - 1)).sum()
    inside = sum((((values - mean) / scale) ** 2).sum() for values, mean in zip(counted, means, strict=True))
    within = inside / max(1.0, total - k)
    n = (total - (sizes**2).sum() / total) / (k - 1)
    spread = between + (n - 1) * within
    return max(0.0, float((between - within) / spread)) if spread > 0 else 0.0


def holds_enough(loader: Loader) -> bool:
    """Whether the window mixes even a sorted file well enough, or nothing is shuffled at all."""
    plan = loader.plan
    return plan.whole or not loader.shuffle or plan.window_rows >= ENOUGH_BLOCKS * loader.blocks.largest


def advice(loader: Loader, clustering: float | None) -> str | None:
    """What is wrong with shuffling a clustered dataset through a window, and the way out; or None."""
    if clustering is None or clustering < _CLUSTERED or holds_enough(loader):
        return None
    dataset, plan, unit = loader.dataset, loader.plan, loader.blocks.largest
    held = plan.window_rows / unit
    wanted = min(ENOUGH_BLOCKS * unit, dataset.n_rows)
    enough = plan.budget
    while loader.plan_for(budget=enough).window_rows < wanted:
        enough += -(-plan.budget // 10)
    return (
        f"{dataset._name()} is clustered: {clustering:.0%} of the target's variance lies between the blocks that are "
        f"read at once, and the window holds {held:.1f} of them, where {ENOUGH_BLOCKS} mix them well enough. Give "
        f'memory="{-(-enough // 10**6)}MB" or more, or shuffle the file once: fastsgd shuffle IN OUT'
    )
