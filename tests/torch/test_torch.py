"""Torch modules of several forms, exported by both routes and compared with torch."""

from __future__ import annotations

import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from converter.exporters import torch_factory, torch_graph, torch_program, torch_script
from converter.exporters.trained import NotExportable, Request, RouteFailed
from tests.converter.agreement import dimensions, exported

# Both exporters, and TorchScript itself, warn of their own deprecation.
pytestmark = pytest.mark.filterwarnings("ignore")
EXPORT, TORCHSCRIPT = "torch.export", "TorchScript"
FACTORY = "tests_torch_factory"
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((5, 3, 8, 8), np.float32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.dense = nn.Dropout(), nn.Linear(4, 2)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.drop(self.norm(self.conv(image)).mean((2, 3))) * scale
        return {"logits": self.dense(features), "features": features}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.embed, self.body = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.body(self.embed(ids)).mean(1)


class States(nn.Module):
    """Its second output has the batch in second place."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answer, (hidden, _) = self.lstm(x)
        return answer, hidden


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, of the same net where that can be."""
    base = tmp_path_factory.mktemp("torch")
    torch.manual_seed(0)
    net = Net().eval()
    scale = np.ones((5, 1))
    torch.save(net.state_dict(), base / "weights.pt")
    safetensors.torch.save_file(net.state_dict(), base / "weights.safetensors")
    np.savez(base / "rows.npz", image=IMAGES, scale=scale, y=np.zeros(5))
    rows = torch_graph.example_of(net, base / "rows.npz")
    torch_graph.save_program(net, rows, base / "net.pt2")
    torch.jit.script(net).save(base / "script.pt")
    np.savez(base / "x.npz", x=IMAGES)
    ids = torch.zeros(3, 9, dtype=torch.int64)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    encoder = Encoder().eval()
    sequence = torch.export.export(encoder, (ids,), dynamic_shapes=(free,))
    torch.export.save(sequence, base / "sequence.pt2")
    torch.export.save(torch.export.export(encoder, (ids,)), base / "fixed.pt2")
    return base


def program(files: Path, name: str, route: str = EXPORT, trust: bool = True) -> Any:
    return torch_program.load(Request("torch-program", files / name, route, trust=trust))


def factory(
    build: Any, monkeypatch: pytest.MonkeyPatch, source: Path | None = None, **request: Any
) -> Any:
    module = types.ModuleType(FACTORY)
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, FACTORY, module)
    name = f"{FACTORY}:build"
    return torch_factory.load(
        Request("torch-factory", source or Path(name), request.pop("route", TORCHSCRIPT),
                factory=name, **request)
    )  # fmt: skip


@pytest.mark.parametrize("route", [EXPORT, TORCHSCRIPT])
def test_saved_program_keeps_names_and_a_free_batch(
    files: Path, tmp_path: Path, route: str
) -> None:
    trained = program(files, "net.pt2", route)
    session = exported(trained, tmp_path)
    assert [spec.name for spec in session.inputs] == ["image", "scale"]
    assert [(spec.name, spec.shape) for spec in session.outputs] == [
        ("logits", (-1, 2)),
        ("features", (-1, 4)),
    ]
    assert dimensions(tmp_path / "exported.onnx")["logits"] == ["batch", 2]
    assert trained.tools["torch"] == torch.__version__


def test_free_sequence_of_a_program_stays_free_and_named(files: Path, tmp_path: Path) -> None:
    trained = program(files, "sequence.pt2")
    exported(trained, tmp_path)
    assert trained.dimensions == {"ids": ("ids_1",)}
    assert dimensions(tmp_path / "exported.onnx") == {
        "ids": ["batch", "ids_1"],
        "output": ["batch", 16],
    }


def test_program_with_a_fixed_batch_is_exported_fixed_and_noted(
    files: Path, tmp_path: Path
) -> None:
    trained = program(files, "fixed.pt2")
    assert not trained.batched
    assert exported(trained, tmp_path).inputs[0].shape == (3, 9)
    assert "the batch is fixed" in trained.notes[0]


def test_program_is_not_opened_without_trust(files: Path) -> None:
    with pytest.raises(NotExportable, match="--trust"):
        program(files, "net.pt2", trust=False)


@pytest.mark.parametrize("content", [b"once upon a time", None])
def test_text_or_half_a_file_is_no_program(
    files: Path, tmp_path: Path, content: bytes | None
) -> None:
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(content or (files / "net.pt2").read_bytes()[:5000])
    with pytest.raises(NotExportable, match="cannot read"):
        program(tmp_path, "broken.pt2")


def test_program_in_training_mode_is_refused(tmp_path: Path) -> None:
    training = torch.export.export(nn.Sequential(nn.Dropout(), nn.Linear(4, 2)).train(),
                                   (torch.zeros(3, 4),))  # fmt: skip
    torch.export.save(training, tmp_path / "training.pt2")
    with pytest.raises(NotExportable, match="training mode"):
        program(tmp_path, "training.pt2")


def test_saving_a_live_module_leaves_it_as_it_is(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 2), nn.Dropout()).half().train()
    torch_graph.save_program(net, {"input": np.zeros((1, 4))}, tmp_path / "half.pt2")
    assert net.training
    assert net[0].weight.dtype == torch.float16
    trained = program(tmp_path, "half.pt2")
    assert trained.inputs[0].name == "input"
    assert trained.inputs[0].datatype == "FP32"


@pytest.mark.parametrize("rows", ["rows.npz", "rows.npz as evaluate"])
def test_scripted_module_takes_its_shapes_from_rows(files: Path, tmp_path: Path, rows: str) -> None:
    path = files / rows.split(maxsplit=1)[0]
    given: Any = {"evaluate": path} if "evaluate" in rows else {"example": path}
    request = Request("torchscript", files / "script.pt", TORCHSCRIPT, trust=True, **given)
    session = exported(torch_script.load(request), tmp_path)
    assert [spec.name for spec in session.inputs] == ["image", "scale"]


@pytest.mark.parametrize(
    ("name", "trust", "said"),
    [
        ("script.pt", True, "--calibration or --evaluate"),
        ("script.pt", False, "--trust"),
        ("weights.pt", False, "--factory pkg.mod:build"),
        ("net.pt2", False, "rename it to end in .pt2"),
    ],
)
def test_what_is_no_usable_script_says_what_to_do(
    files: Path, name: str, trust: bool, said: str
) -> None:
    with pytest.raises(NotExportable, match=said):
        torch_script.load(Request("torchscript", files / name, TORCHSCRIPT, trust=trust))


def test_script_that_was_cut_off_is_refused(files: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes((files / "script.pt").read_bytes()[:3000])
    assert not zipfile.is_zipfile(cut)
    with pytest.raises(NotExportable, match="cut off"):
        torch_script.load(Request("torchscript", cut, TORCHSCRIPT, trust=True))


@pytest.mark.parametrize("weights", ["weights.pt", "weights.safetensors"])
def test_factory_with_weights_answers_as_the_trained_net(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    trained = factory(
        lambda: (Net(), {"image": IMAGES, "scale": np.ones((5, 1))}), monkeypatch, files / weights
    )
    exported(trained, tmp_path)
    feeds = {"image": IMAGES, "scale": np.ones((5, 1), np.float32)}
    wanted = program(files, "net.pt2").answer(feeds)["logits"]
    np.testing.assert_allclose(trained.answer(feeds)["logits"], wanted, atol=1e-6)


def test_encoder_from_a_factory_is_exported_without_the_fast_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((4, 9), np.int64))
    trained = factory(Encoder, monkeypatch, route=EXPORT, example=tmp_path / "rows.npz")
    assert [spec.name for spec in exported(trained, tmp_path).outputs] == ["output"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_keys_that_are_missing_are_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotExportable, match=r"lacks 'weight', 'bias'.*also has 'conv.weight'"):
        factory(lambda: nn.Linear(4, 2), monkeypatch, files / "weights.pt")


def test_weights_that_would_run_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(nn.Linear(4, 2), tmp_path / "module.pt")
    with pytest.raises(NotExportable, match="without running code"):
        factory(lambda: nn.Linear(4, 2), monkeypatch, tmp_path / "module.pt")


def test_nan_weight_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    with pytest.raises(NotExportable, match=r"'weight' of .* holds NaN"):
        factory(lambda: (net, {"input": np.zeros((2, 4))}), monkeypatch)


@pytest.mark.parametrize(
    ("module", "said"),
    [(States(), "output 'output_1' of shape"), (nn.LSTM(8, 4, batch_first=True), "is a tuple")],
)
def test_output_that_does_not_follow_the_batch_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: nn.Module, said: str
) -> None:
    name = "x" if isinstance(module, States) else "input"
    with pytest.raises(NotExportable, match=said):
        factory(lambda: (module, {name: np.zeros((4, 6, 8))}), monkeypatch)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


def test_branch_on_the_data_fails_the_route_with_torchs_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = factory(lambda: (Branching(), {"x": np.ones((2, 4))}), monkeypatch, route=EXPORT)
    with pytest.raises(RouteFailed, match=r"torch\.export failed on .*data-dependent"):
        trained.write(tmp_path / "exported.onnx")


@pytest.mark.parametrize(
    ("build", "said"), [(lambda: 7, "returned a int"), (lambda: 1 / 0, "division by zero")]
)
def test_factory_that_builds_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, build: Any, said: str
) -> None:
    with pytest.raises(NotExportable, match=said):
        factory(build, monkeypatch)
