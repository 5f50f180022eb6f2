"""The table of the tools, and what runs one."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn

from ltml_cli import data_parsers, result_parsers, run_parsers
from ltml_cli.options import Parser, nearest

Check = Callable[[Parser, argparse.Namespace], None]


class Tool(NamedTuple):
    """A tool; see the package's docstring for how to add one.

    Attributes:
        script: Path of its script under ``tools/``.
        build: Builds the parser.
        check: Checks what was parsed, None where the parser suffices.
        run: ``'module:function'``; the function takes the arguments' texts.
    """

    script: str
    build: Callable[[], Parser]
    check: Check | None
    run: str


TOOLS = {
    'train': Tool(
        'train.py',
        run_parsers.train_parser,
        run_parsers.check_train,
        'ltml_mm.apis.train:main',
    ),
    'test': Tool(
        'test.py',
        run_parsers.test_parser,
        run_parsers.check_test,
        'ltml_mm.apis.test:main',
    ),
    'predict': Tool(
        'predict.py',
        run_parsers.predict_parser,
        run_parsers.check_predict,
        'ltml_mm.apis.predict:main',
    ),
    'merge': Tool(
        'model_converters/merge_branches.py',
        run_parsers.merge_parser,
        run_parsers.check_merge,
        'ltml_mm.apis.merge:main',
    ),
    'to-safetensors': Tool(
        'model_converters/to_safetensors.py',
        run_parsers.to_safetensors_parser,
        run_parsers.check_to_safetensors,
        'ltml_mm.decisions.model_card:main',
    ),
    'export': Tool(
        'model_converters/export.py',
        run_parsers.export_parser,
        run_parsers.check_export,
        'ltml_mm.export.export:main',
    ),
    'convert': Tool(
        'dataset_converters/custom.py',
        data_parsers.convert_parser,
        data_parsers.check_convert,
        'ltml_mm.datasets.converters.convert:main',
    ),
    'voc-lt': Tool(
        'dataset_converters/voc_lt.py',
        data_parsers.voc_lt_parser,
        None,
        'ltml_mm.datasets.converters.convert:main_voc_lt',
    ),
    'coco-lt': Tool(
        'dataset_converters/coco_lt.py',
        data_parsers.coco_lt_parser,
        None,
        'ltml_mm.datasets.converters.convert:main_coco_lt',
    ),
    'dataset-report': Tool(
        'analysis/dataset_report.py',
        data_parsers.dataset_report_parser,
        data_parsers.check_dataset_report,
        'ltml_mm.experiments.dataset_report:main',
    ),
    'plot-log': Tool(
        'analysis/plot_log.py',
        result_parsers.plot_log_parser,
        None,
        'ltml_mm.experiments.log_curves:main',
    ),
    'thresholds': Tool(
        'analysis/thresholds.py',
        result_parsers.thresholds_parser,
        result_parsers.check_thresholds,
        'ltml_mm.decisions.selection:main',
    ),
    'compare': Tool(
        'benchmarks/compare.py',
        result_parsers.compare_parser,
        result_parsers.check_compare,
        'ltml_mm.experiments.compare:main',
    ),
    'model-report': Tool(
        'analysis/model_report.py',
        result_parsers.model_report_parser,
        result_parsers.check_model_report,
        'ltml_mm.inspection.model_report:main',
    ),
    'demo-page': Tool(
        'demo_page.py',
        result_parsers.demo_page_parser,
        result_parsers.check_demo_page,
        'ltml_mm.inspection.demo_page:main',
    ),
}


def parse(
    name: str, argv: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Parses and checks the command line of a tool.

    Args:
        name: One of :data:`TOOLS`.
        argv: The arguments. Defaults to those of the process.
        prog: What the tool is called in its help. Defaults to the script.

    Returns:
        argparse.Namespace: The arguments; of a config the path of its file.

    Raises:
        SystemExit: The arguments are wrong, or ask for help.
        OSError: A file or folder does not exist.
        ValueError: A value cannot be used.
    """
    tool = TOOLS[name]
    parser = tool.build()
    parser.prog = prog or parser.prog
    args = parser.parse_args(argv)
    if tool.check is not None:
        tool.check(parser, args)
    return args


def run_script(
    name: str, argv: Sequence[str] | None = None, prog: str | None = None
) -> None:
    """Runs a tool; expected errors become one line and status 1."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = parse(name, argv, prog)
    except (OSError, ValueError) as error:
        fail(str(error), error)
    if getattr(args, 'verbose', False):
        os.environ['LTML_VERBOSE'] = '1'  # Read by the imports.
    module, function = TOOLS[name].run.split(':')
    try:
        # Every tool registers the package first.
        run_tool = import_module('ltml_mm.apis.cli').run_tool
        main = getattr(import_module(module), function)
    except ImportError as error:
        fail(str(error), error)
    # MMEngine collects garbage for every dataset: not among the imports.
    gc.freeze()
    run_tool(partial(main, argv))


def fail(message: str, error: Exception) -> NoReturn:
    """Ends with one line, or with the stack where LTML_TRACEBACK is set."""
    if os.environ.get('LTML_TRACEBACK'):
        raise error
    print(f'error: {message}', file=sys.stderr)
    sys.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the console command ``ltml NAME ...``."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in TOOLS:
        run_script(argv[0], argv[1:], f'ltml {argv[0]}')
        return
    width = max(map(len, TOOLS))
    lines = [
        f'  {name:{width}}  {tool.build().summary}'
        for name, tool in TOOLS.items()
    ]
    parser = Parser(
        'ltml',
        usage='ltml [-h] [--version] TOOL ...',
        description='Long-tailed multi-label recognition.',
        epilog='tools:\n' + '\n'.join(lines) + '\n\n'
        '"ltml TOOL --help" lists the arguments of a tool.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=_version())
    if argv and not argv[0].startswith('-'):
        parser.error(f'no tool {argv[0]!r}{nearest(argv[0], TOOLS)}')
    parser.parse_args(argv)
    parser.print_help()


def _version() -> str:
    # Importing the package would register it.
    path = Path(__file__).parents[1] / 'ltml_mm' / 'version.py'
    return f'ltml_mm {path.read_text().split(chr(39))[1]}'
