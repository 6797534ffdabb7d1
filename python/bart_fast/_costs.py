"""What passes of a BART model must cost at least: bytes that are read, operations that are done."""

from dataclasses import asdict, dataclass

# A pass that also gives gradients computes every product three times: once forward, once for the
# gradient of its input and once for that of its weight.
TRAINING_PASSES = 3
# Bytes of a weight of a matrix, and of one that is in none: norms, biases, tables of positions.
MATRIX_BYTES = {"float32": 4, "mixed_bfloat16": 4, "bfloat16": 2, "int8": 1}
OTHER_BYTES = {"float32": 4, "mixed_bfloat16": 4, "bfloat16": 2, "int8": 4}


@dataclass(frozen=True)
class Size:
    """A model: `layers` in each stack, `positions` the longest sequence."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    positions: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    @property
    def parameters(self) -> int:
        """Trained values of the model; token table and language-model head are one."""
        return self._matrices + self._others

    def weight_bytes(self, precision: str) -> int:
        """Bytes of all weights. The scales of int8, one for each output, are counted too."""
        scales = 4 * self._matrix_outputs if precision == "int8" else 0
        matrices, others = MATRIX_BYTES[precision], OTHER_BYTES[precision]
        return matrices * self._matrices + others * self._others + scales

    def decoding_weights(self) -> int:
        """Weights that one step of decoding reads.

        The decoder's products, without keys and values of the source (computed once per source),
        and the language-model head. Caches are not counted.
        """
        layer = 6 * self.width**2 + 2 * self.width * self.inner
        return self.layers * layer + self.vocabulary * self.width

    def decoding_bytes(self, precision: str = "float32") -> int:
        """Bytes of weights that one step of decoding reads."""
        return MATRIX_BYTES[precision] * self.decoding_weights()

    def decoding_flops(self, rows: int) -> int:
        """Operations of the products with weights of one step of decoding of `rows` rows."""
        return 2 * rows * self.decoding_weights()

    def encoder_flops(self, rows: int, length: int) -> int:
        """Operations of the encoder's products over `rows` sources of `length` tokens."""
        layer = self._layer_flops(rows * length, projections=4)
        return self.layers * (layer + self._attention_flops(rows, length, length))

    def source_flops(self, tokens: int) -> int:
        """Operations of the keys and values that the decoder makes of `tokens` of sources."""
        return self.layers * 2 * 2 * tokens * self.width**2

    def training_flops(self, rows: int, source: int, target: int) -> int:
        """Operations of the products of a training step of `rows` pairs."""
        decoder_layer = (
            self._layer_flops(rows * target, projections=6)
            + self._attention_flops(rows, target, source)
            # A position sees itself and what is before it.
            + self._attention_flops(rows, target, (target + 1) / 2)
        )
        decoder = self.layers * decoder_layer + self.source_flops(rows * source)
        head = 2 * rows * target * self.width * self.vocabulary
        return TRAINING_PASSES * (self.encoder_flops(rows, source) + decoder + head)

    @property
    def _matrices(self) -> int:
        layer = 12 * self.width**2 + 4 * self.width * self.inner  # one of each stack
        return self.layers * layer + self.vocabulary * self.width

    @property
    def _matrix_outputs(self) -> int:
        return self.layers * (14 * self.width + 2 * self.inner) + self.vocabulary

    @property
    def _others(self) -> int:
        biases = 14 * self.width + 2 * self.inner
        norms = 5 * 2 * self.width
        embeddings = 2 * self.positions * self.width + 2 * 2 * self.width
        return self.layers * (biases + norms) + embeddings

    def _layer_flops(self, tokens: int, projections: int) -> int:
        return 2 * tokens * (projections * self.width**2 + 2 * self.width * self.inner)

    def _attention_flops(self, rows: int, queries: int, keys: float) -> int:
        """Scores and weighted sums of one layer."""
        return int(2 * 2 * rows * queries * keys * self.width)
