"""A model's set of low-rank additions, as arrays."""

from dataclasses import dataclass

import numpy as np

from bart_fast import _core


@dataclass(frozen=True)
class Lora:
    """A set of additions `alpha / rank * (x A^T) B^T`.

    Attributes:
        matrices: names of the weights that have one.
        rank: int.
        alpha: float.
        by_head: whether queries, keys and values have an `A` for each head.
        values: dict of name to float32 array: `A` [heads * rank, in], `B` [out / heads, rank].
    """

    matrices: list[str]
    rank: int
    alpha: float
    by_head: bool
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, core: _core.Model, adapter: str) -> "Lora":
        """The set of that name."""
        adapters = _core.Adapters(core)
        shapes = dict(adapters.parameters(adapter))
        down = ".lora_A.weight"
        stems = [name.removesuffix(down) for name in shapes if name.endswith(down)]
        rank = shapes[f"{stems[0]}.lora_B.weight"][1] if stems else 1
        return cls(
            matrices=[f"{stem}.weight" for stem in stems],
            rank=rank,
            alpha=rank * adapters.scale(adapter),
            by_head=any(shapes[f"{stem}{down}"][0] != rank for stem in stems),
            values={name: adapters.get(adapter, name) for name in shapes},
        )

    def add_to(self, core: _core.Model, adapter: str) -> None:
        """Gives a model this set, and puts it in use."""
        _core.Adapters(core).add(adapter, self.matrices, self.rank, self.alpha, self.by_head, 0)
        _core.Adapters(core).set(adapter, self.values)


class AdapterInUse:
    """The parameters of the set of additions that a model uses, none where there is none."""

    def __init__(self, core: _core.Model):
        self._adapters, self._name = None, None
        if isinstance(core, _core.Model):  # Others that can train have none.
            self._adapters = _core.Adapters(core)
            _, name, is_merged = self._adapters.names()
            self._name = None if is_merged else name

    def parameters(self) -> list[tuple[str, list[int]]]:
        """Name and shape of each."""
        return [] if self._name is None else self._adapters.parameters(self._name)

    def get_parameter(self, name: str) -> np.ndarray:
        """A copy of one."""
        return self._adapters.get(self._name, name)

    def set_parameters(self, values: dict[str, np.ndarray]) -> None:
        """Replaces some."""
        self._adapters.set(self._name, values)
