"""`make k8s-check`: a table of what was rendered and validated; pytest checks the rest."""

from __future__ import annotations

import sys

from tests.k8s import validation
from tests.k8s.rendering import (
    COMPONENTS,
    OVERLAYS,
    CannotRender,
    Document,
    kubectl,
    on_base,
    overlay,
)


def main() -> int:
    """Print the table; the exit code is 2 if nothing can be rendered, 1 if something is wrong."""
    wrong = list[str]()
    try:
        kubectl()
        print(f"{'rendered':<24} {'objects':>8} {'by Kubernetes':>14} {'own schemas':>12}")
        for name in OVERLAYS:
            wrong += _row(f"overlay {name}", overlay(name))
        for name in COMPONENTS:
            wrong += _row(f"base + {name}", on_base([name]), image=name == "models-image")
    except CannotRender as error:
        print(f"k8s-check: {error}", file=sys.stderr)
        return 2
    versions = f"{validation.OLDEST} and {validation.NEWEST}"
    print(f"validated for Kubernetes {versions}; {len(wrong)} complaints")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


def _row(name: str, documents: list[Document], *, image: bool = False) -> list[str]:
    oldest = validation.IMAGE_VOLUMES if image else validation.OLDEST
    kinds = [(one["apiVersion"], one["kind"]) for one in documents]
    own = sum(kind in validation.own_schemas() for kind in kinds)
    print(f"{name:<24} {len(kinds):>8} {len(kinds) - own:>14} {own:>12}")
    return [wrong for one in documents for wrong in validation.complaints(one, oldest=oldest)]


if __name__ == "__main__":
    sys.exit(main())
