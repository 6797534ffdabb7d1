"""Records Hugging Face's numbers for sequence classification, and its pipelines.

    python make_classifiers.py

Made with transformers 4.57.1 on torch 2.6.0. Weights are random, of values that float16 holds.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BartConfig, BartForSequenceClassification, BartTokenizerFast, pipeline
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

MERGES = ["t h", "th e", "Ġ the", "i n", "e r", "Ġ a", "Ġ i", "o r", "Ġi s", "Ġa n"]
MERGES += ["a m", "Ġ e", "Ġe x", "am p", "l e", "amp le", "Ġex ample"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES = {
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 64,
}
MNLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
# Name -> fields of the configuration.
CASES = {
    "mnli": {"id2label": MNLI, "label2id": {v: k for k, v in MNLI.items()}},
    "uneven": {
        "encoder_layers": 1,
        "decoder_layers": 3,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 10,
        "scale_embedding": True,
        "classifier_dropout": 0.3,
        "id2label": {0: "ENTAILMENT", 1: "no"},
        "label2id": {"ENTAILMENT": 0, "no": 1},
        "problem_type": "multi_label_classification",
    },
    "regression": {"num_labels": 1, "problem_type": "regression"},
}
TEXTS = ["the example", "", "a fox is in the river of the ants", " naïve café"]
PAIRS = ["an example of the thing", "no", " a", "the river is an example"]
LONG = "the river is an example of the thing, " * 4
# Rows of token arrays with holes in their masks.
ARRAYS = {
    "token_ids": [[0, 70, 71, 2, 1, 1], [1, 0, 80, 81, 2, 1], [0, 70, 72, 2, 90, 91]],
    "padding_mask": [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [1, 0, 1, 1, 1, 1]],
}
ZERO_SHOT = [
    {"sequences": "a fox is in the river", "candidate_labels": ["rivers", "ants", "an example"]},
    {"sequences": ["the example", LONG], "candidate_labels": "sea, wood ,fox", "multi_label": True},
    {"sequences": "the ants", "candidate_labels": ["ants"]},
    {
        "sequences": ["one", "two"],
        "candidate_labels": ["a", "b"],
        "hypothesis_template": "the {} is in",
    },
]
# Of three steps of SGD: the classes of the texts, and the weights that are compared.
LABELS, RATE = [0, 2, 1, 1], 0.1
TRAINED = (
    "classification_head.dense.weight",
    "classification_head.dense.bias",
    "classification_head.out_proj.weight",
    "classification_head.out_proj.bias",
    "model.shared.weight",
    "model.encoder.layers.0.self_attn.q_proj.weight",
    "model.decoder.layers.1.encoder_attn.v_proj.bias",
    "model.decoder.layers.0.final_layer_norm.weight",
)
CUTS = [(9, 3), (3, 9), (7, 7), (12, 1), (8, 8)]


def tokenizer(folder: Path) -> BartTokenizerFast:
    pieces = SPECIAL + list(bytes_to_unicode().values()) + [m.replace(" ", "") for m in MERGES]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    files = {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}
    return BartTokenizerFast(**files, model_max_length=SIZES["max_position_embeddings"])


def built(fields: dict, vocabulary: int, random):
    """A model with random weights, and its tensors as Hugging Face saves them."""
    config = BartConfig(**{**SIZES, **fields, "vocab_size": vocabulary})
    model = BartForSequenceClassification(config).eval()
    named = dict(model.named_parameters())
    for name, values in named.items():
        draw = random.normal(0, 1.2 if "encoder_attn" in name else 0.4, values.shape)
        draw = 1 + draw / 2 if "norm" in name and name.endswith("weight") else draw
        values.data = torch.from_numpy(draw.astype(np.float16).astype(np.float32))
    return model, {name: values.detach().numpy() for name, values in named.items()}


def record(model, tokens, arrays: dict, name: str) -> dict:
    """Logits of texts, pairs and token arrays; the answers of the pipelines."""
    inputs = {
        "texts": tokens(TEXTS, return_tensors="pt", padding=True),
        "pairs": tokens(TEXTS, PAIRS, return_tensors="pt", padding=True),
        "arrays": {
            "input_ids": torch.tensor(ARRAYS["token_ids"]),
            "attention_mask": torch.tensor(ARRAYS["padding_mask"]),
        },
    }
    for key, each in inputs.items():
        with torch.inference_mode():
            logits = model(input_ids=each["input_ids"], attention_mask=each["attention_mask"])
        arrays[f"{name}/{key}"] = logits.logits.numpy()
    classify = pipeline("text-classification", model=model, tokenizer=tokens)
    answers = {"classify": classify(TEXTS), "classify_all": classify(TEXTS, top_k=None)}
    if name != "regression":
        zero_shot = pipeline("zero-shot-classification", model=model, tokenizer=tokens)
        answers["zero_shot"] = [zero_shot(**call) for call in ZERO_SHOT]
    return answers


def train(model, tokens, arrays: dict) -> None:
    """Losses and weights of three steps without dropout."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    inputs, losses = tokens(TEXTS, return_tensors="pt", padding=True), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**inputs, labels=torch.tensor(LABELS)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    arrays["train/losses"] = np.array(losses)
    named = dict(model.named_parameters())
    arrays |= {f"train/{name}": named[name].detach().numpy() for name in TRAINED}


def main() -> None:
    arrays, configs, answers = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        tokens = tokenizer(Path(folder))
        texts = {name: (Path(folder) / name).read_text() for name in ("vocab.json", "merges.txt")}
    for seed, (name, fields) in enumerate(CASES.items()):
        model, saved = built(fields, len(tokens), np.random.default_rng(seed))
        configs[name] = {**json.loads(model.config.to_json_string()), "max_length": 12}
        arrays |= {f"{name}/weights/{key}": v.astype(np.float16) for key, v in saved.items()}
        answers[name] = record(model, tokens, arrays, name)
        if name == "mnli":
            train(model, tokens, arrays)
    packed = tokens(TEXTS, PAIRS)["input_ids"]
    cuts = [
        tokens("a" * first, "b" * second, truncation=how, max_length=width)["input_ids"]
        for first, second in CUTS
        for width, how in ((12, "longest_first"), (13, "longest_first"), (14, "only_first"))
        if how != "only_first" or second < 9
    ]
    arrays["json"] = np.array(
        json.dumps(
            {
                "configs": configs,
                "answers": answers,
                "files": texts,
                "texts": [TEXTS, PAIRS],
                "arrays": ARRAYS,
                "zero_shot": ZERO_SHOT,
                "labels": LABELS,
                "packed": packed,
                "cuts": [CUTS, cuts],
            }
        )
    )
    np.savez_compressed(Path(__file__).with_name("classifiers.npz"), **arrays)


if __name__ == "__main__":
    main()
