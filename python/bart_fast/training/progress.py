"""A line that shows how far training is: redrawn where that is possible, else lines in a file."""

import math
import shutil
import sys
import time

BAR_WIDTH = 20
# A line of a terminal or a notebook may change this often, a log file grows this often (seconds).
TERMINAL_INTERVAL = 0.1
NOTEBOOK_INTERVAL = 0.5
FILE_INTERVAL = 30.0
# Where the output of notebooks goes: no terminals, but a carriage return goes back in the line.
_NOTEBOOKS = ("ipykernel", "google.colab", "pyodide", "IPython")


class ProgressBar:
    """Shows step, rate, time left and metrics.

    On a terminal and in a notebook one line is redrawn, cut to the terminal's width while it is.
    Elsewhere a plain line is written now and then, and one at the end, so that logs stay short.

    Args:
        target: int. Steps expected; None if not known.
        verbose: int. 0 shows nothing, 1 the bar, 2 only the last line.
        stream: text file. Defaults to the standard output of the moment.
        clock: function that returns seconds; for tests.
    """

    def __init__(self, target, verbose=1, stream=None, clock=time.monotonic):
        self.target = target
        self.verbose = verbose
        self.stream = stream if stream is not None else sys.stdout
        self.clock = clock
        is_terminal = bool(getattr(self.stream, "isatty", lambda: False)())
        is_notebook = type(self.stream).__module__.startswith(_NOTEBOOKS)
        self.redraws = is_terminal or is_notebook
        self.interval = FILE_INTERVAL
        if self.redraws:
            self.interval = NOTEBOOK_INTERVAL if is_notebook else TERMINAL_INTERVAL
        self.most_columns = math.inf
        if is_terminal and not is_notebook:
            self.most_columns = max(shutil.get_terminal_size().columns - 1, 20)
        self.start = clock()
        # The first step warms caches: the rate is taken from the steps after it.
        self.first_end = None
        self.last_shown = -math.inf if self.redraws else self.start
        self.shown_width = 0

    def update(self, current, values, finalize=False):
        """Shows the state after `current` steps.

        Args:
            current: int. Steps made.
            values: dict of str to float. What to show.
            finalize: bool. Whether this is the last time: then it is always shown, and the line
                ended.
        """
        now = self.clock()
        if current == 1 and self.first_end is None:
            self.first_end = now
        if self.verbose == 0 or (self.verbose == 2 and not finalize):
            return
        if not finalize and now - self.last_shown < self.interval:
            return
        self.last_shown = now
        self._write(self._line(current, values, now, finalize), finalize)

    def close(self):
        """Ends a line that was left open, so that what follows starts on its own."""
        if self.shown_width:
            self._print("\n")
            self.shown_width = 0

    def _line(self, current, values, now, finalize):
        duration = self._step_duration(current, now)
        parts = [self._count(current)]
        if self.target and self.redraws and self.verbose == 1:
            done = min(BAR_WIDTH, BAR_WIDTH * current // self.target)
            parts.append("━" * done + "─" * (BAR_WIDTH - done))
        if finalize or not self.target:
            parts.append(f"{now - self.start:.0f}s")
        else:
            parts.append(f"{format_time(duration * (self.target - current))} left")
        parts.append(f"{format_duration(duration)}/step")
        line = " ".join(parts)
        return line + "".join(f" - {key}: {format_value(value)}" for key, value in values.items())

    def _count(self, current):
        if not self.target:
            return str(current)
        return f"{current:>{len(str(self.target))}}/{self.target}"

    def _step_duration(self, current, now):
        if self.first_end is not None and current > 1:
            return (now - self.first_end) / (current - 1)
        return (now - self.start) / max(current, 1)

    def _write(self, line, finalize):
        if not self.redraws:
            self._print(line + "\n")
            return
        if not finalize and len(line) > self.most_columns:
            # A line that wraps could not be redrawn: each time would leave one more behind.
            line = line[: self.most_columns]
        padding = " " * max(0, self.shown_width - len(line))
        self._print("\r" + line + padding + ("\n" if finalize else ""))
        self.shown_width = 0 if finalize else len(line)

    def _print(self, text):
        if self.stream is None:
            return  # A process without a standard output.
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            # A stream that cannot show the bar's characters gets plain ones.
            self.stream.write(text.replace("━", "=").replace("─", "."))
        self.stream.flush()


def format_value(value):
    """A metric as Keras shows it: four decimals, or powers of ten for small ones."""
    return f"{value:.4f}" if abs(value) > 1e-3 or value != value else f"{value:.4e}"


def format_duration(seconds):
    """A short time in the unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.1f}s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.0f}ms"
    return f"{seconds * 1e6:.0f}us"


def format_time(seconds):
    """A longer time: `5s`, `1:05`, `1:01:05`."""
    seconds = math.ceil(seconds)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}" if minutes else f"{seconds}s"
