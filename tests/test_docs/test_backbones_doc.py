"""The page of backbones shows the rows that the tests build."""

import sys
from pathlib import Path

REPO = Path(__file__).parents[2]


def test_the_page_shows_every_row(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / 'tests' / 'test_models'))
    from fork_rows import table

    sys.modules.pop('fork_rows', None)
    page = (REPO / 'docs' / 'backbones.md').read_text('utf-8')
    assert table() in page
