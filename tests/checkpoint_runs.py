"""Short runs on a small file that keep checkpoints, and what they leave: in the trainer, and in the folder."""

import h5py
import numpy as np

import fastsgd as fs

ROWS, BATCH, EPOCHS = 1015, 100, 2
STEPS = 22  # 11 an epoch, the last of 15 rows
OPTIMIZERS = {
    "plain": fs.SGD(0.05),
    "momentum": fs.SGD(0.05, momentum=0.9),
    "nesterov": fs.SGD(0.05, momentum=0.9, nesterov=True),
}
MEMORY = {"whole": "1MB", "window": "24kB", "small window": "18kB"}
LAYERS = fs.Dense(5, "tanh"), fs.Dense(1)


def values(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    return x, np.sin(x[:, :1])


def write(path, x, y, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=x, chunks=(50, 6), **options)
        file.create_dataset("y", data=y, chunks=(50, 1))
    return path


def trainer(optimizer="momentum", layers=LAYERS, **options):
    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return fs.Trainer(fs.Sequential(list(layers)), chosen, "mse", **options)


def fit(one, data, checkpoint=None, **options):
    options = {"epochs": EPOCHS, "batch_size": BATCH, "memory": MEMORY["whole"], **options}
    return one.fit(data, checkpoint=checkpoint, **options)


def state(one):
    """All that training changed."""
    velocity = one.optimizer_state.velocity
    figures = [{key: epoch[key] for key in ("epoch", "loss")} for epoch in one.history.epochs]
    return one.model.network.parameters.tobytes(), velocity.tobytes(), one.steps, figures


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def name_of(step):
    return f"step-{step:012d}.safetensors"
