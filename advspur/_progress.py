"""Progress of long work: a bar with time left on a terminal, plain lines elsewhere."""

import math
import sys
import time

from tqdm import tqdm

LINE_EVERY = 10  # seconds between two plain lines, at least


class Progress:
    """Counts units of work up to `total`; a context manager.

    Args:
      total: units of work that take about equal time.
      title: the work's name.
      unit: the unit's name, to show the rate; None: no rate is shown.
    """

    def __init__(self, total, title, *, unit=None, stream=None):
        self.total, self.title, self.done = total, title, 0
        self._unit, self._skipped = unit, 0
        self._stream = sys.stderr if stream is None else stream
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=title,
                unit=unit or "it",
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left"
                + (", {rate_fmt}" if unit else "")
                + "{postfix}",
            )

    def advance(self, amount=1, note=""):
        """Count `amount` more units; `note` is shown beside them."""
        self.done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self.line(f"{self.title} {self.done / self.total:4.0%}, {self._pace()} {note}")

    def skip(self, amount):
        """Count `amount` units that an earlier call did, which do not count for the rate."""
        self._skipped += amount
        self.done += amount
        if self._bar is not None:
            self._bar.initial += amount
            self._bar.update(amount)

    def part(self, title, weight=1, total=math.inf):
        """Return the progress of a part: its units count `weight` each, at most `total` in all."""
        return _Part(self, title, weight, total)

    def line(self, text):
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _pace(self):
        """Return the time left and, with a unit, the rate."""
        gained = self.done - self._skipped
        if gained < 0.01 * self.total:
            return "time left unknown"
        rate = gained / (time.monotonic() - self._start)
        seconds = int((self.total - self.done) / rate)
        left = f"{seconds // 60}:{seconds % 60:02d} left"
        return f"{left}, {rate:.3g} {self._unit}/s," if self._unit else f"{left},"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self._bar is not None:
            self._bar.close()


class _Part:
    """The progress of a part of the work, such as a training run."""

    def __init__(self, whole, title, weight, total):
        self._whole, self._title, self._weight, self._left = whole, title, weight, total
        self.line = whole.line

    def advance(self, amount=1, note=""):
        self._whole.advance(self._take(amount), f"{self._title} {note}")

    def skip(self, amount):
        self._whole.skip(self._take(amount))

    def skip_rest(self):
        """Skip the rest of the total, which was not needed."""
        self._whole.skip(self._left)

    def _take(self, amount):
        amount = min(amount * self._weight, self._left)
        self._left -= amount
        return amount
