"""A vocabulary that has every byte, as GPT-2 spells them: printable ones stand for themselves, the
others for letters from 256 up."""

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
LETTERS = {byte: chr(byte) for byte in _PRINTABLE}
LETTERS |= {byte: chr(256 + number) for number, byte in enumerate(_OTHERS)}
BYTE_VOCABULARY = {"<s>": 0, "<pad>": 1, "</s>": 2} | {LETTERS[b]: b + 3 for b in range(256)}
