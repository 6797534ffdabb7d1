"""Where the recorded answers and large vocabularies of the tests lie, and how they are read."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from cuda_kernels import launch  # noqa: F401

PROJECT = Path(__file__).resolve().parent.parent

# A run in the background of a script starts with SIGINT ignored, and would hand that on to the
# children that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def shared_folder() -> Path:
    """`BART_FAST_SHARED`, else `shared` beside the project or in it."""
    chosen = os.environ.get("BART_FAST_SHARED")
    if chosen:
        return Path(chosen)
    beside = PROJECT.parent / "shared"
    return beside if beside.is_dir() else PROJECT / "shared"


def needs_shared(name: str) -> pytest.MarkDecorator:
    """Skips a test where `name` of the shared data is absent. Under CI, where it must be, the test
    runs and fails."""
    absent = not (shared_folder() / name).exists() and not os.environ.get("CI")
    return pytest.mark.skipif(absent, reason=f"{name} is not here")


@pytest.fixture(scope="session")
def shared():
    """`shared("golden/keras_tiny")`: a file or folder of the shared data.

    The test is skipped where it is absent, but fails under CI (`CI` is set), where it must be.
    """

    def locate(name: str) -> Path:
        path = shared_folder() / name
        if not path.exists():
            message = f"{path} is absent; set BART_FAST_SHARED to the folder that holds {name}"
            if os.environ.get("CI"):
                pytest.fail(message, pytrace=False)
            pytest.skip(message)
        return path

    return locate


@pytest.fixture(scope="session")
def keras_tiny(shared) -> Path:
    """A preset that keras-hub wrote, with a vocabulary of 33."""
    return shared("golden/keras_tiny")


@pytest.fixture(scope="session")
def keras_golden(keras_tiny) -> dict[str, np.ndarray]:
    """What keras-hub computes with `keras_tiny`: name -> array (its README lists them)."""
    with np.load(keras_tiny / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def bart_bpe(shared) -> Path:
    """The vocabulary of the published BART models: `vocab.json`, `merges.txt`."""
    return shared("data/bart_bpe")
