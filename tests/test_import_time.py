"""What `import bart_fast` costs, and what it leaves alone."""

import json
import subprocess
import sys

import pytest

import bart_fast


def child(program):
    """The JSON that a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(result.stdout)


def test_heavy_packages_are_not_imported():
    loaded = child("import json, sys, bart_fast; print(json.dumps(sorted(sys.modules)))")
    for name in ("h5py", "huggingface_hub", "torch", "bart_fast.models", "bart_fast.samplers"):
        assert name not in loaded


def test_models_need_neither_h5py_nor_the_hub():
    program = "import json, sys, bart_fast.models; print(json.dumps(sorted(sys.modules)))"
    loaded = child(program)
    assert not {"h5py", "huggingface_hub"} & set(loaded)


def test_import_takes_under_a_tenth_of_a_second_beyond_numpy():
    """The best of several runs: the machine may be busy."""
    program = (
        "import json, numpy, time; start = time.perf_counter(); import bart_fast; "
        "print(json.dumps(time.perf_counter() - start))"
    )
    assert min(child(program) for _ in range(5)) < 0.1


@pytest.mark.parametrize("name", bart_fast.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bart_fast, name) is getattr(bart_fast, name)
    assert name in dir(bart_fast)


@pytest.mark.parametrize("submodule", ["models", "samplers", "optimizers", "losses", "metrics"])
def test_classes_can_be_had_at_both_places(submodule):
    module = getattr(bart_fast, submodule)
    classes = [name for name in module.__all__ if name[0].isupper()]
    assert classes
    for name in classes:
        assert getattr(bart_fast, name) is getattr(module, name)


def test_unknown_names():
    for name in ("BartClassifier", "nothing", "_private"):
        with pytest.raises(AttributeError, match=name):
            getattr(bart_fast, name)
