"""Records the attention to the source that Hugging Face's transformers gives, in a forward pass and
in generation, and the spans of a tokenizer.

    python make_cross_attentions.py SHARED

Made with transformers 4.57.1 and torch 2.6.0.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

MODELS = ("hf_tiny", "hf_tiny_asym")
CALLS = {"greedy": {}, "beams": {"num_beams": 3, "num_return_sequences": 2}}
TEXTS = ["The quick  brown fox.", " café naïve 日本", "", "a<mask>b </s> it's"]


def forward(model, inputs: dict) -> np.ndarray:
    decoder = {"decoder_input_ids": inputs["encoder_token_ids"][:, ::2]}
    output = model(
        input_ids=inputs["encoder_token_ids"],
        attention_mask=inputs["encoder_padding_mask"],
        output_attentions=True,
        **decoder,
    )
    return torch.stack(output.cross_attentions, dim=1).numpy()


def generated(model, inputs: dict, settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and weights [rows, layers, heads, length, source length], place t for token t."""
    output = model.generate(
        inputs["encoder_token_ids"],
        attention_mask=inputs["encoder_padding_mask"],
        max_length=12,
        return_dict_in_generate=True,
        output_attentions=True,
        **settings,
    )
    ids = output.sequences
    rows, length = ids.shape
    beams = output.get("beam_indices")
    if beams is None:
        beams = torch.arange(rows)[:, None].expand(rows, length - 1)
    shape = output.cross_attentions[0][0].shape
    weights = torch.zeros(rows, len(output.cross_attentions[0]), shape[1], length, shape[3])
    for step, layers in enumerate(output.cross_attentions):
        for row in range(rows):
            if step < beams.shape[1] and beams[row, step] >= 0:
                for layer, each in enumerate(layers):
                    weights[row, layer, :, step + 1] = each[beams[row, step], :, -1]
    return ids.numpy(), weights.numpy()


def main() -> None:
    shared, arrays = Path(sys.argv[1]), {}
    folder = shared / "golden"
    with np.load(folder / "hf_tiny" / "golden_hf.npz") as recorded:
        names = ("encoder_token_ids", "encoder_padding_mask")
        inputs = {name: torch.tensor(recorded[name].astype(np.int64)) for name in names}
    for name in MODELS:
        model = transformers.BartForConditionalGeneration.from_pretrained(
            folder / name, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            arrays[f"{name}/forward"] = forward(model, inputs)
            for call, settings in CALLS.items():
                ids, weights = generated(model, inputs, settings)
                arrays[f"{name}/{call}/sequences"] = ids
                arrays[f"{name}/{call}/weights"] = weights
    tokenizer = transformers.BartTokenizerFast.from_pretrained(shared / "data" / "bart_bpe")
    found = tokenizer(TEXTS, add_special_tokens=False, return_offsets_mapping=True)
    spans = {"texts": TEXTS, "ids": found["input_ids"], "spans": found["offset_mapping"]}
    arrays["spans_json"] = np.array(json.dumps(spans))
    np.savez_compressed(Path(__file__).with_name("cross_attentions.npz"), **arrays)


if __name__ == "__main__":
    main()
