"""``python -m loadtests.swarm OPTIONS`` is ``locust -f loadtests/users.py OPTIONS``, on time.

libev's epoll counts in whole milliseconds, so that sends come up to one late; its select does not.
That must be said before gevent makes its first loop. It takes as many connections as epoll.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gevent

gevent.config.libev_backend = "select"

from locust.main import main  # noqa: E402

if __name__ == "__main__":
    sys.argv[1:1] = ["-f", str(Path(__file__).parents[1] / "users.py")]
    main()  # type: ignore[no-untyped-call]
