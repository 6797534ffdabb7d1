"""Sizes of the models and inputs that are measured, and the least that each pass must cost."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FLOAT_BYTES = 4
# A pass that also gives gradients computes every product three times: once forward, once for the
# gradient of its input and once for that of its weight.
TRAINING_PASSES = 3


@dataclass(frozen=True)
class Size:
    """A model and the inputs it is measured with.

    Attributes:
        vocabulary, width, layers, heads, inner, positions: the model; `layers` in each stack.
        source: tokens of the source that is decoded from.
        new_tokens: tokens that are generated.
        encoder_source: tokens of the source of the encoder's measurement.
        batch, batch_source, batch_target: rows of a training step, and tokens of each.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    positions: int
    source: int
    new_tokens: int
    encoder_source: int
    batch: int
    batch_source: int
    batch_target: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    @property
    def parameters(self) -> int:
        """Trained values of the model; token table and language-model head are one."""
        norm = 2 * self.width
        attention = 4 * (self.width**2 + self.width)
        feed_forward = 2 * self.width * self.inner + self.inner + self.width
        encoder_layer = attention + feed_forward + 2 * norm
        decoder_layer = 2 * attention + feed_forward + 3 * norm
        stacks = self.layers * (encoder_layer + decoder_layer)
        tables = (self.vocabulary + 2 * self.positions) * self.width
        return stacks + tables + 2 * norm

    def decoding_bytes(self) -> int:
        """Bytes of weights that one step of decoding reads.

        The decoder's products, without keys and values of the source (computed once per source),
        and the language-model head. Caches are not counted: 1 % of it here.
        """
        layer = 6 * self.width**2 + 2 * self.width * self.inner
        return FLOAT_BYTES * (self.layers * layer + self.vocabulary * self.width)

    def encoder_flops(self, rows: int, length: int) -> int:
        """Floating-point operations of the encoder's products over `rows` sources."""
        layer = self._layer_flops(rows * length, projections=4)
        return self.layers * (layer + self._attention_flops(rows, length, length))

    def training_flops(self) -> int:
        """Floating-point operations of the products of a training step."""
        rows, source, target = self.batch, self.batch_source, self.batch_target
        decoder_layer = (
            self._layer_flops(rows * target, projections=6)
            + 2 * 2 * rows * source * self.width**2  # keys and values of the source
            + self._attention_flops(rows, target, source)
            # A position sees itself and what is before it.
            + self._attention_flops(rows, target, (target + 1) / 2)
        )
        head = 2 * rows * target * self.width * self.vocabulary
        forward = self.encoder_flops(rows, source) + self.layers * decoder_layer + head
        return int(TRAINING_PASSES * forward)

    def _layer_flops(self, tokens: int, projections: int) -> int:
        return 2 * tokens * (projections * self.width**2 + 2 * self.width * self.inner)

    def _attention_flops(self, rows: int, queries: int, keys: float) -> int:
        """Scores and weighted sums of one layer."""
        return int(2 * 2 * rows * queries * keys * self.width)


SIZES = {
    # facebook/bart-base.
    "bart-base": Size(
        vocabulary=50265,
        width=768,
        layers=6,
        heads=12,
        inner=3072,
        positions=1024,
        source=64,
        new_tokens=64,
        encoder_source=512,
        batch=4,
        batch_source=64,
        batch_target=64,
    ),
    # For the tests: nothing is a multiple of a panel or a vector.
    "tiny": Size(
        vocabulary=103,
        width=36,
        layers=2,
        heads=3,
        inner=70,
        positions=48,
        source=9,
        new_tokens=11,
        encoder_source=37,
        batch=3,
        batch_source=7,
        batch_target=5,
    ),
}


@dataclass(frozen=True)
class Inputs:
    """Token ids, int64: the same for every engine.

    Attributes:
        source: [1, source], what is decoded from.
        encoder_source: [1, encoder_source].
        batch: the arrays of a training step, [batch, length] each, by keras-hub's names.
        labels: [batch, batch_target], what the decoder should say.
    """

    source: np.ndarray
    encoder_source: np.ndarray
    batch: dict[str, np.ndarray]
    labels: np.ndarray


def make_inputs(size: Size) -> Inputs:
    """Seeded random ids, none of them special."""
    rng = np.random.default_rng(20)

    def ids(rows: int, length: int) -> np.ndarray:
        return rng.integers(4, size.vocabulary, (rows, length))

    source, target = ids(size.batch, size.batch_source), ids(size.batch, size.batch_target + 1)
    return Inputs(
        source=ids(1, size.source),
        encoder_source=ids(1, size.encoder_source),
        batch={**masked("encoder", source), **masked("decoder", target[:, :-1])},
        labels=target[:, 1:],
    )


def masked(stack: str, ids: np.ndarray) -> dict[str, Any]:
    """Ids with the mask that makes all of them real, by keras-hub's names."""
    return {f"{stack}_token_ids": ids, f"{stack}_padding_mask": np.ones(ids.shape, bool)}
