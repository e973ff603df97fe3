"""Progress where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from klip_monai.cli import progress
from klip_monai.cli.progress import progress_bar


def test_work_is_told_in_lines_where_no_bar_can_be_drawn(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress_bar(Console(file=out, force_terminal=False)) as bar:
        task = bar.add_task("reading", total=None)
        for done in range(1, 11):
            now[0] += 1.0
            bar.update(task, completed=done, total=10, description="scoring" if done < 10 else "writing")
        assert list(bar.track([1, 2], description="scans")) == [1, 2]
    lines = [line.partition(",")[0] for line in out.getvalue().split("\n") if line]
    assert lines == ["scoring: 5 of 10", "writing: 10 of 10"]


def test_a_terminal_gets_a_bar_and_no_lines():
    out = io.StringIO()
    with progress_bar(Console(file=out, force_terminal=True, width=80)) as bar:
        bar.update(bar.add_task("scoring", total=2), completed=1)
    assert "scoring: 1 of 2" not in out.getvalue()
