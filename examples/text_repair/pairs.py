"""Training batches as a stream: sentences joined, made careless, tokenised, packed.

Every epoch draws new noise, so nothing can be tokenised beforehand. The work is cut into shards; a
shard depends on (seed, epoch, number) alone, so a stopped training goes on at the very batch where
it stopped. A thread prepares the next shard while the model learns from this one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Queue
from random import Random

import numpy as np
from literals import Names, sentence_with_literals
from noise import Noise
from sources import SOURCES
from split import Split

START, PAD, END = 0, 1, 2

# The share of a source's sentences that one epoch visits. Half of tatoeba is enough: its sentences
# are short, easy and much alike, and the time goes to where the errors are.
EPOCH_SHARE = {"tatoeba": 0.5, "openstax": 1.0, "standard_ebooks": 1.0}
SHARD_PAIRS = 8192
# Inputs of several sentences: two, or as many as fit into a drawn number of characters, so that the
# model has seen every position it has. The latter are rare, since they cost twenty times as much.
TWO_SENTENCES, LONG = 0.15, 0.012
LONG_CHARACTERS = (250, 850)
MAX_PIECES = 250

# Shares of the pairs whose names are made up, and that hold a sentence with something to be copied.
RENAMED, WITH_LITERALS = 0.06, 0.04

# What the pieces of a word that stays as it is weigh in the loss: much where the writer sets
# capitals, since such text is mostly right, and little where he does not, since there all of them
# and all commas are missing. Greedy decoding changes a word only where the model is so much surer
# of it. (Grammar correction values precision in the same way: F0.5, and the bias towards keeping in
# GECToR, Omelianchuk et al. 2020.)
KEEP_WEIGHT, KEEP_WEIGHT_OF_CARELESS = 6.0, 1.25

Encode = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class Pair:
    """Token ids of a careless text and of the clean one, without special tokens.

    `weights` has a number for each piece of the target and one for the end.
    """

    source: list[int]
    target: list[int]
    weights: list[float]


@dataclass(frozen=True, order=True)
class Position:
    """Where in the stream a batch stands."""

    epoch: int = 0
    shard: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Batch:
    """Arrays of one step: token ids int32, masks bool, weights float32, each [rows, width]."""

    encoder_token_ids: np.ndarray
    encoder_padding_mask: np.ndarray
    decoder_token_ids: np.ndarray
    decoder_padding_mask: np.ndarray
    targets: np.ndarray
    sample_weight: np.ndarray
    tokens: int

    @property
    def rows(self) -> int:
        return len(self.targets)

    def inputs(self) -> dict[str, np.ndarray]:
        """The four arrays that the model reads."""
        names = ("token_ids", "padding_mask")
        return {
            f"{s}_{n}": getattr(self, f"{s}_{n}") for s in ("encoder", "decoder") for n in names
        }


class PairStream:
    """Batches of careless and clean text, for ever.

    Args:
        split: the sentences; only the training part is read.
        noise: makes the careless side.
        encode: token ids of many texts, without special tokens.
        word_starts: of each token id, whether its piece begins a word, which is after a space.
        seed: of the order, the joining and the noise.
        batch_tokens: target tokens of a batch, at most.
    """

    def __init__(
        self,
        split: Split,
        noise: Noise,
        encode: Encode,
        word_starts: Sequence[bool],
        *,
        seed: int,
        batch_tokens: int = 2000,
    ):
        self._texts = [sentence.text for sentence in split.train]
        self._follower = split.follower
        self._names = Names(self._texts, noise.words)
        self._noise, self._encode, self._word_starts = noise, encode, word_starts
        self._seed, self._batch_tokens = seed, batch_tokens
        order = np.random.default_rng(seed)
        names = np.array([sentence.source for sentence in split.train])
        self._orders = {s: order.permutation(np.flatnonzero(names == s)) for s in SOURCES}
        self._tatoeba = self._orders["tatoeba"]

    def pairs_per_epoch(self) -> int:
        return sum(int(EPOCH_SHARE[s] * len(order)) for s, order in self._orders.items())

    def shards_per_epoch(self) -> int:
        return max(1, -(-self.pairs_per_epoch() // SHARD_PAIRS))

    def steps_for(self, pairs: int) -> int:
        """Batches that hold about `pairs` pairs, judged by the first shard."""
        first = self.shard(0, 0)
        return max(1, round(pairs * len(first) / sum(batch.rows for batch in first)))

    def shard(self, epoch: int, number: int) -> list[Batch]:
        """All batches of one shard, in the order of training."""
        indices = self._epoch_indices(epoch)[number * SHARD_PAIRS : (number + 1) * SHARD_PAIRS]
        random = Random(f"{self._seed}:{epoch}:{number}")
        drawn = [self._draw_texts(int(i), random) for i in indices]
        inputs, targets = [given for given, _ in drawn], [text for _, text in drawn]
        # One call for both sides: the tokenizer spreads a list over its threads.
        ids = self._encode(inputs + targets)
        pairs = [
            Pair(source, target, keep_weights(given, text, target, self._word_starts))
            for given, text, source, target in zip(
                inputs, targets, ids[: len(inputs)], ids[len(inputs) :], strict=True
            )
            if target and max(len(source), len(target)) <= MAX_PIECES
        ]
        return [make_batch(chosen) for chosen in pack(pairs, self._batch_tokens, random)]

    def batches(self, start: Position = Position()) -> Iterator[tuple[Position, Batch]]:
        """Batches from `start` on, each with its position, prepared one shard ahead."""
        ready: Queue = Queue(maxsize=1)
        stop = threading.Event()
        worker = threading.Thread(target=self._prepare, args=(start, ready, stop), daemon=True)
        worker.start()
        try:
            while True:
                epoch, number, batches = ready.get()
                if isinstance(batches, Exception):
                    raise batches
                for at, batch in enumerate(batches):
                    position = Position(epoch, number, at)
                    if position >= start:
                        yield position, batch
        finally:
            stop.set()
            while not ready.empty():
                ready.get_nowait()

    def _prepare(self, start: Position, ready: Queue, stop: threading.Event) -> None:
        epoch, number = start.epoch, start.shard
        while not stop.is_set():
            try:
                ready.put((epoch, number, self.shard(epoch, number)))
            except Exception as error:
                ready.put((epoch, number, error))
                return
            number += 1
            if number == self.shards_per_epoch():
                epoch, number = epoch + 1, 0

    def _epoch_indices(self, epoch: int) -> np.ndarray:
        """The sentences of an epoch, shuffled. A source with a share goes on where it stopped."""
        chosen = []
        for source, order in self._orders.items():
            count = int(EPOCH_SHARE[source] * len(order))
            chosen.append(
                np.take(order, np.arange(epoch * count, (epoch + 1) * count), mode="wrap")
            )
        return np.random.default_rng([self._seed, epoch]).permutation(np.concatenate(chosen))

    def _draw_texts(self, index: int, random: Random) -> tuple[str, str]:
        """A careless text and the clean one: of a sentence, and now and then of what to copy."""
        text = self._joined(index, random)
        if random.random() < RENAMED:
            text = self._names.rename(text, random)
        given = self._noise.draw(text, random)
        if random.random() >= WITH_LITERALS:
            return given, text
        other = sentence_with_literals(random)
        careless = other[0].lower() + other[1:] if random.random() < 0.2 else other
        place = random.random()
        if place < 0.2:
            return careless.rstrip(".?") if random.random() < 0.2 else careless, other
        if place < 0.5:
            return f"{careless} {given}", f"{other} {text}"
        return f"{given} {careless}", f"{text} {other}"

    def _joined(self, index: int, random: Random) -> str:
        """The sentence alone, with the one that follows it, or with as many as are wanted."""
        text, draw = self._texts[index], random.random()
        if draw >= TWO_SENTENCES + LONG:
            return text
        room = random.randint(*LONG_CHARACTERS) if draw < LONG else len(text) + 200
        several = [text]
        length = len(text)
        while length < room:
            index = self._follower[index]
            if index < 0:  # the end of a paragraph, or a corpus without paragraphs
                index = int(self._tatoeba[int(random.random() * len(self._tatoeba))])
            length += 1 + len(self._texts[index])
            if length > room:
                break
            several.append(self._texts[index])
            if draw >= LONG:
                break
        return " ".join(several)


def keep_weights(
    given: str, text: str, pieces: list[int], word_starts: Sequence[bool]
) -> list[float]:
    """The weights of the target's `pieces` and of its end: more than 1 inside the words of `text`
    that also stand in `given`.

    The first piece of a word decides its case, and that no mark comes before it.
    """
    there = set(given.split())
    keep = KEEP_WEIGHT if given != given.lower() else KEEP_WEIGHT_OF_CARELESS
    by_word = iter([keep if word in there else 1.0 for word in text.split(" ")])
    weights, weight = [], next(by_word)
    for at, piece in enumerate(pieces):
        if at and word_starts[piece]:
            weight = next(by_word)
        weights.append(weight)
    return [*weights, 1.0]


def pack(pairs: list[Pair], batch_tokens: int, random: Random) -> list[list[Pair]]:
    """Cut pairs into batches of at most `batch_tokens` target tokens and like length.

    Neighbours in length share a batch, the batches come in random order. A pair that is longer than
    a batch makes a batch of its own.
    """
    pairs = sorted(pairs, key=lambda pair: (len(pair.target), len(pair.source)))
    batches, batch, tokens = [], [], 0
    for pair in pairs:
        # Start, the pieces, and end: as many positions as the decoder reads.
        needed = len(pair.target) + 2
        if batch and tokens + needed > batch_tokens:
            batches.append(batch)
            batch, tokens = [], 0
        batch.append(pair)
        tokens += needed
    if batch:
        batches.append(batch)
    random.shuffle(batches)
    return batches


def make_batch(pairs: list[Pair]) -> Batch:
    """Arrays for `pairs`, as the preprocessor lays them out.

    Encoder `<s> source </s>`; decoder `</s> <s> target`; targets `<s> target </s>`. The weights
    of padding are 0 and those of the others have the sum rows times width, by which the library
    divides the loss: it becomes a mean over real tokens.
    """
    sources, mask = _padded([[START, *pair.source, END] for pair in pairs])
    decoder, decoder_mask = _padded([[END, START, *pair.target] for pair in pairs])
    targets, _ = _padded([[START, *pair.target, END] for pair in pairs])
    weight = np.zeros(decoder_mask.shape, dtype=np.float32)
    weight[decoder_mask] = [weight for pair in pairs for weight in (1.0, *pair.weights)]
    weight *= decoder_mask.size / weight.sum()
    return Batch(
        sources, mask, decoder, decoder_mask, targets, weight, tokens=int(decoder_mask.sum())
    )


def _padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, PAD, dtype=np.int32)
    ids[mask] = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=lengths.sum())
    return ids, mask
