"""Writes the models that every engine loads, in Hugging Face's format."""

import json
from pathlib import Path

import numpy as np

from comparison.sizes import SIZES, Size

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
# What tools of other projects ask of a configuration, as the published ones have it.
PUBLISHED = {"normalize_before": False, "normalize_embedding": True}
SHIPPED = "bart_tidy_en"
WEIGHTS = "model.safetensors"


def model_folder(work: Path, name: str, dropout: float = 0.0) -> Path:
    """Where in `work` the model of that name lies: `dropout` is the one that training applies."""
    return work / name / ("model-dropout" if dropout else "model")


def write_model(work: Path, name: str) -> None:
    """Writes the model into `work`, with and without dropout; one file of weights for both.

    What is already there is kept.
    """
    plain, dropped = model_folder(work, name), model_folder(work, name, DROPOUT)
    if (dropped / WEIGHTS).exists():
        return
    _model(name).export_to_transformers(str(plain))
    dropped.mkdir(exist_ok=True)
    config = {**json.loads((plain / "config.json").read_text()), **SPECIAL_IDS, **PUBLISHED}
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), DROPOUT)
    for folder, changes in ((plain, {}), (dropped, dropouts)):
        (folder / "config.json").write_text(json.dumps({**config, **changes}, indent=2))
        (folder / "generation_config.json").write_text(json.dumps(SPECIAL_IDS, indent=2))
    (dropped / WEIGHTS).hardlink_to(plain / WEIGHTS)


def _model(name: str):
    from bart_fast.models import BartBackbone, BartSeq2SeqLM

    if name == SHIPPED:
        shipped = BartSeq2SeqLM.from_preset(SHIPPED, dtype="float32", compile=False)
        # Without its tokenizer: engines are given ids.
        return BartSeq2SeqLM(shipped.backbone, compile=False)
    size = SIZES[name]
    backbone = BartBackbone(
        vocabulary_size=size.vocabulary,
        num_layers=size.layers,
        num_heads=size.heads,
        hidden_dim=size.width,
        intermediate_dim=size.inner,
        dropout=0.0,
        max_sequence_length=size.positions,
    )
    set_random_weights(backbone, size)
    return BartSeq2SeqLM(backbone, compile=False)


def set_random_weights(backbone, size: Size) -> None:
    """Seeded weights with which answers vary."""
    rng = np.random.default_rng(3)
    core = backbone._model
    for name, shape in core.parameters():
        core.set_parameters({name: _draw(rng, name, shape)})


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
