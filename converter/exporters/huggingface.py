"""A folder of a Hugging Face encoder or vision model: class and inputs from its configuration."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from converter.exporters import torch_graph
from converter.exporters.sentence_pooling import SentenceEncoder, pooling_of
from converter.exporters.torch_example import BATCH, EXAMPLE_ROWS
from converter.exporters.torch_graph import Traceable
from converter.exporters.trained import NotExportable, Request, Trained, first_line

_SEQUENCE = "sequence"
# No divisor of a model's sizes, so that no axis is taken for another.
_EXAMPLE_TOKENS = 11
_IMAGE_SIZE = 224
_POOLER = "pooler."
_GENERATIVE = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) | set(
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()
)


def load(request: Request) -> Trained:
    """A model folder with ``config.json`` and safetensors; nothing in it is run.

    Raises:
        NotExportable: it is no such folder, it generates text, its weights are incomplete, or it
            takes something else than tokens or pixels.
    """
    folder = request.source
    if not folder.is_dir():
        raise NotExportable(f"{folder} is not a folder; give the one that holds config.json")
    pooling = pooling_of(folder)
    model, notes = _model(
        folder if pooling is None else folder / pooling.encoder, pooling is not None
    )
    example, free = _example(model, folder)
    if _SEQUENCE in str(free):
        notes.append("the graph takes token ids: run the folder's tokenizer before sending")
    module = _Plain(model) if pooling is None else SentenceEncoder(model, pooling)
    return torch_graph.trained(
        Traceable(module.eval(), example, free, folder),
        request.route,
        notes=notes,
        packages=("transformers",),
    )


class _Plain(torch.nn.Module):  # type: ignore[misc]
    """A model whose answer is its tensors by name, without caches and other structures."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **tensors: Any) -> Any:
        answer = self.model(**tensors, return_dict=True)
        return {name: value for name, value in answer.items() if isinstance(value, torch.Tensor)}


def _model(folder: Path, pooled: bool) -> tuple[Any, list[str]]:
    if not (folder / "config.json").is_file():
        raise NotExportable(f"{folder} has no config.json; save the model with save_pretrained")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(
            f"{folder} is no model folder that transformers knows without code of its own: "
            f"{first_line(error)}"
        ) from error
    architecture = (config.architectures or [""])[0]
    _check_kind(config, architecture, folder)
    if not any(folder.glob("*.safetensors")):
        raise NotExportable(
            f"{folder} has no model.safetensors; save the model again with save_pretrained"
        )
    made = None if pooled else getattr(transformers, architecture, None)
    config.use_cache = config.output_hidden_states = config.output_attentions = False
    try:
        model, report = (made or transformers.AutoModel).from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, dtype=torch.float32, attn_implementation="eager",
            output_loading_info=True,
        )  # fmt: skip
    except ImportError:
        raise
    except Exception as error:  # as above
        raise NotExportable(f"transformers cannot load {folder}: {first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if [name for name in missing if not (name.startswith(_POOLER) and hasattr(model, "pooler"))]:
        raise NotExportable(
            f"the weights in {folder} lack '{missing[0]}' and so would be random there; "
            f"{type(model).__name__} has {len(missing)} that the file has not"
        )
    notes = []
    if missing:
        model.pooler = None
        notes.append("the weights have no pooler, so 'pooler_output' is not among the outputs")
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    if stored in ("float16", "bfloat16"):
        notes.append(f"the weights were {stored}; they were converted to float32 first")
    return model.eval(), notes


def _check_kind(config: Any, architecture: str, folder: Path) -> None:
    generates = architecture in _GENERATIVE or architecture.endswith(
        ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    )
    if (
        generates
        or getattr(config, "is_encoder_decoder", False)
        or getattr(config, "is_decoder", False)
    ):
        raise NotExportable(
            f"{folder} holds a {architecture or config.model_type}, which generates text token by "
            "token; farthing is for models that answer in one run (encoders, classifiers)"
        )
    if getattr(config, "quantization_config", None):
        raise NotExportable(f"{folder} is quantized already; give the folder with float weights")
    if hasattr(config, "text_config") and hasattr(config, "vision_config"):
        raise NotExportable(
            f"{folder} takes texts and images together; save its text or its vision model alone"
        )


def _example(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, dict[int, str]]]:
    config, taken = model.config, inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values":
        height, width = _image_size(config, folder)
        shape = (EXAMPLE_ROWS, getattr(config, "num_channels", 3), height, width)
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        return {"pixel_values": pixels}, {"pixel_values": {0: BATCH}}
    if model.main_input_name != "input_ids":
        raise NotExportable(
            f"{folder} takes '{model.main_input_name}'; farthing knows models of tokens "
            "(input_ids) and of images (pixel_values)"
        )
    names = ["input_ids"]
    if "attention_mask" in taken:
        names.append("attention_mask")
    if "token_type_ids" in taken and getattr(config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    ones = torch.ones((EXAMPLE_ROWS, _EXAMPLE_TOKENS), dtype=torch.int64)
    example = {name: ones * (name != "token_type_ids") for name in names}
    return example, {name: {0: BATCH, 1: _SEQUENCE} for name in names}


def _image_size(config: Any, folder: Path) -> tuple[int, int]:
    """Height and width: the model's own, else what its preprocessor makes."""
    size = getattr(config, "image_size", None)
    path = folder / "preprocessor_config.json"
    if size is None and path.is_file():
        prepared = json.loads(path.read_text(encoding="utf-8"))
        size = prepared.get("crop_size") or prepared.get("size")
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    if isinstance(size, (tuple, list)):
        return int(size[0]), int(size[1])
    return int(size or _IMAGE_SIZE), int(size or _IMAGE_SIZE)
