"""Prints the first code block under a heading of the README."""

import re
import sys
from pathlib import Path

heading = sys.argv[1]
readme = Path(__file__).parents[1] / 'README.md'
text = readme.read_text(encoding='utf-8')
match = re.search(
    rf'^## {re.escape(heading)}$.*?^```\w*\n(.*?)^```$', text, re.M | re.S
)
if match is None:
    sys.exit(f'README.md has no code block under "## {heading}"')
print(match.group(1).strip())
