"""The table of servers and loads that one watches while they are measured."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

COLUMNS = 100
_SERVER, _CELL = 26, 19  # fixed, so that nothing moves while cells change


class Board:
    """What is known so far: server and load -> text."""

    def __init__(self, title: str, heads: Sequence[str], labels: Sequence[str]) -> None:
        """Begin with empty cells.

        Args:
            title: stands above.
            heads: one for each load.
            labels: of the servers.
        """
        self._title, self._heads = title, heads
        self._cells = {label: ["" for _ in heads] for label in labels}

    def set(self, label: str, column: int, text: str) -> None:
        """Write one cell."""
        self._cells[label][column] = text

    def rich(self) -> Table:
        """Servers down, loads across."""
        table = Table(title=self._title, title_justify="left")
        table.add_column("server", width=_SERVER)
        for head in self._heads:
            table.add_column(head, justify="right", width=_CELL)
        for label, cells in self._cells.items():
            table.add_row(label, *cells)
        return table
