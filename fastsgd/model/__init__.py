"""Models: layers become one flat vector of parameters and a table of integers."""

from fastsgd.model.files import load_model
from fastsgd.model.layers import Dense, Layer, Standardize
from fastsgd.model.sequential import Sequential

__all__ = ["Dense", "Layer", "Sequential", "Standardize", "load_model"]
