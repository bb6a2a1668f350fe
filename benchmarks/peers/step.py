"""One peer library in one process: an epoch of SGD over data in memory, each time the runner says so.

Run as ``step.py PEER --layers 10,64,64,1 --batch 256 --rows 200000 [--data problem.npz]``. The process prints
``{"ready": true, "version": ...}`` once it is compiled and warm; it answers each line ``go`` on its standard input with
``{"seconds": ..., "loss": ...}`` of one epoch, and ends at ``quit``.

All peers train one network (relu, a linear last layer, mean squared error, plain SGD) from the same weights on the same
rows, in the order they lie, with the data where the library wants it before the clock starts. Each is written as its
own users would write it for speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

import numpy as np
import numpy.typing as npt

LEARNING_RATE = 0.01

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """What every library is given.

    Attributes
    ----------
    x, y : arrays (rows, n_in) and (rows, n_out), float32; rows is a multiple of the batch
    start : list of (kernel (n_in, n_out), bias (n_out,)), the weights to start from
    batch : int, rows of a training step
    threads : int, threads to train with
    """

    x: Array
    y: Array
    start: list[tuple[Array, Array]]
    batch: int
    threads: int

    @property
    def layers(self) -> list[int]:
        """Widths from the inputs to the outputs."""
        return [self.x.shape[1], *(bias.size for _, bias in self.start)]

    def batches(self) -> list[tuple[Array, Array]]:
        """(x, y) views of all training steps of an epoch."""
        return [(self.x[i : i + self.batch], self.y[i : i + self.batch]) for i in range(0, len(self.x), self.batch)]


class Learner(Protocol):
    """A library ready to train."""

    version: str

    def reset(self) -> None:
        """Go back to the weights of the problem."""

    def epoch(self) -> Sequence[SupportsFloat]:
        """Train one epoch to its end; the mean of what is returned is the mean loss."""


def make_problem(layers: Sequence[int], rows: int, seed: int) -> dict[str, Array]:
    """Data with something to learn and noise that stays, and Glorot-uniform weights: the content of a problem file."""
    rng = np.random.default_rng(seed)
    n_in, n_out = layers[0], layers[-1]
    x = rng.standard_normal((rows, n_in), dtype=np.float32)
    columns = np.arange(n_out)
    y = 0.5 * x[:, columns % n_in] + 0.25 * x[:, (columns + 1) % n_in] * x[:, (columns + 2) % n_in]
    y += 0.5 * rng.standard_normal((rows, n_out), dtype=np.float32)
    problem = {"X": x, "y": y}
    for i, (m, n) in enumerate(pairwise(layers)):
        limit = (6 / (m + n)) ** 0.5
        problem[f"kernel_{i}"] = rng.uniform(-limit, limit, (m, n)).astype(np.float32)
        problem[f"bias_{i}"] = np.zeros(n, np.float32)
    return problem


class Torch:
    """PyTorch: a loop over steps. Fused SGD is its fastest here."""

    def __init__(self, problem: Problem) -> None:
        import torch

        torch.set_num_threads(problem.threads)
        self.version = torch.__version__
        self.start = [
            (torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias.copy())) for kernel, bias in problem.start
        ]
        self.linear = [torch.nn.Linear(m, n) for m, n in pairwise(problem.layers)]
        modules: list[Any] = []
        for linear in self.linear:
            modules += [linear, torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.loss = torch.nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        x = torch.from_numpy(problem.x).split(problem.batch)
        y = torch.from_numpy(problem.y).split(problem.batch)
        self.batches = list(zip(x, y, strict=True))

    def reset(self) -> None:
        for linear, (kernel, bias) in zip(self.linear, self.start, strict=True):
            linear.weight.data.copy_(kernel)
            linear.bias.data.copy_(bias)

    def epoch(self) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in self.batches:
            self.optimizer.zero_grad()
            loss = self.loss(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return losses


class TorchCompile(Torch):
    """PyTorch: the whole step, gradient and update, as one compiled function.

    Compiling the model alone leaves the optimizer's overhead, and was no faster than the eager loop.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import torch

        def loss_of(parameters: dict[str, Any], x: Any, y: Any) -> Any:
            return self.loss(torch.func.functional_call(self.model, parameters, (x,)), y)

        def step(parameters: dict[str, Any], x: Any, y: Any) -> tuple[dict[str, Any], Any]:
            grads, loss = torch.func.grad_and_value(loss_of)(parameters, x, y)
            return {name: value - LEARNING_RATE * grads[name] for name, value in parameters.items()}, loss

        self.step = torch.compile(step)
        self.reset()

    def reset(self) -> None:
        super().reset()
        self.parameters = {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def epoch(self) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in self.batches:
            self.parameters, loss = self.step(self.parameters, x, y)
            losses.append(loss)
        return losses


class JaxStep:
    """JAX: one jitted step, called from Python for each batch."""

    def __init__(self, problem: Problem) -> None:
        import jax
        import jax.numpy as jnp

        self.jax = jax
        self.version = jax.__version__
        self.start = problem.start

        def loss_of(parameters: Any, x: Any, y: Any) -> Any:
            *hidden, (last_kernel, last_bias) = parameters
            for kernel, bias in hidden:
                x = jax.nn.relu(x @ kernel + bias)
            return jnp.mean((x @ last_kernel + last_bias - y) ** 2)

        def step(parameters: Any, x: Any, y: Any) -> tuple[Any, Any]:
            loss, grads = jax.value_and_grad(loss_of)(parameters, x, y)
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, grads), loss

        self.prepare(problem, step)
        self.reset()

    def prepare(self, problem: Problem, step: Callable[[Any, Any, Any], tuple[Any, Any]]) -> None:
        """Compile, and put the data in place."""
        self.step = self.jax.jit(step, donate_argnums=0)
        self.batches = [(self.jax.device_put(x), self.jax.device_put(y)) for x, y in problem.batches()]

    def reset(self) -> None:
        self.parameters = self.jax.tree.map(self.jax.numpy.array, self.start)

    def epoch(self) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in self.batches:
            self.parameters, loss = self.step(self.parameters, x, y)
            losses.append(loss)
        self.jax.block_until_ready(self.parameters)
        return losses


class JaxScan(JaxStep):
    """JAX: a whole epoch in one `lax.scan`, nothing of it in Python."""

    def prepare(self, problem: Problem, step: Callable[[Any, Any, Any], tuple[Any, Any]]) -> None:
        def whole(parameters: Any, x: Any, y: Any) -> Any:
            return self.jax.lax.scan(lambda carry, batch: step(carry, *batch), parameters, (x, y))

        self.whole = self.jax.jit(whole, donate_argnums=0)
        self.x = self.jax.device_put(problem.x.reshape(-1, problem.batch, problem.x.shape[1]))
        self.y = self.jax.device_put(problem.y.reshape(-1, problem.batch, problem.y.shape[1]))

    def epoch(self) -> Sequence[SupportsFloat]:
        self.parameters, losses = self.jax.block_until_ready(self.whole(self.parameters, self.x, self.y))
        return [losses.mean()]


class KerasFit:
    """Keras on TensorFlow: `compile` and `fit`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.tf = _tensorflow(problem.threads)
        import keras

        self.version = f"{keras.__version__} on tensorflow {self.tf.__version__}"
        *hidden, last = problem.layers[1:]
        self.model = keras.Sequential(
            [
                keras.layers.Input((problem.layers[0],)),
                *(keras.layers.Dense(width, activation="relu") for width in hidden),
                keras.layers.Dense(last),
            ]
        )
        self.optimizer = keras.optimizers.SGD(LEARNING_RATE)
        self.loss = keras.losses.MeanSquaredError()
        self.prepare()

    def prepare(self) -> None:
        """Compile, or put the data in place."""
        self.model.compile(optimizer=self.optimizer, loss=self.loss)

    def reset(self) -> None:
        self.model.set_weights([array for pair in self.problem.start for array in pair])

    def epoch(self) -> Sequence[SupportsFloat]:
        history = self.model.fit(
            self.problem.x, self.problem.y, batch_size=self.problem.batch, epochs=1, shuffle=False, verbose=0
        )
        losses: list[float] = history.history["loss"]
        return losses


class TensorFlowEager(KerasFit):
    """TensorFlow as tutorials write it: a loop over a dataset, with a tape and `apply_gradients`."""

    def prepare(self) -> None:
        self.dataset = self.tf.data.Dataset.from_tensor_slices((self.problem.x, self.problem.y))
        self.dataset = self.dataset.batch(self.problem.batch)

    def epoch(self) -> Sequence[SupportsFloat]:
        losses = []
        for x_batch, y_batch in self.dataset:
            with self.tf.GradientTape() as tape:
                loss_value = self.loss(y_batch, self.model(x_batch))
            gradients = tape.gradient(loss_value, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
            losses.append(loss_value)
        return losses


class Sklearn:
    """scikit-learn: `MLPRegressor.fit`, one iteration with a warm start.

    Its loss is half the squared error, summed over outputs, so its learning rate is scaled to make the same steps.
    """

    def __init__(self, problem: Problem) -> None:
        import sklearn
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor
        from threadpoolctl import threadpool_limits

        warnings.simplefilter("ignore", ConvergenceWarning)
        threadpool_limits(problem.threads)
        self.version = sklearn.__version__
        self.start = problem.start
        self.x = problem.x
        n_out = problem.y.shape[1]
        self.y = problem.y if n_out > 1 else problem.y[:, 0]
        self.model = MLPRegressor(
            hidden_layer_sizes=tuple(problem.layers[1:-1]),
            solver="sgd",
            learning_rate_init=2 * LEARNING_RATE / n_out,
            momentum=0.0,
            alpha=0.0,
            batch_size=problem.batch,
            max_iter=1,
            warm_start=True,
            shuffle=False,
            n_iter_no_change=2**31,
        )
        self.model.fit(self.x[: problem.batch], self.y[: problem.batch])
        self.reset()

    def reset(self) -> None:
        self.model.coefs_ = [kernel.copy() for kernel, _ in self.start]
        self.model.intercepts_ = [bias.copy() for _, bias in self.start]

    def epoch(self) -> Sequence[SupportsFloat]:
        self.model.fit(self.x, self.y)
        return [2 * self.model.loss_]


def _tensorflow(threads: int) -> Any:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


PEERS: dict[str, Callable[[Problem], Learner]] = {
    "torch": Torch,
    "torch-compile": TorchCompile,
    "jax-step": JaxStep,
    "jax-scan": JaxScan,
    "keras-fit": KerasFit,
    "tf-eager": TensorFlowEager,
    "sklearn": Sklearn,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every process of the protocol takes."""
    parser.add_argument("--layers", default="10,64,64,1", help="widths from inputs to outputs (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="rows of a step (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of an epoch, cut to whole batches")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and weights, without --data")
    parser.add_argument("--threads", type=int, default=None, help="threads to train with (default: all cores)")
    parser.add_argument("--data", type=Path, default=None, help="problem file with X, y, kernel_0, bias_0, ...")


def read_problem(options: argparse.Namespace) -> Problem:
    """Read or make the problem, and keep this process to as many cores as it may have threads."""
    cores = sorted(os.sched_getaffinity(0))
    threads = min(options.threads or len(cores), len(cores))
    # Not every library can be told a number of threads once it is loaded, but all of them count the cores they may use.
    os.sched_setaffinity(0, cores[:threads])
    layers = [int(width) for width in options.layers.split(",")]
    if options.data is None:
        arrays = make_problem(layers, options.rows, options.seed)
    else:
        with np.load(options.data) as file:
            arrays = dict(file)
    rows = min(options.rows, len(arrays["X"])) // options.batch * options.batch
    if rows == 0:
        raise SystemExit(f"{options.rows} rows make no batch of {options.batch}")
    start = [(arrays[f"kernel_{i}"], arrays[f"bias_{i}"]) for i in range(len(layers) - 1)]
    return Problem(arrays["X"][:rows], arrays["y"][:rows], start, options.batch, threads)


def serve(make_learner: Callable[[Problem], Learner], options: argparse.Namespace) -> None:
    """Answer the runner until it says quit.

    The warm-up is one whole epoch, undone by a reset: what is compiled depends on the number of batches in some.
    """
    # Only answers may go to the standard output; whatever a library prints there joins the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    learner = make_learner(read_problem(options))
    learner.epoch()
    learner.reset()
    answer(ready=True, version=learner.version)
    for line in sys.stdin:
        word = line.strip()
        if word == "quit":
            return
        if word != "go":
            raise SystemExit(f"unknown word {word!r}; go and quit are known")
        begin = time.perf_counter()
        losses = learner.epoch()
        seconds = time.perf_counter() - begin
        answer(seconds=seconds, loss=float(np.mean([float(loss) for loss in losses])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS))
    add_arguments(parser)
    options = parser.parse_args()
    serve(PEERS[options.peer], options)


if __name__ == "__main__":
    main()
