"""The ways of choosing the next token: the most probable, at random, or by looking ahead."""

from bart_fast import samplers
from bart_fast.models import BartSeq2SeqLM

TEXT = "me and him was late"

bart_lm = BartSeq2SeqLM.from_preset("bart_tidy_en")
for sampler in (
    "greedy",
    samplers.TopKSampler(k=5, seed=1),
    samplers.TopPSampler(p=0.9, temperature=0.7, seed=1),
    samplers.BeamSampler(num_beams=4, length_penalty=1.0),
):
    bart_lm.compile(sampler=sampler)
    print(f"{type(bart_lm.sampler).__name__}: {bart_lm.generate(TEXT, max_length=30)}")

# All beams of a search, best first.
bart_lm.compile(sampler=samplers.BeamSampler(num_beams=3, return_all_beams=True))
for number, answer in enumerate(bart_lm.generate(TEXT, max_length=30), start=1):
    print(f"beam {number}: {answer}")
