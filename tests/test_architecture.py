"""The rooms of the house: who may import whom, and how large a room may be."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rooms import FROM_SERVICE, ROOMS, SERVICE_IMPORTS

ROOT = Path(__file__).parent.parent
PACKAGES = ("service", "converter", "loadtests")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "_pb2" not in path.name
}


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all imports in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """Modules of ours that a module imports, without itself."""
    found = set()
    for name in imported(MODULES[module]):
        parts = name.split(".")
        if parts[:2] == ["service", "proto"]:
            found.add("service.proto")
        elif name in MODULES and parts[0] in PACKAGES and name not in PACKAGES:
            found.add(name)
    return found - {module}


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "service"])
def test_service_imports_go_downwards_only(module: str) -> None:
    above = own_imports(module) - SERVICE_IMPORTS[module]
    assert not above, f"{module} imports {above}, which stands above or beside it"


@pytest.mark.parametrize("package", FROM_SERVICE)
def test_packages_take_from_the_service_only_its_contract(package: str) -> None:
    taken = {
        (module, name)
        for module in MODULES
        if module.split(".")[0] == package
        for name in own_imports(module)
        if name.split(".")[0] == "service" and name.split(".")[1] not in FROM_SERVICE[package]
    }
    others = {
        (module, name)
        for module in MODULES
        if module.split(".")[0] == package
        for name in own_imports(module)
        if name.split(".")[0] not in (package, "service")
    }
    assert not taken | others


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_stays_in_its_room(library: str) -> None:
    outside = {
        module
        for module, path in MODULES.items()
        if not {module, f"{module.rpartition('.')[0]}.*"} & ROOMS[library]
        and not module.startswith("loadtests.bench")
        for name in imported(path)
        if name == library or name.startswith(f"{library}.")
    }
    assert not outside, f"{library} is imported by {outside}"


def test_what_imports_gevent_is_imported_by_nobody_else() -> None:
    rooms = ROOMS["gevent"]
    sources = [path for module, path in MODULES.items() if module not in rooms]
    sources += (ROOT / "tests").rglob("*.py")
    assert not [path for path in sources if rooms & set(imported(path))]


def test_there_is_no_import_cycle() -> None:
    graph = {module: own_imports(module) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a cycle: {' -> '.join((*above, module))}"
        if module not in done:
            for below in graph.get(module, ()):
                visit(below, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_environment_is_read_with_the_arguments_and_set_before_two_imports_only() -> None:
    readers = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    }
    assert readers == {"service.arguments", "service.server", "service.runtime"}


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    for module in ROOMS["onnxruntime"] - {"service.runtime"}:
        first = next(n for n in imported(MODULES[module]) if n.startswith(("onnxruntime", "serv")))
        allowed = ("service", "service.runtime", "service.session")
        assert first in allowed, f"{module} imports {first} first"
    text = MODULES["service.runtime"].read_text(encoding="utf-8")
    assert text.index('os.environ["ORT_DISABLE_TELEMETRY"]') < text.index("import onnxruntime")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_at_most_300_lines(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("module", MODULES)
def test_a_function_has_at_most_50_lines_of_code(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Without its signature and its docstring: a promise may be long.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 50, f"{module}.{node.name} has {length} lines"


def test_serve_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys, farthing, service.cli, service.doctor\n"
        "heavy = {'typer', 'rich', 'pydantic', 'tensorflow', 'keras', 'onnx', 'locust', 'gevent',"
        " 'plotly', 'yaml', 'converter', 'loadtests'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_converting_loads_no_framework_of_trained_models() -> None:
    code = (
        "import sys, farthing, converter.cli, converter.api\n"
        "heavy = {'tensorflow', 'keras', 'torch', 'transformers', 'sklearn', 'tf2onnx'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_only_cpu_and_gpu_name_an_onnxruntime() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    naming = {
        extra
        for extra, needs in project["optional-dependencies"].items()
        if any(need.startswith("onnxruntime") for need in needs)
    }
    assert naming == {"cpu", "gpu"}
    assert not [need for need in project["dependencies"] if need.startswith("onnxruntime")]


def test_the_changelog_speaks_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_constraints_pin_exactly_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    assert all("==" in pin and "://" not in pin and "/" not in pin for pin in pins)
