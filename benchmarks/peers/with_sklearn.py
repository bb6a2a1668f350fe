"""scikit-learn: the multi-layer perceptrons, and `SGDClassifier` for the linear model, one `partial_fit` an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
import sklearn
from protocol import CLASSES, LOGISTIC, EpochLearner, Problem
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

_LOSS_ROWS = 1_000_000  # at most that a loss is computed of


class Perceptron(EpochLearner):
    """`MLPRegressor` or `MLPClassifier`.

    The regressor's loss is half the squared error, summed over outputs, so its learning rate is scaled to make the same
    steps. For two classes the classifier has one output, here that of the second class less that of the first.
    """

    def __init__(self, problem: Problem) -> None:
        threadpool_limits(problem.threads)
        self.version = sklearn.__version__
        self.problem = problem
        n_out = problem.layers[-1]
        classifies = problem.loss == CLASSES
        self.y = problem.labels if classifies else problem.y if n_out > 1 else problem.y[:, 0]
        self.loss_scale = 1 if classifies else 2
        self.model = (MLPClassifier if classifies else MLPRegressor)(
            hidden_layer_sizes=tuple(problem.layers[1:-1]),
            solver="sgd",
            learning_rate_init=problem.learning_rate * (1 if classifies else 2 / n_out),
            momentum=0.0,
            alpha=0.0,
            batch_size=problem.batch,
            shuffle=False,
        )
        first = (problem.x[: problem.batch], self.y[: problem.batch])
        if classifies:
            self.model.partial_fit(*first, classes=np.arange(n_out))
        else:
            self.model.partial_fit(*first)
        self.reset()

    def reset(self) -> None:
        *hidden, (kernel, bias) = self.problem.start
        if self.problem.loss == CLASSES and bias.size == 2:
            kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
        start = [*hidden, (kernel, bias)]
        # In place: its optimizer holds these very arrays.
        for own, (kernel, _) in zip(self.model.coefs_, start, strict=True):
            own[...] = kernel
        for own, (_, bias) in zip(self.model.intercepts_, start, strict=True):
            own[...] = bias

    def epoch(self) -> Sequence[SupportsFloat]:
        self.model.partial_fit(self.problem.x, self.y)
        return [self.loss_scale * self.model.loss_]


class Linear(EpochLearner):
    """`SGDClassifier`, which makes a step of every row.

    Its learning rate is that of a batch, parted among the batch's rows, so that it goes as far.
    """

    def __init__(self, problem: Problem) -> None:
        threadpool_limits(problem.threads)
        self.version = sklearn.__version__
        self.problem = problem
        self.model = SGDClassifier(
            loss="log_loss",
            penalty=None,
            learning_rate="constant",
            eta0=problem.learning_rate / problem.batch,
            shuffle=False,
        )
        self.labels = problem.labels
        self.model.partial_fit(problem.x[:1], self.labels[:1], classes=np.arange(2))
        self.reset()

    def reset(self) -> None:
        ((kernel, bias),) = self.problem.start
        self.model.coef_[...] = kernel.T
        self.model.intercept_[...] = bias

    def epoch(self) -> Sequence[SupportsFloat]:
        before = _Loss(self)
        self.model.partial_fit(self.problem.x, self.labels)
        return [before, _Loss(self)]


class _Loss:
    """The loss at the weights of this moment, computed when it is asked for: after the clock has stopped.

    The estimator does not tell its mean loss over an epoch; the losses before and after stand in for it.
    """

    def __init__(self, learner: Linear) -> None:
        self.learner = learner
        self.weights = learner.model.coef_[0].copy(), learner.model.intercept_.copy()

    def __float__(self) -> float:
        kernel, bias = self.weights
        raw = self.learner.problem.x[:_LOSS_ROWS] @ kernel + bias
        return float(np.mean(np.logaddexp(0, raw) - self.learner.labels[:_LOSS_ROWS] * raw))


class LinearChunks(Linear):
    """`partial_fit` on a chunk of the file at a time, chunks in random order."""

    def epoch(self) -> Sequence[SupportsFloat]:
        x, y, size = self.problem.x, self.problem.y, self.problem.x.chunks[0]
        before = _Loss(self)
        for chunk in np.random.default_rng(0).permutation(-(-len(x) // size)):
            rows = slice(chunk * size, (chunk + 1) * size)
            self.model.partial_fit(x[rows], y[rows][:, 0])
        return [before, _Loss(self)]


def make_sklearn(problem: Problem) -> EpochLearner:
    """The estimator for this problem."""
    return Linear(problem) if problem.loss == LOGISTIC else Perceptron(problem)
