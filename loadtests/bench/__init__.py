"""Performance, judged by ratios within one run: `make bench`, `make bench SUITE=NAME`."""
