"""PyTorch, with and without `compile`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, SupportsFloat

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
        y = torch.from_numpy(problem.labels if problem.loss == CLASSES else problem.y)
        x = torch.from_numpy(problem.x)
        self.batches = list(zip(x.split(problem.batch), y.split(problem.batch), strict=True))
        self.prepare()
        self.reset()

    def prepare(self) -> None:
        """Make the optimizer, or compile."""
        taken = fastest([{"fused": True}, {"foreach": True}], self._optimize, lambda: self._steps(TRIAL_STEPS))
        self.version += f", {taken}"

    def _optimize(self, **settings: Any) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.problem.learning_rate, **settings)

    def reset(self) -> None:
        for linear, (kernel, bias) in zip(self.linear, self.start, strict=True):
            linear.weight.data.copy_(kernel)
            linear.bias.data.copy_(bias)

    def epoch(self) -> Sequence[SupportsFloat]:
        return self._steps(len(self.batches))

    def _steps(self, most: int) -> Sequence[SupportsFloat]:
        losses = []
        for x, y in self.batches[:most]:
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
        for x, y in self.batches:
            self.parameters, loss = self.step(self.parameters, x, y)
            losses.append(loss)
        return losses
