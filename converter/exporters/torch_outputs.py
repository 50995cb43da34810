"""What a torch module answers, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from converter.exporters.trained import NotExportable


def outputs_of(answer: Any, source: Path) -> dict[str, Any]:
    """Names for what a module answers: its own keys or fields, else ``output``, ``output_0`` ...

    Raises:
        NotExportable: something in it is not a tensor.
    """
    if isinstance(answer, Mapping):
        named = dict(answer)
    elif is_dataclass(answer):
        named = {field.name: getattr(answer, field.name) for field in fields(answer)}
    elif hasattr(answer, "_asdict"):
        named = answer._asdict()
    else:
        several = answer if isinstance(answer, (tuple, list)) else (answer,)
        several = [value for value in several if value is not None]
        named = {f"output_{index}": value for index, value in enumerate(several)}
        if len(several) == 1:
            named = {"output": several[0]}
    named = {str(name): value for name, value in named.items() if value is not None}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise NotExportable(
                f"'{name}' of what {source} answers is a {type(value).__name__}, not a tensor; "
                "wrap the module in one that returns tensors"
            )
    return named
