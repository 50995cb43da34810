"""Tiny random Hugging Face folders, exported by both routes and compared with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from converter.exporters import huggingface
from converter.exporters.trained import NotExportable, Request, random_rows
from tests.converter.agreement import dimensions, exported

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters, of their own deprecation
EXPORT, TORCHSCRIPT = "torch.export", "TorchScript"
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 100, "max_position_embeddings": 40,
}  # fmt: skip


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts, one of images, a sentence encoder and a language model."""
    base = tmp_path_factory.mktemp("huggingface")
    torch.manual_seed(0)
    config = transformers.BertConfig(num_labels=3, **TINY)
    transformers.BertForSequenceClassification(config).save_pretrained(base / "texts")
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(base / "no-pooler")
    vision = transformers.ViTConfig(image_size=16, patch_size=8, **TINY)
    transformers.ViTForImageClassification(vision).half().save_pretrained(base / "images")
    sentences = base / "sentences"
    transformers.BertModel(config).save_pretrained(sentences)
    (sentences / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (sentences / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    steps = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    (sentences / "modules.json").write_text(
        json.dumps(
            [
                {"type": f"sentence_transformers.models.{kind}", "path": path}
                for kind, path in steps.items()
            ]
        )
    )
    language = transformers.GPT2Config(
        n_embd=32, n_layer=1, n_head=4, vocab_size=9, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(language).save_pretrained(base / "language")
    return base


def load(folder: Path, route: str = EXPORT) -> Any:
    return huggingface.load(Request("huggingface", folder, route))


@pytest.mark.parametrize("route", [EXPORT, TORCHSCRIPT])
def test_text_classifier_keeps_names_batch_and_sequence(
    folders: Path, tmp_path: Path, route: str
) -> None:
    trained = load(folders / "texts", route)
    session = exported(trained, tmp_path)
    assert [(spec.name, spec.datatype, spec.shape) for spec in session.inputs] == [
        (name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [(spec.name, spec.shape) for spec in session.outputs] == [("logits", (-1, 3))]
    assert dimensions(tmp_path / "exported.onnx")["input_ids"] == ["batch", "sequence"]
    assert trained.dimensions["attention_mask"] == ("sequence",)
    longer = {name: np.ones((2, 33), np.int64) for name in ("input_ids", "attention_mask")}
    longer["token_type_ids"] = np.zeros((2, 33), np.int64)
    np.testing.assert_allclose(
        session.run(longer)["logits"], trained.answer(longer)["logits"], rtol=1e-3, atol=1e-5
    )


def test_image_classifier_takes_images_of_its_own_size(folders: Path, tmp_path: Path) -> None:
    trained = load(folders / "images", TORCHSCRIPT)
    assert exported(trained, tmp_path).inputs[0].shape == (-1, 3, 16, 16)
    assert "the weights were float16" in trained.notes[0]


@pytest.mark.parametrize("route", [EXPORT, TORCHSCRIPT])
def test_sentence_encoder_answers_with_the_mean_of_its_tokens(
    folders: Path, tmp_path: Path, route: str
) -> None:
    trained = load(folders / "sentences", route)
    exported(trained, tmp_path)
    feeds = random_rows(trained.inputs, 3)
    answer = trained.answer(feeds)["sentence_embedding"]
    model = transformers.BertModel.from_pretrained(folders / "sentences").eval()
    with torch.inference_mode():
        tokens = model(**{name: torch.tensor(array) for name, array in feeds.items()})
    mask = feeds["attention_mask"][:, :, np.newaxis]
    mean = (tokens.last_hidden_state.numpy() * mask).sum(1) / mask.sum(1)
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(answer, wanted, atol=1e-5)


def test_pooling_that_is_not_known_is_refused(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text((folders / "sentences/modules.json").read_text())
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    with pytest.raises(NotExportable, match="lasttoken; farthing knows cls, max, mean"):
        load(tmp_path)


def test_language_model_is_refused(folders: Path) -> None:
    with pytest.raises(NotExportable, match="GPT2LMHeadModel, which generates text"):
        load(folders / "language")


def test_weights_that_would_be_random_are_refused(folders: Path, tmp_path: Path) -> None:
    copied(folders / "no-pooler", tmp_path, architectures=["BertForSequenceClassification"])
    with pytest.raises(NotExportable, match=r"lack '.*' and so would be random"):
        load(tmp_path)


def test_missing_pooler_is_left_out(folders: Path) -> None:
    trained = load(folders / "no-pooler", TORCHSCRIPT)
    assert trained.outputs == ("last_hidden_state",)
    assert "no pooler" in trained.notes[0]


def test_weights_cut_off_are_refused(folders: Path, tmp_path: Path) -> None:
    copied(folders / "texts", tmp_path)
    weights = (folders / "texts" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(NotExportable, match="cannot load"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mystery"}, "without code of its own"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
        ({"is_decoder": True}, "generates text"),
    ],
)
def test_configuration_that_does_not_do_is_refused(
    folders: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    copied(folders / "texts", tmp_path, **change)
    with pytest.raises(NotExportable, match=said):
        load(tmp_path)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match=r"has no config\.json"):
        load(tmp_path)
    with pytest.raises(NotExportable, match="is not a folder"):
        load(tmp_path / "nowhere")


def copied(folder: Path, to: Path, **change: Any) -> None:
    """A model's folder with another configuration."""
    config = json.loads((folder / "config.json").read_text()) | change
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
