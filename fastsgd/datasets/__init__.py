"""Datasets that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["flights"]


def flights() -> Path:
    """Path of the HDF5 file of flights that left New York City in 2013.

    The task is to predict the arrival delay from what is known when the aircraft leaves the gate. Of 336,776 flights,
    327,346 have an arrival; the others were cancelled or diverted and are left out.

    Returns
    -------
    pathlib.Path
        A file of three datasets, row i of each being flight i:

        ``X`` : (327346, 42) int16
            Departure delay and scheduled duration (minutes), distance (miles), scheduled local departure (minutes since
            midnight), and indicators of month, weekday, carrier and origin. The attribute ``columns`` names them. The
            scales differ widely: start a model with ``Standardize()``.
        ``y`` : (327346,) float32
            Arrival delay in minutes; negative is early.
        ``late`` : (327346,) uint8
            1 where the arrival delay is more than 15 minutes, else 0.

    Notes
    -----
    The rows are in the order of the source table, where January is followed by October: by month as text, then by day.
    The source is the US Bureau of Transportation Statistics through the R package nycflights13 (CC0); the attributes of
    the file tell what was derived. ``scripts/make_flights.py`` makes the file.

    Examples
    --------
    >>> import fastsgd as fs
    >>> dataset = fs.HDF5Dataset(fs.datasets.flights(), features="X", target="y")
    """
    return Path(str(files(__name__).joinpath("flights.h5")))
