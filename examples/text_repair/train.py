"""Train the text repair model: one command, which goes on where it was stopped.

    python train.py [--data DIR] [--work DIR] [--pairs N] [--minutes M]

It builds the vocabulary once, trains with `fit()` on fresh noise in every epoch, keeps checkpoints
in the work directory, and at the end measures the model on the test sentences. Stop it with Ctrl-C,
SIGTERM or `--minutes`; the same command goes on at the next batch.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from checkpoint import latest_checkpoint, save_checkpoint
from corpus import default_data, load_corpus
from evaluate import evaluate, model_repair, table
from pairs import PairStream, Position
from vocabulary import has_vocabulary, texts_to_learn_from, train_vocabulary

import bart_fast
from bart_fast.callbacks import Callback
from bart_fast.optimizers.schedules import LearningRateSchedule

SEQUENCE_LENGTH = 256
WARM_UP_STEPS = 400
# Encoder and decoder have the same depth: a Keras preset has one number for both.
HEADS, WIDTH, INNER_WIDTH = 8, 256, 1024
# The share of the training in which the rate falls to 0.
DECAY = 0.2
VALIDATION_LIMIT = 60


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=default_data(), help="directory of the corpora")
    add("--work", type=Path, default=Path(__file__).parent / "work", help="where all output goes")
    add("--pairs", type=int, default=1_500_000, help="training pairs until the rate reaches 0")
    add("--start-from", type=Path, help="begin with this preset's weights and vocabulary")
    add("--layers", type=int, default=6, help="of encoder and of decoder")
    add("--minutes", type=float, help="stop after so long; the same command goes on")
    add("--batch-tokens", type=int, default=2000, help="target tokens of a batch")
    add("--learning-rate", type=float, default=1e-3, help="its highest value")
    add("--dropout", type=float, default=0.0)
    add("--dtype", choices=("float32", "mixed_bfloat16"), default="float32", help="of products")
    add("--seed", type=int, default=1)
    add("--threads", type=int, help="processor threads; default: all")
    add("--save-minutes", type=float, default=10.0)
    add("--validate-minutes", type=float, default=30.0)
    add("--test-limit", type=int, default=700, help="test sentences of each source, at the end")
    return parser.parse_args(arguments)


def check_same_run(options: argparse.Namespace) -> None:
    """Refuse to go on with other data or another model than the work directory was begun with."""
    path = options.work / "settings.json"
    names = ("seed", "batch_tokens", "dropout", "layers")
    settings = {name: getattr(options, name) for name in names}
    if not path.is_file():
        path.write_text(json.dumps(settings), encoding="utf-8")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if begun[name] != value:
            raise SystemExit(
                f"`--{name.replace('_', '-')}`: received {value}, but {options.work} was begun "
                f"with {begun[name]}\nhint: give the same value, or another `--work`"
            )


def load_tokenizer(work: Path, split, noise, seed: int) -> bart_fast.BartTokenizer:
    """The tokenizer of the run's vocabulary, which is trained when it is not there yet."""
    folder = work / "vocabulary"
    if not has_vocabulary(folder):
        clean = (sentence.text for sentence in split.train)
        train_vocabulary(texts_to_learn_from(clean, noise, seed), folder)
    return bart_fast.BartTokenizer(
        vocabulary=str(folder / "vocabulary.json"), merges=str(folder / "merges.txt")
    )


def new_model(tokenizer, options: argparse.Namespace) -> bart_fast.BartSeq2SeqLM:
    bart_fast.set_random_seed(options.seed)
    backbone = bart_fast.BartBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=options.layers,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        intermediate_dim=INNER_WIDTH,
        dropout=options.dropout,
        max_sequence_length=SEQUENCE_LENGTH,
        dtype=options.dtype,
    )
    preprocessor = bart_fast.BartSeq2SeqLMPreprocessor(
        tokenizer,
        encoder_sequence_length=SEQUENCE_LENGTH,
        decoder_sequence_length=SEQUENCE_LENGTH,
    )
    return bart_fast.BartSeq2SeqLM(backbone, preprocessor, compile=False)


def grown(model, options: argparse.Namespace) -> bart_fast.BartSeq2SeqLM:
    """`model` with `options.layers` layers, each of its own repeated in place: a deeper model that
    begins where the shallow one ended learns faster than from nothing (Gong et al. 2019)."""
    old = model.backbone.num_layers
    if old == options.layers:
        return model
    if old > options.layers:
        raise SystemExit(f"`--layers`: received {options.layers}, but `--start-from` has {old}")
    deeper = new_model(model.preprocessor.tokenizer, options)
    source, target = model.backbone._model, deeper.backbone._model
    values = {}
    for name, _ in target.parameters():
        parts = name.split(".")
        if "layers" in parts:
            at = parts.index("layers") + 1
            parts[at] = str(int(parts[at]) * old // options.layers)
        values[name] = source.get_parameter(".".join(parts))
    target.set_parameters(values)
    return deeper


class WarmUpHoldDecay(LearningRateSchedule):
    """A rate that rises to `peak`, stays, and falls to 0 in the last `DECAY` of the steps.

    While it stays the run can be made longer or shorter, which a cosine does not allow (Hu et al.
    2024, MiniCPM).
    """

    def __init__(self, peak: float, steps: int):
        self.peak, self.steps = peak, steps

    def __call__(self, step: int) -> float:
        falling = (self.steps - step) / max(1.0, DECAY * self.steps)
        return self.peak * max(0.0, min(1.0, (step + 1) / WARM_UP_STEPS, falling))

    def get_config(self) -> dict:
        return {"peak": self.peak, "steps": self.steps}


def compile_model(model, options: argparse.Namespace, total_steps: int) -> None:
    """Adam; the loss weighs real tokens only."""
    rate = WarmUpHoldDecay(options.learning_rate, total_steps)
    optimizer = bart_fast.optimizers.Adam(rate, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, sampler="greedy", weighted_metrics=None)


class Feed:
    """The batches as `fit()` takes them, remembering which one was trained on last."""

    def __init__(self, stream: PairStream, start: Position):
        self._stream, self._start = stream, start
        self._handed_out: deque[tuple[Position, int, int]] = deque()

    def __iter__(self) -> Iterator[tuple]:
        for position, batch in self._stream.batches(self._start):
            self._handed_out.append((position, batch.rows, batch.tokens))
            yield batch.inputs(), batch.targets, batch.sample_weight

    def trained(self) -> tuple[Position, int, int]:
        """The batch that a step was just made on: the next position, its rows and its tokens."""
        position, rows, tokens = self._handed_out.popleft()
        return Position(position.epoch, position.shard, position.batch + 1), rows, tokens


class Keeper(Callback):
    """Logs, saves, validates, and stops when time is up or a signal asks for it."""

    def __init__(self, options, feed: Feed, validate, *, step: int, pairs: int):
        super().__init__()
        self._options, self._feed, self._validate = options, feed, validate
        self.step, self.pairs = step, pairs
        self.next_batch: Position | None = None
        self.stop_asked = False
        now = time.monotonic()
        self._begun = self._logged = self._saved = self._validated = now
        self._fresh = (0, 0)  # pairs and tokens since the last log line
        self._loss_sum = self._loss_seen = 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.next_batch, rows, tokens = self._feed.trained()
        self.step += 1
        self.pairs += rows
        self._fresh = (self._fresh[0] + rows, self._fresh[1] + tokens)
        now, options = time.monotonic(), self._options
        if now - self._logged > 15:
            self._log(logs or {}, now)
        if now - self._saved > 60 * options.save_minutes:
            self.save()
        if now - self._validated > 60 * options.validate_minutes:
            self._log(logs or {}, now)
            write_log(options.work, {"step": self.step, "validation": self._validate()})
            self._validated = self._logged = time.monotonic()
        late = options.minutes is not None and now - self._begun > 60 * options.minutes
        if late or self.stop_asked:
            self.model.stop_training = True

    def save(self) -> None:
        if self.next_batch is not None:
            save_checkpoint(
                self._options.work,
                self.model,
                step=self.step,
                pairs=self.pairs,
                next_batch=self.next_batch,
            )
        self._saved = time.monotonic()

    def _log(self, logs: dict, now: float) -> None:
        # Logs hold the mean since `fit()` began, weighted by rows; the log wants that of the last
        # seconds.
        seen = self._loss_seen + self._fresh[0]
        loss_sum = logs.get("loss", float("nan")) * seen
        passed = max(now - self._logged, 1e-3)
        record = {
            "step": self.step,
            "pairs": self.pairs,
            "epoch": self.next_batch.epoch,
            "loss": round((loss_sum - self._loss_sum) / max(1, self._fresh[0]), 4),
            "pairs_per_second": round(self._fresh[0] / passed, 1),
            "tokens_per_second": round(self._fresh[1] / passed),
            "learning_rate": round(self.model.optimizer.learning_rate, 8),
        }
        write_log(self._options.work, record)
        self._loss_sum, self._loss_seen = loss_sum, seen
        self._logged, self._fresh = now, (0, 0)


def write_log(work: Path, record: dict) -> None:
    """One line to the screen and to ``log.jsonl``."""
    line = json.dumps(record)
    print(line, flush=True)
    with (work / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def brief(report: dict) -> dict:
    """The measures that a log line has room for, in percent."""
    names = {"noised": ("reduction", "right_words_made_wrong", "exact")}
    names["clean"] = names["noised"][1:]  # no errors there to reduce
    return {
        kind: {
            source: {name: round(100 * row[name], 2) for name in names[kind]}
            for source, row in report[kind].items()
        }
        for kind in names
    }


def train(options: argparse.Namespace, model, stream: PairStream, validate) -> bool:
    """Train until `options.pairs` are seen, the time is up or a signal comes; True if finished."""
    begun = latest_checkpoint(options.work)
    step, pairs, start = 0, 0, Position()
    if begun is not None:
        step, pairs, start = begun.step, begun.pairs, begun.next_batch
    total_steps = stream.steps_for(options.pairs)
    compile_model(model, options, total_steps)
    if begun is not None:
        model.optimizer.set_state(begun.optimizer_state())
    write_log(options.work, {"step": step, "of": total_steps, "parameters": model.count_params()})
    if step >= total_steps:
        return True
    feed = Feed(stream, start)
    keeper = Keeper(options, feed, validate, step=step, pairs=pairs)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: setattr(keeper, "stop_asked", True))
    # The seed of dropout is drawn when `fit()` begins: a run that goes on must draw the same.
    bart_fast.set_random_seed(options.seed)
    model.fit(iter(feed), epochs=1, steps_per_epoch=total_steps - step, verbose=0,
              callbacks=[keeper])  # fmt: skip
    keeper.save()
    return keeper.step >= total_steps


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    check_same_run(options)
    if options.threads is not None:
        bart_fast.set_num_threads(options.threads)
    split, noise = load_corpus(options.data)
    begun = latest_checkpoint(options.work)
    weights = begun.preset if begun is not None else options.start_from
    if weights is None:
        tokenizer = load_tokenizer(options.work, split, noise, options.seed)
        model = new_model(tokenizer, options)
    else:
        model = bart_fast.BartSeq2SeqLM.from_preset(
            str(weights), compile=False, dtype=options.dtype, dropout=options.dropout
        )
        model = grown(model, options)
        tokenizer = model.preprocessor.tokenizer
    stream = PairStream(
        split,
        noise,
        tokenizer.tokenize,
        [piece.startswith("\u0120") for piece in tokenizer.get_vocabulary()],
        seed=options.seed,
        batch_tokens=options.batch_tokens,
    )

    def measure(part: str, limit: int) -> dict:
        return evaluate(model_repair(model), split, noise, part=part, limit=limit)

    finished = train(options, model, stream, lambda: brief(measure("validation", VALIDATION_LIMIT)))
    if not finished:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return
    report = measure("test", options.test_limit)
    (options.work / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
