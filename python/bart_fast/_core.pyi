"""The compiled core. Arrays are numpy; every pass releases the interpreter."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

_Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float32]

class _StepResult(TypedDict):
    loss: float
    weighted_nll_sum: float
    weight_sum: float
    correct_weight_sum: float
    correct: int
    tokens: int
    gradient_norm: float | None
    applied: bool

class Model:
    def __new__(cls, config: str, seed: int | None = None) -> Model: ...
    @property
    def config(self) -> str: ...
    def parameters(self) -> list[tuple[str, list[int]]]: ...
    def count_parameters(self) -> int: ...
    def get_parameter(self, name: str) -> _Floats: ...
    def set_parameters(self, values: dict[str, _Floats]) -> None: ...
    def with_vocabulary(self, vocab_size: int) -> Model: ...
    def load_checkpoint(self, paths: list[str], head: ClassificationHead | None = None) -> bool: ...
    def save_safetensors(
        self, path: str, dtype: str = "float32", head: ClassificationHead | None = None
    ) -> None: ...
    def encode(self, encoder_token_ids: _Ids, encoder_padding_mask: _Mask) -> _Floats: ...
    def forward(
        self,
        encoder_token_ids: _Ids,
        encoder_padding_mask: _Mask,
        decoder_token_ids: _Ids,
        decoder_padding_mask: _Mask,
    ) -> tuple[_Floats, _Floats]: ...
    def logits(self, hidden: _Floats) -> _Floats: ...
    def embed(self, token_ids: _Ids) -> _Floats: ...
    def generate(
        self,
        encoder_token_ids: list[list[int]],
        encoder_positions: list[list[int]] | None,
        decoder_token_ids: list[list[int]],
        decoder_masks: list[list[bool]] | None,
        max_lengths: list[int],
        options: str,
        callbacks: dict[str, Any] | None = None,
    ) -> list[list[tuple[list[int], float, bool, list[float]]]]: ...
    def cross_attention(
        self,
        encoder_token_ids: list[list[int]],
        encoder_positions: list[list[int]] | None,
        decoder_token_ids: list[list[int]],
        decoder_positions: list[list[int]] | None,
        decoder_sources: list[int],
        layers: list[int],
        shift: int,
        size: tuple[int, int],
    ) -> _Floats: ...
    def train_step(
        self,
        optimizer: Optimizer,
        encoder_token_ids: _Ids,
        encoder_padding_mask: _Mask,
        decoder_token_ids: _Ids,
        decoder_padding_mask: _Mask,
        targets: _Ids,
        sample_weight: _Floats | None,
        learning_rate: float,
        seed: int,
        normalizer: float | None = None,
    ) -> _StepResult: ...
    def evaluate_step(
        self,
        encoder_token_ids: _Ids,
        encoder_padding_mask: _Mask,
        decoder_token_ids: _Ids,
        decoder_padding_mask: _Mask,
        targets: _Ids,
        sample_weight: _Floats | None,
        normalizer: float | None = None,
    ) -> _StepResult: ...

class ClassificationHead:
    def __new__(
        cls,
        width: int,
        hidden_dim: int,
        num_classes: int,
        dropout: float = 0.0,
        deviation: float = 0.02,
        seed: int | None = None,
    ) -> ClassificationHead: ...
    def parameters(self) -> list[tuple[str, list[int]]]: ...
    def get_parameter(self, name: str) -> _Floats: ...
    def set_parameters(self, values: dict[str, _Floats]) -> None: ...
    def classify(
        self,
        model: Model,
        encoder_token_ids: list[list[int]],
        encoder_positions: list[list[int]] | None,
        decoder_token_ids: list[list[int]],
    ) -> _Floats: ...
    def train_step(
        self,
        model: Model,
        optimizer: Optimizer,
        encoder_token_ids: list[list[int]],
        encoder_positions: list[list[int]] | None,
        decoder_token_ids: list[list[int]],
        labels: list[int],
        weights: list[float],
        learning_rate: float,
        seed: int,
        normalizer: float,
    ) -> _StepResult: ...
    def evaluate_step(
        self,
        model: Model,
        encoder_token_ids: list[list[int]],
        encoder_positions: list[list[int]] | None,
        decoder_token_ids: list[list[int]],
        labels: list[int],
        weights: list[float],
        normalizer: float,
    ) -> _StepResult: ...

class Generation:
    def __new__(
        cls,
        model: Model,
        encoder_token_ids: list[list[int]],
        encoder_positions: list[list[int]] | None,
        decoder_token_ids: list[list[int]],
        decoder_masks: list[list[bool]] | None,
        max_lengths: list[int],
        options: str,
        callbacks: dict[str, Any] | None = None,
    ) -> Generation: ...
    def advance(self) -> list[int] | None: ...
    def close(self) -> None: ...

class Constraints:
    def __new__(cls, options: str, callbacks: dict[str, Any] | None = None) -> Constraints: ...
    def apply(
        self, rows: list[tuple[list[int], int, int, list[int], int]], scores: _Floats
    ) -> _Floats: ...
    def stops(self, rows: list[tuple[list[int], int]]) -> list[bool]: ...

class Optimizer:
    def __new__(cls, config: str) -> Optimizer: ...
    @property
    def iterations(self) -> int: ...
    def state(self) -> dict[str, npt.NDArray[Any]]: ...
    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None: ...
    def apply(
        self,
        parameters: dict[str, _Floats],
        gradients: dict[str, _Floats],
        learning_rate: float,
    ) -> tuple[dict[str, _Floats], float, bool]: ...

class Tokenizer:
    def __new__(
        cls,
        vocabulary: dict[str, int],
        merges: list[str],
        special_tokens: list[str],
        add_prefix_space: bool = False,
    ) -> Tokenizer: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...
    def encode_with_spans(self, text: str) -> list[tuple[int, tuple[int, int]]]: ...
    def decode(self, ids: list[int], skip: list[int] | None = None) -> str: ...
    def decode_batch(self, ids: list[list[int]], skip: list[int] | None = None) -> list[str]: ...
    def token_to_id(self, token: str) -> int | None: ...
    def id_to_token(self, id: int) -> str | None: ...
    def vocabulary_size(self) -> int: ...

def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def count_parameters(config: str) -> int: ...
def has_classification_head(paths: list[str]) -> bool: ...
def has_separate_embeddings(paths: list[str]) -> bool: ...
def set_portable(portable: bool) -> None: ...
def parse_hf_config(json_text: str) -> str: ...
def read_tokenizer_json(path: str) -> tuple[dict[str, int], list[str], list[str], bool]: ...
def runtime_info() -> dict[str, Any]: ...
def measure_limits(threads: int) -> dict[str, float]: ...
