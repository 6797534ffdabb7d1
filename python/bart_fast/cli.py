"""The command `bart-fast`: answers on standard output, everything else on standard error."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_OK, _FAILED = 0, 1  # argparse exits with 2 for wrong arguments

# Lines of a file answered at a time. Those of a pipe, also of a named one, are answered one by one:
# who types or pipes them may wait for each answer.
_FILE_BATCH = 8

# Answers begin with two tokens that are not printed.
_SHORTEST_ANSWER = 2


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: what follows the command's name. Defaults to those of the process.

    Returns:
        The exit code: 0, or 1 after an error. Wrong arguments exit with 2 by `SystemExit`.
    """
    parser = _parser()
    warnings.showwarning = _show_warning
    warnings.simplefilter("always")
    try:
        options = parser.parse_args(arguments)
        if sys.stdout is None:
            raise ValueError("standard output is closed, and answers go there")
        if options.threads is not None:
            _set_threads(parser, options.threads)
        if options.bench:
            _bench(parser, options)
            return _OK
        batches = _inputs(parser, options)
        _answer_all(parser, options, batches)
    except BrokenPipeError:
        # The reader has left, as `head` does: no error, but the interpreter's flush at exit must
        # not find the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _FAILED
    except Exception as error:
        print(f"bart-fast: error: {error}", file=sys.stderr)
        return _FAILED
    return _OK


def _show_warning(message: Any, *_: Any) -> None:
    print(f"bart-fast: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bart-fast",
        description="Rewrites text with a BART model; the one that comes with the package repairs "
        "careless English.",
        epilog="One line of output for each line of input, in order.",
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help='the text; "-" reads a pipe')
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="PATH",
        help='read lines from this UTF-8 file, "-" from a pipe; may be given several times',
    )
    parser.add_argument(
        "--preset",
        default="bart_tidy_en",
        help="name, handle or directory of a model (default: %(default)s)",
    )
    parser.add_argument(
        "--max-length", type=_positive, metavar="N", help="longest answer, in tokens"
    )
    parser.add_argument(
        "--sampler",
        default="greedy",
        choices=("greedy", "beam", "top_k", "top_p", "random"),
        help="how tokens are chosen (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        type=_from_zero,
        metavar="N",
        help="read lines that are too long for the model in windows that share so many tokens "
        "(default: leave their ends out)",
    )
    parser.add_argument(
        "--seed", type=_from_zero, metavar="N", help="makes random samplers repeatable"
    )
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="how many compute (default: every core)"
    )
    parser.add_argument(
        "--bench",
        action="store_true",
        help="measure how fast this machine computes, beside what it could do, and exit",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser


class _Version(argparse.Action):
    """Prints the version; the extension module is loaded only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from bart_fast import __version__

        print(f"bart-fast {__version__}")
        parser.exit(_OK)


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _from_zero(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, at_least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or not at_least <= number < 2**63:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {at_least}, received {text!r}"
        )
    return number


def _set_threads(parser: argparse.ArgumentParser, threads: int) -> None:
    from bart_fast import set_num_threads

    try:
        set_num_threads(threads)
    except ValueError as error:
        parser.error(f"argument --threads: {error}")


def _bench(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from bart_fast import benchmark

    if options.text or options.file:
        parser.error("--bench answers no text: give it alone, or with --threads")
    benchmark.run()


def _inputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Iterator[list[str]]:
    """Batches of lines to answer, from the text, the files, or the pipe."""
    if options.text and options.text != ["-"]:
        if options.file:
            parser.error("TEXT and --file cannot be used together")
        return iter([[_one_line(parser, options.text)]])
    paths = options.file + (["-"] if options.text else [])
    if not paths:
        if sys.stdin is None or sys.stdin.isatty():
            parser.error("nothing to do: give TEXT, --file PATH, or pipe lines in")
        paths = ["-"]
    return (batch for path in paths for batch in _file_batches(path))


def _one_line(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """The text of the arguments: words that were not quoted are one text, and so are lines."""
    text = " ".join(" ".join(words).splitlines())
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes of the command line that Python could not decode
        parser.error("TEXT is not UTF-8")
    return text


def _file_batches(path: str) -> Iterator[list[str]]:
    if path == "-":
        yield from ([line] for line in _lines(sys.stdin.buffer, "standard input"))
        return
    batch_size = _FILE_BATCH if Path(path).is_file() else 1
    with Path(path).open("rb") as file:
        batch: list[str] = []
        try:
            for line in _lines(file, path):
                batch.append(line)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        except ValueError:
            # What was good before a bad line is answered first.
            if batch:
                yield batch
            raise
        if batch:
            yield batch


def _lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of `file` without their ends.

    Raises:
        ValueError: a line is not UTF-8; says which.
    """
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: not UTF-8 ({error.reason} at byte {error.start}).\n"
                "hint: convert the text to UTF-8 first, for example with `iconv`"
            ) from None
        yield text.rstrip("\r\n")


def _answer_all(
    parser: argparse.ArgumentParser, options: argparse.Namespace, batches: Iterator[list[str]]
) -> None:
    """Prints one line for each line of input, as soon as it is known."""
    from bart_fast.models import BartSeq2SeqLM
    from bart_fast.samplers import get

    # The package of a hub may write to standard output what it is doing; only answers belong there.
    with contextlib.redirect_stdout(sys.stderr):
        model = BartSeq2SeqLM.from_preset(options.preset)
    if model.preprocessor is None:
        raise ValueError(
            f"`--preset`: {options.preset!r} has no tokenizer.\n"
            "hint: a preset for text has a vocabulary and merges beside its weights"
        )
    longest, table = options.max_length, model.backbone.max_sequence_length
    if longest is not None and not _SHORTEST_ANSWER <= longest <= table:
        parser.error(
            f"argument --max-length: expected {_SHORTEST_ANSWER} to {table} for this model, "
            f"received {longest}"
        )
    model.compile(sampler=get(options.sampler))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    for batch in batches:
        for answer in _answers(model, batch, options):
            print(answer)
        sys.stdout.flush()


def _answers(model: Any, batch: list[str], options: argparse.Namespace) -> list[str]:
    """One line for each of `batch`; blank lines stay blank without asking the model."""
    asked = [line for line in batch if line.strip()]
    settings = {name: getattr(options, name) for name in ("max_length", "overlap", "seed")}
    answers = iter(model.generate(asked, **settings))
    # An answer may hold line ends; a line of output answers a line of input.
    return [" ".join(next(answers).splitlines()) if line.strip() else "" for line in batch]


if __name__ == "__main__":
    sys.exit(main())
