"""The control RPCs: models, settings and shared memory; each group is refused unless allowed."""

from __future__ import annotations

from typing import Any

from service import layout, modelconfig
from service.errors import Forbidden, InvalidInput, ModelUnusable, Unsupported
from service.manifest import NAME, is_version
from service.modelconfig import Options
from service.proto import inference_pb2 as pb
from service.servicer import Call, Servicer
from service.settings import CUDA_MEMORY
from service.sharedmemory import SharedMemory
from service.tracing import LogValue

_FILE = "file:"
_FILES = "shared-memory"


class Control(Servicer):
    """All of inference.GRPCInferenceService; what is not allowed answers PERMISSION_DENIED."""

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        self._require("repository")
        name = _model_name(request)
        options, files = _overrides(name, request)
        await self._repository.load(name, options, files)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        self._require("repository")
        # The parameter unload_dependents asks for what always holds: no model here needs another.
        await self._repository.unload(_model_name(request))
        return pb.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, call: Call
    ) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._memory(_FILES).system.status(request.name):
            told = response.regions[region.name]
            told.name, told.key = region.name, region.key
            told.offset, told.byte_size = region.offset, region.byte_size
        return response

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, call: Call
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._memory(_FILES).register_system(
            request.name, request.key, request.offset, request.byte_size
        )
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, call: Call
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._memory(_FILES, CUDA_MEMORY).system.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, call: Call
    ) -> pb.CudaSharedMemoryStatusResponse:
        response = pb.CudaSharedMemoryStatusResponse()
        for region in self._memory(CUDA_MEMORY).cuda.status(request.name):
            told = response.regions[region.name]
            told.name, told.device_id = region.name, region.device_id
            told.byte_size = region.byte_size
        return response

    async def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, call: Call
    ) -> pb.CudaSharedMemoryRegisterResponse:
        await self._memory(CUDA_MEMORY).register_cuda(
            request.name, request.raw_handle, request.device_id, request.byte_size
        )
        return pb.CudaSharedMemoryRegisterResponse()

    async def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, call: Call
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        self._memory(CUDA_MEMORY, _FILES).cuda.unregister(request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(
        self, request: pb.TraceSettingRequest, call: Call
    ) -> pb.TraceSettingResponse:
        self._require("settings")
        if request.model_name:
            self._model(request.model_name, "")
        changes = {key: tuple(setting.value) for key, setting in request.settings.items()}
        response = pb.TraceSettingResponse()
        for key, values in self._shared.traces.update(changes, request.model_name).items():
            response.settings[key].value.extend(values)
        return response

    async def LogSettings(
        self, request: pb.LogSettingsRequest, call: Call
    ) -> pb.LogSettingsResponse:
        self._require("settings")
        changes = {key: _value(setting) for key, setting in request.settings.items()}
        response = pb.LogSettingsResponse()
        for key, value in self._shared.log_settings.update(changes).items():
            setting = response.settings[key]
            if isinstance(value, bool):
                setting.bool_param = value
            elif isinstance(value, int):
                setting.uint32_param = value
            else:
                setting.string_param = value
        return response

    def _require(self, group: str) -> None:
        if group not in self._allowed:
            refused = Forbidden(
                f"control RPCs of the group '{group}' are not answered on this port; the server's "
                f"operator allows them with --control {group}, here or on the --control-port"
            )
            self._shared.metrics.stray(refused)
            raise refused

    def _memory(self, group: str, *others: str) -> SharedMemory:
        """What is registered.

        Args:
            group: that must be allowed.
            others: any of which does too: Triton's clients unregister both kinds before they begin.
        """
        if not self._allowed.intersection(others):
            self._require(group)
        assert self._shared.regions is not None  # given wherever the group is allowed
        return self._shared.regions


def _value(setting: pb.LogSettingsRequest.SettingValue) -> LogValue | None:
    kind = setting.WhichOneof("parameter_choice")
    return getattr(setting, kind) if kind else None


def _model_name(request: Any) -> str:
    if request.repository_name:
        raise Unsupported("this server has one repository; leave 'repository_name' empty")
    if not layout.inside(request.model_name):
        raise InvalidInput(
            "the model's name must be 1 to 128 letters, digits, '_', '-' and '.', and start with a "
            "letter, a digit or '_'"
        )
    return str(request.model_name)


def _overrides(
    name: str, request: pb.RepositoryModelLoadRequest
) -> tuple[Options | None, dict[tuple[str, str], bytes]]:
    """What a load request brings along: a config, and files by version and name.

    Raises:
        InvalidInput: a parameter that is unknown, of another type or contradictory.
    """
    options = None
    files: dict[tuple[str, str], bytes] = {}
    for key, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if key == "config" and kind == "string_param":
            try:
                options = modelconfig.options(modelconfig.from_json(value.string_param), name)
            except ModelUnusable as error:
                raise InvalidInput(f"the parameter 'config': {error.told}") from None
        elif key.startswith(_FILE) and kind == "bytes_param":
            version, _, file = key.removeprefix(_FILE).partition("/")
            if not is_version(version) or not NAME.fullmatch(file) or len(version) > 18:
                raise InvalidInput(
                    "a 'file:' parameter is named file:VERSION/NAME, with a positive number and a "
                    "bare file name"
                )
            files[version, file] = value.bytes_param
        else:
            raise InvalidInput(
                "a load takes the parameters 'config' (text) and 'file:VERSION/NAME' (bytes)"
            )
    return options, files
