"""A frequency dictionary's corrections beside a model's, on the same sentences.

    python spelling.py [--preset DIR_OR_NAME] [--data DIR] [--limit N]

The dictionary is symspellpy's own (82,765 words, at most two edits, each word looked up alone):
`pip install symspellpy`. Sentences are the held-out ones, fully noised.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from corpus import SEED, default_data, load_corpus
from evaluate import Repair, interval_cell, model_repair
from measures import Measures, count_repair
from noise import held_out_input
from sources import SOURCES


def dictionary_repair() -> Repair:
    """Replaces each word by the dictionary's most frequent one among the nearest."""
    from symspellpy import SymSpell, Verbosity

    speller = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
    path = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    if not speller.load_dictionary(str(path), 0, 1):
        raise SystemExit(f"{path}: is not there\nhint: pip install symspellpy")

    def corrected(word: str) -> str:
        if not word.isalpha():
            return word
        found = speller.lookup(word, Verbosity.TOP, max_edit_distance=2, include_unknown=True)
        return found[0].term

    return lambda texts: [" ".join(map(corrected, text.split())) for text in texts]


def corrected_share(
    repair: Repair, split, noise, source: str, limit: int
) -> tuple[float, float, float] | None:
    """The share of a source's misspellings that `repair` corrects, and its 95 % interval."""
    references = split.held_out("test", source, limit)
    inputs = [held_out_input(noise, text, SEED) for text in references]
    counts = Measures()
    counts.extend(map(count_repair, inputs, repair(inputs), references))
    return counts.share("misspelt: right", "misspelt")


def dictionary_shares(split, noise, limit: int) -> dict[str, tuple[float, float, float] | None]:
    """`corrected_share` of the dictionary in each source."""
    repair = dictionary_repair()
    return {source: corrected_share(repair, split, noise, source, limit) for source in SOURCES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="bart_tidy_en", help="preset name or directory")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--limit", type=int, default=700, help="sentences of each source")
    arguments = parser.parse_args()
    import bart_fast

    model = bart_fast.models.BartSeq2SeqLM.from_preset(arguments.preset)
    model.compile(sampler="greedy")
    split, noise = load_corpus(arguments.data)
    repairs = {"model": model_repair(model), "dictionary": dictionary_repair()}
    print("| misspellings corrected | " + " | ".join(repairs) + " |")
    print("|---" * (len(repairs) + 1) + "|")
    for source in SOURCES:
        shares = (
            corrected_share(repair, split, noise, source, arguments.limit)
            for repair in repairs.values()
        )
        cells = map(interval_cell, shares)
        print(f"| {source} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
