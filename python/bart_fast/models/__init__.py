"""BART models, their tokenizer and preprocessor, with the names of `keras_hub.models`."""

from bart_fast.models.attention_output import CrossAttentionOutput
from bart_fast.models.backbone import Backbone
from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.bart_seq_2_seq_lm import BartSeq2SeqLM
from bart_fast.models.bart_seq_2_seq_lm_preprocessor import BartSeq2SeqLMPreprocessor
from bart_fast.models.bart_text_classifier import BartTextClassifier
from bart_fast.models.bart_text_classifier_preprocessor import BartTextClassifierPreprocessor
from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.generation_output import GenerateOutput
from bart_fast.models.scoring_mixin import ScoreOutput
from bart_fast.models.seq_2_seq_lm import Seq2SeqLM
from bart_fast.models.seq_2_seq_lm_preprocessor import Seq2SeqLMPreprocessor
from bart_fast.models.text_classifier import TextClassifier
from bart_fast.models.text_classifier_preprocessor import TextClassifierPreprocessor
from bart_fast.models.tokenizer import Tokenizer
from bart_fast.models.unigram_tokenizer import UnigramTokenizer

__all__ = [
    "Backbone",
    "BartBackbone",
    "BartSeq2SeqLM",
    "BartSeq2SeqLMPreprocessor",
    "BartTextClassifier",
    "BartTextClassifierPreprocessor",
    "BartTokenizer",
    "CrossAttentionOutput",
    "GenerateOutput",
    "ScoreOutput",
    "Seq2SeqLM",
    "Seq2SeqLMPreprocessor",
    "TextClassifier",
    "TextClassifierPreprocessor",
    "Tokenizer",
    "UnigramTokenizer",
]
