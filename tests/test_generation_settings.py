"""The keywords of `generate()`: what is refused, which of two settings holds, what comes back."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny_models import END, PAD, PROMPT, SIZES, SOURCE, START, TEXTS, tiny_model

import bart_fast
from bart_fast import samplers
from bart_fast.models import GenerateOutput
from bart_fast.models.generation_method import Settings
from bart_fast.models.generation_mixin import GenerationMixin
from bart_fast.models.generation_settings import SETTINGS

VOCABULARY = SIZES["vocabulary_size"]
TOP_K = samplers.TopKSampler(k=3, seed=1)._core_options()
BEAMS = samplers.BeamSampler(3, length_penalty=2.0)._core_options()
DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def bare():
    model = tiny_model(preprocessor=None)
    model.backbone._special_tokens = type(model.backbone._special_tokens)((END, START), (END,), PAD)
    return model


# The table.


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_values_are_refused_by_name(model, name):
    for wrong in SETTINGS[name].wrong:
        with pytest.raises(ValueError, match=f"^`{name}` "):
            model.generate("text", **{name: wrong})
    if name not in ("max_length", "generation_config", "seed", "stopping_criteria"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert model.generate("text", **{name: None}) == model.generate("text")


def test_the_table_is_documented():
    documentation = (Path(__file__).parent.parent / "docs" / "generation.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", documentation, flags=re.MULTILINE))
    wanted = {n: f"{s.kind} | {s.allowed} | {s.meaning}" for n, s in SETTINGS.items()}
    assert {name: row.replace("`", "") for name, row in rows.items()} == {
        name: row.replace("`", "") for name, row in wanted.items()
    }
    for name in SETTINGS:
        assert name in GenerationMixin.generate.__doc__


def test_unknown_keywords(model):
    with pytest.raises(TypeError, match="`num_beam`\nhint: did you mean `num_beams`"):
        model.generate("text", num_beam=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"penalty_alpha": 0.6},
            "`generation_config`: the setting `penalty_alpha` is not supported",
        ),
        ({"logits_processor": [print]}, "`logits_processor` is an argument of the call"),
        ({"num_beams": 0}, "`num_beams`"),
    ],
)
def test_dicts_of_settings_are_checked(model, config, message):
    with pytest.raises(ValueError, match=message):
        model.generate("text", generation_config=config)


def test_dicts_of_settings_may_hold_what_does_nothing(model):
    harmless = {
        "use_cache": True, "pad_token_id": 1, "transformers_version": "4.57.1", "num_beams": None,
        "renormalize_logits": False, "guidance_scale": 1.0, "num_assistant_tokens": 20,
    }  # fmt: skip
    assert model.generate("text", generation_config=harmless) == model.generate("text")


# Precedence.


@pytest.mark.parametrize(
    ("call", "compiled", "expected"),
    [
        ({}, TOP_K, TOP_K),
        ({}, None, None),
        ({"min_length": 3}, TOP_K, TOP_K),
        ({"num_beams": 4}, TOP_K, {"sampler": "beam", "num_beams": 4}),
        ({"num_beams": 4}, BEAMS, {"sampler": "beam", "num_beams": 4}),
        ({"length_penalty": 0.5}, BEAMS, {**BEAMS, "length_penalty": 0.5}),
        ({"num_beams": 1}, TOP_K, {"sampler": "greedy"}),
        ({"do_sample": False}, BEAMS, {"sampler": "greedy"}),
        ({"do_sample": True}, BEAMS, {"sampler": "sample", **DRAWING}),
        ({"temperature": 0.5}, None, {"sampler": "sample", **DRAWING, "temperature": 0.5}),
        ({"top_k": 7}, TOP_K, {"sampler": "sample", **DRAWING, "top_k": 7}),
        ({"min_p": 0.1, "num_beams": 1}, TOP_K, {"sampler": "sample", **DRAWING, "min_p": 0.1}),
        (
            {"num_beams": 2, "typical_p": 0.9},
            TOP_K,
            {"sampler": "beam", "num_beams": 2, "do_sample": True, **DRAWING, "typical_p": 0.9},
        ),
        ({"num_beams": 2, "do_sample": False}, TOP_K, {"sampler": "beam", "num_beams": 2}),
        (
            {"generation_config": {"num_beams": 2, "length_penalty": 3.0}, "num_beams": 4},
            TOP_K,
            {"sampler": "beam", "num_beams": 4, "length_penalty": 3.0},
        ),
        ({"generation_config": {"do_sample": False, "top_p": 1.0}}, TOP_K, {"sampler": "greedy"}),
        (
            {"generation_config": {"do_sample": False}, "top_p": 0.5},
            TOP_K,
            {"sampler": "sample", **DRAWING, "top_p": 0.5},
        ),
        ({"num_return_sequences": 2}, TOP_K, {**TOP_K, "num_return_sequences": 2}),
    ],
)
def test_the_method_of_a_call(call, compiled, expected):
    settings = Settings.of(call, None, VOCABULARY)
    assert settings.method(compiled) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({}, {"sampler": "beam", "num_beams": 4, "length_penalty": 2.0}),
        ({"num_beams": 2}, {"sampler": "beam", "num_beams": 2, "length_penalty": 2.0}),
        ({"num_beams": 1}, {"sampler": "greedy"}),
        ({"length_penalty": 1.0}, {"sampler": "beam", "num_beams": 4, "length_penalty": 1.0}),
        (
            {"do_sample": True},
            {"sampler": "beam", "num_beams": 4, "length_penalty": 2.0, "do_sample": True, **DRAWING,
             "temperature": 0.7},
        ),
    ],
)  # fmt: skip
def test_a_keyword_beats_the_checkpoint(call, expected):
    checkpoint = {"num_beams": 4, "length_penalty": 2.0, "temperature": 0.7, "max_length": 9}
    settings = Settings.of(call, checkpoint, VOCABULARY)
    assert settings.method(None) == expected
    assert settings.values["max_length"] == 9
    later = Settings.of({"max_new_tokens": 20}, checkpoint, VOCABULARY)
    assert "max_length" not in later.values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": False, "temperature": 0.5, "top_p": 0.5}, "`temperature`, `top_p` are"),
        ({"num_beams": 1, "length_penalty": 2.0}, "`length_penalty` is without effect"),
        ({"early_stopping": True}, "`early_stopping` is without effect"),
        ({"output_scores": True}, "`output_scores` is without effect"),
        ({"min_length": 12, "min_new_tokens": 0}, "`min_length` is without effect"),
    ],
)
def test_settings_without_effect_are_told(model, settings, message):
    with pytest.warns(UserWarning, match=message):
        assert model.generate("text", **settings) == model.generate("text")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"stop_token_ids": 3, "eos_token_id": 3}, "eos_token_id"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_return_sequences": 4, "num_beams": 3}, "num_return_sequences"),
        ({"num_beam_groups": 2}, "num_beam_groups"),
        ({"num_beam_groups": 2, "num_beams": 3}, "num_beam_groups"),
        ({"num_beam_groups": 2, "num_beams": 4, "do_sample": True}, "num_beam_groups"),
        ({"force_words_ids": [[4]]}, "force_words_ids"),
        ({"force_words_ids": [[4]], "num_beams": 2, "top_k": 3}, "force_words_ids"),
        ({"min_length": 13}, "min_length"),
        ({"max_length": 30}, "max_length"),
        ({"min_new_tokens": 5, "max_new_tokens": 3}, "min_new_tokens"),
    ],
)
def test_settings_that_exclude_each_other(model, settings, name):
    with pytest.raises(ValueError, match=f"^`{name}` "):
        model.generate("text", **settings)


def test_a_call_changes_nothing_for_the_next_one(model):
    expected = model.generate(TEXTS)
    model.generate(TEXTS, num_beams=3, suppress_tokens=[5], max_length=5)
    assert model.generate(TEXTS) == expected


def test_stop_tokens_by_either_name(model):
    assert model.generate(TEXTS, eos_token_id=7) == model.generate(TEXTS, stop_token_ids=7)
    assert model.generate(TEXTS, eos_token_id=[7, 9]) == model.generate(
        TEXTS, stop_token_ids=[7, 9]
    )


# The sampler "preset".


def test_preset_settings_hold_with_the_sampler_preset_only(model):
    plain = model.generate(TEXTS)
    checkpoint = {"num_beams": 3, "max_length": 8, "min_length": 5, "suppress_tokens": [5, 6, 7]}
    model.backbone._generation_config = checkpoint
    try:
        assert model.generate(TEXTS) == plain
        expected = model.generate(TEXTS, **checkpoint)
        model.compile(sampler="preset")
        assert model.generate(TEXTS) == expected
        greedy = model.generate(TEXTS, num_beams=1)
        # A least length of the checkpoint may lie beyond the length of a call.
        short = model.generate(TEXTS, max_length=4)
        model.compile(sampler="greedy")
        del checkpoint["num_beams"]
        assert greedy == model.generate(TEXTS, **checkpoint)
        assert short == model.generate(TEXTS, num_beams=3, max_length=4, stop_token_ids=None,
                                       suppress_tokens=[END, 5, 6, 7])  # fmt: skip
    finally:
        model.backbone._generation_config = {}
        model.compile(sampler="greedy")


def test_a_model_without_settings_of_its_own():
    model = tiny_model(sampler="preset")
    with pytest.raises(ValueError, match="this model has none"):
        model.generate("text")


def test_the_preset_sampler_alone():
    sampler = samplers.get("preset")
    assert samplers.deserialize(samplers.serialize(sampler)).get_config() == {}
    with pytest.raises(ValueError, match=r"hint: use it in `model\.compile"):
        sampler(next=lambda *a: (np.zeros((1, 3)), None, None), prompt=np.zeros((1, 3), int))


# What comes back.


def test_several_answers(model, bare):
    several = model.generate(TEXTS, num_beams=4, num_return_sequences=3)
    assert [len(answers) for answers in several] == [3] * len(TEXTS)
    assert [answers[0] for answers in several] == model.generate(TEXTS, num_beams=4)
    assert model.generate(TEXTS[1], num_beams=4, num_return_sequences=3) == several[1]
    rows = bare.generate(SOURCE, num_beams=4, num_return_sequences=3, max_length=9)
    assert {len(array) for array in rows.values()} == {6}
    best = bare.generate(SOURCE, num_beams=4, max_length=9)["decoder_token_ids"]
    width = best.shape[1]
    np.testing.assert_array_equal(rows["decoder_token_ids"][::3, :width], best)


def test_drawing(model):
    """What is drawn is tested with the samplers; here that keywords reach them."""
    greedy = model.generate(TEXTS)
    for certain in ({"top_k": 1}, {"temperature": 1e-4}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert model.generate(TEXTS, **certain, seed=1) == greedy
    assert model.generate(TEXTS, num_beams=3, do_sample=True, temperature=1e-4) == (
        model.generate(TEXTS, num_beams=3)
    )
    draws = [model.generate(TEXTS, do_sample=True, top_k=0, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    bart_fast.set_random_seed(8)
    first = model.generate(TEXTS, temperature=1.5)
    assert model.generate(TEXTS, temperature=1.5) != first, "seeds move on"
    bart_fast.set_random_seed(8)
    assert model.generate(TEXTS, temperature=1.5) == first
    several = model.generate(TEXTS, do_sample=True, top_k=0, seed=1, num_return_sequences=3)
    assert [answers[0] for answers in several] == draws[0]
    assert len({answer for answers in several for answer in answers}) > len(TEXTS)


def test_beams_in_groups_and_with_forced_words(model):
    words = model.generate(TEXTS, num_beams=3, force_words_ids=[[25], [[10, 11], [12]]])
    for answer in words:
        assert "v" in answer
        assert "gh" in answer or "i" in answer
    groups = {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 50.0, "min_new_tokens": 3}
    output = model.generate(TEXTS, **groups, num_return_sequences=4, return_dict_in_generate=True)
    for first in output.sequences[:, 2].reshape(len(TEXTS), 4):
        assert len(set(first)) == 4


@pytest.mark.parametrize("method", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 2}])
def test_log_probabilities(bare, method):
    """Of the tokens of each answer; a whole pass gives them too."""
    output = bare.generate(
        {**SOURCE, **PROMPT},
        **method,
        top_k=0 if method.get("do_sample") else None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    masks = {"decoder_token_ids": output.sequences, "decoder_padding_mask": output.padding_mask}
    logits = bare({**SOURCE, **masks}).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    of_tokens = np.take_along_axis(logs[:, 1:-1], output.sequences[:, 2:, None], axis=-1)[..., 0]
    # The prompts have three and two tokens.
    of_tokens[0, 0] = 0
    wanted = np.where(output.padding_mask[:, 2:], of_tokens, 0)
    np.testing.assert_allclose(output.token_logprobs, wanted, rtol=0, atol=1e-4)
    assert (output.sequences_scores is not None) == ("num_beams" in method)


def test_log_probabilities_of_a_sampler_in_python(bare):
    class Slow(samplers.GreedySampler):
        def get_next_token(self, probabilities):
            return probabilities.argmax(axis=-1)

    asked = {"return_dict_in_generate": True, "output_scores": True, "no_repeat_ngram_size": 1}
    expected = bare.generate({**SOURCE, **PROMPT}, **asked)
    bare.compile(sampler=Slow())
    try:
        got = bare.generate({**SOURCE, **PROMPT}, **asked)
        twice = bare.generate({**SOURCE, **PROMPT}, num_return_sequences=2)
    finally:
        bare.compile(sampler="greedy")
    np.testing.assert_array_equal(got.sequences, expected.sequences)
    np.testing.assert_allclose(got.token_logprobs, expected.token_logprobs, rtol=0, atol=1e-5)
    assert got.sequences_scores is None
    np.testing.assert_array_equal(twice["decoder_token_ids"][::2], twice["decoder_token_ids"][1::2])


def test_an_object_with_ids_and_texts(model, bare):
    output = model.generate(TEXTS, num_beams=2, return_dict_in_generate=True)
    assert isinstance(output, GenerateOutput)
    assert output.texts == model.generate(TEXTS, num_beams=2)
    assert output.sequences.shape == output.padding_mask.shape
    assert output.padding_mask.any(axis=0).all(), "no wider than the longest answer"
    assert output.sequences_scores is None
    assert output.token_logprobs is None
    output = bare.generate(SOURCE, return_dict_in_generate=True, max_length=9)
    np.testing.assert_array_equal(
        output.sequences, bare.generate(SOURCE, max_length=9)["decoder_token_ids"]
    )
    assert output.texts is None


@pytest.mark.parametrize("token", [START, 7])
def test_what_answers_start_with(model, bare, token):
    ids = bare.generate(SOURCE, decoder_start_token_id=token, max_length=9)["decoder_token_ids"]
    assert (ids[:, 0] == token).all()
    answer = model.generate(
        "the", decoder_start_token_id=token, forced_bos_token_id=9, return_dict_in_generate=True
    )
    assert answer.sequences[0, :2].tolist() == [token, 9]
    prompted = model.generate(
        {"encoder_text": "the", "decoder_text": "ab"},
        decoder_start_token_id=token,
        return_dict_in_generate=True,
    )
    assert prompted.sequences[0, :4].tolist() == [token, START, 4, 5]
    with pytest.raises(ValueError, match="`decoder_start_token_id` cannot be used together"):
        bare.generate({**SOURCE, **PROMPT}, decoder_start_token_id=token)
