"""Repairs careless English with the model that comes with the package."""

from bart_fast.models import BartSeq2SeqLM

bart_lm = BartSeq2SeqLM.from_preset("bart_tidy_en")

print(bart_lm.generate("i dont know were she lives"))
for line in bart_lm.generate(["he go to school every days", "its raining again"], max_length=40):
    print(line)
