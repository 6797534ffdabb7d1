"""What the preset tests share: the recorded presets, and a model that only holds arrays."""

import json
import shutil
import types
from pathlib import Path

import h5py
import numpy as np
from conftest import needs_shared, shared_folder
from torch_files import stored_tensors

from bart_fast import _core, presets
from bart_fast.presets import hdf5

GOLDEN = shared_folder() / "golden"

needs_golden = needs_shared("golden")

CONFIG = {
    "vocab_size": 11,
    "d_model": 8,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 9,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "model_type": "bart",
    "scale_embedding": False,
    "normalize_before": False,
    "add_final_layer_norm": False,
    "tie_word_embeddings": True,
    "separate_embeddings": False,
    "final_logits_bias": False,
    "init_std": 0.02,
    "activation_function": "gelu",
}
VOCABULARY = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4, "Ġ": 5, "ab": 6, "Ġab": 7}
MERGES = ["a b", "Ġ ab"]


class ArrayModel:
    """Stands for the core model: parameters by their canonical names, as numpy arrays."""

    dtype = "float32"

    def __init__(self, config: dict, seed: int | None = None):
        self.config = json.dumps(config)
        random = np.random.default_rng(seed)
        self.values = {
            name: np.zeros(shape, np.float32)
            if seed is None
            else random.standard_normal(shape, dtype=np.float32)
            for name, shape in canonical_shapes(config).items()
        }

    def parameters(self):
        return [(name, list(value.shape)) for name, value in self.values.items()]

    def get_parameter(self, name):
        return self.values[name]

    def set_parameters(self, values):
        for name, value in values.items():
            assert value.dtype == np.float32, name
            assert value.shape == self.values[name].shape, name
            self.values[name] = value

    def fill(self, files, plan):
        for name, (file, dataset), transposed, scales in plan:
            assert scales is None, name
            path = files[file].path
            with hdf5.damage(path), h5py.File(path) as opened:
                values = hdf5.read(opened[dataset])
            shape = self.values[name].shape
            values = values.reshape(shape[::-1]).T if transposed else values.reshape(shape)
            self.set_parameters({name: values})

    def save_safetensors(self, path, dtype):
        Path(path).write_bytes(b"weights")


def canonical_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, spelled out apart from the package's own table."""
    hidden = config["d_model"]
    shapes = {"shared.weight": (config["vocab_size"], hidden)}

    def norm(name):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)

    def linear(name, outputs, inputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    for side, attentions in (
        ("encoder", ["self_attn"]),
        ("decoder", ["self_attn", "encoder_attn"]),
    ):
        shapes[f"{side}.embed_positions.weight"] = (config["max_position_embeddings"], hidden)
        norm(f"{side}.layernorm_embedding")
        for i in range(config[f"{side}_layers"]):
            layer = f"{side}.layers.{i}"
            for attention in attentions:
                for projection in "qkv":
                    linear(f"{layer}.{attention}.{projection}_proj", hidden, hidden)
                linear(f"{layer}.{attention}.out_proj", hidden, hidden)
                norm(f"{layer}.{attention}_layer_norm")
            linear(f"{layer}.fc1", config[f"{side}_ffn_dim"], hidden)
            linear(f"{layer}.fc2", hidden, config[f"{side}_ffn_dim"])
            norm(f"{layer}.final_layer_norm")
    return shapes


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file under their canonical names."""
    tensors = {}
    for stored, values in stored_tensors(path).items():
        name = stored.removeprefix("model.")
        tensors[name] = values[2:] if "embed_positions" in name else values
    return tensors


def writable_copy(source: Path, target: Path) -> Path:
    """A copy of a recorded preset that a test may change."""
    shutil.copytree(source, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def as_tokenizer_json(directory: Path, **changes) -> None:
    """Put a `tokenizer.json` in the place of vocabulary and merges, as transformers writes it."""
    vocabulary = json.loads((directory / "vocab.json").read_text())
    merges = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    model = {"type": "BPE", "vocab": vocabulary, "merges": [m for m in merges if m[0] != "#"]}
    added = [
        {"id": vocabulary[token], "content": token, "lstrip": token == "<mask>", "special": True}
        for token in ("<s>", "<pad>", "</s>", "<mask>")
    ]
    value = {
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": model,
    }
    (directory / "tokenizer.json").write_text(json.dumps(value | changes))
    (directory / "vocab.json").unlink()
    (directory / "merges.txt").unlink()


def edit_json(path: Path, change) -> None:
    """Apply `change` to the object in a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def tokenizer(**changes):
    values = {
        "vocabulary": VOCABULARY,
        "merges": MERGES,
        "sequence_length": None,
        "add_prefix_space": False,
        "unsplittable_tokens": None,
        "dtype": "int32",
        "start_token_id": 0,
        "end_token_id": 2,
        "pad_token_id": 1,
    }
    return types.SimpleNamespace(**(values | changes))


def task(model, encoder_length=1024, decoder_length=1024, **changes):
    preprocessor = types.SimpleNamespace(
        tokenizer=tokenizer(**changes),
        encoder_sequence_length=encoder_length,
        decoder_sequence_length=decoder_length,
    )
    return types.SimpleNamespace(backbone=model, preprocessor=preprocessor)


def loaded(directory) -> ArrayModel:
    preset = presets.load_preset(directory)
    model = ArrayModel(preset.backbone_config)
    presets.load_weights(preset, model)
    return model


def assert_same_parameters(left: ArrayModel, right: ArrayModel):
    assert left.values.keys() == right.values.keys()
    for name, value in left.values.items():
        np.testing.assert_array_equal(value, right.values[name], err_msg=name)


def core_model(directory) -> _core.Model:
    preset = presets.load_preset(directory)
    model = _core.Model(json.dumps(preset.backbone_config), 0)
    presets.load_weights(preset, model)
    return model


def assert_same_cores(left: _core.Model, right: _core.Model):
    bias = {"final_logits_bias"}
    names, others = (dict(model.parameters()).keys() - bias for model in (left, right))
    assert names == others
    for name in names:
        np.testing.assert_array_equal(
            left.get_parameter(name), right.get_parameter(name), err_msg=name
        )
