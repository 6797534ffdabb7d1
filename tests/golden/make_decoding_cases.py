"""Writes decoding_cases.json: what transformers and keras-hub decode from a toy model.

The toy model is in `toy_model.py`. Needs torch, transformers and keras-hub:

    KERAS_BACKEND=torch python tests/golden/make_decoding_cases.py [count] [seed] [path]
"""

import json
import random
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import torch
import transformers
from toy_model import Toy, cut, toy_logits


def transformers_answers(case):
    """Sequences by transformers' generate: beam search, or greedy search."""
    options = dict(case["options"])
    sampler = options.pop("sampler")
    stops = options.pop("stop_token_ids")
    config = transformers.PretrainedConfig(vocab_size=case["vocabulary"])
    model = Toy(config, case["favoured"])
    returned = options.get("num_return_sequences", 1)
    out = model.generate(
        torch.tensor(case["prompts"]),
        generation_config=transformers.GenerationConfig(
            **options,
            max_length=case["max_length"],
            do_sample=False,
            use_cache=False,
            eos_token_id=stops or None,
            pad_token_id=case["vocabulary"] - 1,
            return_dict_in_generate=True,
            output_scores=True,
        ),
    )
    scores = out.sequences_scores.tolist() if sampler == "beam" else [0.0] * len(out.sequences)
    start = len(case["prompts"][0])
    answers = [
        {"ids": cut(ids, stops, range(start, len(ids))), "score": score}
        for ids, score in zip(out.sequences.tolist(), scores, strict=True)
    ]
    return [answers[i : i + returned] for i in range(0, len(answers), returned)]


def keras_answers(case):
    """Sequences by keras-hub's BeamSampler or GreedySampler; prompts are ids and a mask."""
    options = case["options"]
    ids, mask = np.array(case["prompts"]), np.array(case["mask"], bool)

    def logits(prompt, cache, index):
        rows = [
            toy_logits(row[:index], case["vocabulary"], case["favoured"])
            for row in keras.ops.convert_to_numpy(prompt)
        ]
        return keras.ops.convert_to_tensor(np.stack(rows)), None, cache

    if options["sampler"] == "beam":
        sampler = keras_hub.samplers.BeamSampler(
            num_beams=options["num_beams"],
            return_all_beams=True,
            temperature=options["temperature"],
        )
    else:
        sampler = keras_hub.samplers.GreedySampler()
    out = sampler(
        logits,
        keras.ops.convert_to_tensor(ids.astype("int32")),
        index=int(mask.sum(-1).min()),
        mask=keras.ops.convert_to_tensor(mask),
        stop_token_ids=tuple(options["stop_token_ids"]) or None,
    )
    if options["sampler"] != "beam":
        out = out[:, None], np.zeros((len(ids), 1))
    sequences, scores = (keras.ops.convert_to_numpy(part) for part in out)
    stops = options["stop_token_ids"]
    return [
        [
            {"ids": cut(beam.tolist(), stops, np.flatnonzero(~row_mask)), "score": float(score)}
            for beam, score in zip(beams, row_scores, strict=True)
        ]
        for beams, row_scores, row_mask in zip(sequences, scores, mask, strict=True)
    ]


def draw_case(rng, kind):
    """A random case of a kind, without its answer."""
    vocabulary = rng.randint(5, 10)
    rows = rng.randint(1, 3)
    stops = rng.sample(range(vocabulary - 1), rng.choice([0, 1, 1, 1, 2, 3]))
    options = {"stop_token_ids": stops}
    case = {
        "kind": kind,
        "vocabulary": vocabulary,
        "favoured": stops if rng.random() < 0.5 else [],
        "max_length": rng.randint(5, 9),
        "options": options,
    }
    lengths = [rng.randint(1, 3)] * rows
    if kind == "transformers":
        options.update(draw_transformers_options(rng))
    else:
        options["sampler"] = "beam"
        options.update(num_beams=rng.randint(1, 4), temperature=rng.choice([1.0, 1.0, 0.5, 2.0]))
        lengths = [rng.randint(1, 4) for _ in range(rows)]
        if kind == "keras_row":
            options.clear()
            options.update(sampler="greedy", stop_token_ids=stops)
            lengths = lengths[:1]
    case["prompts"] = [[rng.randrange(vocabulary) for _ in range(n)] for n in lengths]
    if kind != "transformers":
        add_masks(rng, case, kind)
    return case


def draw_transformers_options(rng):
    # Never both: transformers then drops `min_length`, while ours holds both.
    options = rng.choice(
        [{}, {}, {"min_length": rng.randint(2, 6)}, {"min_new_tokens": rng.randint(1, 4)}]
    )
    options["num_beams"] = rng.choice([1, 2, 3, 4, 5])
    if options["num_beams"] == 1:
        return {**options, "sampler": "greedy"}
    return {
        **options,
        "sampler": "beam",
        "length_penalty": rng.choice([-1.0, 0.0, 0.5, 1.0, 1.0, 2.0]),
        "early_stopping": rng.choice([True, False, "never"]),
        "num_return_sequences": rng.randint(1, options["num_beams"]),
    }


def add_masks(rng, case, kind):
    """Pads prompts to the width with an id that is no stop token; rows alone may get holes."""
    pad, width = case["vocabulary"] - 1, case["max_length"]
    case["mask"] = [
        [int(position < len(ids)) for position in range(width)] for ids in case["prompts"]
    ]
    case["prompts"] = [ids + [pad] * (width - len(ids)) for ids in case["prompts"]]
    if kind == "keras_row":
        stops = case["options"]["stop_token_ids"]
        allowed = [token for token in range(case["vocabulary"]) if token not in stops]
        for position in range(1, width):
            if rng.random() < 0.3:
                case["mask"][0][position] = 1
            # keras-hub would take a stop id under a False mask for a generated one.
            case["prompts"][0][position] = rng.choice(allowed)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 73)
    transformers.logging.set_verbosity_error()
    cases = []
    for kind in ["transformers", "keras", "keras_row"]:
        for _ in range(count if kind == "transformers" else count // 2):
            case = draw_case(rng, kind)
            answer = transformers_answers if kind == "transformers" else keras_answers
            case["expected"] = answer(case)
            if case["options"]["sampler"] == "greedy":
                case["options"].pop("num_beams", None)
            cases.append(case)
    versions = {"transformers": transformers.__version__, "keras_hub": keras_hub.__version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    text = f'{{"versions":{json.dumps(versions)},\n"cases":[\n{lines}\n]}}\n'
    path = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(__file__).parent / "decoding_cases.json"
    path.write_text(text)


if __name__ == "__main__":
    main()
