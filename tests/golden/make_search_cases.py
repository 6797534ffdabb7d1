"""Writes search_cases.json: warpers, diverse and constrained beam search of transformers 4.

The toy model is in `toy_model.py`. Needs torch and the last transformers that had these searches in
itself, 4.55; later ones fetch the same code from the hub:

    python tests/golden/make_search_cases.py [count] [seed] [path]
"""

import contextlib
import json
import random
import sys
from pathlib import Path

import torch
import transformers
from toy_model import Toy, cut, toy_logits
from transformers.generation.beam_search import BeamSearchScorer, ConstrainedBeamSearchScorer


def answers(case):
    """Sequences and scores by transformers' generate, for each prompt."""
    options = dict(case["options"])
    options.pop("sampler")
    stops = options.pop("stop_token_ids")
    # Groups that have ended are padded, and the padding would count as a token they said.
    padded = case["vocabulary"] + 1
    model = Toy(transformers.PretrainedConfig(vocab_size=padded), case["favoured"], padded=True)
    returned = options.get("num_return_sequences", 1)
    with _finalized() as outputs:
        sequences = model.generate(
            torch.tensor(case["prompts"]),
            generation_config=transformers.GenerationConfig(
                **options,
                max_length=case["max_length"],
                do_sample=False,
                use_cache=False,
                eos_token_id=stops or None,
                pad_token_id=padded - 1,
            ),
        )
    start = len(case["prompts"][0])
    scores = outputs[0]["sequence_scores"]
    rows = [
        {"ids": _answer(ids, stops, start, padded - 1), "score": score}
        for ids, score in zip(sequences.tolist(), scores.tolist(), strict=True)
    ]
    return [rows[i : i + returned] for i in range(0, len(rows), returned)]


@contextlib.contextmanager
def _finalized():
    """What the searches end with: `generate` fails to hand over scores of words not said."""
    outputs, originals = [], {}
    for scorer in (BeamSearchScorer, ConstrainedBeamSearchScorer):
        originals[scorer] = scorer.finalize

        def finalize(*args, original=scorer.finalize, **kwargs):
            outputs.append(original(*args, **kwargs))
            return outputs[-1]

        scorer.finalize = finalize
    try:
        yield outputs
    finally:
        for scorer, original in originals.items():
            scorer.finalize = original


def _answer(ids, stops, start, pad):
    ids = cut(ids, stops, range(start, len(ids)))
    return ids[: ids.index(pad)] if pad in ids else ids


def draw_case(rng, kind):
    """A random case of a kind, without its answer."""
    vocabulary, beams = rng.randint(10, 16), rng.choice([2, 3, 4, 6])
    # Of several stop tokens the reference writes the first, whichever was chosen.
    stops = [rng.randrange(vocabulary)]
    options = {
        "sampler": "beam",
        "stop_token_ids": stops,
        "num_beams": beams,
        "length_penalty": rng.choice([-1.0, 0.0, 0.5, 1.0, 1.0, 2.0]),
        "early_stopping": rng.choice([True, False, "never"]),
        "num_return_sequences": rng.randint(1, beams),
        **rng.choice([{}, {}, {"min_length": rng.randint(2, 6)}]),
    }
    length = rng.randint(1, 3)
    if kind == "groups":
        options["num_beam_groups"] = rng.choice([n for n in (2, 3, 4, 6) if beams % n == 0])
        options["diversity_penalty"] = rng.choice([0.2, 1.0, 3.0])
    else:
        options["force_words_ids"] = draw_words(rng, vocabulary, stops)
    return {
        "kind": kind,
        "vocabulary": vocabulary,
        "favoured": stops if rng.random() < 0.5 else [],
        "max_length": rng.randint(length + 3, 10),
        "options": options,
        "prompts": [
            [rng.randrange(vocabulary) for _ in range(length)] for _ in range(rng.randint(1, 3))
        ],
    }


def draw_words(rng, vocabulary, stops):
    """One to three words, or choices between words, none of which begins another."""
    letters = [token for token in range(vocabulary) if token not in stops]

    def word():
        return [rng.choice(letters) for _ in range(rng.choice([1, 2, 2, 3]))]

    words = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        choices = [word()]
        if rng.random() < 0.5:
            choices.append(word())
            # Often with a beginning in common.
            choices.append(choices[0][:1] + word())
            choices = [
                each
                for i, each in enumerate(choices)
                if not any(
                    each[: len(other)] == other[: len(each)]
                    for j, other in enumerate(choices)
                    if i != j
                )
            ]
        words.append(choices if len(choices) > 1 else word())
    return words


def draw_warpers_case(rng):
    """Random filters, and which tokens of a row of logits they leave."""
    vocabulary = rng.randint(5, 60)
    history = [rng.randrange(vocabulary) for _ in range(3)]
    ranges = {
        "temperature": lambda: rng.choice([0.5, 0.7, 1.5, 3.0]),
        "top_k": lambda: rng.randint(1, vocabulary + 5),
        "top_p": lambda: round(rng.uniform(0.05, 0.99), 3),
        "min_p": lambda: round(rng.uniform(0.0, 0.6), 3),
        "typical_p": lambda: round(rng.uniform(0.05, 0.99), 3),
    }
    names = rng.sample(sorted(ranges), rng.choice([1, 1, 2, 3, 5]))
    arguments = {name: ranges[name]() for name in names}
    stops = rng.choice([0, 0, 1, 2])
    config = transformers.GenerationConfig(
        **{"top_k": 0, **arguments}, do_sample=True, num_beams=4 if stops else 1
    )
    config._eos_token_tensor = torch.arange(stops)
    model = Toy(transformers.PretrainedConfig(vocab_size=vocabulary), [])
    processors = model._get_logits_processor(config, 3, None, None, None)
    scores = torch.tensor(toy_logits(history, vocabulary, []))[None]
    left = processors(torch.tensor([history]), scores)[0]
    return {
        "vocabulary": vocabulary,
        "history": history,
        "arguments": arguments,
        "least": stops + 1,
        "left": torch.nonzero(left > -torch.inf)[:, 0].tolist(),
    }


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 74)
    transformers.logging.set_verbosity_error()
    cases = []
    for kind in ["groups", "words"]:
        for _ in range(count):
            case = draw_case(rng, kind)
            case["expected"] = answers(case)
            cases.append(case)
    warpers = [draw_warpers_case(rng) for _ in range(2 * count)]
    versions = {"transformers": transformers.__version__}
    parts = {"cases": cases, "warpers": warpers}
    text = f'{{"versions":{json.dumps(versions)}'
    for name, part in parts.items():
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in part)
        text += f',\n"{name}":[\n{lines}\n]'
    text += "}\n"
    path = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(__file__).parent / "search_cases.json"
    path.write_text(text)


if __name__ == "__main__":
    main()
