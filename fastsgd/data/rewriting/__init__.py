"""Files written anew, to train from: rows in random order, stored for streaming, or out of other formats."""

from fastsgd.data.rewriting.converting import Converted, convert_files
from fastsgd.data.rewriting.repacking import repack_file
from fastsgd.data.rewriting.rewrite import Rewritten
from fastsgd.data.rewriting.shuffling import shuffle_file

__all__ = ["Converted", "Rewritten", "convert_files", "repack_file", "shuffle_file"]
