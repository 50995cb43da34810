"""The front door: the command ``farthing`` and what others import as ``farthing``.

Nothing is imported before it is used, so that `farthing serve` starts without the converter's and
the load test's packages, and runs where they are not installed.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# verb -> (module, function, extra that brings what it needs, what it does)
_VERBS = {
    "convert": ("converter.cli", "convert", "cpu,keras", "trained model -> verified ONNX variants"),
    "inspect": (
        "converter.cli",
        "inspect",
        "cpu,convert",
        "what a published model or ONNX file holds",
    ),
    "serve": ("service.cli", "serve", "cpu", "serve a model repository over gRPC"),
    "tune": (
        "loadtests.tuning.tune",
        "tune",
        "cpu,loadtest",
        "find the options that a model runs best with on this machine",
    ),
    "load": ("loadtests.loadverb", "load", "loadtest", "load a running server, and measure it"),
    "slo": (
        "loadtests.pricing.unitcost",
        "slo",
        "loadtest",
        "find the highest rate at which an SLO holds, and what a million answers cost",
    ),
    "plan": (
        "loadtests.plans.planning",
        "make",
        "loadtest",
        "find how many replicas of which variant a rate takes, and what they cost a month",
    ),
    "prices": ("loadtests.pricing.pricelist", "show", "loadtest", "what machines cost by the hour"),
    "report": (
        "loadtests.reports.report",
        "report",
        "loadtest",
        "what was measured, as one page to show",
    ),
    "compare": (
        "loadtests.reports.compare",
        "compare",
        "loadtest",
        "what changed between two measurements, beyond noise",
    ),
    "demo": ("loadtests.cli", "demo", "demo", "the whole way on real data, in some four minutes"),
    "doctor": ("service.doctor", "doctor", "cpu", "what matters when something does not work"),
}

# These take their arguments as they are: typer would cost the server a second at its start.
_LIGHT = ("serve", "doctor")

# name -> (module, name there)
_NAMES = {
    "convert": ("converter.api", "convert"),
    "Recipe": ("converter.recipe", "Recipe"),
    "Manifest": ("service.manifest", "Manifest"),
    "FarthingError": ("service.errors", "FarthingError"),
}

_INTERRUPTED = 130
_BAD_INPUT = 2
# The signals that came while nobody but we took them.
_interrupts: list[int] = []


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'farthing' has no attribute '{name}'")
    module, attribute = _NAMES[name]
    return getattr(importlib.import_module(module), attribute)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit code: 0; 1 for "it ran, and the answer is no"; 2 with one sentence on standard
        error for what must be mended; 130 when interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    _interrupts.clear()
    # Also where a shell started us with SIGINT ignored, and so that SIGTERM cleans up as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb == "--version":
        from importlib import metadata

        print(f"farthing {metadata.version('farthing')}")
        return 0
    if verb not in _VERBS:
        return _complain(f"there is no verb '{verb}'; `farthing --help` lists them")
    return _call(verb, list(argv[1:]))


def _call(verb: str, argv: list[str]) -> int:
    try:
        module, function, *_ = _VERBS[verb]
        command = getattr(importlib.import_module(module), function)
        return int(command(argv)) if verb in _LIGHT else _run_typer(command, verb, argv)
    except BaseException as error:
        # What is interrupted may make another error of it: an import, the making of a class.
        if isinstance(error, KeyboardInterrupt) or _interrupts:
            _end_children()
            return _INTERRUPTED
        sentence = _sentence(error, verb)
        if sentence is None:
            raise
        return _complain(sentence)


def _sentence(error: BaseException, verb: str) -> str | None:
    """What is to be mended; None for what only we can mend."""
    from service.errors import FarthingError

    if isinstance(error, FarthingError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot use {error.filename or verb}: {error.strerror or error}"
    ours = ("farthing", "service", "converter", "loadtests")
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in ours:
        return (
            f"`farthing {verb}` cannot import what it needs ({error}); "
            f"pip install 'farthing[{_VERBS[verb][2]}]' brings it"
        )
    return None


def _end_children() -> None:
    """End what is still running: an interrupt between fork and its bookkeeping leaves a child."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:  # no /proc, or a kernel without this file
        return
    for pid in map(int, children.split()):
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _interrupt(number: int, frame: object) -> None:
    # Once: what is interrupted now cleans up, and a second Ctrl-C must not cut that short.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    _interrupts.append(number)
    raise KeyboardInterrupt


def _run_typer(command: Callable[..., None], verb: str, argv: list[str]) -> int:
    """Run an annotated function as a command, with one sentence for what typer refuses."""
    import typer
    from typer.exceptions import TyperException

    from service.errors import InvalidSetting

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    try:
        code = app(argv, prog_name=f"farthing {verb}", standalone_mode=False)
    except TyperException as error:
        text = error.format_message().strip().rstrip(".")
        raise InvalidSetting(f"{text}; see `farthing {verb} --help`") from None
    return int(code or 0)


def _complain(sentence: str) -> int:
    print(f"farthing: {sentence}", file=sys.stderr)
    return _BAD_INPUT


def _help() -> str:
    verbs = "\n".join(f"  {verb:<9} {what}" for verb, (*_, what) in _VERBS.items())
    return (
        "usage: farthing VERB [OPTIONS]\n\n"
        "Trained model in; verified, cheaper variants out; served over gRPC, and priced.\n\n"
        f"{verbs}\n\n"
        "`farthing VERB --help` says what each option does, in which unit and range, and what\n"
        "follows from it. `farthing --version` prints the version."
    )


if __name__ == "__main__":
    sys.exit(main())
