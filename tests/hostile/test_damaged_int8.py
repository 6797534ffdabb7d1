"""Presets and files of weights in int8 that are damaged or of another kind: one clear error."""

import json

import h5py
import numpy as np
import pytest
from test_dtypes import in_precision, policy
from tiny_models import SIZES

from bart_fast.models import BartBackbone, BartSeq2SeqLM

_KEY = "layers/transformer_encoder/_self_attention_layer/key_dense/vars"
_TABLE = "layers/reversible_embedding/vars"


def _replace(path, change):
    def damage(file):
        values = file[path][()]
        del file[path]
        file[path] = change(values)

    return damage


def _first(value):
    def change(values):
        values.reshape(-1)[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: f.__delitem__(f"{_KEY}/2"), rf"missing: {_KEY}/2 \[1, 1, 2, 8\]"),
        (lambda f: f.__delitem__(f"{_TABLE}/1"), rf"missing: {_TABLE}/1 \[30\]"),
        (_replace(f"{_KEY}/2", lambda v: v[0]), rf"misshapen: {_KEY}/2 is \[1, 2, 8\]"),
        (_replace(f"{_TABLE}/0", lambda v: v[:-1]), rf"misshapen: {_TABLE}/0 is \[29, 16\]"),
        (
            _replace(f"{_KEY}/0", lambda v: v.astype("f4")),
            rf"{_KEY}/0 has dtype float32, expected int8",
        ),
        (
            _replace(f"{_KEY}/0", lambda v: v.view("u1")),
            rf"{_KEY}/0 has dtype uint8, expected int8",
        ),
        (
            _replace(f"{_KEY}/2", lambda v: v.astype("i1")),
            rf"{_KEY}/2 has dtype int8, expected float32",
        ),
        (
            _replace(f"{_KEY}/1", lambda v: v.astype("i1")),
            rf"{_KEY}/1 has dtype int8, expected float32",
        ),
        (_replace(f"{_KEY}/2", _first(0)), rf"{_KEY}/2 holds scales that are not above 0"),
        (_replace(f"{_KEY}/2", _first(-3)), rf"{_KEY}/2 holds scales that are not above 0"),
        (_replace(f"{_TABLE}/1", _first(np.nan)), rf"{_TABLE}/1 holds scales that are not"),
        (_replace(f"{_TABLE}/1", _first(np.inf)), rf"{_TABLE}/1 holds scales that are not"),
        (_replace(f"{_TABLE}/0", _first(-128)), rf"{_TABLE}/0: `shared.weight` has the value -128"),
    ],
)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_damaged_int8_presets(tmp_path, damage, problem, dtype):
    in_precision("int8").save_to_preset(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        damage(file)
    with pytest.raises(ValueError, match=problem):
        BartSeq2SeqLM.from_preset(tmp_path, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda header, data: header.pop("model.shared.weight.keras_scale"), "I8, expected floats"),
        (
            lambda header, data: header["model.shared.weight"].update(dtype="U8"),
            "not part of the model: model.shared.weight.keras_scale",
        ),
        (
            lambda header, data: data("shared.weight.keras_scale", b"\0"),
            "scales are finite and above 0",
        ),
        (lambda header, data: data("shared.weight", b"\x80"), "values are from -127 to 127"),
    ],
)
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_damaged_int8_safetensors(tmp_path, change, problem, dtype):
    path = tmp_path / "w.safetensors"
    in_precision("int8").save_weights(path)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])

    def data(name, byte):
        start, end = header[f"model.{name}"]["data_offsets"]
        body[start:end] = byte * (end - start)

    change(header, data)
    # What is left out of the header must leave no gap: another tensor takes its place.
    named = {tuple(e["data_offsets"]) for n, e in header.items() if n != "__metadata__"}
    for offsets in {
        tuple(e["data_offsets"])
        for e in json.loads(raw[8 : 8 + size]).values()
        if "data_offsets" in e
    } - named:
        length = (offsets[1] - offsets[0]) // 4
        header["encoder.version"] = {"dtype": "F32", "shape": [length], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    with pytest.raises(ValueError, match=problem):
        BartBackbone(**SIZES, dtype=dtype).load_weights(path)


@pytest.mark.parametrize("saved", ["float32", "int8"])
def test_a_config_of_another_precision_than_the_weights(tmp_path, saved):
    in_precision(saved).save_to_preset(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["config"]["dtype"] = "float32" if saved == "int8" else policy(mode="int8")
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit"):
        BartBackbone.from_preset(tmp_path)


def test_int4_presets_are_refused_before_their_weights_are_read(tmp_path):
    in_precision("int8").save_to_preset(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"int8"', '"int4/128"'))
    for arguments in ({}, {"dtype": "float32"}, {"load_weights": False}):
        with pytest.raises(ValueError, match="quantised to int4/128, which cannot be read"):
            BartSeq2SeqLM.from_preset(tmp_path, **arguments)
