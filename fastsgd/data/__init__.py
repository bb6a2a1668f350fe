"""Where rows come from: datasets, their shuffled order, and the loader that brings them in bounded memory; and files
rewritten so that they come faster."""

from fastsgd.data.arrays import ArrayDataset
from fastsgd.data.dataset import Dataset
from fastsgd.data.hdf5 import HDF5Dataset
from fastsgd.data.rewriting import convert_files, repack_file, shuffle_file

__all__ = ["ArrayDataset", "Dataset", "HDF5Dataset", "convert_files", "repack_file", "shuffle_file"]
