"""PyTorch, with and without `compile`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, SupportsFloat

import numpy as np
import torch
from protocol import CLASSES, LOGISTIC, MSE, TRIAL_STEPS, EpochLearner, Problem, fastest

LOSSES = {
    MSE: torch.nn.functional.mse_loss,
    LOGISTIC: torch.nn.functional.binary_cross_entropy_with_logits,
    CLASSES: torch.nn.functional.cross_entropy,
}


class Torch(EpochLearner):
    """A loop over steps, with the form of SGD that is fastest here."""

    def __init__(self, problem: Problem) -> None:
        torch.set_num_threads(problem.threads)
        self.version = torch.__version__
        self.problem = problem
        self.start = [
            (torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias.copy())) for kernel, bias in problem.start
        ]
        self.linear = [torch.nn.Linear(m, n) for m, n in pairwise(problem.layers)]
        modules: list[Any] = []
        for linear in self.linear:
            modules += [linear, torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.loss = LOSSES[problem.loss]
        self.load()
        self.prepare()
        self.reset()

    def load(self) -> None:
        """Bring the data in place."""
        y = torch.from_numpy(self.problem.labels if self.problem.loss == CLASSES else self.problem.y)
        x = torch.from_numpy(self.problem.x)
        self.in_memory = list(zip(x.split(self.problem.batch), y.split(self.problem.batch), strict=True))

    def batches(self) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Those of an epoch."""
        return self.in_memory

    def prepare(self) -> None:
        """Make the optimizer, or compile."""
        some = list(itertools.islice(self.batches(), TRIAL_STEPS))
        taken = fastest([{"fused": True}, {"foreach": True}], self._optimize, lambda: self._steps(some))
        self.version += f", {taken}"

    def _optimize(self, **settings: Any) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.problem.learning_rate, **settings)

    def reset(self) -> None:
        for linear, (kernel, bias) in zip(self.linear, self.start, strict=True):
            linear.weight.data.copy_(kernel)
            linear.bias.data.copy_(bias)

    def epoch(self) -> Sequence[SupportsFloat]:
        return self._steps(self.batches())

    def _steps(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return losses


class TorchCompile(Torch):
    """The whole step, gradient and update, as one compiled function.

    Compiling the model alone leaves the optimizer's overhead, and was no faster than the eager loop.
    """

    def prepare(self) -> None:
        rate = self.problem.learning_rate

        def loss_of(parameters: dict[str, Any], x: Any, y: Any) -> Any:
            return self.loss(torch.func.functional_call(self.model, parameters, (x,)), y)

        def step(parameters: dict[str, Any], x: Any, y: Any) -> tuple[dict[str, Any], Any]:
            grads, loss = torch.func.grad_and_value(loss_of)(parameters, x, y)
            return {name: value - rate * grads[name] for name, value in parameters.items()}, loss

        self.step = torch.compile(step)

    def reset(self) -> None:
        super().reset()
        self.parameters = {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def epoch(self) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in self.batches():
            self.parameters, loss = self.step(self.parameters, x, y)
            losses.append(loss)
        return losses


class TorchRows(Torch):
    """`DataLoader` over a dataset whose items are rows of the file, in random order: some of them, as it is slow."""

    def load(self) -> None:
        rows = _Rows(self.problem)
        drawn = torch.utils.data.RandomSampler(rows, num_samples=self.problem.rows)
        self.loader = torch.utils.data.DataLoader(rows, self.problem.batch, sampler=drawn)

    def batches(self) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        return self.loader


class _Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, problem: Problem) -> None:
        self.x, self.y = problem.x, problem.y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], self.y[row]


class TorchChunks(Torch):
    """What those write by hand who know chunks: they come in random order, and the rows of each are shuffled."""

    def load(self) -> None:
        self.rng = np.random.default_rng(0)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size, left = self.problem.x.chunks[0], [np.empty((0, width), np.float32) for width in self._widths()]
        for chunk in self.rng.permutation(-(-len(self.problem.x) // size)):
            rows = slice(chunk * size, (chunk + 1) * size)
            order = self.rng.permutation(len(range(*rows.indices(len(self.problem.x)))))
            parts = (self.problem.x[rows][order], self.problem.y[rows][order])
            left = [np.concatenate(both) for both in zip(left, parts, strict=True)]
            whole = len(left[0]) // self.problem.batch * self.problem.batch
            if whole:  # the split of nothing is one batch of nothing
                x, y = (torch.from_numpy(part[:whole]) for part in left)
                yield from zip(x.split(self.problem.batch), y.split(self.problem.batch), strict=True)
                left = [part[whole:] for part in left]

    def _widths(self) -> tuple[int, int]:
        return self.problem.x.shape[1], self.problem.y.shape[1]
