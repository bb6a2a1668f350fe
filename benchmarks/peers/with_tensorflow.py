"""Keras on TensorFlow, and TensorFlow as tutorials write it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, SupportsFloat

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from protocol import CLASSES, LOGISTIC, MSE, TRIAL_STEPS, EpochLearner, Problem, fastest

LOSSES = {
    MSE: keras.losses.MeanSquaredError,
    LOGISTIC: lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    CLASSES: lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
}


class KerasFit:
    """`compile` and `fit` as tutorials write them; Keras itself decides on XLA."""

    def __init__(self, problem: Problem) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(problem.threads)
        tf.config.threading.set_inter_op_parallelism_threads(problem.threads)
        self.version = f"{keras.__version__} on tensorflow {tf.__version__}"
        self.problem = problem
        *hidden, last = problem.layers[1:]
        self.model = keras.Sequential(
            [
                keras.layers.Input((problem.layers[0],)),
                *(keras.layers.Dense(width, activation="relu") for width in hidden),
                keras.layers.Dense(last),
            ]
        )
        self.loss = LOSSES[problem.loss]()
        self.y = problem.labels if problem.loss == CLASSES else problem.y
        self.prepare()
        self.reset()

    def prepare(self) -> None:
        """Compile, or put the data in place."""
        self._compile()

    def _compile(self, **settings: Any) -> None:
        optimizer = keras.optimizers.SGD(self.problem.learning_rate)
        self.model.compile(optimizer=optimizer, loss=self.loss, **settings)

    def _fit(self, rows: int, epochs: int) -> list[float]:
        history = self.model.fit(
            self.problem.x[:rows],
            self.y[:rows],
            batch_size=self.problem.batch,
            epochs=epochs,
            shuffle=False,
            verbose=0,
        )
        losses: list[float] = history.history["loss"]
        return losses

    def reset(self) -> None:
        self.model.set_weights([array for pair in self.problem.start for array in pair])

    def train(self) -> Sequence[SupportsFloat]:
        return self._fit(len(self.y), self.problem.epochs)[-1:]


class KerasTuned(KerasFit):
    """`fit` with the settings of `compile` that are fastest here."""

    def prepare(self) -> None:
        candidates = [{"jit_compile": jit, "steps_per_execution": n} for jit in (True, False) for n in (1, 16)]
        taken = fastest(candidates, self._compile, lambda: self._fit(TRIAL_STEPS * self.problem.batch, 1))
        self.version += f", {taken}"


class TensorFlowEager(KerasFit, EpochLearner):
    """A loop over a dataset, with a tape and `apply_gradients`."""

    def prepare(self) -> None:
        self.optimizer = keras.optimizers.SGD(self.problem.learning_rate)
        self.dataset = tf.data.Dataset.from_tensor_slices((self.problem.x, self.y)).batch(self.problem.batch)

    def train(self) -> Sequence[SupportsFloat]:
        return EpochLearner.train(self)

    def epoch(self) -> Sequence[SupportsFloat]:
        losses: list[Any] = []
        for x_batch, y_batch in self.dataset:
            with tf.GradientTape() as tape:
                loss_value = self.loss(y_batch, self.model(x_batch))
            gradients = tape.gradient(loss_value, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
            losses.append(loss_value)
        return losses
