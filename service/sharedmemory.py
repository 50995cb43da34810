"""Shared memory of both kinds: files of this machine, and memory on its GPUs; one set of names."""

from __future__ import annotations

from dataclasses import dataclass

from service import slots
from service.cudaregions import CudaRegions
from service.regions import Regions
from service.slots import Slot


@dataclass(frozen=True)
class SharedMemory:
    """All that is registered.

    Attributes:
        system: files.
        cuda: memory on GPUs.
    """

    system: Regions
    cuda: CudaRegions

    def register_system(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """As ``Regions.register``; a name of the other kind is taken too."""
        slots.check_new(name, taken=name in self.cuda)
        self.system.register(name, key, offset, byte_size)

    async def register_cuda(self, name: str, handle: bytes, device_id: int, byte_size: int) -> None:
        """As ``CudaRegions.register``; a name of the other kind is taken too."""
        slots.check_new(name, taken=name in self.system)
        await self.cuda.register(name, handle, device_id, byte_size)

    def slot(self, name: str, offset: int, byte_size: int) -> Slot:
        """Part of a region of either kind, for one tensor.

        Raises:
            InvalidInput: there is no such region, or it is too short.
        """
        if name in self.cuda:
            return self.cuda.slot(name, offset, byte_size)
        return self.system.slot(name, offset, byte_size)
