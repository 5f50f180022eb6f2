"""Every example of README and docs: it parses, and its names exist.

A test of :data:`RUN_BY` runs it, or its section says what it needs.
"""

import ast
import re
import shlex
import textwrap
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from mmengine.config import Config
from mmengine.registry import Registry

import ltml_mm  # noqa: F401
from ltml_cli import TOOLS
from ltml_cli.options import find_config
from ltml_mm.apis.overrides import apply_overrides

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
SCRIPTS = {f'tools/{tool.script}': name for name, tool in TOOLS.items()}
#: Programs that are no tools; of them nothing is checked.
OTHERS = ('pip', 'mkdir', 'cd', 'wget', 'tar', 'unzip', 'python3', '.')
#: Configs that are written by the examples, or stand for any.
MADE_UP = ('CONFIG', 'merged', 'out/', 'work_dirs/')
#: What a section says of examples that no test runs.
NEEDS = re.compile(r'\bneeds? (?:[\w-]+ )*(?:data|GPUs?|photographs)\b', re.I)
DOCS = 'test_docs/test_'
HOWTO = f'{DOCS}howto.py::test_the_commands_run'
SNIPPETS = f'{DOCS}howto.py::test_the_snippets_run'
DECISIONS = f'{DOCS}decisions_doc.py::test_the_walk_through_runs'
#: Which test runs the examples of a page, or of one of its sections.
RUN_BY = {
    ('README.md', 'Quick start'): (
        'test_tools/test_wheel.py::test_the_demo_trains_away_from_the_checkout'
    ),
    ('README.md', 'Own data'): f'{DOCS}pages.py::test_own_config_trains',
    ('README.md', 'Other backbones'): SNIPPETS,
    ('README.md', 'Tests'): f'{DOCS}examples.py::test_command_lines',
    ('data.md', 'Your own data'): (
        f'{DOCS}pages.py::test_own_data_commands_run'
    ),
    ('data.md', 'A validation set'): HOWTO,
    ('data.md', 'Several sets, folds and repeats'): SNIPPETS,
    ('data.md', "MMPretrain's tools"): (
        'test_tools/test_stock_tools.py::'
        'test_stock_tools_train_and_test_on_own_data'
    ),
    ('decisions.md', None): DECISIONS,
    ('deployment.md', 'One branch for deployment'): (
        'test_tools/test_merge_branches.py::test_mmpretrain_evaluates_the_merged_network_alone'
    ),
    ('deployment.md', 'Without MMPretrain'): (
        'test_export/test_export.py::test_the_tool_and_the_documented_example'
    ),
    ('gpus.md', 'Try it here'): (
        'test_tools/test_two_processes.py::'
        'test_two_processes_train_the_model_of_one'
    ),
    ('howto.md', 'Which threshold, for each class?'): HOWTO,
    ('howto.md', 'The loss does not fall. Which rate?'): HOWTO,
    ('howto.md', 'Weights of the loss, or another sampling?'): HOWTO,
    ('howto.md', 'I have few images'): HOWTO,
    ('howto.md', 'Stop, resume, preemption'): HOWTO,
    ('howto.md', 'Export'): DECISIONS,
    ('howto.md', 'Which label files are read?'): HOWTO,
    ('howto.md', 'mAP by group'): HOWTO,
    ('howto.md', 'Only the sampler, or only a loss'): SNIPPETS,
    ('index.md', None): HOWTO,
    ('report.md', None): DECISIONS,
    ('speed.md', 'What makes a training fast'): (
        'test_tools/test_benchmarks.py::test_throughput_of_files'
    ),
    ('method.md', 'Another loss'): SNIPPETS,
}


class Block(NamedTuple):
    """A fenced block: where it stands, and the text of its section."""

    page: str
    heading: str
    language: str
    code: str
    section: str


def run_by(block):
    """The test of its section, or that of its page."""
    section = RUN_BY.get((block.page, block.heading))
    return section or RUN_BY.get((block.page, None))


def blocks():
    found = []
    for path in PAGES:
        text = path.read_text(encoding='utf-8')
        fenced = re.compile(r'^```(\w+)\n(.*?)^```$', re.M | re.S)
        # A comment of a block is no heading.
        hidden = fenced.sub(
            lambda m: re.sub('^#', '.', m[0], flags=re.M), text
        )
        starts = [m.start() for m in re.finditer(r'^#', hidden, re.M)]
        for start, stop in zip(starts, [*starts[1:], None], strict=True):
            section = text[start:stop]
            heading = section.split('\n')[0].lstrip('# ')
            found += [
                Block(path.name, heading, *match.groups(), section)
                for match in fenced.finditer(section)
                if match[1] in ('bash', 'console', 'python')
            ]
    return found


BLOCKS = blocks()


def lines(code):
    """The command lines of a block, as words, without variables."""
    for line in code.replace('\\\n', ' ').splitlines():
        for command in line.split('&&'):
            words = shlex.split(command, comments=True)
            while words and re.match(r'\w+=', words[0]):
                del words[0]
            if words:
                yield words


def inline(path):
    """The command lines inside sentences and tables."""
    text = path.read_text(encoding='utf-8')
    spans = re.findall(r'`((?:ltml|python|bash) [^`\s]+ [^`\n]+)`', text)
    return [span for span in spans if '...' not in span]


COMMANDS = {
    ' '.join(words): words
    for words in (
        *(
            words
            for block in BLOCKS
            if block.language != 'python'
            for words in lines(block.code)
        ),
        *(line.split() for path in PAGES for line in inline(path)),
    )
}


def tool_of(words):
    """The tool that a command line runs, and its arguments."""
    program, *rest = words
    if program == 'ltml':
        return rest[0], rest[1:]
    if program == 'python' and rest[0] in SCRIPTS:
        return SCRIPTS[rest[0]], rest[1:]
    script = Path(rest[0]).stem if program == 'bash' else ''
    if script in ('dist_train', 'dist_test'):
        at = 1 if script == 'dist_train' else 2
        assert rest[1 + at].isdecimal()
        return script[5:], [*rest[1 : 1 + at], *rest[2 + at :]]
    if script == 'slurm_train':
        return 'train', [rest[3], '--work-dir', *rest[4:]]
    return None, rest


@pytest.mark.parametrize('words', COMMANDS.values(), ids=COMMANDS)
def test_command_lines(words):
    """The tool exists and takes the line; a shipped config, its overrides."""
    tool, rest = tool_of(words)
    if tool is None:
        program, script = words[0], words[1]
        if program not in OTHERS and not script.startswith(('-', 'TOOLS/')):
            assert program in ('python', 'bash')
            if not script.startswith('path/to/'):
                text = (ROOT / script).read_text(encoding='utf-8')
                for flag in re.findall(r'(?<= )--[\w-]+', ' '.join(words)):
                    assert flag in text or flag == '--cfg-options'
        return
    args = TOOLS[tool].build().parse_args(rest)
    config = getattr(args, 'config', None)
    if config is None or config.startswith(MADE_UP):
        return
    path = find_config(str(ROOT / config) if '/' in config else config)
    if args.cfg_options:
        cfg = Config.fromfile(path, import_custom_modules=False)
        apply_overrides(cfg, args.cfg_options)


@pytest.mark.parametrize(
    'block',
    [block for block in BLOCKS if block.language == 'python'],
    ids=lambda block: f'{block.page}: {block.heading}',
)
def test_python(block):
    """It compiles, and what it imports and names of the package exists."""
    code = textwrap.dedent(block.code)
    try:
        tree = ast.parse(code)
    except SyntaxError:  # arguments of a call
        tree = ast.parse(f'call(\n{code})')
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('ltml'):
            for name in node.names:
                assert hasattr(import_module(node.module), name.name)
    types = re.findall(r"\btype='(\w+)'", code)
    tables = [*vars(import_module('mmengine.registry')).values()]
    tables += vars(import_module('mmpretrain.registry')).values()
    tables = [one for one in tables if isinstance(one, Registry)]
    for name in types:
        assert any(table.get(name) for table in tables), name


@pytest.mark.parametrize(
    'block', BLOCKS, ids=lambda block: f'{block.page}: {block.heading}'
)
def test_a_test_runs_it_or_its_section_says_what_it_needs(block):
    test = run_by(block)
    if test is None:
        assert NEEDS.search(block.section)
        return
    path, name = test.split('::')
    text = (ROOT / 'tests' / path).read_text(encoding='utf-8')
    assert f'def {name}(' in text


def test_the_record_names_sections_that_are_there():
    found = {(block.page, block.heading) for block in BLOCKS}
    for page, heading in RUN_BY:
        assert (page, heading) in found or heading is None
