"""Write the trained model as the preset that the package ships, with its model card.

    python export.py [--work DIR] [--output DIR] [--data DIR]

The weights are stored in 8 bits, so the measures of the model card are taken from the written
preset and not from the checkpoint. With symspellpy installed the card compares its corrections.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from checkpoint import latest_checkpoint
from corpus import default_data, load_corpus
from evaluate import evaluate, kinds_table, median_latency_ms, model_repair, table
from spelling import dictionary_shares

import bart_fast
from bart_fast.presets import save_keras_preset

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT = PROJECT / "python" / "bart_fast" / "presets" / "bart_tidy_en"

CARD = """\
# bart_tidy_en

A small BART model ({parameters:.1f} million parameters) that turns careless English into clean
English: it restores capitals, punctuation and spacing, and mends misspellings and common slips.
Trained from scratch with this package's own `fit()` by `examples/text_repair`.

```python
import bart_fast

model = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
print(model.generate("i dont no whats wrong with teh car"))
```

## Model

{layers} encoder and {layers} decoder layers, hidden size {hidden}, inner size {inner}, {heads}
heads, {positions} positions, a byte-level BPE of {vocabulary} pieces of its own. Weights are stored
in {dtype} and widened to float32 when they are loaded, so that `fit()` can train them; with
`from_preset("bart_tidy_en", dtype="int8")` they stay as they are, and it answers faster. The
default sampler is greedy.

## Training

By `fit()` on two processor cores, with Adam, batches of {batch_tokens} target tokens, dropout
{dropout} and a rate of {rate} that falls to 0 in the last fifth: {pairs:,} pairs{earlier}. The
careless side of each was made by program (`examples/text_repair/noise.py`), anew in every epoch.
Words that are right in careful text weigh six times, so that the model leaves them alone; one pair
in eight is clean on both sides; addresses, numbers, codes and names that do not exist are mixed in
to be copied.

## Data

| source | what | licence and attribution |
|---|---|---|
| Tatoeba | short everyday sentences | CC BY 2.0 FR: tatoeba.org, \
by way of www.manythings.org/anki |
| OpenStax | textbooks | CC BY 4.0: OpenStax, *College Success*; *Introduction to Anthropology*; \
*Introduction to Intellectual Property*; *Introduction to Python Programming*; *Principles of \
Economics*; *Life, Liberty, and the Pursuit of Happiness* |
| Standard Ebooks | novels of Doyle, Fitzgerald, Burnett, Wells, Austen, Jerome, Buchan, Baum, \
Montgomery, Lewis | public domain text, edits CC0: standardebooks.org |
| crate-ci/typos | known misspellings | MIT or Apache-2.0 |

Changes to the texts: typographic quotes became plain ones, paragraphs were split into sentences,
and what is not running English was left out. No text of the sources is part of this preset, but for
the sentences below. The weights and the vocabulary are under the licence of this package.

## Measures

On {limit} test sentences of each source (all, where there are fewer). A sentence belongs to the
test part by a hash of its letters, so that near-copies of it were not trained on either. *Noised*:
lower case, all marks removed, one word in ten misspelt. *Clean*: the sentence as it is, which
should come back unchanged. Words are split at white space; case and marks count. *Right words made
wrong*: of the words that are right in the input, the share that is wrong in the output; *letters*
counts those whose letters changed.

{table}

Kind by kind, on the same sentences, with 95 % intervals, beside what was aimed at. F1 is over words
aligned by edit distance, of noised input; misspellings are words whose letters differ; what is kept
is counted on clean input (addresses were put there).

{kinds}

The error rate was to fall by 65 % in each source. The frequency dictionary is symspellpy's: two
edits at most, each word looked up alone.

{notes}
{words_per_second:.0f} words a second in batches of 64. One sentence alone: {latency:.1f} ms
(median; {machine}).

## What it gets wrong

The first mistakes in each source's test sentences: three of noised input, one of clean input.

{mistakes}

## Limits

- English only, in the style of its sources: everyday sentences, textbooks, novels up to 1930. Names
  and terms that are not in them are taken for misspellings more often.
- It was trained on one to several sentences of up to 250 pieces (some 800 letters). Longer
  text is best read in short windows: `preprocessor.encoder_sequence_length = 96`, then
  `generate(text, overlap=32)`.
- It restores what can be guessed. Quotation marks, dashes and the comma of a writer with a style of
  his own often cannot.
- It may change words that were right: see the table. It does not check facts, and has no notion of
  what you meant. Read what it gives before you send it.
- The sources carry the views of their times; the model adds no content, but may "mend" a rare word
  into a frequent one.
"""


def write_card(
    output: Path, model, report: dict, training: dict, *, dtype: str, notes: str = ""
) -> None:
    """Write ``README.md``, the model card, into the preset.

    Args:
        training: how it was trained: `pairs`, `earlier`, `batch_tokens`, `dropout`, `rate`.
        notes: what is to be said of the measures.
    """
    backbone = model.backbone
    card = CARD.format(
        parameters=model.count_params() / 1e6,
        layers=backbone.num_layers,
        hidden=backbone.hidden_dim,
        inner=backbone.intermediate_dim,
        heads=backbone.num_heads,
        positions=backbone.max_sequence_length,
        vocabulary=backbone.vocabulary_size,
        dtype=dtype,
        **training,
        limit=report["limit"],
        table=table(report),
        kinds=kinds_table(report),
        words_per_second=report["words_per_second"],
        latency=report["median_latency_ms"],
        machine=machine(),
        mistakes=mistakes(report),
        notes=notes,
    )
    (output / "README.md").write_text(card, encoding="utf-8")


def mistakes(report: dict) -> str:
    """The report's mistakes: what was given, answered, and right."""
    blocks = []
    for each in report["mistakes"]:
        given = "" if each["input"] == each["reference"] else f"    given   {each['input']}\n"
        lines = f"    answer  {each['output']}\n    right   {each['reference']}"
        blocks.append(f"{each['source']}:\n\n{given}{lines}")
    return "\n\n".join(blocks)


def add_dictionary(report: dict, split, noise, limit: int) -> None:
    """Add what a frequency dictionary corrects of the same sentences, where symspellpy is there."""
    try:
        shares = dictionary_shares(split, noise, limit)
    except ImportError:
        return
    for source, share in shares.items():
        report["kinds"][source]["dictionary"] = share


def training_of(work: Path, pairs: int, earlier: int) -> dict:
    """What the card says of the training in `work`."""
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    lines = (work / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line).get("learning_rate", 0.0) for line in lines]
    return {
        "pairs": pairs,
        "earlier": f" after {earlier:,} of a shallower model" if earlier else "",
        "batch_tokens": settings["batch_tokens"],
        "dropout": settings["dropout"],
        "rate": max(rates),
    }


def machine() -> str:
    """The processor's name and the threads used, for the latency that the card gives."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    lines = [line.split(":", 1)[1] for line in text.splitlines() if line.startswith("model name")]
    name = " ".join(lines[0].split()) if lines else "unknown processor"
    return f"{name}, {bart_fast.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--dtype", choices=("int8", "float16", "bfloat16"), default="int8")
    parser.add_argument(
        "--earlier-pairs", type=int, default=0, help="seen by the weights that training began with"
    )
    parser.add_argument("--limit", type=int, default=1000, help="test sentences of each source")
    parser.add_argument("--notes", type=Path, help="a file of what the card says of the measures")
    options = parser.parse_args()
    trained = latest_checkpoint(options.work)
    if trained is None:
        raise SystemExit(f"`--work`: {options.work} has no checkpoint\nhint: run train.py first")
    model = bart_fast.BartSeq2SeqLM.from_preset(str(trained.preset), compile=False)
    quantised = options.dtype == "int8"
    if quantised:
        model.quantize("int8")
    dtype = None if quantised else options.dtype
    save_keras_preset(options.output, task=model, sampler="greedy", dtype=dtype, loads_in="float32")

    stored = bart_fast.BartSeq2SeqLM.from_preset(str(options.output))
    split, noise = load_corpus(options.data)
    repair = model_repair(stored)
    report = evaluate(repair, split, noise, part="test", limit=options.limit)
    report["limit"] = options.limit
    alone = [sample["input"] for sample in report["samples"]]
    report["median_latency_ms"] = median_latency_ms(repair, alone)
    add_dictionary(report, split, noise, options.limit)
    (options.work / "export_report.json").write_text(json.dumps(report, indent=1), "utf-8")
    training = training_of(options.work, trained.pairs, options.earlier_pairs)
    notes = options.notes.read_text(encoding="utf-8") if options.notes else ""
    write_card(options.output, stored, report, training, dtype=options.dtype, notes=notes)
    print(table(report))
    size = sum(file.stat().st_size for file in options.output.rglob("*") if file.is_file())
    print(f"{options.output}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
