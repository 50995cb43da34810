"""What k8s/README.md shows: commands name what is there, kustomizations render, Python runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
import yaml

from loadtests.profile import write
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.k8s import agreement, validation
from tests.k8s.commands import wrong
from tests.k8s.manifest import Manifest, selects
from tests.k8s.pages import HANDBOOK, README, blocks, cells, commands, into, kustomizations
from tests.k8s.rendering import COMPONENTS, K8S, OVERLAYS, OWN, ROOT, Document, render
from tests.loadtests.profiles import profile
from tests.system.servers import farthing, serving

USER = "k8s/overlays/user/kustomization.yaml"
ADDRESS = "dns:///farthing-headless:8001"


def test_every_command_names_what_is_there() -> None:
    shown = commands(HANDBOOK) + [c.split() for c in cells(HANDBOOK) if c.startswith("kubectl ")]
    assert len(shown) > 12
    for command in shown:
        assert command[0] == "kubectl"
        assert wrong(command[1:]) == "", command


@pytest.mark.parametrize(
    "command",
    [
        "apply -k k8s/overlays/none", "apply -f k8s/base", "rollout undo deployment/other",
        "apply -k k8s/overlays/user -l app.kubernetes.io/part-of=farthing", "delete pod other",
        "apply -k k8s/overlays/user -l app.kubernetes.io/component=other", "logs job/other",
        "cp models/. farthing-models:/other", "exec farthing-models -- mv /models/1 /other",
        "label namespace app client=true", "create secret generic other", "wait pod/other", "top",
        "get nodes",
    ],
)  # fmt: skip
def test_a_command_that_names_nothing_is_seen(command: str) -> None:
    assert wrong(command.split())


def test_it_names_what_users_make_and_all_that_they_may_combine() -> None:
    page = HANDBOOK.read_text(encoding="utf-8")
    named = [*COMPONENTS, *OVERLAYS, *(name for _, name in agreement.USERS)]
    assert [name for name in named if f"`{name}`" not in page] == []


def test_what_readers_write_is_theirs_and_not_of_the_repository() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {f"/k8s/overlays/{name}*/" for name in OWN} <= set(ignored)
    for path in (*kustomizations(README), *kustomizations(HANDBOOK)):
        assert Path(path).parent.name.split("-")[0] in OWN


def test_the_names_of_images_are_those_of_the_manifests() -> None:
    shown = [yaml.safe_load(one) for page in (README, HANDBOOK)
             for one in kustomizations(page).values()]  # fmt: skip
    names = {image["name"] for one in shown for image in one["images"]}
    assert names <= {image.partition(":")[0] for image in agreement.ours()}


def written(page: Path, root: Path) -> Path:
    """A copy of k8s/ with what plan writes, and what readers of a page do."""
    shutil.copytree(K8S, root / "k8s", ignore=shutil.ignore_patterns("user*", "mine*"))
    write(profile("net int8", variant="int8-static"), root / "mine.json")
    base, mine = (str(root / "k8s" / name) for name in ("base", "overlays/mine"))
    done = farthing(
        "plan", str(root / "mine.json"), "--rate", "300", "--base", base, "--write-patch", mine
    )
    assert done.returncode == 0, done.stderr
    for name, text in kustomizations(page).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def rendered(root: Path, name: str) -> Manifest:
    documents = render((root / name).parent)
    assert [said for one in documents for said in validation.complaints(one)] == []
    return Manifest(documents)


@pytest.mark.slow
def test_what_readme_has_users_write_holds_all_that_it_applies(tmp_path: Path) -> None:
    assert set(kustomizations(README)) == {USER}
    manifest = rendered(written(README, tmp_path), USER)
    assert list(agreement.references(manifest)) == []
    assert {one["metadata"]["namespace"] for one in manifest.documents} == {"farthing"}
    assert {c["image"] for pod in manifest.pods for c in pod.containers} == {"team/farthing:1"}
    ((key, _, value),) = {
        command[-1].partition("=") for command in commands(README) if "-l" in command
    }
    first = [one["kind"] for one in manifest.documents
             if one["metadata"].get("labels", {}).get(key) == value]  # fmt: skip
    assert sorted(first) == ["PersistentVolumeClaim", "Pod"]


@pytest.mark.slow
def test_features_are_combined_as_shown(tmp_path: Path) -> None:
    manifest = rendered(written(HANDBOOK, tmp_path), USER)
    (server,) = manifest.all("Deployment")
    assert server["spec"]["replicas"] >= 2
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "team/farthing:1"
    assert manifest.environment(container)["FARTHING_LATENCY_TARGET_MS"] == "100"
    (init,) = server["spec"]["template"]["spec"]["initContainers"]
    assert manifest.environment(init)["MODELS_URI"] == "s3://bucket/models"


@pytest.mark.slow
def test_the_generator_has_its_own_image(tmp_path: Path) -> None:
    manifest = rendered(
        written(HANDBOOK, tmp_path), "k8s/overlays/user-loadtest/kustomization.yaml"
    )
    (pod,) = manifest.pods
    assert [container["image"] for container in pod.containers] == ["team/farthing-loadtest:1"]


@pytest.mark.slow
def test_a_canary_is_called_by_the_same_services_and_not_taken_for_another(tmp_path: Path) -> None:
    root = written(HANDBOOK, tmp_path)
    canary = rendered(root, "k8s/overlays/user-canary/kustomization.yaml")
    base = Manifest(render(root / "k8s" / "base"))
    (ours,), (stable,) = canary.all("Deployment"), base.pods
    assert (ours["metadata"]["name"], ours["spec"]["replicas"]) == ("farthing-canary", 1)
    labels = ours["spec"]["template"]["metadata"]["labels"]
    assert not selects(ours["spec"]["selector"], stable.labels)
    for service in base.all("Service"):
        assert selects({"matchLabels": service["spec"]["selector"]}, labels)


def _whole(root: Path) -> list[Document]:
    return render((root / USER).parent)


@pytest.mark.slow
def test_whatever_may_be_put_into_an_overlay_changes_it(tmp_path: Path) -> None:
    root = written(HANDBOOK, tmp_path)
    text = kustomizations(HANDBOOK)[USER]
    plain = yaml.safe_load(text) | {"resources": ["../mine", "../models-pvc"]}
    (root / USER).write_text(yaml.safe_dump(plain), encoding="utf-8")
    before = _whole(root)
    wishes = into(HANDBOOK)
    assert len(wishes) == 13
    for wish in wishes:
        mixed: dict[str, Any] = plain | {
            key: merged(plain.get(key, []), value) for key, value in wish.items()
        }
        (root / USER).write_text(yaml.safe_dump(mixed), encoding="utf-8")
        after = _whole(root)
        assert after != before, wish
        assert [said for one in after for said in validation.complaints(one)] == [], wish


def merged(there: list[Any], more: list[Any]) -> list[Any]:
    """Two lists of what a kustomization has, as a reader would write them: each name once."""
    found = [dict(one) for one in there]
    for each in more:
        same = [one for one in found if "literals" in one and one["name"] == each.get("name")]
        for one in same:
            one["literals"] = [*one["literals"], *each["literals"]]
        found += [] if same else [each]
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "models" / "double" / "1").mkdir(parents=True)
    models.double(tmp_path / "models" / "double" / "1" / "model.onnx")
    return tmp_path / "models"


def code(address: str) -> Iterator[dict[str, Any]]:
    """What each block of Python leaves behind, with a server of ours in place of the cluster's."""
    for block in blocks(HANDBOOK, "python"):
        assert ADDRESS in block
        found: dict[str, Any] = {}
        exec(block.replace(ADDRESS, address), found)
        yield found


def test_clients_call_as_they_are_shown(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    for name in ("token", "tokens"):
        (tmp_path / name).write_text("secret\n")
    secured = [f"--tls-cert={tmp_path}/tls.crt", f"--tls-key={tmp_path}/tls.key",
               f"--tokens={tmp_path}/tokens"]  # fmt: skip
    shutil.copytree(K8S / "client", tmp_path / "k8s" / "client")
    monkeypatch.chdir(tmp_path)
    with serving(repository) as server, serving(repository, *secured) as guarded:
        plain, triton, _ = code(server.grpc)
        *_, private = code(guarded.grpc)
        for channel in (plain["channel"], private["channel"]):
            assert named(channel) == "farthing"
            channel.close()
        assert triton["client"].is_server_live()


def named(channel: grpc.Channel) -> str:
    stub = GRPCInferenceServiceStub(channel)
    answer: pb.ServerMetadataResponse = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    return answer.name
