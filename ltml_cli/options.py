"""Arguments that tools share: configs, overrides, files and folders."""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

#: Options that name files, folders and runs: their values stay texts.
PATH_OPTIONS = (
    'ann_file', 'data_prefix', 'data_root', 'experiment_name', 'img_path',
    'load_from', 'out_dir', 'save_dir', 'work_dir',
)  # fmt: skip
#: Keys of two flags that set more than one entry of a config.
SIZE, WEIGHTS = '--size', '--weights'
#: What people change most, by the entry of a config that each flag sets.
FLAGS = {
    '--data': 'data_root',
    '--weights': WEIGHTS,
    '--size': SIZE,
    '--batch-size': 'train_dataloader.batch_size',
    '--lr': 'optim_wrapper.optimizer.lr',
    '--epochs': 'train_cfg.max_epochs',
    '--seed': 'randomness.seed',
}
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that refuses in one line, and has a summary."""

    def error(self, message: str) -> NoReturn:
        """Ends with one line and status 2."""
        unknown = message.partition('unrecognized arguments: ')[2].split(' ')
        message += nearest(unknown[0], self._option_string_actions)
        self.exit(2, f'{self.prog}: error: {message} (see --help)\n')

    @property
    def summary(self) -> str:
        """The description's first sentence."""
        words = ' '.join((self.description or '').split())
        return words.split('. ')[0].removesuffix('.')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``, read by :func:`parse_cfg_options`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        metavar='KEY=VALUE',
        help='overrides of the config: key.subkey=value, lists as '
        '"[a,b]" or a,b, nested ones as "[dict(type=\'A\')]"',
    )


def add_config(parser: argparse.ArgumentParser, words: str = '') -> None:
    """Adds the positional ``config``, checked by :func:`find_config`."""
    parser.add_argument(
        'config', help=f'config file{words}, or the name of a shipped one'
    )


def add_model(parser: argparse.ArgumentParser, words: str = '') -> None:
    """Adds ``config`` and ``checkpoint``, checked by :func:`check_model`."""
    add_config(parser, words)
    parser.add_argument('checkpoint', help='checkpoint file')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='where logs and models go')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='job launcher'
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0)
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='show the whole log, with hooks, config and library warnings',
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``."""
    parser.add_argument(
        '--device', help='cpu, cuda, cuda:1 (default: a GPU if there is one)'
    )


def add_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds some of :data:`FLAGS`; :func:`settle_flags` reads them."""
    known: dict[str, dict[str, Any]] = {
        '--data': dict(metavar='FOLDER', help='folder of the data: data_root'),
        '--weights': dict(
            metavar='FILE',
            help="the backbone's first weights: a local file of MMPretrain, "
            'torchvision or timm',
        ),
        '--size': dict(type=positive, help='side of the images, in pixels'),
        '--batch-size': dict(
            type=positive,
            help='images of a step; of two streams, pairs of them',
        ),
        '--lr': dict(type=_rate, help='learning rate'),
        '--epochs': dict(
            type=positive,
            help='length of the training; the schedule shrinks or grows by it',
        ),
        '--seed': dict(type=int, help='seed of weights, order and crops'),
    }
    group = parser.add_argument_group('short for an override of the config')
    for name in names:
        group.add_argument(name, **known[name])


def settle_flags(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    """Moves the flags of :func:`add_flags` into ``args.cfg_options``.

    Of a test, the batch size is that of the test.
    """
    options = dict(args.cfg_options or {})
    for flag, key in FLAGS.items():
        value = getattr(args, flag[2:].replace('-', '_'), None)
        if flag == '--batch-size' and not hasattr(args, 'lr'):
            key = 'test_dataloader.batch_size'
        if value is None:
            continue
        if key in options:
            parser.error(f'{flag} and --cfg-options {key} set the same')
        options[key] = value
    args.cfg_options = options or None
    if WEIGHTS in options:
        check_source(options[WEIGHTS], 'file of weights')
    check_data_root(options)


def check_new_run(work_dir: str) -> None:
    """Raises FileExistsError where a folder holds checkpoints of a run."""
    if int(os.environ.get('RANK') or 0):
        return
    folder = Path(work_dir)
    found = sorted(
        (path for path in folder.glob('*.pth') if path.is_file()),
        key=os.path.getmtime,
    )
    if found:
        raise FileExistsError(
            f'{work_dir} holds a run already ({found[-1].name}): go on with '
            '--resume, or give another --work-dir'
        )


def _rate(text: str) -> float:
    """Reads a number above 0, for ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'must be above 0, got {text}')
    return value


def positive(text: str) -> int:
    """Reads a whole number of at least 1, for ``type=``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be positive, got {text}')
    return int(text)


def output_folder(text: str) -> str:
    """Takes a folder that is there or can be made, for ``type=``."""
    return _writable(text, Path(text).absolute())


def output_file(text: str) -> str:
    """Takes a file that is there or can be made, for ``type=``."""
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f'{text} is a folder')
    return _writable(text, Path(text).absolute().parent)


def _writable(text: str, folder: Path) -> str:
    folders = map(str, (folder, *folder.parents))
    place = next(path for path in folders if os.path.exists(path))
    is_folder = os.path.isdir(place)
    if not is_folder or not os.access(place, os.W_OK | os.X_OK):
        reason = 'read-only for this user' if is_folder else 'a file'
        raise argparse.ArgumentTypeError(
            f'{text} cannot be written: {place} is {reason}'
        )
    return text


def config_folder() -> Path:
    """Returns the folder of the shipped configs.

    It is that of the checkout, or the one inside the installed package.
    """
    root = Path(__file__).parents[1]
    installed = root / 'ltml_mm' / '.mim' / 'configs'
    return installed if installed.is_dir() else root / 'configs'


def find_config(name: str) -> str:
    """Finds a config file, or a shipped config by its name.

    Args:
        name: A path; or the name of a shipped config, with or without its
            folder and ``.py``: ``ltml_custom``, ``configs/ltml_custom.py``.

    Raises:
        FileNotFoundError: There is none; names the nearest ones.
    """
    if Path(name).is_file():
        return name
    folder = config_folder()
    wanted = name.removeprefix('configs/').removesuffix('.py')
    shipped = {
        path.relative_to(folder).with_suffix('').as_posix(): str(path)
        for path in sorted(folder.rglob('*.py'))
        if '_base_' not in path.parts
    }
    shipped |= {key.rpartition('/')[2]: path for key, path in shipped.items()}
    if wanted in shipped:
        return shipped[wanted]
    raise FileNotFoundError(
        f'config not found: {name}{nearest_path(name, shipped)}'
    )


def check_checkpoint(path: str) -> None:
    """Raises FileNotFoundError where a checkpoint is not there."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'checkpoint not found: {path}{nearest_path(path)}'
        )


def check_model(args: argparse.Namespace) -> None:
    """Checks the config, the checkpoint and the thresholds of a tool."""
    args.config = find_config(args.config)
    check_checkpoint(args.checkpoint)
    if getattr(args, 'thresholds', None) is not None:
        check_source(args.thresholds, 'file of thresholds')


def check_source(path: str, what: str) -> None:
    """Raises FileNotFoundError where a file or folder is not there."""
    if not os.path.exists(path):
        # As a terminal can show it: names may hold anything.
        shown = path.encode('unicode_escape', 'surrogateescape').decode()
        shown = path if path.isprintable() else shown
        raise FileNotFoundError(f'no such {what}: {shown}{nearest_path(path)}')


def check_data_root(options: dict[str, Any] | None) -> None:
    """Raises FileNotFoundError where ``data_root`` names no folder."""
    root = (options or {}).get('data_root')
    if root and '://' not in root and not os.path.isdir(root):
        raise FileNotFoundError(
            f'no such folder of data: {root}{nearest_path(root)}'
        )


def nearest(name: str, names: Iterable[str], count: int = 1) -> str:
    """Returns ``; did you mean ...?``, or nothing where no name is near."""
    found = get_close_matches(name, [*names], count)
    return f'; did you mean {" or ".join(found)}?' if found else ''


def nearest_path(path: str, further: Iterable[str] = ()) -> str:
    """As :func:`nearest`, for a file or folder and those beside it."""
    folder, name = os.path.split(path.rstrip('/'))
    try:
        beside = os.listdir(folder or '.')
    except OSError:
        beside = []
    names = {one: os.path.join(folder, one) for one in beside}
    names |= {one: one for one in further}
    found = get_close_matches(name, [n for n in names if n != name], 2)
    words = ' or '.join(names[one] for one in found)
    return f'; did you mean {words}?' if words.isprintable() and words else ''


def parse_cfg_options(options: Iterable[str]) -> dict[str, Any]:
    """Reads overrides of a config.

    Values are read as MMEngine's ``DictAction`` does, with three differences:
    a value that is no list keeps its blanks; one that holds a ``dict(...)``
    or ``{...}`` is read as Python; and one of :data:`PATH_OPTIONS` is a text,
    since folders have names such as ``2024``. There ``None`` is one only
    where there is a folder of that name.

    Raises:
        ValueError: An option is not of the form ``KEY=VALUE``, or its
            value cannot be read.

    Examples:
        >>> parse_cfg_options(['data_root=2024', 'optim_wrapper.clip=1,2'])
        {'data_root': '2024', 'optim_wrapper.clip': [1, 2]}
        >>> parse_cfg_options(["custom_hooks=[dict(type='EMAHook')]"])
        {'custom_hooks': [{'type': 'EMAHook'}]}
    """
    values: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition('=')
        if not separator or not key:
            raise ValueError(f'{option!r} is not of the form KEY=VALUE')
        if key.rpartition('.')[2] in PATH_OPTIONS:
            is_none = value == 'None' and not os.path.exists(value)
            values[key] = None if is_none else value
            continue
        try:
            values[key] = _parse_value(value)
        except ValueError as error:
            raise ValueError(f'{option!r} {error}') from error
    return values


class _CfgOptions(argparse.Action):
    """Reads overrides; a second ``--cfg-options`` adds to the first."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option: Any = None
    ) -> None:
        try:
            options = parse_cfg_options(values)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        earlier = getattr(namespace, self.dest) or {}
        setattr(namespace, self.dest, {**earlier, **options})


def _parse_value(text: str) -> Any:
    """Reads a value: Python where it holds a dict, else a list or a scalar."""
    if 'dict(' in text or text.lstrip().startswith(('{', '[{', '({')):
        try:
            return _literal(ast.parse(text.strip(), mode='eval').body)
        except (SyntaxError, ValueError, RecursionError) as error:
            words = str(error).split(' (')[0]
            raise ValueError(f'cannot be read: {words}') from error
    bare = text.strip('\'"').replace(' ', '')
    inside = bare[:1] + bare[-1:] in ('()', '[]') and len(bare) > 1
    if not inside and ',' not in bare:
        value = _scalar(bare)
        return text.strip('\'"') if isinstance(value, str) else value
    if inside and _closing(bare) == len(bare) - 1:
        items = [_parse_value(item) for item in _items(bare[1:-1])]
        return tuple(items) if bare[0] == '(' else items
    return [_parse_value(item) for item in _items(bare)]


def _closing(text: str) -> int:
    """Returns where the bracket that opens a text is closed.

    Raises:
        ValueError: Its brackets do not match.
    """
    open_ = []
    for place, sign in enumerate(text):
        if sign in '([':
            open_.append(')' if sign == '(' else ']')
        elif sign in ')]':
            if not open_ or open_.pop() != sign:
                break
            if not open_:
                return place
    raise ValueError('has brackets that do not match')


def _items(text: str) -> list[str]:
    """Cuts a text at the commas that stand in no brackets."""
    items, start, place = [], 0, 0
    while place < len(text):
        if text[place] in '([)]':
            place += _closing(text[place:])
        elif text[place] == ',':
            items.append(text[start:place])
            start = place + 1
        place += 1
    return [*items, text[start:]] if start < len(text) else items


def _scalar(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    words = {'true': True, 'false': False}
    return None if text == 'None' else words.get(text.lower(), text)


def _literal(node: ast.AST) -> Any:
    """Evaluates literals, lists, tuples, dicts and ``dict(key=value)``."""
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.Dict) and all(node.keys):
        keys = [_literal(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_literal, node.values), strict=True))
    is_dict = isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict'
    if is_dict and not node.args and all(k.arg for k in node.keywords):  # type: ignore[attr-defined]
        return {k.arg: _literal(k.value) for k in node.keywords}  # type: ignore[attr-defined]
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f'{ast.unparse(node)} is no value') from error
