"""Losses of one output: (value, derivative with respect to the output), vector code in a loop.

`z` is the output, `t` its target. A NaN in either stays one in both.
"""

from __future__ import annotations

from fastsgd.kernels.elementwise import exp, log, log1p, logistic, tanh
from fastsgd.kernels.jit import inlined
from fastsgd.kernels.scalar import by_type, like


@inlined
def _sign(error):
    """-1, 0 or 1; NaN for a NaN."""
    one = like(error, 1.0)
    return one if error > 0 else (-one if error < 0 else error)


@inlined
def mse(z, t):
    """(z - t)^2"""
    error = z - t
    return error * error, error + error


@inlined
def mae(z, t):
    """|z - t|, with derivative 0 at a tie."""
    return abs(z - t), _sign(z - t)


@inlined
def huber(z, t, delta):
    """Half the squared error up to `delta`, a line of slope `delta` beyond: Huber 1964."""
    error, half = z - t, like(z, 0.5)
    size = abs(error)
    value = half * error * error if size <= delta else delta * (size - half * delta)
    return value, (delta if error > delta else (-delta if error < -delta else error))


@inlined
def log_cosh(z, t):
    """log(cosh(z - t))"""
    error = z - t
    size = abs(error)
    return size + (log1p(exp(like(z, -2.0) * size)) - like(z, 0.6931471805599453)), tanh(error)


@inlined
def quantile(z, t, q):
    """The pinball loss, least at the q-quantile of t: Koenker and Bassett 1978."""
    below, one = t - z, like(z, 1.0)
    value = q * below if below > 0 else (q - one) * below
    return value, (-q if below > 0 else (one - q if below < 0 else below))


@inlined
def poisson(z, t):
    """z - t log(z + 1e-7), as in Keras."""
    lifted = z + like(z, 1e-7)
    return z - t * log(lifted), like(z, 1.0) - t / lifted


@inlined
def epsilon_insensitive(z, t, epsilon):
    """What of |z - t| goes beyond `epsilon`: Vapnik 1995."""
    error, zero = z - t, like(z, 0.0)
    beyond = abs(error) - epsilon
    return (zero if beyond <= 0 else beyond), (zero if beyond <= 0 else _sign(error))


@inlined
def _signed(t):
    """A label 0 or 1 as -1 or 1, which stays as it is."""
    return like(t, -1.0) if t == 0 else t


@inlined
def hinge(z, t):
    """max(0, 1 - t z) for t = -1 or 1"""
    label, zero = _signed(t), like(z, 0.0)
    short = like(z, 1.0) - label * z
    return (zero if short <= 0 else short), (zero if short <= 0 else (-label if short > 0 else short))


@inlined
def squared_hinge(z, t):
    """max(0, 1 - t z)^2 for t = -1 or 1"""
    label, zero = _signed(t), like(z, 0.0)
    short = like(z, 1.0) - label * z
    short = zero if short <= 0 else short
    return short * short, like(z, -2.0) * label * short


@inlined
def modified_huber(z, t):
    """max(0, 1 - t z)^2 while t z >= -1, then the line -4 t z, for t = -1 or 1: Zhang 2004."""
    label, zero = _signed(t), like(z, 0.0)
    four = like(z, 4.0)
    margin = label * z
    short = like(z, 1.0) - margin
    value = zero if margin >= 1 else (-four * margin if margin < -1 else short * short)
    slope = zero if margin >= 1 else (-four * label if margin < -1 else like(z, -2.0) * label * short)
    return value, slope


@inlined
def binary_crossentropy(z, t, smoothing):
    """max(z, 0) - z t + log(1 + exp(-|z|)), the cross-entropy of sigmoid(z) with t, which is first drawn to 1/2."""
    zero, one = like(z, 0.0), like(z, 1.0)
    t = t * (one - smoothing) + like(z, 0.5) * smoothing
    e = exp(-abs(z))
    return (zero if z <= 0 else z) - z * t + log1p(e), logistic(z, e) - t


@inlined
def focal(z, t, gamma, alpha):
    """(1 - p_t)^gamma times the cross-entropy of p = sigmoid(z) with t, p_t the share that p gives t: Lin et al. 2017.

    Where alpha is not below 0, also times alpha for t = 1 and 1 - alpha for t = 0.
    """
    zero, one = like(z, 0.0), like(z, 1.0)
    e = exp(-abs(z))
    p, rest = logistic(z, e), logistic(-z, e)
    entropy = (zero if z <= 0 else z) - z * t + log1p(e)
    wrong = t * rest + (one - t) * p
    least = by_type(z, 1.2e-38, 2.3e-308)  # no logarithm of 0
    wrong = least if wrong < least else wrong
    factor = exp(gamma * log(wrong))
    factor *= t * alpha + (one - t) * (one - alpha) if alpha >= 0 else one
    slope = (p - t) + gamma * entropy * ((one - t - t) * (p * rest / wrong))
    return factor * entropy, factor * slope
