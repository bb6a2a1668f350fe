"""The model: a stack of layers over one flat vector of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsgd.errors import DataError, ModelError
from fastsgd.model.layers import ACTIVATIONS, Dense, Layer, Standardize, whole_number
from fastsgd.model.moments import Moments

if TYPE_CHECKING:
    import os

    from fastsgd.kernels import Network


_MOST_BYTES = 1 << 46  # more than a process can address; sizes beyond are a slip
_WORKSPACE_ROWS = 2048  # of a prediction: a block for each of 64 threads
_PREDICT_ROWS = 8192  # of a copy for a prediction
_PREDICT_WORK = 2e9  # floating-point operations of one call of compiled code: an interrupt waits for its end


class RowSource(Protocol):
    """What `predict` and `learn_standardization` need of a dataset."""

    @property
    def n_rows(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    def batches(
        self, batch_size: int, *, shuffle: bool = ..., memory: int | str = ..., dtype: DTypeLike = ...
    ) -> Iterator[tuple[NDArray[np.floating], ...]]: ...


class Sequential:
    """A dense network.

    Parameters
    ----------
    layers : sequence of layers
        `Dense` layers; the first may be `Standardize`.
    input_dim : int, optional
        Input columns; known from the first data otherwise.
    seed : int
        Draws the start parameters.
    dtype : str
        "float32" or "float64": what is computed in.

    Raises
    ------
    ModelError
        If the layers do not make a network.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        input_dim: int | None = None,
        seed: int = 0,
        dtype: DTypeLike = "float32",
    ) -> None:
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise ModelError(f"Sequential: layers is {layers!r}; it is a list of layers, like [Dense(64), Dense(1)]")
        self.layers = list(layers)
        self.dense = _checked(self.layers)
        self.standardizes = isinstance(self.layers[0], Standardize)
        self.seed = whole_number(seed, "Sequential: seed", least=0)
        self.dtype = _compute_dtype(dtype)
        self.input_dim: int | None = None
        self._network: Any = None
        self._workspace: Any = None
        self._idle: list[Any] = []
        self._learned = False
        if input_dim is not None:
            self.build(input_dim)

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.layers))
        return f"Sequential([{inside}], input_dim={self.input_dim}, seed={self.seed}, dtype={self.dtype.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_workspace": None, "_idle": [], "_network": None}
        if self._network is not None:
            state["_arrays"] = {name: array.copy() for name, array in self.parameters.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("_arrays", None)
        self.__dict__.update(state)
        if arrays is not None:
            assert self.input_dim is not None
            self._allocate(self.input_dim)
            for name, array in self.parameters.items():
                array[...] = arrays[name]

    @property
    def n_outputs(self) -> int:
        """Columns of a prediction."""
        return self.dense[-1].units

    def build(self, input_dim: int) -> None:
        """Make the parameters for `input_dim` input columns, if they are not there yet.

        Raises
        ------
        DataError
            If the model was built for another number of columns.
        """
        if self._network is not None:
            self._require_features(input_dim)
            return
        self._allocate(whole_number(input_dim, "Sequential: input_dim"))
        try:
            for index, layer in enumerate(self.dense):
                kernel = self.parameters[f"dense_{index}/kernel"]
                kernel[...] = layer.start_kernel(len(kernel), self.seed, index)
        except BaseException:
            # No memory, or Ctrl-C: not a model that looks built.
            self._network = self.input_dim = None
            raise

    def _allocate(self, input_dim: int) -> None:
        """Make the parameters, all 0."""
        from fastsgd.kernels.network import Network, aligned_zeros, layer_table

        sizes = [input_dim, *(layer.units for layer in self.dense)]
        count = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
        if count * self.dtype.itemsize > _MOST_BYTES:
            raise ModelError(f"Sequential: layers of {sizes} columns have {count:,} weights, more than a machine holds")
        table, length = layer_table(
            sizes, [ACTIVATIONS[layer.activation] for layer in self.dense], [layer.use_bias for layer in self.dense]
        )
        parameters = aligned_zeros(length, np.empty(1, self.dtype))
        width = input_dim if self.standardizes else 0
        self._network = Network(parameters, table, np.zeros(width, self.dtype), np.ones(width, self.dtype))
        self.input_dim = input_dim

    def _built(self) -> Any:
        if self._network is None:
            raise ModelError(
                "the model does not know its input columns yet: give Sequential(..., input_dim=n), or fit it first"
            )
        return self._network

    def _require_features(self, n_features: int) -> None:
        if n_features != self.input_dim:
            raise DataError(f"the data have {n_features} columns; the model takes {self.input_dim}")

    @property
    def network(self) -> Network:
        """The NamedTuple of arrays that every kernel of `fastsgd.kernels` takes."""
        network: Network = self._built()
        return network

    @property
    def parameters(self) -> dict[str, NDArray[np.floating]]:
        """Writable views: "dense_0/kernel" (n_in, n_out), "dense_0/bias" (n_out,), ...

        A kernel is not contiguous: its rows have gaps between them, and that of a layer of up to 15 outputs is stored
        column by column. A model that standardizes has "standardize/mean" and "standardize/scale" (n_in,) too: inputs
        enter the first layer as ``(x - mean) * scale``.
        """
        network = self._built()
        views: dict[str, NDArray[np.floating]] = {}
        if self.standardizes:
            views["standardize/mean"], views["standardize/scale"] = network.shift, network.scale
        return views | self.views(network.parameters)

    def views(self, vector: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
        """Writable views of a flat vector that is laid out like the parameters, by their names."""
        from fastsgd.kernels.network import BIAS_START, KERNEL, KERNEL_ROW, N_IN, N_OUT, NO_BIAS, TRANSPOSED

        views: dict[str, NDArray[np.floating]] = {}
        for index, row in enumerate(self._built().layers.tolist()):
            n_in, n_out, start, long = row[N_IN], row[N_OUT], row[KERNEL], row[KERNEL_ROW]
            rows, columns = (n_out, n_in) if row[TRANSPOSED] else (n_in, n_out)
            kernel = vector[start : start + rows * long].reshape(rows, long)[:, :columns]
            views[f"dense_{index}/kernel"] = kernel.T if row[TRANSPOSED] else kernel
            if row[BIAS_START] != NO_BIAS:
                views[f"dense_{index}/bias"] = vector[row[BIAS_START] : row[BIAS_START] + n_out]
        return views

    def expected_arrays(self, input_dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays that a model of these layers has with so many input columns, by their names in
        `parameters`."""
        expected: dict[str, tuple[int, ...]] = {}
        if self.standardizes:
            expected["standardize/mean"] = expected["standardize/scale"] = (input_dim,)
        n_in = input_dim
        for index, layer in enumerate(self.dense):
            expected[f"dense_{index}/kernel"] = (n_in, layer.units)
            if layer.use_bias:
                expected[f"dense_{index}/bias"] = (layer.units,)
            n_in = layer.units
        return expected

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(view.size for name, view in self.parameters.items() if name.startswith("dense"))

    @property
    def work_per_row(self) -> int:
        """Floating-point operations of a training step for one row, counting no input gradient for the first layer."""
        layers = self._built().layers.tolist()
        products = [row[0] * row[1] for row in layers]
        return int(4 * sum(products) + 2 * sum(products[1:]))

    @property
    def _forward_work(self) -> int:
        """Floating-point operations of a prediction for one row."""
        return int(2 * sum(row[0] * row[1] for row in self._built().layers.tolist()))

    def summary(self) -> str:
        """A table of the layers, their output columns and their parameters.

        Returns
        -------
        str
        """
        rows = [("layer", "outputs", "activation", "parameters")]
        inputs = "?" if self.input_dim is None else str(self.input_dim)
        rows.append(("input", inputs, "", ""))
        if self.standardizes:
            rows.append(("standardize", inputs, "", "0"))
        n_in, total = self.input_dim, 0
        for index, layer in enumerate(self.dense):
            count = None if n_in is None else n_in * layer.units + layer.use_bias * layer.units
            total += count or 0
            shown = "?" if count is None else f"{count:,}"
            rows.append((f"dense_{index}", str(layer.units), layer.activation, shown))
            n_in = layer.units
        rows.append(("total", "", self.dtype.name, "?" if self.input_dim is None else f"{total:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * len(max(lines, key=len)))
        return "\n".join(lines)

    def learn_standardization(self, dataset: RowSource, *, batch_size: int = 8192, memory: int | str = "64MB") -> None:
        """Learn mean and scale of the `Standardize` layer in one pass over a dataset.

        The moments are those of the rows as the model sees them, in its dtype.

        Parameters
        ----------
        dataset : dataset
        batch_size : int
            Rows taken at a time.
        memory : int or str
            Budget for reading.

        Raises
        ------
        ModelError
            If the model has no `Standardize` layer.
        DataError
            If the data have another number of columns than the model, or a column goes too far to have a
            standard deviation.
        """
        network = self._built()
        if not self.standardizes:
            raise ModelError("learn_standardization: the model has no Standardize() layer")
        self._require_features(dataset.n_features)
        moments = Moments()
        rows = dataset.batches(batch_size, shuffle=False, memory=memory, dtype=self.dtype)
        with closing(rows) as batches:  # type: ignore[type-var]
            for batch in batches:
                moments.add(batch[0].astype(np.float64, copy=False))
        mean, scale = moments.mean.astype(self.dtype), moments.scale(self.dtype)
        network.shift[:], network.scale[:] = mean, scale
        self._learned = True

    def standardization_is_learned(self, learned: bool) -> None:
        """Say whether the arrays of the `Standardize` layer were learned, where they came from elsewhere."""
        self._learned = learned

    @property
    def needs_standardization(self) -> bool:
        """Whether there is a `Standardize` layer that has not seen data yet."""
        return self.standardizes and not self._learned

    def predict(
        self,
        x: ArrayLike | RowSource,
        *,
        batch_size: int = 8192,
        out: NDArray[np.floating] | None = None,
        raw: bool = False,
        threads: int | None = None,
        memory: int | str = "256MB",
    ) -> NDArray[np.floating]:
        """Outputs of the network.

        Parameters
        ----------
        x : array (rows, n_inputs) or dataset
            A dataset is streamed.
        batch_size : int
            Rows computed at a time; bounds the memory, not the result.
        out : array (rows, n_outputs), optional
            Written to, instead of a new array; C-contiguous, of the model's dtype.
        raw : bool
            Leave out the last activation: logits instead of probabilities.
        threads : int, optional
        memory : int or str
            Budget for reading a dataset.

        Returns
        -------
        array (rows, n_outputs)

        Raises
        ------
        DataError
            If `x` has another number of columns than the model, or `out` does not fit.
        """
        from fastsgd.kernels.sharing import keep_threads

        batch_size = whole_number(batch_size, "predict: batch_size")
        if threads is not None:
            whole_number(threads, "predict: threads")
        self._built()
        if hasattr(x, "batches"):
            source: RowSource = x  # type: ignore[assignment]
            self._require_features(source.n_features)
            if getattr(source, "nan", "error") == "skip":
                raise DataError(
                    'predict: the dataset has nan="skip", and would leave rows without an output; open it with "zero" '
                    'or "error"'
                )
            out = self._output(out, source.n_rows)
            at = 0
            stream = source.batches(batch_size, shuffle=False, memory=memory, dtype=self.dtype)
            with closing(stream) as batches, keep_threads():  # type: ignore[type-var]
                for batch in batches:
                    self._forward(batch[0], out[at : at + len(batch[0])], raw, threads, batch_size)
                    at += len(batch[0])
            return out
        rows = self._as_rows(x)
        out = self._output(out, len(rows))
        # Compiled code takes C-contiguous, aligned, writeable arrays; others are copied a stretch at a time. One that
        # is taken as it is goes in longer stretches, since threads wait for each other at the end of each.
        as_it_is = rows.dtype == self.dtype and rows.flags.carray
        most = max(_PREDICT_ROWS, int(_PREDICT_WORK / self._forward_work)) if as_it_is else _PREDICT_ROWS
        stretch = batch_size * max(1, most // batch_size)
        with keep_threads():
            for at in range(0, len(rows), stretch):
                part = np.require(rows[at : at + stretch], self.dtype, ["C", "A", "W"])
                self._forward(part, out[at : at + stretch], raw, threads, batch_size)
        return out

    def _as_rows(self, x: ArrayLike | RowSource) -> NDArray[np.generic]:
        try:
            rows = np.asarray(x)
            if rows.dtype.kind not in "fiub":
                raise TypeError(f"its dtype is {rows.dtype}")
        except (TypeError, ValueError) as error:
            raise DataError(f"predict: x is no array of numbers, nor a dataset ({error})") from error
        if rows.ndim == 1 and self.input_dim == 1:
            rows = rows.reshape(-1, 1)
        if rows.ndim != 2:
            raise DataError(f"predict: x has shape {rows.shape}; the model takes (rows, {self.input_dim})")
        self._require_features(rows.shape[1])
        return rows

    def _output(self, out: NDArray[np.floating] | None, rows: int) -> NDArray[np.floating]:
        shape = (rows, self.n_outputs)
        if out is None:
            return np.empty(shape, self.dtype)
        if not isinstance(out, np.ndarray):
            raise DataError(f"predict: out is a {type(out).__name__}; it is an array")
        if out.shape != shape or out.dtype != self.dtype or not out.flags.carray:
            raise DataError(
                f"predict: out takes a C-contiguous, aligned, writeable array of {self.dtype} and shape {shape}; this "
                f"one is {out.dtype} of shape {out.shape}, contiguous {out.flags.c_contiguous}, aligned "
                f"{out.flags.aligned}, writeable {out.flags.writeable}"
            )
        return out

    def _forward(
        self, x: NDArray[np.floating], out: NDArray[np.floating], raw: bool, threads: int | None, batch_size: int
    ) -> None:
        from fastsgd.kernels.network import make_workspace
        from fastsgd.kernels.sharing import share
        from fastsgd.kernels.step import forward_worker, start_slab
        from fastsgd.kernels.threads import available_threads, worth_threads

        rows = min(batch_size, len(x), _WORKSPACE_ROWS)
        # Taken while it is in use, so that several threads can predict with one model.
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = None
        if workspace is None or workspace.max_rows < rows:
            workspace = make_workspace(self.network, rows)
        count = worth_threads(self._forward_work * len(x), 1, available_threads(threads))
        count = min(count, workspace.workers)
        start_slab(self.network, workspace, workspace.memory[:0], workspace.memory[:0], count)
        share(forward_worker, count, self.network, workspace, x, raw, out)
        self._idle[:] = [workspace]

    def workspace(self, rows: int) -> Any:
        """Scratch memory for batches of `rows` rows; kept for the next call."""
        from fastsgd.kernels.network import make_workspace

        if self._workspace is None or self._workspace.max_rows < rows:
            self._workspace = make_workspace(self.network, rows)
        return self._workspace

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, its architecture in the metadata.

        The file appears whole or not at all. `fastsgd.load_model` reads it.
        """
        from fastsgd.model.files import save_model

        save_model(self, path)


def _compute_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise ModelError(f"Sequential: dtype is {dtype!r}; it is float32 or float64")
    return found


def _checked(layers: list[Layer]) -> list[Dense]:
    """The dense layers of a stack that makes a network."""
    for index, layer in enumerate(layers):
        if not isinstance(layer, (Dense, Standardize)):
            raise ModelError(f"Sequential: layer {index} is {layer!r}; layers are Dense and Standardize")
        if isinstance(layer, Standardize) and index > 0:
            raise ModelError(f"Sequential: layer {index} is Standardize(); it can only be the first")
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    if not dense:
        raise ModelError("Sequential: there is no Dense layer; a model needs at least one")
    for index, layer in enumerate(dense[:-1]):
        if layer.activation == "softmax":
            raise ModelError(f"Sequential: dense_{index} has softmax, which is for the last layer only")
    return dense
