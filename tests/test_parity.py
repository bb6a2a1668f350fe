"""Two hundred steps of real Keras and real PyTorch, recorded by scripts/record_parity.py, taken again here."""

import dataclasses
import json
from pathlib import Path

import naive
import numpy as np
import parity_cases
import pytest

import fastsgd as fs

FIGURES = json.loads((Path(__file__).parent / "parity_figures.json").read_text())["cases"]
TOLERANCE = 2e-4  # relative, of every loss
OBJECTS = {kind.name: kind for kind in vars(fs.losses).values() if isinstance(kind, type) and hasattr(kind, "name")}


def start(case, dtype="float32"):
    """The case's model with its start weights, and its trainer."""
    layers = [fs.Dense(n, name) for n, name in zip(case.layers[1:], case.activations, strict=True)]
    model = fs.Sequential(layers, input_dim=case.layers[0], dtype=dtype)
    for index, (kernel, bias) in enumerate(parity_cases.start_parameters(case)):
        model.parameters[f"dense_{index}/kernel"][...] = kernel
        model.parameters[f"dense_{index}/bias"][...] = bias
    optimizer = fs.SGD(case.learning_rate, momentum=case.momentum, nesterov=case.nesterov)
    return model, fs.Trainer(
        model, optimizer, OBJECTS[case.loss](**case.loss_options) if case.loss_options else case.loss
    )


def described(case):
    """The loss as the reference takes it."""
    told = tuple(case.loss_options.values())
    return (case.loss, *told, 0)[:3] if told else case.loss


def steps(case):
    """The batches of a case in order."""
    x, y = parity_cases.data(case)
    for first in range(0, case.rows, case.batch_size):
        yield x[first : first + case.batch_size], y[first : first + case.batch_size]


@pytest.mark.parametrize("case", parity_cases.CASES, ids=lambda case: case.name)
def test_every_loss_of_two_hundred_steps(case):
    recorded = FIGURES[case.name]
    stored = json.loads(json.dumps(dataclasses.asdict(case)))
    assert {key: stored[key] for key in recorded["case"]} == recorded["case"], "record the figures again"
    model, trainer = start(case)
    reference = naive.copy_of(model)
    losses = [trainer.train_batch(x, y) for x, y in steps(case)]
    assert len(losses) == case.steps >= 200
    loss = described(case)
    wanted = [reference.step(loss, x, y, case.learning_rate, case.momentum, case.nesterov) for x, y in steps(case)]
    np.testing.assert_allclose(losses, wanted, rtol=TOLERANCE, err_msg="float64 NumPy")
    peers = [peer for peer in ("keras", "torch") if peer in recorded]
    assert "keras" in peers
    for peer in peers:
        np.testing.assert_allclose(losses, recorded[peer]["losses"], rtol=TOLERANCE, err_msg=peer)
        for name, sums in recorded[peer]["parameters"].items():
            found = model.parameters[name].astype(float)
            assert np.square(found).sum() == pytest.approx(sums["sum_of_squares"], rel=1e-4, abs=1e-5), (peer, name)
            assert found.sum() == pytest.approx(sums["sum"], abs=1e-4 * np.abs(found).sum() + 1e-5), (peer, name)


def test_float64_is_the_reference_to_many_digits():
    case = parity_cases.CASES[0]
    model, trainer = start(case, "float64")
    reference = naive.copy_of(model)
    for x, y in steps(case):
        found = trainer.train_batch(x.astype(float), y.astype(float))
        assert found == pytest.approx(reference.step(case.loss, x, y, case.learning_rate), rel=1e-10)
