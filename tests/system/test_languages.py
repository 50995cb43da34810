"""The wire from another language, with that language's own gRPC; needs Node and npm's registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import models
from tests.system.servers import serving

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("@grpc/grpc-js", "@grpc/proto-loader")


@pytest.mark.slow
def test_readmes_javascript_gets_an_answer(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```js\n(.*?)```", readme, re.DOTALL)
    models.always(tmp_path / "models" / "mine" / "1" / "model.onnx", label=3)
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *PACKAGES]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    with serving(tmp_path / "models") as server:
        script = tmp_path / "call.js"
        script.write_text(program.replace("127.0.0.1:8001", server.grpc))
        done = subprocess.run(
            ["node", str(script)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "digit 10 numbers\n"), done.stderr
