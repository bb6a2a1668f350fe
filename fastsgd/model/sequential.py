"""The model: a stack of layers over one flat vector of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsgd.errors import DataError, ModelError
from fastsgd.model.layers import ACTIVATIONS, Dense, Layer, Standardize, whole_number

if TYPE_CHECKING:
    import os

    from fastsgd.kernels import Network


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
        self.layers = list(layers)
        self.dense = _checked(self.layers)
        self.standardizes = isinstance(self.layers[0], Standardize)
        self.seed = whole_number(seed, "Sequential: seed", least=0)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ModelError(f"Sequential: dtype is {dtype!r}; it is float32 or float64")
        self.input_dim: int | None = None
        self._network: Any = None
        self._workspace: Any = None
        self._learned = False
        if input_dim is not None:
            self.build(input_dim)

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.layers))
        return f"Sequential([{inside}], input_dim={self.input_dim}, seed={self.seed}, dtype={self.dtype.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_workspace": None, "_network": None}
        if self._network is not None:
            state["_arrays"] = {name: array.copy() for name, array in self.parameters.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("_arrays", None)
        self.__dict__.update(state)
        if arrays is not None:
            dim, self.input_dim = self.input_dim, None
            assert dim is not None
            self.build(dim)
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
        from fastsgd.kernels.network import Network, aligned_zeros, layer_table

        self.input_dim = whole_number(input_dim, "Sequential: input_dim")
        sizes = [self.input_dim, *(layer.units for layer in self.dense)]
        table, length = layer_table(
            sizes, [ACTIVATIONS[layer.activation] for layer in self.dense], [layer.use_bias for layer in self.dense]
        )
        like = np.empty(1, self.dtype)
        width = self.input_dim if self.standardizes else 0
        self._network = Network(
            aligned_zeros(length, like), table, np.zeros(width, self.dtype), np.ones(width, self.dtype)
        )
        for index, layer in enumerate(self.dense):
            self.parameters[f"dense_{index}/kernel"][...] = layer.start_kernel(sizes[index], self.seed, index)

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

        A model that standardizes has "standardize/mean" and "standardize/scale" (n_in,) too: inputs enter the first
        layer as ``(x - mean) * scale``.
        """
        from fastsgd.kernels.network import BIAS_START, KERNEL, N_IN, N_OUT, NO_BIAS, TRANSPOSED

        network = self._built()
        views: dict[str, NDArray[np.floating]] = {}
        if self.standardizes:
            views["standardize/mean"], views["standardize/scale"] = network.shift, network.scale
        for index, row in enumerate(network.layers.tolist()):
            n_in, n_out, start = row[N_IN], row[N_OUT], row[KERNEL]
            kernel = network.parameters[start : start + n_in * n_out]
            kernel = kernel.reshape(n_out, n_in).T if row[TRANSPOSED] else kernel.reshape(n_in, n_out)
            views[f"dense_{index}/kernel"] = kernel
            if row[BIAS_START] != NO_BIAS:
                views[f"dense_{index}/bias"] = network.parameters[row[BIAS_START] : row[BIAS_START] + n_out]
        return views

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

    def learn_standardization(self, dataset: RowSource, *, memory: int | str = "64MB") -> None:
        """Learn mean and scale of the `Standardize` layer in one pass over a dataset.

        The moments of each stretch of rows are merged in float64 (Chan, Golub and LeVeque 1983), so a small spread
        around a large mean survives.
        """
        network = self._built()
        count = 0
        mean = np.zeros(network.shift.size)
        squares = np.zeros(network.shift.size)
        for batch in dataset.batches(8192, shuffle=False, memory=memory, dtype=np.float64):
            x = batch[0]
            here = x.mean(axis=0)
            spread = np.square(x - here).sum(axis=0)
            difference = here - mean
            share = len(x) / (count + len(x))
            squares += spread + np.square(difference) * count * share
            mean += difference * share
            count += len(x)
        deviation = np.sqrt(squares / count)
        network.shift[:] = mean
        network.scale[:] = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 1)
        self._learned = True

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

        Returns
        -------
        array (rows, n_outputs)

        Raises
        ------
        DataError
            If `x` has another number of columns than the model, or `out` does not fit.
        """
        whole_number(batch_size, "predict: batch_size")
        if hasattr(x, "batches"):
            source: RowSource = x  # type: ignore[assignment]
            self._built()
            self._require_features(source.n_features)
            out = self._output(out, source.n_rows)
            at = 0
            for batch in source.batches(batch_size, shuffle=False, dtype=self.dtype):
                self._forward(batch[0], out[at : at + len(batch[0])], raw, threads, batch_size)
                at += len(batch[0])
            return out
        rows = self._as_rows(x)
        out = self._output(out, len(rows))
        self._forward(rows, out, raw, threads, batch_size)
        return out

    def _as_rows(self, x: ArrayLike | RowSource) -> NDArray[np.floating]:
        self._built()
        try:
            rows = np.asarray(x)
            if rows.ndim == 1 and self.input_dim == 1:
                rows = rows.reshape(-1, 1)
            if rows.dtype.kind not in "fiub":
                raise TypeError(f"dtype {rows.dtype}")
        except (TypeError, ValueError) as error:
            raise DataError(f"predict: x is no array of numbers ({error})") from error
        if rows.ndim != 2:
            raise DataError(f"predict: x has shape {rows.shape}; the model takes (rows, {self.input_dim})")
        self._require_features(rows.shape[1])
        return np.ascontiguousarray(rows, self.dtype)

    def _output(self, out: NDArray[np.floating] | None, rows: int) -> NDArray[np.floating]:
        shape = (rows, self.n_outputs)
        if out is None:
            return np.empty(shape, self.dtype)
        if out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise DataError(
                f"predict: out is {out.dtype} of shape {out.shape}; it is C-contiguous {self.dtype} of shape {shape}"
            )
        return out

    def _forward(
        self, x: NDArray[np.floating], out: NDArray[np.floating], raw: bool, threads: int | None, batch_size: int
    ) -> None:
        from fastsgd.kernels.step import forward_slab, forward_slab_serial
        from fastsgd.kernels.threads import available_threads, parallel_region, worth_threads

        if len(x) == 0:
            return
        count = available_threads(threads)
        workspace = self.workspace(min(batch_size, len(x)))
        if worth_threads(self.work_per_row / 3 * min(len(x), batch_size), count):
            with parallel_region(count):
                forward_slab(self.network, workspace, x, raw, out)
        else:
            forward_slab_serial(self.network, workspace, x, raw, out)

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
