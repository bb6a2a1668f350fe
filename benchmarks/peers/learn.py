"""One library in one process: epochs of SGD over data in memory, each time the runner says so (see `protocol`).

All libraries train one network (relu, raw outputs last, plain SGD) from the same weights on the same rows, the peers
in the order they lie, with the data where the library wants them before the clock starts. Each is written as its own
users would write it for speed.
"""

from __future__ import annotations

import argparse
import importlib

from protocol import add_arguments, serve

# Module and class; a module loads its library, which only one of the environments may have.
LEARNERS = {
    "fastsgd": ("with_fastsgd", "FastSGD"),
    "jax-scan": ("with_jax", "JaxScan"),
    "jax-step": ("with_jax", "JaxStep"),
    "torch": ("with_torch", "Torch"),
    "torch-compile": ("with_torch", "TorchCompile"),
    "keras-fit": ("with_tensorflow", "KerasFit"),
    "keras-tuned": ("with_tensorflow", "KerasTuned"),
    "tf-eager": ("with_tensorflow", "TensorFlowEager"),
    "sklearn": ("with_sklearn", "make_sklearn"),
    # These read an HDF5 file.
    "fastsgd-file": ("with_fastsgd", "FastSGDFile"),
    "torch-rows": ("with_torch", "TorchRows"),
    "torch-chunks": ("with_torch", "TorchChunks"),
    "sklearn-chunks": ("with_sklearn", "LinearChunks"),
    "vw": ("with_vw", "VowpalWabbit"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learner", choices=LEARNERS)
    add_arguments(parser)
    options = parser.parse_args()
    module, name = LEARNERS[options.learner]

    def make(problem):  # type: ignore[no-untyped-def]
        # Only now, when the process is kept to its cores: some libraries count them as they load.
        return getattr(importlib.import_module(module), name)(problem)

    serve(make, options)


if __name__ == "__main__":
    main()
