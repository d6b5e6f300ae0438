"""Show the progress of a run: a bar on a terminal, elsewhere a line every ten seconds."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN = {True: 0.2, False: 10}  # on a terminal, and elsewhere


class Progress:
    """Shows the rows, texts and tokens a second and, if the input's size is known, the share done and the time left.

    The share is one of tokens, as long texts come first in each window. The speeds, and so the time left, count what
    this process has done, and not what an earlier one did.
    """

    def __init__(self):
        terminal = sys.stderr.isatty()
        self._bar = tqdm(bar_format="{desc}", file=sys.stderr, leave=False) if terminal else None
        self._between = _SECONDS_BETWEEN[terminal]
        self._begin = self._shown = time.monotonic()
        self._tokens_read, self._fraction = 0, None
        self._texts_before = self._tokens_before = self._rows_without_text = 0
        self._texts = self._tokens = 0

    def read(self, window, tokens):
        """Note a window that has been read, and the number of its tokens."""
        self._tokens_read += tokens
        self._rows_without_text += len(window.texts) - len(window.with_text)
        self._fraction = window.fraction

    def skip(self, window, totals):
        """Note a window that an earlier process has finished."""
        self._begin = time.monotonic()
        self.read(window, totals.tokens)
        self._texts_before += totals.rows - totals.without_text
        self._tokens_before += totals.tokens

    def advance(self, texts, tokens):
        """Note texts and tokens that have been embedded, and show the progress if it is time."""
        self._texts += texts
        self._tokens += tokens
        if time.monotonic() - self._shown >= self._between:
            self._shown = time.monotonic()
            self._show()

    def summary(self):
        """What this process has done, and how fast."""
        return f"{self._texts:,} texts embedded in {self._seconds:,.1f} s, {self._speed}"

    def close(self):
        if self._bar is not None:
            self._bar.close()

    @property
    def _seconds(self):
        return time.monotonic() - self._begin

    @property
    def _speed(self):
        return f"{self._texts / self._seconds:,.1f} texts/s, {self._tokens / self._seconds:,.0f} tokens/s"

    def _show(self):
        rows = self._texts_before + self._texts + self._rows_without_text
        line = f"{rows:,} rows, {self._speed}"
        share = None
        if self._fraction:
            total = self._tokens_read / self._fraction
            share = min(1, (self._tokens_before + self._tokens) / total)
            left = (total * (1 - share)) * self._seconds / self._tokens
            line += f", {tqdm.format_interval(left)} left"
        if self._bar is None:
            print(line if share is None else f"{share:4.0%}  {line}", file=sys.stderr, flush=True)
            return
        if share is not None:
            self._bar.bar_format, self._bar.total, self._bar.n = "{percentage:3.0f}% |{bar}| {desc}", 1, share
        self._bar.set_description_str(line)
