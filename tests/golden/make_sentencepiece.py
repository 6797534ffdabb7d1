"""Records what Hugging Face's fast tokenizers of mBART make of text, and what tiny models answer.

    python make_sentencepiece.py

Made with transformers 4.57.1 on torch 2.6.0, sentencepiece 0.2.3 and protobuf 7.36.2.
"""

import json
import random
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from transformers import (
    MBart50TokenizerFast,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizerFast,
    XLMRobertaTokenizerFast,
)

TEXTS = [
    "the cat sat on the mat",
    "  two  spaces, and\ttabs\nand lines ",
    "\ufb01ne \uff11\uff12 e\u0301té a\u200bb",
    "a<mask> b </s>c<unk>ro_RO d",
    "日本 x ▁y🙂",
    "",
    "   ",
]
# Sentencepiece's rules for characters, as code points: few, so that the file is small.
RULES = "FB01\t66 69\nFF11\t31\nFF12\t32\n65 301\tE9\n200B\t\n3000\t20\n9\t20\nA\t20\n"
CORPUS = [
    "the cat sat on the mat and the rat",
    "an ant ran to the tan man",
    "été fine, 12 xylophones",
]
SIZES = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 40,
    "max_length": 14,
}
LANGUAGES = {"src_lang": "en_XX", "tgt_lang": "fr_XX"}
# Name -> tokenizer, its arguments, and what the model's configuration adds.
CASES = {
    "mbart": (MBartTokenizerFast, LANGUAGES, "ro_RO", None),
    "mbart_50": (MBart50TokenizerFast, LANGUAGES, "</s>", None),
    "mbart_50_forced": (MBart50TokenizerFast, LANGUAGES, "</s>", "de_DE"),
    "xlmr": (XLMRobertaTokenizerFast, {}, "</s>", None),
}


def trained(folder: Path) -> str:
    """A sentencepiece model of some fifty pieces."""
    (folder / "corpus.txt").write_text("\n".join(CORPUS * 9))
    (folder / "rules.tsv").write_text(RULES)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spm"),
        vocab_size=50,
        hard_vocab_limit=False,
        normalization_rule_tsv=str(folder / "rules.tsv"),
        bos_id=1,
        eos_id=2,
        unk_id=0,
    )
    return str(folder / "spm.model")


def random_model(config: dict, random: np.random.Generator):
    """A model whose answers depend on the source, and its tensors."""
    model = MBartForConditionalGeneration(MBartConfig(**config)).eval()
    saved = {}
    for name, values in model.named_parameters():
        large = "encoder_attn" in name or "positions" in name
        draw = random.normal(0, 1.5 if large else 0.6, values.shape)
        draw = 1 + draw / 4 if "norm" in name and name.endswith("weight") else draw
        saved[name] = draw.astype(np.float16)
        values.data = torch.from_numpy(saved[name].astype(np.float32))
    return model, saved


def recorded(name: str, model_file: str, folder: Path, seed: int) -> tuple[dict, dict]:
    """Everything of a case: plain values, and the tensors of its model."""
    kind, arguments, start, forced = CASES[name]
    tokenizer = kind(vocab_file=model_file, **arguments)
    tokenizer.save_pretrained(folder)
    config = {**SIZES, "model_type": "mbart", "vocab_size": len(tokenizer)}
    config["decoder_start_token_id"] = tokenizer.convert_tokens_to_ids(start)
    if forced:
        config["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(forced)
    model, weights = random_model(config, np.random.default_rng(seed))
    rows = [[random.randrange(len(tokenizer)) for _ in range(n)] for n in range(12)]
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    french = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids("fr_XX")} if arguments else {}
    calls = {"greedy": {}, "beams": {"num_beams": 3}, "french": french}
    labels = tokenizer(text_target=TEXTS[:2], return_tensors="pt", padding=True).input_ids
    labels[labels == tokenizer.pad_token_id] = -100
    sources = tokenizer(TEXTS[:2], return_tensors="pt", padding=True)
    with torch.inference_mode():
        answers = {
            call: tokenizer.batch_decode(model.generate(**inputs, **f), skip_special_tokens=True)
            for call, f in calls.items()
        }
        ids = {call: model.generate(**inputs, **f).tolist() for call, f in calls.items()}
        loss = float(model(**sources, labels=labels).loss)
    return {
        "tokenizer.json": (folder / "tokenizer.json").read_text(),
        "tokenizer_config.json": json.loads((folder / "tokenizer_config.json").read_text()),
        "config.json": config,
        "ids": tokenizer(TEXTS, add_special_tokens=False).input_ids,
        "sources": tokenizer(TEXTS).input_ids,
        "labels": labels.tolist(),
        "rows": rows,
        "decoded": tokenizer.batch_decode(rows),
        "decoded_without_special": tokenizer.batch_decode(rows, skip_special_tokens=True),
        "answers": answers,
        "answer_ids": ids,
        "loss": loss,
    }, weights


def main() -> None:
    random.seed(1)
    arrays, cases = {}, {"texts": TEXTS}
    with tempfile.TemporaryDirectory() as folder:
        model_file = trained(Path(folder))
        for seed, name in enumerate(CASES):
            cases[name], weights = recorded(name, model_file, Path(folder) / name, seed)
            arrays |= {f"{name}/{key}": values for key, values in weights.items()}
    arrays["cases"] = np.array(json.dumps(cases))
    np.savez_compressed(Path(__file__).with_name("sentencepiece.npz"), **arrays)


if __name__ == "__main__":
    main()
