"""What a run depends on, in a few digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ltml_mm._stack import find_stack
from ltml_mm.apis.config import dataset_configs
from ltml_mm.version import __version__

#: Entries that change where a run lies and how it is loaded, not what it is.
IRRELEVANT = (
    'allow_outside',
    'data_prefix',
    'data_root',
    'default_hooks',
    'log_level',
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'vis_backends',
    'visualizer',
    'work_dir',
)


def digest(cfg: Config, views: int | None) -> str:
    """Stands for the config of a run, its annotations and its start.

    Files count by their content: the annotations, and the weights that the
    network starts from. Folders, workers, hooks and the seed do not count.

    Args:
        cfg: The complete config of a training.
        views: Cached views of a training image; None without a cache.

    Returns:
        str: 16 hexadecimal digits.
    """
    content = _relevant(cfg.to_dict())
    content.pop('randomness', None)
    content['files'] = [_content(path) for path in _annotations(cfg)]
    content['views'] = views
    content['versions'] = [__version__, find_stack()]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _relevant(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _content(value)
            if key == 'checkpoint' and isinstance(value, str)
            else _relevant(value)
            for key, value in node.items()
            if key not in IRRELEVANT
        }
    if isinstance(node, (list, tuple)):
        return [_relevant(value) for value in node]
    return node


def _annotations(cfg: Config) -> list[str]:
    return [
        str(Path(dataset.get('data_root', ''), dataset.ann_file))
        for dataset in dataset_configs(cfg)
        if dataset.get('ann_file')
    ]


def checksum(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _content(path: str) -> str:
    """A file's checksum, or the name of what is no file here."""
    return checksum(path) if Path(path).is_file() else path
