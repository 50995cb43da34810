#!/bin/sh
# Run by the Dockerfile: installs a list of requirements into /opt/farthing, which has no pip of its own.
set -eu
pip --python /opt/farthing/bin/python install --quiet --no-cache-dir --no-compile -c constraints.txt -r "$1"
# Nobody can write beside the code later, and compiling at each start takes seconds. Not checked against
# the sources' times, which a reproducible build changes. What does not compile is a template of somebody's.
/opt/farthing/bin/python -m compileall -qq --invalidation-mode unchecked-hash /opt/farthing/lib || true
