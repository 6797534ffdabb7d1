"""The least that a scenario can cost on a machine whose rates were measured."""

from comparison.scenarios import Scenario
from comparison.sizes import SIZES

# What `limits` of a worker measures: bytes or operations a second.
BANDWIDTH, PEAK, INT8_PEAK = "memory_read_bandwidth", "multiply_add_peak", "int8_multiply_add_peak"
RATES = (BANDWIDTH, PEAK, INT8_PEAK)


def limit(name: str, scenario: Scenario, rates: dict[str, float]) -> float:
    """Seconds or bytes, by the name that a `Figure` gives its limit.

    Operations count at the peak of the weights' precision, those of attention too, which no engine
    computes in 8 bits; reading caches costs nothing. The limit is lower than what can be reached.
    """
    size = SIZES[scenario.model]
    peak = rates[INT8_PEAK if scenario.precision == "int8" else PEAK]
    rows = len(scenario.lengths) * scenario.beams
    reading = size.decoding_bytes(scenario.precision) / rates[BANDWIDTH]
    step = max(reading, size.decoding_flops(rows) / peak)
    encoder = sum(size.encoder_flops(1, length) for length in scenario.lengths) / peak
    source = size.source_flops(sum(scenario.lengths)) / peak
    if name == "training":
        pairs, length = len(scenario.lengths), scenario.lengths[0]
        return size.training_flops(pairs, length, scenario.new_tokens) / peak
    return {
        "step": step,
        "encoder": encoder,
        "whole": encoder + source + scenario.new_tokens * step,
        "weights": size.weight_bytes(scenario.precision),
    }[name]
