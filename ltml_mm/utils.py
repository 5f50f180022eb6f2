"""Small helpers with no better place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file; its folder is made where it is missing.
        content: The content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, because a name may already be as long as names can be.
    partial = path.with_name(f'.{path.name[:32]}.{os.getpid()}.tmp')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Args:
        path: The file; its folder is made where it is missing.
        text: The content, written as UTF-8.
    """
    write_bytes(path, text.encode('utf-8'))


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file whole or not at all.

    Args:
        path: The file.
        content: What to write; NaN is refused, since it is not JSON.
    """
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + '\n')
