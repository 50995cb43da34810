"""The folder layout of sentence-transformers: an encoder, its pooling, perhaps normalized."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converter.exporters.trained import NotExportable

_MODULES, _OUTPUT = "modules.json", "sentence_embedding"
# In the order in which several are joined; keys of the configuration file.
_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
}


@dataclass(frozen=True)
class Pooling:
    """How token embeddings become one for the sentence.

    Attributes:
        encoder: the encoder's folder in the model's.
        modes: some of ``cls``, ``max`` and ``mean``; several are joined.
        normalize: whether the result is divided by its length.
    """

    encoder: str
    modes: tuple[str, ...]
    normalize: bool


def pooling_of(folder: Path) -> Pooling | None:
    """The pooling of a model folder; None where it is not in this layout.

    Raises:
        NotExportable: a step or a mode that is not known here.
    """
    path = folder / _MODULES
    if not path.is_file():
        return None
    try:
        steps = [(step["type"].rpartition(".")[2], step["path"]) for step in _json(path)]
        kinds = [kind for kind, _ in steps]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise NotExportable(
                f"the steps of {folder} are {', '.join(kinds)}; farthing knows Transformer, "
                "Pooling and Normalize"
            )
        if any(not (folder / part).resolve().is_relative_to(folder.resolve()) for _, part in steps):
            raise NotExportable(f"{path} names a folder outside {folder}")
        modes = _modes(_json(folder / steps[1][1] / "config.json"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotExportable(
            f"{path} or its pooling's config.json is not as sentence-transformers writes it "
            f"({type(error).__name__}: {error})"
        ) from error
    unknown = [mode for mode in modes if mode not in _MODES]
    if unknown or not modes:
        raise NotExportable(
            f"the pooling of {folder} is {', '.join(unknown) or 'none'}; farthing knows "
            f"{', '.join(_MODES)}"
        )
    ordered = tuple(mode for mode in _MODES if mode in modes)
    return Pooling(steps[0][1], ordered, kinds[-1] == "Normalize")


class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]
    """An encoder with its pooling: one embedding for each row of tokens."""

    def __init__(self, model: Any, pooling: Pooling) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, **tensors: Any) -> Any:
        """The sentence embeddings, of shape [rows, size x number of modes]."""
        tokens = self.model(**tensors, return_dict=True).last_hidden_state
        mask = tensors["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        pooled = torch.cat([_pooled(tokens, mask, mode) for mode in self.pooling.modes], dim=1)
        if self.pooling.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return {_OUTPUT: pooled}


def _pooled(tokens: Any, mask: Any, mode: str) -> Any:
    if mode == "cls":
        return tokens[:, 0]
    if mode == "max":
        return tokens.masked_fill(mask == 0, -1e9).max(dim=1).values
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


def _modes(config: Any) -> list[str]:
    if "pooling_mode" in config:  # the newer form
        named = config["pooling_mode"]
        return [named] if isinstance(named, str) else list(named)
    on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    short = {key: mode for mode, key in _MODES.items()}
    return [short.get(key, key.removeprefix("pooling_mode_")) for key in on]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
