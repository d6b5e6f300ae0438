import re

import pytest

from embedding_api.bulk import progress as module
from embedding_api.bulk.checkpoint import WindowStats
from embedding_api.bulk.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock in place of the real one; a test sets its `seconds`."""

    class Clock:
        seconds = 0.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.seconds)
    return Clock


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock, window, capsys):
    progress = Progress()
    progress.read(window(["a"] * 100, fraction=0.25), 1000)
    for second in range(1, 21):
        clock.seconds = second
        progress.advance(2, 20)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "  5%  20 rows, 2.0 texts/s, 20 tokens/s, 03:10 left"
    assert second == " 10%  40 rows, 2.0 texts/s, 20 tokens/s, 03:00 left"
    assert progress.summary() == "40 texts embedded in 20.0 s, 2.0 texts/s, 20 tokens/s"


def test_an_input_of_unknown_size_has_no_share(clock, window, capsys):
    progress = Progress()
    progress.read(window(["a", None], fraction=None), 10)
    clock.seconds = 10
    progress.advance(1, 10)
    assert capsys.readouterr().err == "2 rows, 0.1 texts/s, 1 tokens/s\n"


def test_windows_finished_before_count_for_the_share_but_not_for_the_speed(clock, window, capsys):
    progress = Progress()
    progress.skip(window(["a"] * 50, fraction=0.5), WindowStats(rows=50, tokens=500))
    progress.read(window(["a"] * 50, fraction=1), 500)
    clock.seconds = 10
    progress.advance(10, 100)
    assert capsys.readouterr().err == " 60%  60 rows, 1.0 texts/s, 10 tokens/s, 00:40 left\n"


def test_on_a_terminal_there_is_a_bar(clock, window, capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress()
    progress.read(window(["a"] * 100, fraction=1), 1000)
    clock.seconds = 10
    progress.advance(50, 500)
    progress.close()
    assert re.search(r" 50% \|█+.* 50 rows, 5\.0 texts/s, 50 tokens/s, 00:10 left", capsys.readouterr().err)
