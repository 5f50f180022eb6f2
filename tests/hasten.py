"""Leaves out what takes most of the time of so small a run.

MMEngine asks the machine's compilers, formats the config's text five times
and collects garbage for each dataset.
"""


def text(config):
    """A config as Python, in one line an entry."""
    return '\n'.join(f'{k} = {v!r}' for k, v in config.to_dict().items())


SHORTCUTS = {
    'mmengine.runner.runner.collect_env': dict,
    'mmengine.config.Config.pretty_text': property(text),
    'gc.collect': lambda *_: 0,
}


def hasten(patch):
    """Takes the shortcuts, by a ``pytest.MonkeyPatch``."""
    for name, shortcut in SHORTCUTS.items():
        patch.setattr(name, shortcut)
