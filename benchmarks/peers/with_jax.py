"""JAX: one jitted step, or a whole epoch in one `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from protocol import CLASSES, LOGISTIC, EpochLearner, Problem

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def loss_of_outputs(loss: str, raw: Any, y: Any) -> Any:
    """Mean loss of raw outputs (rows, n_out); y is (rows,) for classes and (rows, n_out) otherwise."""
    if loss == CLASSES:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(raw), y[:, None], axis=1))
    if loss == LOGISTIC:
        return jnp.mean(jax.nn.softplus(raw) - y * raw)
    return jnp.mean((raw - y) ** 2)


class JaxStep(EpochLearner):
    """One jitted step, called from Python for each batch."""

    def __init__(self, problem: Problem) -> None:
        self.version = jax.__version__
        self.problem = problem

        def loss_of(parameters: Any, x: Any, y: Any) -> Any:
            *hidden, (last_kernel, last_bias) = parameters
            for kernel, bias in hidden:
                x = jax.nn.relu(x @ kernel + bias)
            return loss_of_outputs(problem.loss, x @ last_kernel + last_bias, y)

        def step(parameters: Any, x: Any, y: Any) -> tuple[Any, Any]:
            loss, grads = jax.value_and_grad(loss_of)(parameters, x, y)
            return jax.tree.map(lambda p, g: p - problem.learning_rate * g, parameters, grads), loss

        y = problem.labels.astype(np.int32) if problem.loss == CLASSES else problem.y
        batches = (len(y) // problem.batch, problem.batch)
        self.prepare(problem.x.reshape(*batches, -1), y.reshape(*batches, *y.shape[1:]), step)
        self.reset()

    def prepare(self, x: Any, y: Any, step: Step) -> None:
        """Compile, and put the data in place: x (batches, batch, n_in) and y (batches, batch[, n_out])."""
        self.step = jax.jit(step, donate_argnums=0)
        self.batches = [(jax.device_put(one), jax.device_put(other)) for one, other in zip(x, y, strict=True)]

    def reset(self) -> None:
        self.parameters = jax.tree.map(jnp.array, self.problem.start)

    def epoch(self) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in self.batches:
            self.parameters, loss = self.step(self.parameters, x, y)
            losses.append(loss)
        jax.block_until_ready(self.parameters)
        return losses


class JaxScan(JaxStep):
    """A whole epoch in one call, nothing of it in Python."""

    def prepare(self, x: Any, y: Any, step: Step) -> None:
        def whole(parameters: Any, x: Any, y: Any) -> Any:
            return jax.lax.scan(lambda carry, batch: step(carry, *batch), parameters, (x, y))

        self.whole = jax.jit(whole, donate_argnums=0)
        self.x, self.y = jax.device_put(x), jax.device_put(y)

    def epoch(self) -> Sequence[SupportsFloat]:
        self.parameters, losses = jax.block_until_ready(self.whole(self.parameters, self.x, self.y))
        return [losses.mean()]
