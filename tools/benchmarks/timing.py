"""What the benchmarks share: timing in turns, and the report."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def time_in_turns(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Times functions in turns, so that a slow moment of the machine hits all.

    Args:
        functions: What to time, by name; each is called once beforehand.
        repeats: Rounds of one call each.
        wait: Waits for what a call started on a device.

    Returns:
        dict: Seconds of every call, by name.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            function()
            wait()
            times[name].append(time.perf_counter() - start)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Returns the median seconds by name."""
    return {name: statistics.median(values) for name, values in times.items()}


def report(result: Mapping[str, Any], out: Path | None) -> None:
    """Prints a result as JSON and writes it to a file where one is named."""
    text = json.dumps(result, indent=2, default=str) + '\n'
    print(text, end='')
    if out is not None:
        out.write_text(text, encoding='utf-8')
