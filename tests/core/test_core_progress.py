"""A line of progress goes where it belongs, as often as it should."""

import io
import types

from gap_vla.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_alone_on_a_terminal_one_line_is_written_over_until_the_work_is_done(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("gap_vla.core.progress.time.monotonic", lambda: float(next(times)))
    out = Terminal()
    shown = Progress("expert on threading", 2, "episode", out=out, alone=True)
    shown.advance(1, "1 of 1 succeeded")
    shown.advance(1, "1 of 2 succeeded")
    shown.close()
    lines = out.getvalue().split("\r\x1b[K")
    assert len(lines) == 3 and lines[1].endswith("left, 1 of 1 succeeded")
    assert lines[2].startswith("expert on threading: 2/2 episodes") and lines[2].endswith("1 of 2 succeeded\n")


def test_alone_in_a_log_there_is_a_line_now_and_then_and_one_at_the_end(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("gap_vla.core.progress.time.monotonic", lambda: 1000.0 + next(times))
    said: list[str] = []
    log = types.SimpleNamespace(write=said.append, flush=lambda: None)  # as of a program that keeps one
    shown = Progress("held-out episodes", None, "episode", out=log, alone=True)
    for _ in range(5):
        shown.advance(1)
    shown.close()
    lines = "".join(said).splitlines()
    assert [line.split(",")[0] for line in lines] == ["held-out episodes: 1 episodes", "held-out episodes: 5 episodes"]
    assert "left" not in "".join(said)


def test_slow_work_counts_its_units_by_the_minute_and_quiet_work_says_nothing(monkeypatch):
    times = iter([0.0, 20.0, 20.0, 0.0, 20.0])
    monkeypatch.setattr("gap_vla.core.progress.time.monotonic", lambda: next(times))
    out = io.StringIO()
    Progress("cells", 4, "cell", out=out).update(1)
    assert out.getvalue() == "cells: 1/4 cells, 3.0 cells a minute, 1 min 00 s left\n"
    shown = Progress("cells", 4, "cell", out=out, quiet=True)
    shown.update(4)
    shown.close()
    assert len(out.getvalue().splitlines()) == 1


def test_a_stream_that_was_closed_stops_no_work():
    out = io.StringIO()
    shown = Progress("cells", 4, "cell", out=out)
    out.close()
    shown.update(4)
    shown.close()
