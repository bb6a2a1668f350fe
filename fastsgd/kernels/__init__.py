"""Kernels: nopython functions over arrays and scalars, callable from your own `@njit` code.

Results come last and are written in place. Each parallel kernel has a one-thread twin, `<name>_serial`, for use inside
your own `prange`. Numba does not see that a function which your own cached function calls was changed: after an upgrade
of fastsgd, clear the cache of code of yours that calls these kernels with `cache=True`.

Called from Python, parallel kernels run on `numba.get_num_threads()` threads. Several Python threads may call them, and
train models, at once: one runs after the other. Parallel code of your own, which Numba knows and fastsgd does not, may
run beside them with Numba's "omp" and "tbb" threading layers; its "workqueue" layer, which is used where neither is
there, ends the process when two Python threads run parallel code at once (`fastsgd doctor` says which layer is used).
"""

from fastsgd.kernels import threads as _threads  # first: it sets how threads wait
from fastsgd.kernels.activations import (
    ELU,
    GELU,
    LEAKY_RELU,
    LINEAR,
    RELU,
    SELU,
    SIGMOID,
    SILU,
    SOFTMAX,
    SOFTPLUS,
    TANH,
)
from fastsgd.kernels.dense import dense_backward, dense_backward_serial, dense_forward, dense_forward_serial
from fastsgd.kernels.losses import (
    BINARY_CROSSENTROPY,
    CATEGORICAL_CROSSENTROPY,
    EPSILON_INSENSITIVE,
    FOCAL,
    HINGE,
    HUBER,
    LOG_COSH,
    MAE,
    MODIFIED_HUBER,
    MSE,
    POISSON,
    QUANTILE,
    SPARSE_CATEGORICAL_CROSSENTROPY,
    SQUARED_HINGE,
    loss_and_grad,
)
from fastsgd.kernels.network import (
    Network,
    OptimizerState,
    Workspace,
    layer_table,
    make_optimizer_state,
    make_workspace,
)
from fastsgd.kernels.step import (
    predict,
    predict_serial,
    train_batch,
    train_batch_serial,
    train_batches,
    train_batches_serial,
)
from fastsgd.kernels.updates import (
    momentum_update,
    momentum_update_serial,
    nesterov_update,
    nesterov_update_serial,
    sgd_update,
    sgd_update_serial,
)

__all__ = [
    "BINARY_CROSSENTROPY",
    "CATEGORICAL_CROSSENTROPY",
    "ELU",
    "EPSILON_INSENSITIVE",
    "FOCAL",
    "GELU",
    "HINGE",
    "HUBER",
    "LEAKY_RELU",
    "LINEAR",
    "LOG_COSH",
    "MAE",
    "MODIFIED_HUBER",
    "MSE",
    "POISSON",
    "QUANTILE",
    "RELU",
    "SELU",
    "SIGMOID",
    "SILU",
    "SOFTMAX",
    "SOFTPLUS",
    "SPARSE_CATEGORICAL_CROSSENTROPY",
    "SQUARED_HINGE",
    "TANH",
    "Network",
    "OptimizerState",
    "Workspace",
    "dense_backward",
    "dense_backward_serial",
    "dense_forward",
    "dense_forward_serial",
    "layer_table",
    "loss_and_grad",
    "make_optimizer_state",
    "make_workspace",
    "momentum_update",
    "momentum_update_serial",
    "nesterov_update",
    "nesterov_update_serial",
    "predict",
    "predict_serial",
    "sgd_update",
    "sgd_update_serial",
    "train_batch",
    "train_batch_serial",
    "train_batches",
    "train_batches_serial",
]

for _name in __all__:
    if f"{_name}_serial" in __all__:
        _threads.one_at_a_time(globals()[_name])
