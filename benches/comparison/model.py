"""Writes the model that every engine loads: random weights in Hugging Face's format."""

import json
from pathlib import Path

import numpy as np

from comparison.sizes import Size

TOKEN_DEVIATION = 0.02
# With positions no larger than tokens, a model of random weights repeats its first token for ever,
# and equal answers would say little.
POSITION_DEVIATION = 0.4
# Each product makes its input so many times larger.
LAYER_GAIN = 0.6
DROPOUT = 0.1
# Those of the published models. Answers begin with the last.
SPECIAL_IDS = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def model_folder(work: Path, size: Size, dropout: float = 0.0) -> Path:
    """Where in `work` the model lies: `dropout` is the one that training applies."""
    return work / f"{size.vocabulary}x{size.width}-dropout-{dropout}"


def write_model(work: Path, size: Size) -> None:
    """Writes the model into `work`, with and without dropout; one file of weights for both.

    What is already there is kept.
    """
    plain, dropped = model_folder(work, size), model_folder(work, size, DROPOUT)
    if (dropped / "model.safetensors").exists():
        return
    _random_model(size).export_to_transformers(str(plain))
    dropped.mkdir(exist_ok=True)
    config = {**json.loads((plain / "config.json").read_text()), **SPECIAL_IDS}
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), DROPOUT)
    for folder, changes in ((plain, {}), (dropped, dropouts)):
        (folder / "config.json").write_text(json.dumps({**config, **changes}, indent=2))
        (folder / "generation_config.json").write_text(json.dumps(SPECIAL_IDS, indent=2))
    (dropped / "model.safetensors").hardlink_to(plain / "model.safetensors")


def _random_model(size: Size):
    from bart_fast.models import BartBackbone, BartSeq2SeqLM

    backbone = BartBackbone(
        vocabulary_size=size.vocabulary,
        num_layers=size.layers,
        num_heads=size.heads,
        hidden_dim=size.width,
        intermediate_dim=size.inner,
        dropout=0.0,
        max_sequence_length=size.positions,
    )
    model = BartSeq2SeqLM(backbone, compile=False)
    rng = np.random.default_rng(3)
    core = backbone._model
    for name, shape in core.parameters():
        core.set_parameters({name: _draw(rng, name, shape)})
    return model


def _draw(rng: np.random.Generator, name: str, shape: list[int]) -> np.ndarray:
    """Random values of a parameter; biases and gains too, so that none can be forgotten."""
    if name == "shared.weight":
        deviation = TOKEN_DEVIATION
    elif "embed_positions" in name:
        deviation = POSITION_DEVIATION
    else:
        deviation = LAYER_GAIN / shape[-1] ** 0.5
    values = rng.standard_normal(shape, np.float32) * np.float32(deviation)
    is_gain = name.endswith("weight") and len(shape) == 1
    return values + np.float32(1.0) if is_gain else values
