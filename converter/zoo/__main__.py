"""``python -m converter.zoo NAME DIRECTORY`` trains one model of the zoo and says what it cost."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from converter.zoo import PRETRAINED, ZOO
from converter.zoo.lesson import Lesson
from service import hardware
from service.errors import FarthingError, InvalidSetting

FACTS_FILE = "facts.json"
_USD_PER_CPU_HOUR = 0.1785 / 4
_OURS = ("converter", "service")


def main(argv: Sequence[str] | None = None) -> int:
    """List the zoo, or train one of its models.

    Returns:
        The exit code: 0; 2 with one sentence on standard error for what must be mended; 130 when
        interrupted.
    """
    # Also where a shell started us with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        options = _options(argv)
        if options.list:
            _print_list()
        else:
            _train(options)
    except KeyboardInterrupt:
        return 130
    except FarthingError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"cannot use {error.filename or 'a file'}: {error.strerror or error}")
    except ImportError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        return _complain(
            f"'{options.name}' cannot import what it needs ({error}); "
            f"pip install 'farthing[{ZOO[options.name].extra}]' brings it"
        )
    return 0


def _complain(sentence: str) -> int:
    print(f"zoo: {sentence}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSetting(f"{message}; see `python -m converter.zoo --help`")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m converter.zoo", description=__doc__)
    parser.add_argument("name", nargs="?", help="which model; --list names them")
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        help=f"where the model, calibration.npz, heldout.npz and {FACTS_FILE} are written; made if "
        "it is not there",
    )
    parser.add_argument("--list", action="store_true", help="what there is, and end")
    parser.add_argument("--quick", action="store_true", help="smaller and sooner, for a first look")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        help="pretrained weights, for the nets that can start from such a file",
    )
    parser.add_argument(
        "--tensorboard", metavar="DIR", type=Path, help="write Keras' logs for TensorBoard there"
    )
    parser.add_argument(
        "--usd-per-cpu-hour",
        metavar="USD",
        type=float,
        default=_USD_PER_CPU_HOUR,
        help="what one CPU costs for an hour; the default, %(default).4f, is a fourth of an AWS "
        "c7i.xlarge, us-east-1, on demand, 2026-09-24",
    )
    options = parser.parse_args(argv)
    if not options.list:
        _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    if options.name is None or options.directory is None:
        raise InvalidSetting("give a NAME and a DIRECTORY, or --list")
    if options.name not in ZOO:
        raise InvalidSetting(f"there is no '{options.name}' in the zoo; it has {', '.join(ZOO)}")
    entry = ZOO[options.name]
    if options.weights is not None and entry.shows != PRETRAINED:
        raise InvalidSetting(f"'{options.name}' starts from nothing; it takes no --weights")
    if options.tensorboard is not None and "keras" not in entry.extra:
        raise InvalidSetting(f"'{options.name}' is no Keras model; it writes no TensorBoard logs")
    if options.weights is not None and not options.weights.is_file():
        raise InvalidSetting(f"the weights {options.weights} are no file")
    if not 0 <= options.usd_per_cpu_hour < math.inf:
        raise InvalidSetting(f"a CPU cannot cost {options.usd_per_cpu_hour} dollars an hour")


def _print_list() -> None:
    table = Table(title="the zoo", title_justify="left")
    for heading in ("name", "what it is", "needs", "shows"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for name, entry in ZOO.items():
        table.add_row(name, entry.text, f"farthing\\[{entry.extra}]", entry.shows)
    Console(width=120).print(table, highlight=False)


def _train(options: argparse.Namespace) -> None:
    options.directory.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    task = progress.add_task(f"training {options.name}", total=None)
    lesson = Lesson(
        directory=options.directory,
        quick=options.quick,
        weights=options.weights,
        tensorboard=options.tensorboard,
        progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    started = time.perf_counter()
    with progress:
        facts: dict[str, float] = importlib.import_module(ZOO[options.name].module).train(lesson)
    # The imports are paid for as well.
    seconds, cpus = time.perf_counter() - started, hardware.cpus()
    dollars = seconds * cpus * options.usd_per_cpu_hour / 3600
    written = {"name": options.name, **facts, "seconds": seconds, "cpus": cpus, "dollars": dollars}
    text = json.dumps(written, indent=2) + "\n"
    (options.directory / FACTS_FILE).write_text(text, encoding="utf-8")
    said = ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in facts.items())
    print(f"{options.name}: {said}; {seconds:.1f} s on {cpus} CPUs, ${dollars:.6f}")


if __name__ == "__main__":
    sys.exit(main())
