"""Checkpoints of torch and in shards: the same numbers as from `model.safetensors`."""

import json

import numpy as np
import pytest
from preset_helpers import GOLDEN, edit_json, needs_golden, writable_copy
from torch_files import (
    Call,
    Named,
    Storage,
    bfloat16,
    save_archive,
    save_safetensors,
    save_shards,
    save_stream,
    stored_tensors,
    tensor,
)

from bart_fast import presets
from bart_fast._core import Model

pytestmark = needs_golden

WRITERS = {"archive": save_archive, "stream": save_stream}


TENSORS = stored_tensors(GOLDEN / "hf_tiny" / "model.safetensors") if GOLDEN.is_dir() else {}


def values(directory) -> dict[str, np.ndarray]:
    """All parameters of the model in a directory."""
    preset = presets.load_preset(directory)
    model = Model(json.dumps(preset.backbone_config))
    presets.load_weights(preset, model)
    return {name: model.get_parameter(name) for name, _ in model.parameters()}


def assert_same(left: dict, right: dict, **tolerance) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], err_msg=name, **tolerance)


@pytest.fixture(scope="module")
def expected():
    return values(GOLDEN / "hf_tiny")


@pytest.fixture
def directory(tmp_path):
    copy = writable_copy(GOLDEN / "hf_tiny", tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    return copy


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_state_dict(directory, expected, write, name):
    write(directory / name, {key: tensor(value) for key, value in TENSORS.items()})
    assert_same(values(directory), expected, rtol=0)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_fairseq_saves(directory, expected, write):
    """Its names are Hugging Face's without `model.`; settings and optimizers stand beside them."""
    table = tensor(TENSORS["model.shared.weight"])
    state = {
        key.removeprefix("model."): tensor(value)
        for key, value in TENSORS.items()
        if key not in ("model.shared.weight", "lm_head.weight")
    }
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection"):
        state[f"{name}.weight"] = table
    state["encoder.version"] = state["decoder.version"] = tensor(np.array([3], np.float32))
    settings = {"arch": "bart_large", "lr": [3e-5], "update_freq": [1], "path": None}
    checkpoint = {
        "args": Call(Named("argparse", "Namespace"), state=settings),
        "cfg": Call(Named("omegaconf.dictconfig", "DictConfig"), state={"_content": {1: 2.5}}),
        "model": state,
        "extra_state": {"meter": Call(Named("fairseq.logging.meters", "AverageMeter"))},
        "last_optimizer_state": {"state": {0: {"exp_avg": tensor(np.zeros(5, np.float32))}}},
    }
    write(directory / "model.pt", checkpoint)
    assert_same(values(directory), expected, rtol=0)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_way_of_storing_values(directory, expected, write):
    """float16, bfloat16, float64, parameters, shared storages, values out of order."""
    names = iter(TENSORS)
    narrow = {next(names): 0 for _ in range(12)}
    shared = Storage(np.concatenate([value.ravel() for value in TENSORS.values()]))
    state, offset = {}, 0
    for index, (name, value) in enumerate(TENSORS.items()):
        if name in narrow:
            half = value.astype(np.float16)
            state[name] = tensor(half) if index % 2 else bfloat16(value)
        elif index % 4 == 0:
            state[name] = tensor(value.astype(np.float64))
        elif index % 4 == 1 and value.ndim == 2:
            state[name] = tensor(np.asfortranarray(value), Storage(value.T))
        elif index % 4 == 2:
            parameter = Named("torch._utils", "_rebuild_parameter")
            hooks = Call(Named("collections", "OrderedDict"))
            state[name] = Call(parameter, tensor(value), True, hooks)
        else:
            state[name] = tensor(value, shared, offset)
        offset += value.size
    write(directory / "pytorch_model.bin", state)
    found = values(directory)
    exact = {name.removeprefix("model.") for name in TENSORS.keys() - narrow} & found.keys()
    assert len(exact) > 20
    assert_same({n: found[n] for n in exact}, {n: expected[n] for n in exact}, rtol=0)
    assert_same(found, expected, rtol=2**-7, atol=1e-6)


def test_shards_of_either_format(directory, expected):
    tensors = {key: tensor(value) for key, value in TENSORS.items()}
    save_shards(directory, "pytorch_model", "bin", tensors, save_archive)
    assert_same(values(directory), expected, rtol=0)
    # transformers prefers safetensors too.
    save_shards(directory, "model", "safetensors", TENSORS, save_safetensors, parts=2)
    (directory / "pytorch_model.bin.index.json").write_text("{")
    assert_same(values(directory), expected, rtol=0)


def test_a_tensor_in_two_shards(directory):
    index = save_shards(directory, "model", "safetensors", TENSORS, save_safetensors)
    extra = {"model.encoder.layernorm_embedding.bias": np.zeros(16, np.float32)}
    save_safetensors(directory / "extra.safetensors", extra)
    edit_json(index, lambda value: value["weight_map"].update(x="extra.safetensors"))
    with pytest.raises(ValueError, match=r"has tensor model\.encoder\.layernorm.*which .* has too"):
        values(directory)


@pytest.mark.parametrize(
    "name", ["../model.pt", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "C:x", "a\0b", 3, None]
)
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_shards_lie_beside_their_index(directory, index, name):
    (directory / index).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="must name files beside it"):
        values(directory)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "["])
def test_damaged_index(directory, index):
    (directory / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin\.index\.json"):
        values(directory)


def test_a_missing_shard(directory):
    save_shards(directory, "model", "safetensors", TENSORS, save_safetensors)
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="missing: model-00002-of-00003"):
        values(directory)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_nothing_is_run(directory, tmp_path, write):
    target = tmp_path / "written by the file"
    state = {key: tensor(value) for key, value in TENSORS.items()}
    for module, name in [("os", "system"), ("builtins", "exec"), ("subprocess", "Popen")]:
        state["note"] = Call(Named(module, name), f"open({str(target)!r}, 'w')")
        write(directory / "pytorch_model.bin", state)
        with pytest.raises(ValueError, match=rf"names `{module}\.{name}`.*was not run") as caught:
            values(directory)
        assert "hint: if you trust the file" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_tensors_that_do_not_fit_are_all_listed(directory, write):
    state = {key: tensor(value) for key, value in TENSORS.items()}
    state["qa_outputs.weight"] = state.pop("model.encoder.layers.0.fc1.bias")
    state["model.encoder.layers.0.fc2.bias"] = tensor(np.zeros(3, np.float32))
    write(directory / "pytorch_model.bin", state)
    with pytest.raises(ValueError, match="the tensors do not fit the config") as caught:
        values(directory)
    for line in [
        "1 missing: model.encoder.layers.0.fc1.bias",
        "1 not part of the model: qa_outputs.weight",
        "model.encoder.layers.0.fc2.bias is [3], expected [16]",
    ]:
        assert line in str(caught.value)


def test_values_that_are_no_floats_or_scattered(directory):
    name = "model.encoder.layernorm_embedding.bias"
    state = {key: tensor(value) for key, value in TENSORS.items()}
    for wrong, message in [
        (tensor(np.zeros(16, np.int64)), f"tensor {name} has dtype I64, expected floats"),
        (
            tensor(TENSORS[name], Storage(np.zeros(16 * 9999, np.float32)), 0, [9999]),
            f"tensor {name} has 16 values spread over 149986.*\n.*contiguous",
        ),
    ]:
        state[name] = wrong
        save_archive(directory / "pytorch_model.bin", state)
        with pytest.raises(ValueError, match=message):
            values(directory)
