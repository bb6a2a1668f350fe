"""The errors that fastsgd raises on purpose. Their messages say what was given, what is allowed, and the way out."""

from __future__ import annotations


class FastSGDError(Exception):
    """Base of all errors of this package."""


class DataError(FastSGDError, ValueError):
    """Data that cannot be trained on; names file, dataset, row and column where there is one."""


class ModelError(FastSGDError, ValueError):
    """A model, loss or optimizer that was put together in a way that cannot work."""


class ModelFileError(FastSGDError, ValueError):
    """A file that is not a model of this package, or a damaged one."""


class CheckpointError(FastSGDError, ValueError):
    """A checkpoint that cannot be written, or is damaged, or is one of another run."""


class NonFiniteError(FastSGDError, ArithmeticError):
    """A loss that stopped being a finite number."""


class MemoryBudgetError(FastSGDError, ValueError):
    """A memory budget that is too small; names the least that works."""
