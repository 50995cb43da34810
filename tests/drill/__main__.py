"""``make drill``: act out the rolling update of k8s/overlays/cpu, and print what callers saw."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.drill.acted import drill
from tests.drill.figures import table
from tests.k8s.rendering import CannotRender


def main() -> int:
    parser = argparse.ArgumentParser(prog="drill", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    asked = parser.parse_args()
    begun = time.monotonic()
    # Also where a shell started us with SIGINT ignored: no server is left behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)

    def tell(what: str) -> None:
        if sys.stderr.isatty():
            print(f"{time.monotonic() - begun:6.1f} s  {what}", file=sys.stderr)

    with TemporaryDirectory() as scratch:
        try:
            outcome = asyncio.run(drill(Path(scratch), tell=tell))
        except CannotRender as error:
            print(f"drill: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(table(outcome))
    if asked.json:
        asked.json.write_text(json.dumps(outcome.to_dict(), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
