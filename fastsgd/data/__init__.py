"""Where rows come from: datasets, their shuffled order, and the loader that brings them in bounded memory."""

from fastsgd.data.arrays import ArrayDataset
from fastsgd.data.dataset import Dataset
from fastsgd.data.hdf5 import HDF5Dataset

__all__ = ["ArrayDataset", "Dataset", "HDF5Dataset"]
