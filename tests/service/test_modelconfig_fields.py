"""No field of Triton's ModelConfig is passed over in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from service import configfields, modelconfig
from service.errors import ModelUnusable
from service.modelconfig import Options
from service.proto import inference_pb2 as pb

# Where any text or 1 would be refused, or is the default.
VALUES: dict[str, Any] = {
    "version_policy.latest.num_versions": 2,
    "platform": "onnxruntime_onnx",
    "backend": "onnxruntime",
    "default_model_filename": "other.onnx",
}
# Right, they change nothing; wrong, they are refused (test_modelconfig.py).
CHECKED = {"platform", "backend"}
# A name that nobody says anywhere.
NAMES = {"instance_group.name"}


def leaves(
    descriptor: Descriptor, above: tuple[FieldDescriptor, ...] = ()
) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in descriptor.fields:
        if field.message_type is None or _is_plain_map(field) or not field.message_type.fields:
            yield (*above, field)
        elif field.message_type.GetOptions().map_entry:
            yield from leaves(field.message_type.fields_by_name["value"].message_type,
                              (*above, field))  # fmt: skip
        else:
            yield from leaves(field.message_type, (*above, field))


def _is_plain_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind.GetOptions().map_entry and kind.fields_by_name["value"].message_type is None


PATHS = {".".join(field.name for field in path): path for path in leaves(pb.ModelConfig.DESCRIPTOR)}


def with_field(path: str) -> pb.ModelConfig:
    """The smallest config with this field set to something that is not its default."""
    config = pb.ModelConfig()
    message: Any = config
    *above, leaf = PATHS[path]
    for field in above:
        message = _child(message, field)
    _set(message, leaf, VALUES.get(path))
    return config


def leaf_of(path: str) -> str:
    """A field of that name, or inside of it."""
    inside = [leaf for leaf in PATHS if f"{leaf}.".startswith(f"{path}.")]
    others = [leaf for leaf in inside if not _refused(leaf) or path in configfields.REFUSED]
    # The last one: a first one may be an enumeration that has no second value.
    return others[-1]


def _refused(leaf: str) -> bool:
    return any(f"{leaf}.".startswith(f"{path}.") for path in configfields.REFUSED)


def _child(message: Any, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.message_type.GetOptions().map_entry:
        return value["1" if field.message_type.fields_by_name["key"].type == 9 else 1]
    if isinstance(value, Message):
        value.SetInParent()
        return value
    return value.add()


def _set(message: Any, leaf: FieldDescriptor, given: Any) -> None:
    if leaf.message_type is not None and not leaf.message_type.GetOptions().map_entry:
        getattr(message, leaf.name).SetInParent()
        return
    if leaf.message_type is not None:
        getattr(message, leaf.name)["key"] = "value"
        return
    if leaf.type == FieldDescriptor.TYPE_STRING:
        value: Any = given or "text"
    else:
        value = given or (True if leaf.type == FieldDescriptor.TYPE_BOOL else 1)
    current = getattr(message, leaf.name)
    if isinstance(current, str | int | float):
        setattr(message, leaf.name, value)
    else:
        current.append(value)


@pytest.mark.parametrize("path", PATHS)
def test_a_field_has_an_effect_a_warning_or_a_refusal(path: str) -> None:
    config = with_field(path)
    assert config != pb.ModelConfig()
    without = Options(name="m")
    try:
        options = replace(modelconfig.options(config, "m"), config=None)
    except ModelUnusable as refusal:
        # By its own name, or by that of what holds it.
        assert any(part in str(refusal) for part in path.split("."))
    else:
        assert options != without or path in CHECKED | NAMES


@pytest.mark.parametrize("path", [*configfields.IGNORED, *configfields.REFUSED])
def test_the_lists_name_fields_that_exist(path: str) -> None:
    assert any(leaf == path or leaf.startswith(f"{path}.") for leaf in PATHS)


@pytest.mark.parametrize("path", sorted(configfields.REFUSED))
def test_a_refused_field_is_refused_in_a_config_that_is_right_otherwise(path: str) -> None:
    config = with_field(leaf_of(path))
    with pytest.raises(ModelUnusable, match=path):
        modelconfig.options(config, "m")


@pytest.mark.parametrize("path", sorted(configfields.IGNORED))
def test_an_ignored_field_is_named_with_what_is_done_instead(path: str) -> None:
    config = with_field(leaf_of(path))
    named = [warning for warning in configfields.warnings(config) if f" {path} " in warning]
    assert named == [configfields.no_effect(path, configfields.IGNORED[path])]
