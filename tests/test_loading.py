"""Loading reads each value once, into its place: by the core or by h5py, the bits are the same."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from bart_fast.models import BartBackbone, BartSeq2SeqLM, BartTokenizer
from bart_fast.presets import hdf5

# Sizes around the panels of the weights, more than one run of reading, and none of a power of two.
SIZES = {
    "vocabulary_size": 1111,
    "num_layers": 1,
    "num_heads": 3,
    "hidden_dim": 99,
    "intermediate_dim": 457,
    "max_sequence_length": 700,
}


def parameters(model) -> dict:
    """All values to the bit, those in int8 as they are kept."""
    core = model.backbone._model
    found = {}
    for name, _ in core.parameters():
        quantised = core.get_int8(name)
        found[name] = core.get_parameter(name).tobytes() if quantised is None else None
        found[f"{name} in int8"] = quantised and [part.tobytes() for part in quantised]
    return found


@pytest.mark.parametrize("saved", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_core_reads_what_h5py_reads(tmp_path, monkeypatch, saved, dtype):
    BartSeq2SeqLM(BartBackbone(**SIZES, dtype=saved)).save_to_preset(tmp_path)
    files = [tmp_path / "model.weights.h5"]
    with hdf5.opened(files) as (file,):
        assert isinstance(file, hdf5.PlainFile)
    by_core = BartSeq2SeqLM.from_preset(tmp_path, dtype=dtype)
    # The same values in pieces, which the core leaves to the library.
    with h5py.File(files[0], "r+") as file:
        values = file["layers/position_embedding/vars/0"][()]
        del file["layers/position_embedding/vars/0"]
        dataset = file.create_dataset(
            "layers/position_embedding/vars/0", data=values, compression="gzip"
        )
        if values.dtype.kind == "V":
            dataset.attrs["dtype"] = "bfloat16"
    with hdf5.opened(files) as (file,):
        assert isinstance(file, hdf5.LibraryFile)
    by_library = BartSeq2SeqLM.from_preset(tmp_path, dtype=dtype)
    assert parameters(by_core) == parameters(by_library)


_MEASURE = """
import sys
from bart_fast import _core
from bart_fast.models import BartSeq2SeqLM

def megabytes(field):
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

start = megabytes("VmRSS")
model = BartSeq2SeqLM.from_preset(sys.argv[1], preprocessor=None)
assert model.backbone.dtype == "int8" and "h5py" not in sys.modules
print(megabytes("VmHWM") - start, model.backbone._model.count_bytes() / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_int8_makes_no_float32_copy(tmp_path):
    sizes = {**SIZES, "vocabulary_size": 40_000, "hidden_dim": 768}
    model = BartSeq2SeqLM(BartBackbone(**sizes, dtype="int8"))
    model.save_to_preset(tmp_path)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    most, weights = map(float, result.stdout.split())
    # The table alone is 29 MiB, and would be 117 in float32.
    assert most < weights + 25, result.stdout


_LOAD_AND_DROP = """
import os, resource, sys
preset, case = sys.argv[1:]
if case == "little address space":
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from bart_fast.models import BartSeq2SeqLM

def load():
    return BartSeq2SeqLM.from_preset(preset, preprocessor=None)

def megabytes():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    # Tables of pages are the system's memory, but they grow with what a process does.
    return sum(int(fields[name].split()[0]) for name in ("VmRSS", "VmPTE")) / 1024

model = load()
if case == "after a fork" and (child := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
model = None
model = load()
weights, loaded = model.backbone._model.count_bytes() / 2**20, megabytes()
del model
dropped = megabytes()
for _ in range(50):
    load()
print(loaded - dropped, megabytes() - dropped, weights)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("case", ["", "after a fork", "little address space"])
def test_a_dropped_model_gives_its_memory_back(tmp_path, case):
    sizes = {**SIZES, "vocabulary_size": 20_000, "hidden_dim": 768}
    BartSeq2SeqLM(BartBackbone(**sizes, dtype="int8")).save_to_preset(tmp_path)
    command = [sys.executable, "-c", _LOAD_AND_DROP, str(tmp_path), case]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    given_back, grown, weights = map(float, result.stdout.split())
    if case == "little address space":
        # Weights lie among all other memory, which is kept a while for what comes next.
        assert grown < weights, result.stdout
    else:
        assert given_back > 0.9 * weights and grown < 0.8, result.stdout


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path):
    model = BartSeq2SeqLM(BartBackbone(**SIZES))
    model.save_to_preset(tmp_path)
    path = tmp_path / "model.weights.h5"
    with hdf5.opened([path]) as (file,):
        plan = [("shared.weight", (0, "layers/reversible_embedding/vars/0"), False, None)]
        with path.open("r+b") as cut:
            cut.truncate(60_000)
        with pytest.raises(OSError, match=r"model\.weights\.h5"):
            model.backbone._model.fill([file.core], plan)


def test_a_tokenizer_of_files_is_the_tokenizer_of_their_content(tmp_path):
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 7, "Ġa": 4, "a": 3, "<mask>": 9, "é": 12}
    merges = ["Ġ a", "a b", "é é"]
    whole = BartTokenizer(vocabulary, merges)
    whole.save_assets(tmp_path)
    read = BartTokenizer(tmp_path / "vocabulary.json", tmp_path / "merges.txt")
    assert read.__dict__.keys() & {"vocabulary", "merges"} == set(), (
        "not made before it is asked for"
    )
    text = "a ab <mask>a é</s>"
    assert read.tokenize(text).tolist() == whole.tokenize(text).tolist()
    assert read.detokenize([3, 4, 12]) == whole.detokenize([3, 4, 12])
    assert list(read.vocabulary.items()) == list(vocabulary.items())
    assert (read.merges, read.token_to_id("a"), read.id_to_token(12)) == (merges, 3, "é")
    assert np.array_equal(read._ids, whole._ids)
    with pytest.raises(ValueError, match="special tokens"):
        read.set_vocabulary_and_merges({"a": 0}, [])
    assert read.vocabulary == vocabulary, "a refused vocabulary changes nothing"
