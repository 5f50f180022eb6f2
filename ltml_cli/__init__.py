"""Command lines of all tools: arguments, early checks, the command ``ltml``.

``import ltml_mm`` registers everything it holds, which takes seconds. This
package imports neither it nor torch, MMEngine or MMPretrain: it answers
``--help``, refuses wrong arguments and missing files, and imports the tool
itself only then.

A tool is one line of :data:`ltml_cli.tools.TOOLS`: its name, the script under
``tools/``, a function that builds its parser, one that checks the parsed
arguments, and ``'module:function'`` of what runs. To add one:

1. Write ``NAME_parser() -> Parser`` in ``run_parsers.py`` (train, test,
   predict, merge), ``data_parsers.py`` (converters, reports on data) or
   ``result_parsers.py`` (all else that reads results, and pages). It imports
   the standard library alone; choices that a heavy module needs, too, stand
   here and are imported there.
2. Where arguments exclude each other or name files, write ``check_NAME(parser,
   args)``. It calls ``parser.error`` or the ``check_...`` functions of
   ``options.py``, and may put values in ``args`` in order.
3. Add the line to ``TOOLS``.
4. In the package, write ``main(argv=None)``, which begins with
   ``args = parse('NAME', argv)``. Tests and programs call it directly.
5. Add ``tools/.../NAME.py``: ``from ltml_cli import run_script`` and
   ``run_script('NAME')`` under ``if __name__ == '__main__'``.

``ltml NAME`` and the script then do the same.
"""

from ltml_cli.tools import TOOLS, main, parse, run_script

__all__ = ['TOOLS', 'main', 'parse', 'run_script']
