"""What the decoder looks at: `output_attentions` of `generate()`, and `cross_attention()`."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import END, PAD, PROMPT, SOURCE, START, TEXTS, tiny_model, token_arrays

from bart_fast.samplers import BeamSampler, GreedySampler

CALL = {"return_dict_in_generate": True, "output_attentions": True}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def bare():
    model = tiny_model(preprocessor=None)
    model.backbone._special_tokens = type(model.backbone._special_tokens)((END, START), (END,), PAD)
    return model


class GreedyInPython(GreedySampler):
    def get_next_token(self, probabilities):
        return probabilities.argmax(axis=-1)


def of_one_answer(model, source, ids):
    """Weights [layers, heads, length, source length] by a pass over one answer."""
    arrays = {
        "encoder_token_ids": source[None],
        "encoder_padding_mask": np.ones((1, len(source)), bool),
        "decoder_token_ids": ids[None, :-1],
        "decoder_padding_mask": np.ones((1, len(ids) - 1), bool),
    }
    return model.cross_attention(arrays).cross_attentions[0]


@pytest.mark.parametrize(
    ("sampler", "settings", "answers"),
    [
        ("greedy", {}, 1),
        ("contrastive", {}, 1),
        (GreedyInPython(), {}, 1),
        ("top_k", {"seed": 3, "num_return_sequences": 3}, 3),
        (BeamSampler(3, return_all_beams=True), {}, 3),
        (BeamSampler(2, compat="keras"), {}, 1),
        ("greedy", {"num_beams": 4, "num_return_sequences": 2, "no_repeat_ngram_size": 2}, 2),
        ("greedy", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, 1),
        ("greedy", {"num_beams": 2, "force_words_ids": [[9]]}, 1),
    ],
)
def test_each_method_shows_what_its_answers_looked_at(sampler, settings, answers):
    model = tiny_model(sampler)
    plain = model.generate(TEXTS, **{**settings, "return_dict_in_generate": True})
    output = model.generate(TEXTS, **settings, **CALL)
    if "seed" not in settings:
        assert output.texts == plain.texts
    rows = len(TEXTS) * answers
    longest_source = max(map(len, TEXTS)) + 2
    assert output.cross_attentions.shape == (rows, 2, 2, output.sequences.shape[1], longest_source)
    arrays = model.preprocessor.generate_preprocess(TEXTS)
    for row in range(rows):
        text = row // answers
        source = arrays["encoder_token_ids"][text][arrays["encoder_padding_mask"][text]]
        ids = output.sequences[row][output.padding_mask[row]]
        expected = np.zeros(output.cross_attentions.shape[1:], np.float32)
        expected[:, :, 1 : len(ids), : len(source)] = of_one_answer(model, source, ids)
        np.testing.assert_array_equal(output.cross_attentions[row], expected)
        aligned = expected.mean(axis=(0, 1)).argmax(axis=-1)
        assert (output.alignments[row, 1 : len(ids)] == aligned[1 : len(ids)]).all()
        assert output.alignments[row, 0] == -1
        assert (output.alignments[row, len(ids) :] == -1).all()
        spans = [TEXTS[text][a:b] for a, b in output.source_offsets[row]]
        letters = [each if each != " " else "" for each in TEXTS[text]]
        assert spans == ["", *letters, *[""] * (longest_source - 1 - len(letters))]


def test_token_arrays_prompts_and_holes(bare):
    """Columns are those of the arrays; without its prompt an answer keeps its weights."""
    holes = {**SOURCE, "encoder_padding_mask": SOURCE["encoder_padding_mask"].copy()}
    holes["encoder_padding_mask"][0, 2] = 0
    calls = {**CALL, "output_attentions": [-1, 0]}
    output = bare.generate({**holes, **PROMPT}, stop_token_ids=None, **calls)
    assert output.cross_attentions.shape == (2, 2, 2, 6, 6)
    assert output.source_offsets is None
    np.testing.assert_array_equal(
        output.cross_attentions.any(axis=(1, 2, 3)), holes["encoder_padding_mask"].astype(bool)
    )
    every = bare.generate({**holes, **PROMPT}, stop_token_ids=None, **CALL)
    np.testing.assert_array_equal(every.cross_attentions[:, ::-1], output.cross_attentions)
    bare_call = bare.generate({**holes, **PROMPT}, stop_token_ids=None, strip_prompt=True, **CALL)
    for row, prompt in enumerate((3, 2)):
        kept = every.cross_attentions[row, :, :, prompt:]
        got = bare_call.cross_attentions[row]
        np.testing.assert_array_equal(got[:, :, : 6 - prompt], kept)
        assert not got[:, :, 6 - prompt :].any()
        np.testing.assert_array_equal(
            bare_call.alignments[row, : 6 - prompt], every.alignments[row, prompt:]
        )
    none_new = bare.generate(SOURCE, max_new_tokens=0, **CALL).alignments
    assert none_new.shape == (2, 2)
    assert (none_new[:, 0] == -1).all() and (none_new[:, 1] >= 0).all()


def test_log_probabilities_without_prompts_are_whole(model):
    texts = {"encoder_text": TEXTS, "decoder_text": ["ab", "", "a", "abc"]}
    call = {"return_dict_in_generate": True, "output_scores": True}
    whole = model.generate(texts, **call)
    stripped = model.generate(texts, strip_prompt=True, **call)
    np.testing.assert_array_equal(stripped.token_logprobs, whole.token_logprobs)


def test_given_targets(model):
    targets = ["a whale", "", "the", "over it"]
    output = model.cross_attention(TEXTS, targets)
    scores = model.score(TEXTS, targets)
    np.testing.assert_array_equal(output.token_ids, scores.token_ids)
    np.testing.assert_array_equal(output.alignments >= 0, scores.mask)
    sums = output.cross_attentions.sum(axis=-1)
    np.testing.assert_allclose(
        sums, np.broadcast_to(scores.mask[:, None, None], sums.shape), atol=1e-6
    )
    for row, (text, target) in enumerate(zip(TEXTS, targets, strict=True)):
        alone = model.cross_attention(text, target, layers=[1])
        length, width = alone.cross_attentions.shape[2:]
        whole = output.cross_attentions[row, 1:, :, :length, :width]
        np.testing.assert_array_equal(alone.cross_attentions, whole)
        np.testing.assert_array_equal(alone.source_offsets, output.source_offsets[row, :width])
    # Masks of token arrays may have holes on both sides.
    arrays = token_arrays(rows=3)
    arrays["decoder_padding_mask"][0, 1] = arrays["encoder_padding_mask"][0, 0] = False
    weights = model.cross_attention(arrays).cross_attentions
    real = arrays["decoder_padding_mask"][:, :, None] & arrays["encoder_padding_mask"][:, None]
    np.testing.assert_array_equal(weights.any(axis=(1, 2)), real)
    given = model.cross_attention(arrays, arrays["decoder_token_ids"])
    np.testing.assert_array_equal(given.token_ids, arrays["decoder_token_ids"])


def test_both_ways_agree(model):
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import numpy as np\n"
        "from tiny_models import TEXTS, tiny_model\n"
        "output = tiny_model().cross_attention(TEXTS, ['a whale', '', 'the', 'over it'])\n"
        "np.save(sys.stdout.buffer, output.cross_attentions)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "BART_FAST_WAY": "portable"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=True,
        timeout=60,
    )
    portable = np.load(io.BytesIO(done.stdout))
    kernel = model.cross_attention(TEXTS, ["a whale", "", "the", "over it"]).cross_attentions
    np.testing.assert_allclose(portable, kernel, rtol=0, atol=1e-4)


def test_what_cannot_be_given_is_said(model, bare):
    for wrong in ([2], [-3], [0, 7]):
        with pytest.raises(ValueError, match="`output_attentions` must be layers from -2 to 1"):
            model.generate("text", return_dict_in_generate=True, output_attentions=wrong)
    with pytest.warns(UserWarning, match="`output_attentions` is without effect"):
        model.generate("text", output_attentions=True)
    with pytest.raises(ValueError, match="`layers` must be"):
        model.cross_attention("a", "b", layers=False)
    with pytest.raises(ValueError, match="`targets`"):
        model.cross_attention("a")
    nothing = {**token_arrays(), "encoder_padding_mask": np.zeros((3, 7), bool)}
    with pytest.raises(ValueError, match="`encoder_padding_mask` must be True at one position"):
        model.cross_attention(nothing)
    # Asked for alone, the size would end the process.
    core = bare.backbone._model
    with pytest.raises(MemoryError, match="cross-attentions of this batch needs"):
        core.cross_attention([[1]], None, [[1]], None, [0], [0], 0, (2**24, 2**24))
