"""Ways to choose the next token, with the names of `keras_hub.samplers`."""

from bart_fast.samplers.beam_sampler import BeamSampler
from bart_fast.samplers.contrastive_sampler import ContrastiveSampler
from bart_fast.samplers.greedy_sampler import GreedySampler
from bart_fast.samplers.preset_sampler import PresetSampler
from bart_fast.samplers.random_sampler import RandomSampler
from bart_fast.samplers.sampler import Sampler
from bart_fast.samplers.serialization import deserialize, get, serialize
from bart_fast.samplers.top_k_sampler import TopKSampler
from bart_fast.samplers.top_p_sampler import TopPSampler

__all__ = [
    "BeamSampler",
    "ContrastiveSampler",
    "GreedySampler",
    "PresetSampler",
    "RandomSampler",
    "Sampler",
    "TopKSampler",
    "TopPSampler",
    "deserialize",
    "get",
    "serialize",
]
