"""Models and their parts are pickled and copied: the copy computes the same, and by itself."""

import copy
import pickle

import numpy as np
import pytest
from test_saved_weights import assert_same, parameters
from tiny_models import SOURCE, TEXTS, tiny_backbone, tiny_model, tiny_preprocessor, token_arrays

import bart_fast
from bart_fast.models import BartBackbone, BartSeq2SeqLM
from bart_fast.models.generation import SpecialTokens
from bart_fast.samplers import BeamSampler, TopKSampler


def pickled(value):
    return pickle.loads(pickle.dumps(value))


both_ways = pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
PAIRS = {"encoder_text": TEXTS, "decoder_text": TEXTS[::-1]}


@both_ways
def test_a_backbone(copied):
    backbone = tiny_backbone(dropout=0.25, core_config={"decoder_layers": 1})
    backbone._special_tokens = SpecialTokens(start_ids=(2,), end_ids=(2,), pad_id=1)
    backbone._generation_config = {"num_beams": 4}
    other = copied(backbone)
    assert type(other) is BartBackbone
    assert other.get_config() == backbone.get_config()
    assert other._special_tokens == backbone._special_tokens
    assert other._generation_config == {"num_beams": 4}
    assert_same(other, backbone)
    x = token_arrays()
    for name, value in backbone(x).items():
        np.testing.assert_array_equal(other(x)[name], value)
    zero = np.zeros_like(backbone.token_embedding.embeddings)
    other._model.set_parameters({"shared.weight": zero})
    assert backbone.token_embedding.embeddings.any()


@both_ways
def test_a_tokenizer_and_a_preprocessor(copied):
    preprocessor = tiny_preprocessor(encoder_sequence_length=9, decoder_sequence_length=7)
    preprocessor.tokenizer.sequence_length = 5
    other = copied(preprocessor)
    assert other.get_config() == preprocessor.get_config()
    assert other.tokenizer("the whale").tolist() == preprocessor.tokenizer("the whale").tolist()
    for left, right in zip(other(PAIRS), preprocessor(PAIRS), strict=True):
        left, right = (each if isinstance(each, dict) else {"": each} for each in (left, right))
        for name, value in right.items():
            np.testing.assert_array_equal(left[name], value)
    empty = copied(bart_fast.models.BartTokenizer())
    assert empty.vocabulary is None


@both_ways
def test_a_model_with_its_sampler(copied):
    model = tiny_model(sampler=BeamSampler(num_beams=3, return_all_beams=True))
    model.backbone._special_tokens = SpecialTokens(start_ids=(0,), end_ids=(1,), pad_id=1)
    other = copied(model)
    assert type(other) is BartSeq2SeqLM
    assert type(other.sampler) is BeamSampler
    assert other.sampler.get_config() == model.sampler.get_config()
    assert other.generate(TEXTS) == model.generate(TEXTS)
    model.preprocessor = other.preprocessor = None
    for name, value in model.generate(SOURCE, max_length=6).items():
        np.testing.assert_array_equal(other.generate(SOURCE, max_length=6)[name], value)


@both_ways
def test_a_sampler_goes_on_where_it_was(copied):
    model = tiny_model(sampler=TopKSampler(k=5, seed=3, temperature=2.0))
    model.generate(TEXTS)
    other = copied(model)
    assert [other.generate(TEXTS) for _ in range(2)] == [model.generate(TEXTS) for _ in range(2)]


@both_ways
@pytest.mark.parametrize("fitted", [False, True])
def test_training_goes_on_where_it_was(copied, fitted):
    """The optimizer's moments, its iterations and the order of examples go along."""
    bart_fast.set_random_seed(5)
    model = tiny_model()
    schedule = bart_fast.optimizers.schedules.ExponentialDecay(1e-2, 3, 0.5)
    model.compile(optimizer=bart_fast.optimizers.AdamW(schedule), sampler="greedy")
    if fitted:
        model.fit(PAIRS, batch_size=2, verbose=0)
    other = copied(model)
    assert other.optimizer.iterations == model.optimizer.iterations == (2 if fitted else 0)
    assert other.optimizer is not model.optimizer
    # A copy of a copy, before it was used, has the state too.
    other = copied(other)
    if not fitted:
        other._seed = model._seed = 11
    before = parameters(model)
    histories = [
        each.fit(PAIRS, batch_size=2, epochs=2, verbose=0).history for each in (model, other)
    ]
    assert histories[0] == histories[1]
    assert_same(model, other)
    assert not np.array_equal(before["shared.weight"], parameters(model)["shared.weight"])
    assert other.optimizer.learning_rate == model.optimizer.learning_rate


def test_subclasses_of_yours():
    other = pickled(OwnModel(tiny_backbone(), tiny_preprocessor()))
    other.compile(sampler="greedy")
    assert other.shout("a fox") == tiny_model().generate("a fox").upper()


class OwnModel(BartSeq2SeqLM):
    def shout(self, text):
        return self.generate(text).upper()
