"""How far a run is: a bar on a terminal, now and then a line elsewhere."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN = {True: 0.2, False: 10}  # on a terminal, and elsewhere


class Progress:
    """Tells of texts, of tokens, and where the input's size is known of the time that is left.

    The share that is done is one of tokens: within a window long texts come first. Speeds, and with them the time, are
    of what this process does, not of what was done before it.
    """

    def __init__(self):
        terminal = sys.stderr.isatty()
        self._bar = tqdm(bar_format="{desc}", file=sys.stderr, leave=False) if terminal else None
        self._between = _SECONDS_BETWEEN[terminal]
        self._begin = self._told = time.monotonic()
        self._tokens_read, self._fraction = 0, None
        self._texts_before = self._tokens_before = 0
        self._texts = self._tokens = 0

    def read(self, window, tokens):
        """A window has been read, which has so many tokens."""
        self._tokens_read += tokens
        self._fraction = window.fraction

    def skip(self, window, totals):
        """A window had been done before."""
        self._begin = time.monotonic()
        self.read(window, totals.tokens)
        self._texts_before += totals.rows - totals.without_text
        self._tokens_before += totals.tokens

    def advance(self, texts, tokens):
        """So many more are done."""
        self._texts += texts
        self._tokens += tokens
        if time.monotonic() - self._told >= self._between:
            self._told = time.monotonic()
            self._tell()

    def summary(self):
        """What this process has done, and how fast."""
        return f"{self._texts:,} texts embedded in {tqdm.format_interval(self._seconds)}, {self._speed}"

    def close(self):
        if self._bar is not None:
            self._bar.close()

    @property
    def _seconds(self):
        return time.monotonic() - self._begin

    @property
    def _speed(self):
        return f"{self._texts / self._seconds:,.1f} texts/s, {self._tokens / self._seconds:,.0f} tokens/s"

    def _tell(self):
        line = f"{self._texts_before + self._texts:,} texts, {self._speed}"
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
