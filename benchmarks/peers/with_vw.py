"""Vowpal Wabbit: a pass over its own cache file, made from the rows before the clock starts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import SupportsFloat

import numpy as np
import vowpalwabbit
from protocol import LOGISTIC, EpochLearner, Problem

_TOGETHER = 10_000


class VowpalWabbit(EpochLearner):
    """Logistic regression with plain SGD; its learning rate is that of a batch, parted among the batch's rows."""

    def __init__(self, problem: Problem) -> None:
        assert problem.loss == LOGISTIC
        self.version = vowpalwabbit.__version__
        self.problem = problem
        self.folder = tempfile.TemporaryDirectory()
        text = Path(self.folder.name) / "rows.txt"
        with open(text, "w", encoding="ascii") as file:
            names = [f" f{column}:" for column in range(problem.x.shape[1])]
            for first in range(0, problem.rows, _TOGETHER):
                rows = slice(first, min(first + _TOGETHER, problem.rows))
                for values, (label,) in zip(problem.x[rows], np.where(problem.y[rows] > 0, 1, -1), strict=True):
                    cells = [name + f"{value:.7g}" for name, value in zip(names, values, strict=True)]
                    file.write(f"{label} |{''.join(cells)}\n")
        rate = problem.learning_rate / problem.batch
        self.options = (
            f"--data {text} --cache_file {text}.cache --loss_function logistic --sgd --power_t 0 --no_stdin --quiet "
            f"--learning_rate {rate}"
        )
        self.epoch()  # makes the cache
        text.write_text("")

    def reset(self) -> None:
        """Each pass starts from nothing."""

    def epoch(self) -> Sequence[SupportsFloat]:
        workspace = vowpalwabbit.Workspace(self.options)
        loss = workspace.get_sum_loss() / workspace.get_weighted_examples()
        workspace.finish()
        return [loss]
