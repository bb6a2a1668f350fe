"""Updates of a parameter vector from a gradient, in place.

Velocity as in Keras: ``v = momentum * v - learning_rate * grad``.
"""

from __future__ import annotations

from numba import prange

from fastsgd.kernels.jit import parallel, serial_twin


def _sgd_update(param, grad, learning_rate):
    """param -= learning_rate * grad (1-D arrays of one dtype)."""
    rate = param.dtype.type(learning_rate)
    for i in prange(param.size):
        param[i] -= rate * grad[i]


def _momentum_update(param, grad, velocity, learning_rate, momentum):
    """velocity = momentum * velocity - learning_rate * grad; param += velocity (1-D arrays of one dtype)."""
    rate = param.dtype.type(learning_rate)
    keep = param.dtype.type(momentum)
    for i in prange(param.size):
        velocity[i] = keep * velocity[i] - rate * grad[i]
        param[i] += velocity[i]


def _nesterov_update(param, grad, velocity, learning_rate, momentum):
    """velocity as in `momentum_update`; param += momentum * velocity - learning_rate * grad."""
    rate = param.dtype.type(learning_rate)
    keep = param.dtype.type(momentum)
    for i in prange(param.size):
        velocity[i] = keep * velocity[i] - rate * grad[i]
        param[i] += keep * velocity[i] - rate * grad[i]


sgd_update = parallel(_sgd_update)
sgd_update_serial = serial_twin(_sgd_update)
momentum_update = parallel(_momentum_update)
momentum_update_serial = serial_twin(_momentum_update)
nesterov_update = parallel(_nesterov_update)
nesterov_update_serial = serial_twin(_nesterov_update)
