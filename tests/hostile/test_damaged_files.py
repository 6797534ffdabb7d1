"""Files that are damaged at random, and files made to take all memory or time: in every format one
clear error, within 256 MiB and 5 seconds. Each file is read in a process of its own.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from preset_helpers import (
    CONFIG,
    GOLDEN,
    ArrayModel,
    as_tokenizer_json,
    needs_golden,
    task,
    writable_copy,
)
from torch_files import (
    save_archive,
    save_safetensors,
    save_shards,
    save_stream,
    stored_tensors,
    tensor,
)

from bart_fast import presets

CHILD = Path(__file__).with_name("reading_child.py")
SENTENCEPIECE = Path(__file__).parents[1] / "golden" / "sentencepiece.npz"
SECONDS, MEBIBYTES = 5, 256

# Six processes that load the package and read a few hundred files, on a busy machine.
pytestmark = [needs_golden, pytest.mark.timeout(300)]


def child(*arguments) -> list[dict]:
    command = [sys.executable, "-X", "faulthandler", str(CHILD), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


# Damage at random.


def keras(directory: Path, file: str) -> Path:
    presets.save_keras_preset(directory, task=task(ArrayModel(CONFIG, seed=1)))
    return directory / file


def transformers(directory: Path, file: str) -> Path:
    writable_copy(GOLDEN / "hf_tiny", directory)
    if file.startswith(("pytorch_model", "model.pt")):
        (directory / "model.safetensors").unlink()
        write = save_stream if file == "model.pt" else save_archive
        tensors = stored_tensors(GOLDEN / "hf_tiny" / "model.safetensors")
        state = {key: tensor(value) for key, value in tensors.items()}
        if file.endswith("index.json"):
            save_shards(directory, "pytorch_model", "bin", state, write)
        else:
            write(directory / file, state)
    if file == "tokenizer.json":
        as_tokenizer_json(directory)
    return directory / file


def sentencepiece(directory: Path, file: str) -> Path:
    writable_copy(GOLDEN / "hf_tiny", directory)
    (directory / "vocab.json").unlink()
    with np.load(SENTENCEPIECE) as arrays:
        case = json.loads(str(arrays["cases"]))["xlmr"]
    (directory / file).write_text(case["tokenizer.json"])
    return directory / file


@pytest.mark.parametrize(
    ("write", "file", "times", "refused"),
    [
        (keras, "model.weights.h5", 150, 15),
        (keras, "config.json", 150, 50),
        (keras, "task.json", 100, 30),
        (keras, "assets/tokenizer/vocabulary.json", 100, 30),
        (transformers, "model.safetensors", 150, 5),
        (transformers, "pytorch_model.bin", 150, 5),
        (transformers, "pytorch_model.bin.index.json", 100, 10),
        (transformers, "model.pt", 150, 5),
        (transformers, "config.json", 150, 30),
        (transformers, "tokenizer.json", 150, 30),
        (sentencepiece, "tokenizer.json", 150, 30),
    ],
)
def test_random_damage_is_found_or_harmless(tmp_path, write, file, times, refused):
    path = write(tmp_path / "preset", file)
    (result,) = child("damage", path, 7, times)
    assert result["whole"] == ""
    assert result["refused"] >= refused, result
    assert result["mebibytes"] < MEBIBYTES, result


# Bombs.


def bomb(directory: Path, name: str, content: bytes | str) -> Path:
    """A directory in which one file was replaced."""
    copy = writable_copy(GOLDEN / "hf_tiny", directory)
    if name.startswith(("pytorch_model", "model.safetensors.index")):
        (copy / "model.safetensors").unlink()
    if name == "tokenizer.json":
        (copy / "vocab.json").unlink()
    (copy / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return copy


def archive(directory: Path, pickle: bytes, method=zipfile.ZIP_STORED) -> Path:
    copy = bomb(directory, "pytorch_model.bin", b"")
    with zipfile.ZipFile(copy / "pytorch_model.bin", "w", method) as file:
        file.writestr("archive/data.pkl", pickle)
        # As long as the weights that the configuration asks for.
        file.writestr("archive/data/0", np.arange(5_000.0).tobytes())
    return copy


def tokenizer_json(vocabulary: str, merges: str) -> str:
    return (
        '{"pre_tokenizer": {"type": "ByteLevel"}, "model": {"type": "BPE", '
        f'"vocab": {{{vocabulary}}}, "merges": [{merges}]}}}}'
    )


def unigram_json(vocabulary: str, parts: str = "") -> str:
    return f'{{{parts}"model": {{"type": "Unigram", "unk_id": 0, "vocab": [{vocabulary}]}}}}'


def config_with(text: str) -> str:
    whole = (GOLDEN / "hf_tiny" / "config.json").read_text()
    return whole.rstrip().removesuffix("}") + f', "a": {text}}}'


def numbered(template: str, count: int) -> str:
    return ",".join(template % index for index in range(count))


def bombs(folder: Path):
    """Directories, each with a part of the message that it must give (empty: it can be read)."""
    mega = 1024 * 1024
    empty = '"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = f"{{{numbered(empty, 130_000)}}}".encode()
    lists = "[" + "[]," * 690_000 + "0]"
    index = ",".join(f'"{i:x}":"a{i:x}"' for i in range(100_000))
    stop = b"\x80\x02"
    normalizers = '{"type": "Sequence", "normalizers": ['
    # It says that it has four gigabytes.
    charsmap = '{"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}'
    added = '{"id": 1, "content": "%x", "special": true}'
    cases = [
        ("config.json", config_with(lists), ""),
        ("config.json", config_with("[" * 500_000), "not valid JSON"),
        ("config.json", config_with("9" * 1_000_000), "not valid JSON"),
        ("config.json", " " * 3 * mega, "at most"),
        ("vocab.json", "{" + ",".join(f'"{i:x}":{i}' for i in range(580_000)) + "}", ""),
        ("merges.txt", "a b\n" * 2 * mega, ""),
        ("tokenizer.json", tokenizer_json(numbered('"%x":1', 2_000_000), ""), "more than 400000"),
        ("tokenizer.json", tokenizer_json("", '"a b",' * 4_000_000 + "0"), "more than 400000"),
        ("tokenizer.json", tokenizer_json('"a":0', "[" * 1_000_000), "no description"),
        ("tokenizer.json", " " * 26 * mega, "longer than"),
        ("tokenizer.json", unigram_json('["a",0],' * 2_000_000 + "0"), "more than 400000"),
        ("tokenizer.json", unigram_json(numbered('["%x",0]', 399_000)), ""),
        ("tokenizer.json", unigram_json('["' + "a" * 20 * mega + '",0]'), "1024 bytes"),
        (
            "tokenizer.json",
            unigram_json("", '"normalizer": ' + normalizers * 200),
            "no description",
        ),
        ("tokenizer.json", unigram_json('["a",0]', f'"normalizer": {charsmap},'), "points outside"),
        (
            "tokenizer.json",
            unigram_json('["a",0]', f'"added_tokens": [{numbered(added, 300_000)}],'),
            "more than 1048576 bytes",
        ),
        ("model.safetensors", (1 << 62).to_bytes(8, "little") + bytes(mega), "header of"),
        ("model.safetensors", len(header).to_bytes(8, "little") + header, "missing"),
        ("model.safetensors", b"\0\0\0\1\0\0\0\0{" + bytes(17 * mega), "header of"),
        (
            "model.safetensors.index.json",
            f'{{"weight_map": {{{index}}}}}',
            "shards that are missing",
        ),
        ("pytorch_model.bin", bytes(mega) + b"PK\5\6" + b"\xff" * 16 + bytes(2), "neither"),
    ]
    for number, (name, content, message) in enumerate(cases):
        yield bomb(folder / str(number), name, content), message
    pickles = [
        (stop + b"}" * 7 * mega, "more than 1000000 values"),
        (stop + b"(" * 7 * mega, "more than 1000000 values"),
        (stop + b")" + b"\x85" * 999_000 + b".", "holds no dict of tensors"),
        (stop + b"}" + b"q\0h\0h\0s" * 200_000 + b".", "missing"),
        (stop + b"X\xff\xff\xff\x7f", "string of"),
        (stop + b"N" + b"\x8a\xff" + b"\xff" * 255 + b".", "holds no dict"),
        (stop + b"ctorch\nSize\n" * 900_000, "more than 8388608 bytes"),
        (stop + bytes(1), "opcode"),
    ]
    for number, (pickle, message) in enumerate(pickles):
        yield archive(folder / f"p{number}", pickle), message
    yield archive(folder / "z", bytes(64 * mega), zipfile.ZIP_DEFLATED), "is compressed"


def test_bombs_do_little_harm(tmp_path):
    directories, messages = zip(*bombs(tmp_path), strict=True)
    # One process each, so that none hides in the memory that another took.
    for directory, message in zip(directories, messages, strict=True):
        (result,) = child("read", directory)
        label = f"{[p.name for p in directory.iterdir()]} {message!r}: {result}"
        assert not message or message in result["message"], label
        assert result["seconds"] < SECONDS, label
        assert result["mebibytes"] < MEBIBYTES, label


def test_a_sparse_file_of_a_terabyte(tmp_path):
    copy = bomb(tmp_path / "sparse", "pytorch_model.bin", b"")
    save_archive(copy / "pytorch_model.bin", {"a": tensor(np.zeros(3, np.float32))})
    os.truncate(copy / "pytorch_model.bin", 1 << 40)
    other = bomb(tmp_path / "other", "model.safetensors", b"")
    save_safetensors(other / "model.safetensors", {"a": np.zeros(3, np.float32)})
    os.truncate(other / "model.safetensors", 1 << 40)
    for result in child("read", copy, other):
        assert "truncated" in result["message"]
        assert result["seconds"] < SECONDS and result["mebibytes"] < MEBIBYTES
