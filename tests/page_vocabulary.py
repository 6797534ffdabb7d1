"""A vocabulary of six tokens for tests of text."""

SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2}
# The vocabulary on keras-hub's page of BartSeq2SeqLM; ids have gaps, merges go outside it.
PAGE_VOCABULARY = {**SPECIAL, "Ġafter": 5, "noon": 6, "Ġsun": 7}
PAGE_MERGES = ["Ġ a", "Ġ s", "Ġ n", "e r", "n o", "o n", "Ġs u", "Ġa f", "no on"]
PAGE_MERGES += ["Ġsu n", "Ġaf t", "Ġaft er"]
