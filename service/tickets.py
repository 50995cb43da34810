"""One run's account while it is open: rows that have no fate yet, and what they have cost."""

from __future__ import annotations

from service.figures import Labels


class Ticket:
    """One run, or one load, of so many rows; its figures are the ledger's alone.

    Attributes:
        labels: model, version and variant; may be put right until the first rows are settled.
        rows: that share its cost alike.
    """

    __slots__ = (
        "_fates", "_final", "_fresh", "_joules", "_open_rows", "_since", "_threads", "labels",
        "rows",
    )  # fmt: skip

    def __init__(self, labels: Labels, rows: int) -> None:
        """Start with no cost.

        Args:
            labels: model, version and variant.
            rows: at least 1.
        """
        self.labels, self.rows = labels, rows
        self._open_rows = rows  # not settled yet; they hold these core-seconds, of earlier periods
        self._final = self._fresh = 0.0  # and of this one
        self._joules = 0.0  # of those of earlier periods
        self._fates: dict[str, int] | None = None  # of settled rows; few need it: it takes time
        self._threads, self._since = 0, 0.0  # 0 while it does not run
