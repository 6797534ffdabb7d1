"""Fine-tunes `bart_tidy_en` to write down dictated English.

"he was born on may third nineteen ninety seven" becomes "He was born on May 3, 1997."

    python dictation.py SENTENCES.txt [--output DIRECTORY] [--pairs N] [--plot CURVE.png]

The file holds English text, a sentence or a paragraph a line. A tenth of its
sentences is kept aside, and measured before and after. With 80,000 pairs that takes some six
minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spoken import spoken, with_other_numbers

import bart_fast
from bart_fast import optimizers

BATCH_SIZE = 32
MOST_WORDS = 40
TEST_LIMIT = 500
_SENTENCE = re.compile(r"(?<=[.?!]) +(?=[A-Z])")
_NUMBER = re.compile(r"[$£€]?\d[\d,.:]*\d%?|\d%?")


def read_sentences(path: Path) -> list[str]:
    """Sentences that can be spoken: all with digits, and as many without."""
    plain = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u00a0", "''\"\"-- ")
    sentences = [
        sentence.strip()
        for line in path.read_text(encoding="utf-8").splitlines()
        for sentence in _SENTENCE.split(line.translate(plain))
    ]
    sentences = [
        sentence
        for sentence in dict.fromkeys(sentences)
        if 3 <= len(sentence.split()) <= MOST_WORDS and sentence.isascii() and spoken(sentence)
    ]
    with_digits = [sentence for sentence in sentences if re.search(r"\d", sentence)]
    others = [sentence for sentence in sentences if not re.search(r"\d", sentence)]
    random.Random(1).shuffle(others)
    return with_digits + others[: len(with_digits)]


def place(sentence: str) -> bytes:
    """A hash of the sentence's letters: the same for near-copies, also with other numbers."""
    letters = "".join(filter(str.isalpha, sentence.lower()))
    return hashlib.sha256(letters.encode()).digest()


def is_kept_aside(sentence: str) -> bool:
    """Whether a sentence belongs to the tenth that is measured, and not trained on."""
    return place(sentence)[0] < 26


def batches(sentences: list[str], seed: int) -> Iterator[dict[str, list[str]]]:
    """Batches without end, with fresh numbers in half of the sentences each time."""
    rng = random.Random(seed)
    while True:
        chosen = rng.sample(sentences, BATCH_SIZE)
        targets = [with_other_numbers(s, rng) if rng.random() < 0.5 else s for s in chosen]
        said = [spoken(target) for target in targets]
        pairs = [pair for pair in zip(said, targets, strict=True) if pair[0]]
        yield {
            "encoder_text": [source for source, _ in pairs],
            "decoder_text": [target for _, target in pairs],
        }


def measure(bart_lm, sentences: list[str]) -> dict[str, float]:
    """In percent: numbers written as in the reference, and sentences that equal it."""
    answers = bart_lm.generate([spoken(sentence) for sentence in sentences])
    numbers = right = exact = 0
    for sentence, answer in zip(sentences, answers, strict=True):
        wanted, found = Counter(_NUMBER.findall(sentence)), Counter(_NUMBER.findall(answer))
        numbers += wanted.total()
        right += (wanted & found).total()
        exact += answer == sentence
    return {
        "numbers written right": 100 * right / max(1, numbers),
        "sentences without any error": 100 * exact / max(1, len(sentences)),
    }


def plot(history: dict[str, list[float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    epochs = range(1, len(history["loss"]) + 1)
    axes.plot(epochs, history["loss"], label="training")
    axes.plot(epochs, history["val_loss"], label="kept aside")
    axes.set(xlabel="epoch", ylabel="loss a token", ylim=0)
    axes.legend()
    figure.savefig(path, dpi=150)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentences", type=Path, help="a file of English text")
    parser.add_argument("--output", default="bart_dictation", help="directory of the preset")
    parser.add_argument("--pairs", type=int, default=40_000, help="trained on, in ten epochs")
    parser.add_argument("--plot", type=Path, help="write the curve here; wants matplotlib")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    bart_fast.set_random_seed(1)
    sentences = read_sentences(options.sentences)
    train = [sentence for sentence in sentences if not is_kept_aside(sentence)]
    kept = sorted(filter(is_kept_aside, sentences), key=place)[:TEST_LIMIT]
    if len(train) < BATCH_SIZE or not kept:
        raise SystemExit(f"{options.sentences}: too few sentences with numbers: {len(sentences)}")
    kept_pairs = {"encoder_text": [spoken(s) for s in kept], "decoder_text": kept}

    bart_lm = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
    before = measure(bart_lm, kept)
    steps = max(1, options.pairs // BATCH_SIZE // 10)
    rate = optimizers.schedules.CosineDecay(0.0, 9 * steps, warmup_target=5e-4, warmup_steps=steps)
    bart_lm.compile(
        optimizer=optimizers.AdamW(rate, global_clipnorm=1.0),
        loss=bart_fast.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        sampler="greedy",
    )
    history = bart_lm.fit(
        batches(train, seed=1), epochs=10, steps_per_epoch=steps, validation_data=kept_pairs
    )
    after = measure(bart_lm, kept)
    for name, value in before.items():
        print(f"{name}: {value:.1f} % before, {after[name]:.1f} % after")
    bart_lm.save_to_preset(options.output)
    if options.plot:
        plot(history.history, options.plot)


if __name__ == "__main__":
    main()
