"""`generate()`, as every sequence-to-sequence language model has it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_fast._random import draw_seed
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    argument_error,
    check_flag,
    check_seed,
    check_text_ids,
)
from bart_fast.models import generation
from bart_fast.models.attention_output import check_layers
from bart_fast.models.generation_batches import generate_batches, is_batches
from bart_fast.models.generation_method import Settings, speculation
from bart_fast.models.generation_output import Generated, flat
from bart_fast.models.text_inputs import Texts, is_token_arrays
from bart_fast.models.unigram_tokenizer import UnigramTokenizer
from bart_fast.samplers.preset_sampler import PresetSampler
from bart_fast.samplers.sampler import core_options
from bart_fast.samplers.seeded_sampler import SeededSampler

# Answers to strings start with `</s> <s>`.
_START_TOKENS = 2


class GenerationMixin:
    """Text from a model: what `Seq2SeqLM` inherits. Needs `backbone`, `preprocessor`, `sampler`."""

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        strip_prompt: bool = False,
        *,
        speculative: str | None = "auto",
        **settings: Any,
    ) -> Any:
        """Answers to `inputs`, chosen token by token.

        Strings are tokenised by the preprocessor, and answers start with `</s> <s>` (with a
        `UnigramTokenizer` as its checkpoint or language says) and the prompt, if there is one. An
        empty string is a source of `<s> </s>`, and an empty list gives an empty list.

        Token arrays are taken as they are. Positions of `decoder_token_ids` whose
        `decoder_padding_mask` is `True` are the prompt, and its width is the limit of the answer.
        Without these two, the answer starts as the preset the model came from says
        (Hugging Face: `decoder_start_token_id`; Keras: `</s> <s>`). A mask with fewer columns than
        its ids counts as `False` beyond its end, with a warning.

        Settings have Hugging Face's names, hold for this call, and beat what `compile()` was told;
        the checkpoint's own apply with `compile(sampler="preset")` only. `num_beams` above 1 is
        beam search; `num_beams=1` or `do_sample=False` greedy search; `do_sample=True`, or any of
        `temperature`, `top_k`, `top_p`, `min_p` and `typical_p`, draws tokens as Hugging Face
        does; both together are beam sampling. Without any of these the sampler of `compile()`
        runs. Rules on tokens apply with every method, in transformers' order.

        Args:
            inputs: a string; a list or array of strings; a dict `encoder_text` and, if wanted, the
                prompts `decoder_text`; or a dict of token arrays `encoder_token_ids`,
                `encoder_padding_mask` and, if wanted, `decoder_token_ids`, `decoder_padding_mask`.
                Also an iterable of such batches, or of strings: generators, `tf.data`, torch's
                loaders. Their answers come joined, as those of one batch.
            max_length: int. The longest answer in tokens, prompt included. Defaults to the
                preprocessor's `decoder_sequence_length`, or the position table if that is shorter.
            stop_token_ids: `"auto"` is the end id of the tokenizer, else of the preset; `None`
                stops at `max_length` only; else an id or several. Defaults to `"auto"`.
            strip_prompt: bool. Leave the prompt out of the answer. Defaults to `False`.
            speculative: str. `"source"` guesses the next tokens from the source and the answer so
                far and verifies several in one pass, for methods that choose token by token
                (Yang et al., 2023, "Inference with Reference: Lossless Acceleration of Large
                Language Models"). `"auto"` does so where no bit of the answer can change, `None`
                never. Defaults to `"auto"`.
            num_beams, num_beam_groups: int. Beams, and the groups they are in. Default to 1.
            length_penalty: float. The power of the length by which scores are divided. Default 1.0.
            early_stopping: bool or `"never"`. When beams stop to look on. Defaults to `False`.
            diversity_penalty: float. Keeps groups of beams apart. Defaults to 0.0.
            force_words_ids: list of lists of ids, or of lists of such. Words that beams must say.
            num_return_sequences: int. Answers for each input. Defaults to 1.
            do_sample: bool. Whether tokens are drawn.
            temperature, top_k, top_p, min_p, typical_p: float, int, float, float, float. What is
                drawn from. Default to 1.0, 50, 1.0 and, for the last two, to no limit.
            seed: int. The same seed draws the same answers. Defaults to the sampler's own seed,
                which moves on from call to call, or to `bart_fast.set_random_seed`.
            max_new_tokens, min_new_tokens, min_length: int. Limits after the prompt; no stop token
                before so many tokens after the prompt, or in all.
            eos_token_id: int or list. The same as `stop_token_ids`.
            decoder_start_token_id: int. What answers start with instead.
            forced_bos_token_id, forced_eos_token_id: int (the latter also a list). The token after
                the start token, and the one at the last position.
            exponential_decay_length_penalty: pair (int, float). See the table.
            no_repeat_ngram_size, encoder_no_repeat_ngram_size: int. No n-gram of this size twice,
                or none of the source.
            repetition_penalty: float. Above 1, what was said becomes less likely.
            bad_words_ids: list of lists of ids. Words that are not said.
            suppress_tokens, begin_suppress_tokens: lists of ids. Not said, or not at the beginning.
            prefix_allowed_tokens_fn: function (number of the input, ids [length]) -> allowed ids.
            logits_processor: list of functions (ids [1, length], scores [1, vocabulary]) -> scores,
                in numpy; logits, or log probabilities for beams.
            stopping_criteria: list of functions (ids [1, length], None) -> bool.
            return_dict_in_generate, output_scores: bool. A `GenerateOutput`, and what is in it.
            output_attentions: bool, or list of decoder layers. Whether (and of which layers) it has
                the attention to the source, and the source token each token comes from.
            overlap: int. Reads texts that are too long for the model in windows that share about
                so many tokens, and joins the answers at sentence borders; for models that repair
                text. `max_length` holds for the answer to a window. Defaults to `None`: the end of
                such a text is left out, with a warning.
            generation_config: dict of settings; keywords of the call beat them.

        `bart_fast.models.generation_settings.SETTINGS` has the range of each; `None` counts as not
        given. Functions are asked for one sequence at a time.

        Returns:
            A string for a string, a list of strings for a list. For token arrays a dict
            `decoder_token_ids` int32 [batch, length] and `decoder_padding_mask` bool, `True` up to
            and including the stop token; past it given values stay, else the pad id. With
            `num_return_sequences` of n above 1: a list of n strings for each string, and
            [batch * n, length]. With `BeamSampler(return_all_beams=True)`: a list of strings for
            each string, and [batch, num_beams, length] with `scores` [batch, num_beams]. With
            `return_dict_in_generate` a `GenerateOutput`.

        Raises:
            ValueError: the message names the argument and the way out.
            TypeError: an unknown keyword.
            Exception: what a function of yours raises comes out as it is.

        Example:

        ```python
        bart_lm = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
        bart_lm.generate("the quick brown fox", max_length=30)
        bart_lm.generate({"encoder_text": "the quick brown fox", "decoder_text": "The"})
        bart_lm.generate("the quick brown fox", num_beams=4, no_repeat_ngram_size=3)
        ```
        """
        check_flag("strip_prompt", strip_prompt)
        if isinstance(inputs, list | tuple) and len(inputs) == 0:
            return []
        settings["speculative"] = speculative
        if is_batches(inputs):
            return self._generate_batches(
                inputs, max_length, stop_token_ids, strip_prompt, settings
            )
        call = Call.of(self, max_length, stop_token_ids, settings)
        if "overlap" in call.settings.values:
            from bart_fast.models.generation_windows import generate_windows  # Few need it.

            return generate_windows(self, call, inputs)
        return self._generate(call, inputs, strip_prompt)

    def _generate(self, call: "Call", inputs: Any, strip_prompt: bool) -> Any:
        texts = None if is_token_arrays(inputs) else self._texts(inputs)
        if texts is not None and not texts.encoder_text:
            return []
        request = self._request(call, inputs, texts)
        answers = self._answers(call, request)
        result = generation.answer_arrays(request, answers)
        if strip_prompt:
            result = generation.strip_prompts(request, result)
        strings = None if texts is None else self._postprocess(result, call.gives_lists)
        if texts is not None and texts.is_single:
            strings = strings[0]
        if call.settings.values.get("return_dict_in_generate"):
            return Generated(
                self, call, request, answers, result, strip_prompt, texts, strings
            ).output()
        if texts is not None:
            return strings
        if call.answers_each is None:
            return result if call.gives_lists else _first_beams(result)
        return {key: flat(result[key]) for key in (DECODER_IDS, DECODER_MASK)}

    def _generate_batches(
        self, inputs: Any, max_length: Any, stop_token_ids: Any, strip_prompt: bool, settings: dict
    ) -> Any:
        if settings.get("return_dict_in_generate"):
            raise argument_error(
                "return_dict_in_generate",
                "cannot be used with an iterable of batches",
                True,
                "call `generate()` for each batch",
            )

        def generate(batch: Any, seed: int | None) -> Any:
            own = {} if seed is None else {"seed": seed}
            return self.generate(
                batch, max_length, stop_token_ids, strip_prompt, **{**settings, **own}
            )

        seed = settings.get("seed")
        if seed is not None:
            seed = check_seed("seed", seed)
        return generate_batches(generate, inputs, seed, self._special_tokens().pad_id)

    def _compiled_sampler(self) -> Callable[..., Any]:
        if self.sampler is None:
            raise ValueError(
                "`generate()` needs a sampler, and the model is not compiled with one.\n"
                'hint: call `compile(sampler="greedy")`'
            )
        return self.sampler

    def _special_tokens(self) -> generation.SpecialTokens:
        """Special ids of the preset, completed or overridden by those of the tokenizer."""
        preset = self.backbone._special_tokens
        tokenizer = getattr(self.preprocessor, "tokenizer", None)
        if tokenizer is None or tokenizer.end_token_id is None:
            return preset
        end = tokenizer.end_token_id
        return generation.SpecialTokens(
            start_ids=preset.start_ids or (end, tokenizer.start_token_id),
            end_ids=(end,),
            pad_id=tokenizer.pad_token_id,
        )

    def _texts(self, inputs: Any) -> Texts:
        if self.preprocessor is None:
            raise argument_error(
                "inputs",
                "must be a dict of token arrays, since the model has no preprocessor",
                inputs,
                "attach one to pass strings: `model.preprocessor = ...`",
            )
        return Texts.from_inputs(inputs)

    def _request(self, call: "Call", inputs: Any, texts: Texts | None) -> generation.Request:
        """The checked inputs of a call as arrays."""
        special = self._special_tokens()
        start = call.settings.values.get("decoder_start_token_id")
        if texts is None and isinstance(inputs, Mapping) and generation.has_prompts(inputs):
            if start is not None and "decoder_start_token_id" in call.settings.said:
                raise argument_error(
                    "decoder_start_token_id",
                    f"cannot be used together with `{DECODER_IDS}`, which say how answers start",
                    start,
                    "pass one of the two",
                )
        elif texts is None and start is not None:
            special = generation.SpecialTokens((start,), special.end_ids, special.pad_id)
        limit = call.settings.values.get("max_length")
        arrays = inputs if texts is None else self._preprocess(texts, self._widest(call))
        tokenizer = getattr(self.preprocessor, "tokenizer", None)
        if texts is not None and (start := call.start_of_texts(special, tokenizer)) is not None:
            opening = getattr(self.preprocessor, "_opening_length", _START_TOKENS)
            arrays = _starting_with(arrays, start, opening, special.pad_id)
        request = generation.request_from_arrays(arrays, limit, self.backbone, special)
        generation.check_lengths(request, call.settings.values, call.settings.said)
        return request

    def _widest(self, call: "Call") -> int | None:
        """The limit that a call sets for answers to strings, if it does."""
        settings = call.settings.values
        if settings.get("max_length") is None and settings.get("max_new_tokens") is not None:
            # What follows the prompt has a limit of its own; the whole has that of the model.
            return self.backbone.max_sequence_length
        return settings.get("max_length")

    def _preprocess(self, texts: Texts, max_length: int | None) -> dict[str, np.ndarray]:
        """Token arrays of `texts`; sequences fit the position table."""
        preprocessor, table = self.preprocessor, self.backbone.max_sequence_length
        limit = max_length
        if limit is None:
            limit = min(preprocessor.decoder_sequence_length, table)
        generation.check_limit("max_length", limit, table)
        if limit < _START_TOKENS:
            raise argument_error(
                "max_length",
                f"must be at least {_START_TOKENS}: answers to strings start with `</s> <s>`",
                max_length,
            )
        arrays = preprocessor.generate_preprocess(
            {"encoder_text": texts.encoder_text, "decoder_text": texts.decoder_text},
            encoder_sequence_length=min(preprocessor.encoder_sequence_length, table),
            decoder_sequence_length=limit,
        )
        ids = (arrays[ENCODER_IDS], arrays[DECODER_IDS])
        check_text_ids(preprocessor, self.backbone.vocabulary_size, *ids)
        return arrays

    def _answers(self, call: "Call", request: generation.Request) -> list[list[generation.Answer]]:
        """The answers to each input, best first."""
        if len(request) == 0:
            return []
        options, limits = self._options(call, request)
        functions = call.settings.functions
        if call.method is None:
            from bart_fast.models.generation_in_python import generate_in_python  # Few need it.

            repeats = call.answers_each or 1
            found = generate_in_python(
                call.sampler,
                self.backbone,
                request.repeated(repeats),
                [limit for limit in limits for _ in range(repeats)],
                options,
                functions,
            )
            return [
                [answer for row in found[i : i + repeats] for answer in row]
                for i in range(0, len(found), repeats)
            ]
        return generation.generate_in_core(self.backbone, request, limits, options, functions)

    def _options(
        self, call: "Call", request: generation.Request
    ) -> tuple[dict[str, Any], list[int]]:
        """The options of a call, those of its method too if the core runs it, and the longest
        answer of each row. Draws the call's seed."""
        settings = call.settings
        options = {**settings.constraints, "stop_token_ids": call.stop_ids}
        if settings.wants_scores:
            options["token_logprobs"] = True
        limits = generation.row_limits(request, settings.values.get("max_new_tokens"))
        if call.method is not None:
            options |= call.method
            if (seed := call.draw_seed()) is not None:
                options["seed"] = seed
            if call.speculative is not None:
                options["speculative"] = call.speculative
        return options, limits

    def _postprocess(self, result: dict[str, np.ndarray], gives_lists: bool) -> list[Any]:
        ids, mask = result[DECODER_IDS], result[DECODER_MASK]
        rows, beams, width = ids.shape
        flat = {DECODER_IDS: ids.reshape(-1, width), DECODER_MASK: mask.reshape(-1, width)}
        strings = list(self.preprocessor.generate_postprocess(flat))
        grouped = [strings[row * beams : (row + 1) * beams] for row in range(rows)]
        return grouped if gives_lists else [group[0] for group in grouped]


@dataclass
class Call:
    """What a call of `generate()` asks for.

    Attributes:
        settings: its settings.
        sampler: the compiled sampler.
        method: options of the core, or `None` if the sampler has to be asked in Python.
        stop_ids: ids that end an answer.
        attention_layers: decoder layers whose attention to the source is wanted.
        speculative: where tokens are guessed; `None` for nowhere.
    """

    settings: Settings
    sampler: Callable[..., Any]
    method: dict[str, Any] | None
    stop_ids: list[int]
    attention_layers: list[int]
    speculative: str | None

    @classmethod
    def of(
        cls, model: Any, max_length: Any, stop_token_ids: Any, keywords: Mapping[str, Any]
    ) -> "Call":
        """From the arguments of `model.generate()`; `speculative` is among the keywords."""
        keywords = dict(keywords)
        speculative = keywords.pop("speculative")
        vocabulary = model.backbone.vocabulary_size
        sampler = model._compiled_sampler()
        from_preset = isinstance(sampler, PresetSampler)
        checkpoint = model.backbone._generation_config if from_preset else None
        if from_preset and not checkpoint:
            raise ValueError(
                '`sampler="preset"` stands for the generation settings of a checkpoint, and this '
                'model has none.\nhint: call `compile(sampler="greedy")`, or pass keywords'
            )
        settings = Settings.of({**keywords, "max_length": max_length}, checkpoint, vocabulary)
        is_auto = isinstance(stop_token_ids, str) and stop_token_ids == "auto"
        if not is_auto and keywords.get("eos_token_id") is not None:
            raise argument_error(
                "eos_token_id",
                "is the same as `stop_token_ids`, and both are given",
                keywords["eos_token_id"],
                "pass one of the two",
            )
        if is_auto and "eos_token_id" in settings.values:
            stop_token_ids = settings.values["eos_token_id"]
        stop_ids = generation.resolve_stop_ids(
            stop_token_ids, model._special_tokens().end_ids, vocabulary
        )
        wanted = settings.values.get("output_attentions")
        layers = check_layers(
            "output_attentions", wanted, model.backbone._core_config["decoder_layers"]
        )
        if not settings.values.get("return_dict_in_generate"):
            layers = []
        method = settings.method(core_options(sampler))
        speculative = speculation(speculative, method, settings.functions)
        call = cls(settings, sampler, method, stop_ids, layers, speculative)
        if call.method is None and settings.values.get("seed") is not None:
            raise argument_error(
                "seed",
                "is for the built-in samplers; yours draws in Python",
                settings.values["seed"],
            )
        return call

    @property
    def answers_each(self) -> int | None:
        """`num_return_sequences`, where given."""
        return self.settings.values.get("num_return_sequences")

    @property
    def gives_lists(self) -> bool:
        """Whether each string gets a list of answers."""
        if self.answers_each is not None:
            return self.answers_each > 1
        runs_compiled = not self.settings.names_method
        return runs_compiled and bool(getattr(self.sampler, "return_all_beams", False))

    def start_of_texts(self, special: generation.SpecialTokens, tokenizer: Any) -> int | None:
        """The one token that answers to strings start with, if it is not what the preprocessor
        opens them with, such as `</s> <s>`."""
        start = self.settings.values.get("decoder_start_token_id")
        if isinstance(tokenizer, UnigramTokenizer) and not self._says("decoder_start_token_id"):
            # As in transformers, unless a language is set in another way.
            language = tokenizer.target_language
            if language is not None and not self._says("forced_bos_token_id"):
                names = ("forced_bos_token_id", "decoder_start_token_id")
                if tokenizer.vocabulary[language] not in map(self.settings.values.get, names):
                    return None
            return next(iter(special.start_ids), None)
        if start is None and isinstance(self.sampler, PresetSampler):
            return special.start_ids[0] if len(special.start_ids) == 1 else None
        return start

    def _says(self, name: str) -> bool:
        """Whether the caller said it, and not the checkpoint."""
        return name in self.settings.said

    def draw_seed(self) -> int | None:
        """The seed of this call, if its method draws."""
        seed = self.settings.values.get("seed")
        if self.settings.names_method:
            return draw_seed() if seed is None and self.settings.do_sample else seed
        if isinstance(self.sampler, SeededSampler):
            return self.sampler.next_call_seed() if seed is None else seed
        return None


def _starting_with(
    arrays: dict[str, Any], start: int, opening: int, pad_id: int | None
) -> dict[str, Any]:
    """Prompts that start with `start` in place of an opening of so many tokens, as `</s> <s>`;
    before a prompt's text in place of the first of them: what transformers starts from."""
    ids, mask = np.array(arrays[DECODER_IDS]), np.array(arrays[DECODER_MASK], dtype=bool)
    ids[:, 0] = start
    empty = mask.sum(axis=1) == opening
    ids[empty, 1:], mask[empty, 1:] = pad_id, False
    return {**arrays, DECODER_IDS: ids, DECODER_MASK: mask}


def _first_beams(result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: result[key][:, 0] for key in (DECODER_IDS, DECODER_MASK)}
