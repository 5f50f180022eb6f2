"""A hook of MkDocs: shows what the docstrings write for Sphinx.

MkDocs reads Markdown, in which ``:class:`Name``` and ``.. math::`` mean
nothing. The former becomes a link where the page describes the name, the
latter a block of LaTeX.
"""

import re
from typing import Any

ROLE = re.compile(r':(?:class|meth|func|data|mod):<code>~?([\w.]+)</code>')
MATH = re.compile(r'<p>\.\. math::\n+(.*?)</p>', re.S)


def on_page_content(html: str, **_: Any) -> str:
    """Rewrites the HTML of a page, as MkDocs asks."""
    places = re.findall(r'id="(ltml_mm\.[\w.]+)"', html)

    def link(match: re.Match[str]) -> str:
        path = match[1]
        shown = f'<code>{path.rpartition(".")[2]}</code>'
        for place in places:
            if f'.{place}'.endswith(f'.{path}'):
                return f'<a href="#{place}">{shown}</a>'
        return shown

    html = MATH.sub(r'<pre><code>\1</code></pre>', html)
    return ROLE.sub(link, html)
