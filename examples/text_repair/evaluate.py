"""Measure a text repair model on held-out sentences: fully noised, and clean.

    python evaluate.py [--preset DIR_OR_NAME] [--data DIR] [--limit N] [--output report.json]

Words are split at white space and compared as they stand, so that case and marks count.

- Word error rate: the edit distance between words, summed over a source, by its number of
  reference words. Given for the input, for the output, and as the reduction.
- Right words made wrong: of the words that are right in the input (aligned with the reference by
  edit distance), the share that is wrong in the output. `letters` counts only those whose letters
  changed, and not those that lost a capital or gained a comma.
- Exact: the share of sentences that equal the reference.

`measures.py` adds capitals, marks, spelling and what must stay, each with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from align import align
from corpus import SEED, default_data, load_corpus
from measures import measure, measure_addresses, with_addresses
from noise import held_out_input
from sources import SOURCES
from split import normalise

Repair = Callable[[list[str]], list[str]]


@dataclass
class Scores:
    """Counts over a set of sentences; the shares are computed from them."""

    sentences: int = 0
    exact: int = 0
    words: int = 0
    input_errors: int = 0
    output_errors: int = 0
    right_words: int = 0
    made_wrong: int = 0
    letters_made_wrong: int = 0

    def add(self, given: str, answer: str, reference: str) -> None:
        """Count one sentence: the input, what the model made of it, and what it should be."""
        right, before, after = reference.split(), given.split(), answer.split()
        input_errors, input_places = align(before, right)
        output_errors, output_places = align(after, right)
        self.sentences += 1
        self.exact += answer == reference
        self.words += len(right)
        self.input_errors += input_errors
        self.output_errors += output_errors
        for word, was, now in zip(right, input_places, output_places, strict=True):
            if was < 0 or before[was] != word:
                continue
            self.right_words += 1
            if now < 0 or after[now] != word:
                self.made_wrong += 1
                self.letters_made_wrong += now < 0 or normalise(after[now]) != normalise(word)

    def shares(self) -> dict[str, float]:
        """The measures of the module's docstring, as shares (not percent)."""
        words, right = max(1, self.words), max(1, self.right_words)
        fewer = self.input_errors - self.output_errors
        return {
            "word_error_rate_input": self.input_errors / words,
            "word_error_rate_output": self.output_errors / words,
            "reduction": fewer / self.input_errors if self.input_errors else 0.0,
            "right_words_made_wrong": self.made_wrong / right,
            "right_words_made_wrong_letters": self.letters_made_wrong / right,
            "exact": self.exact / max(1, self.sentences),
        }


def score(repair: Repair, inputs: list[str], references: list[str]) -> Scores:
    """Repair `inputs` and count the errors against `references`."""
    scores = Scores()
    for given, answer, reference in zip(inputs, repair(inputs), references, strict=True):
        scores.add(given, answer, reference)
    return scores


def model_repair(model, batch_size: int = 64) -> Repair:
    """`model.generate` on batches of texts of like length, answers in the order of the inputs."""

    def repair(texts: list[str]) -> list[str]:
        answers = [""] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for i, answer in zip(batch, model.generate([texts[i] for i in batch]), strict=True):
                answers[i] = answer
        return answers

    return repair


def evaluate(repair: Repair, split, noise, *, part: str, limit: int, seed: int = SEED) -> dict:
    """All measures for each source in `part`, for fully noised and for clean input."""
    report: dict = {
        "part": part,
        "seed": seed,
        "noised": {},
        "clean": {},
        "kinds": {},
        "samples": [],
        "mistakes": [],
    }
    seconds, words = 0.0, 0
    for source in SOURCES:
        references = split.held_out(part, source, limit)
        inputs = [held_out_input(noise, text, seed) for text in references]
        start = time.perf_counter()
        answers = repair(inputs)
        seconds += time.perf_counter() - start
        words += sum(len(text.split()) for text in inputs)
        scores = score(lambda _, answers=answers: answers, inputs, references)
        report["noised"][source] = scores.shares() | {"counts": asdict(scores)}
        clean_answers = repair(references)
        clean = score(lambda _, answers=clean_answers: answers, references, references)
        addresses = with_addresses(references)
        report["kinds"][source] = measure(inputs, answers, references, clean_answers) | {
            "addresses": measure_addresses(addresses, repair(addresses))
        }
        report["clean"][source] = clean.shares() | {"counts": asdict(clean)}
        report["samples"] += samples(source, inputs, answers, references, 10)
        report["mistakes"] += samples(source, inputs, answers, references, 3, wrong=True)
        report["mistakes"] += samples(source, references, clean_answers, references, 1, wrong=True)
    report["words_per_second"] = words / max(seconds, 1e-9)
    return report


def samples(
    source: str,
    inputs: list[str],
    answers: list[str],
    references: list[str],
    count: int,
    *,
    wrong: bool = False,
) -> list[dict[str, str]]:
    """The first `count` of them, or of those that are wrong."""
    triples = zip(inputs, answers, references, strict=True)
    found = [triple for triple in triples if not wrong or triple[1] != triple[2]]
    names = ("input", "output", "reference")
    return [{"source": source} | dict(zip(names, each, strict=True)) for each in found[:count]]


def median_latency_ms(repair: Repair, texts: list[str]) -> float:
    """The median time to repair one text alone, after one call that is not counted."""
    repair(texts[:1])
    times = []
    for text in texts:
        start = time.perf_counter()
        repair([text])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def table(report: dict) -> str:
    """The report as the Markdown table of the model card."""
    lines = [
        "| input | source | sentences | error rate in | out | reduction "
        "| right words made wrong | (letters) | exact |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("noised", "clean"):
        for source, row in report[kind].items():
            reduction = f"{row['reduction']:.1%}" if kind == "noised" else "-"
            lines.append(
                f"| {kind} | {source} | {row['counts']['sentences']} "
                f"| {row['word_error_rate_input']:.2%} | {row['word_error_rate_output']:.2%} "
                f"| {reduction} | {row['right_words_made_wrong']:.2%} "
                f"| {row['right_words_made_wrong_letters']:.2%} | {row['exact']:.1%} |"
            )
    return "\n".join(lines)


# What each kind is called, and what `bart_tidy_en` is to reach of it.
KINDS: dict[str, tuple[str, float | None]] = {
    "capitals": ("capitals, F1", 0.95),
    "final marks": ("final marks, F1", 0.95),
    "commas": ("commas, F1", 0.65),
    "misspelt": ("misspellings corrected", 0.75),
    "dictionary": ("the same by a frequency dictionary", None),
    "unchanged": ("clean sentences unchanged", 0.93),
    "numbers": ("numbers kept", 0.99),
    "names": ("names kept", 0.99),
    "addresses": ("addresses kept", 0.99),
}


def interval_cell(interval: tuple[float, float, float] | None) -> str:
    """A share and its 95 % interval as a cell of a table."""
    if interval is None:
        return "none there"
    value, low, high = interval
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def kinds_table(report: dict) -> str:
    """Capitals, marks, spelling and what must stay, as the second table of the model card."""
    sources = list(report["kinds"])
    lines = [f"| | aim | {' | '.join(sources)} |", "|---" * (len(sources) + 2) + "|"]
    for kind, (title, aim) in KINDS.items():
        found = [report["kinds"][source].get(kind) for source in sources]
        if not any(found):
            continue
        cells = ["" if aim is None else f"{aim:.0%}"]
        for interval in found:
            missed = aim is not None and interval is not None and interval[0] < aim
            cells.append(interval_cell(interval) + (", missed" if missed else ""))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="bart_tidy_en", help="preset name or directory")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--limit", type=int, default=700, help="sentences of each source")
    parser.add_argument("--output", type=Path, help="write the report as JSON")
    arguments = parser.parse_args()
    import bart_fast

    model = bart_fast.models.BartSeq2SeqLM.from_preset(arguments.preset)
    model.compile(sampler="greedy")
    split, noise = load_corpus(arguments.data)
    repair = model_repair(model)
    report = evaluate(repair, split, noise, part=arguments.part, limit=arguments.limit)
    alone = [sample["input"] for sample in report["samples"]]
    report["median_latency_ms"] = median_latency_ms(repair, alone)
    print(table(report))
    print("\n" + kinds_table(report))
    print(f"\n{report['words_per_second']:.0f} words a second in batches")
    print(f"\nOne sentence alone: {report['median_latency_ms']:.1f} ms (median of {len(alone)})")
    for sample in report["samples"]:
        print(f"\n  {sample['input']}\n  {sample['output']}\n  {sample['reference']}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
