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
    def load_safetensors(self, path: str) -> None: ...
    def save_safetensors(self, path: str, dtype: str = "float32") -> None: ...
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
    ) -> list[list[tuple[list[int], float, bool]]]: ...
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

class Optimizer:
    def __new__(cls, config: str) -> Optimizer: ...
    @property
    def iterations(self) -> int: ...
    def state(self) -> dict[str, npt.NDArray[Any]]: ...
    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None: ...

class Tokenizer: ...

def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def set_portable(portable: bool) -> None: ...
def parse_hf_config(json_text: str) -> str: ...
def runtime_info() -> dict[str, Any]: ...
