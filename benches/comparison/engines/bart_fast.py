"""bart-fast, by its Python interface."""

from pathlib import Path

import numpy as np

from comparison.engines.base import BaseEngine
from comparison.inputs import Pairs, Rows, masked, padded

LEARNING_RATE = 1e-5
# So small that its place in the formula, in which Keras and torch differ, does not matter.
ADAM_EPSILON = 1e-12


class Engine(BaseEngine):
    title = "bart-fast"
    packages = ("bart_fast",)
    distributions = ("bart-fast",)
    precisions = ("float32", "bfloat16", "mixed_bfloat16", "int8")
    passes = ("encode", "greedy", "scored", "beams", "train")

    @classmethod
    def convert(cls, model: Path, precision: str, folder: Path) -> None:
        from bart_fast.models import BartSeq2SeqLM

        loaded = BartSeq2SeqLM.from_preset(str(model), dtype=precision, compile=False)
        loaded.save_to_preset(str(folder))

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        import bart_fast

        bart_fast.set_num_threads(threads)
        self.model = bart_fast.BartSeq2SeqLM.from_preset(str(folder), dtype=precision)
        self.model.compile(
            optimizer=bart_fast.optimizers.Adam(LEARNING_RATE, epsilon=ADAM_EPSILON),
            sampler="greedy",
        )
        self.core = self.model.backbone._model

    def encode(self, rows: Rows) -> list[np.ndarray]:
        ids, mask = padded(rows, padding=1)
        states = self.core.encode(ids, mask.astype(bool))
        return [each[: len(row)] for each, row in zip(states, rows, strict=True)]

    def greedy(self, rows: Rows, new_tokens: int) -> list[list[int]]:
        return self._generate(rows, new_tokens)

    def beams(
        self, rows: Rows, new_tokens: int, beams: int, length_penalty: float, no_repeat: int
    ) -> list[list[int]]:
        return self._generate(
            rows,
            new_tokens,
            num_beams=beams,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat,
        )

    def scored(self, rows: Rows, new_tokens: int) -> list[list[int]]:
        """The same as `greedy`, with log probabilities of tokens: no score can be left out."""
        return self._generate(rows, new_tokens, output_scores=True, return_dict_in_generate=True)

    def _generate(self, rows: Rows, new_tokens: int, **settings: float) -> list[list[int]]:
        ids, mask = padded(rows, padding=1)
        # Without guesses: a token is to be a pass. All else is as users have it.
        answer = self.model.generate(
            {"encoder_token_ids": ids, "encoder_padding_mask": mask.astype(bool)},
            stop_token_ids=None,
            max_new_tokens=new_tokens,
            speculative=None,
            **settings,
        )
        ids = answer["decoder_token_ids"] if isinstance(answer, dict) else answer.sequences
        return ids[:, 1:].tolist()

    def train(self, pairs: Pairs) -> float:
        return self.model.train_on_batch(pairs.batch, pairs.labels, pairs.weights)[0]

    def evaluate(self, pairs: Pairs) -> float:
        """The loss of the batch."""
        return self.model.test_on_batch(pairs.batch, pairs.labels)[0]

    def logits(self, source: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Scores [1, length, vocabulary] of whole sequences [1, length], without caches."""
        return self.model({**masked("encoder", source), **masked("decoder", answer)})
