"""A machine without a GPU that behaves as if it had one: real numbers, computed on the CPU, under CUDA's rules.

Every storage carries a place: the host, the device, or not decided yet. A function mode rewrites what code says about
devices (`device=`, `.to`, `.cuda`, `.device`). A dispatch mode sees every operation, those of the backward pass
included; it hands places on, and raises what CUDA would raise: tensors in two places, `numpy()` of a tensor on the
device, a generator of the wrong device. Every place in the code where the host would wait for the device is noted.

Not seen: kernels that CUDA lacks, its rounding, memory, speed, streams, torch.compile, other threads and processes.
"""

import contextlib
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch
import torch._dynamo  # before `torch.Generator` is replaced, which it takes for a class
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

import autoseg
from autoseg.networks.device_types import DEVICE_TYPES

PROJECT = f"{Path(autoseg.__file__).parent}/"
HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
"""Places; the second one stands for the pretended GPU, whatever its name."""

UNDECIDED = None
"""Place of what an operation makes from no tensor: on the device if it meets tensors there, else on the host."""

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.bincount.default,
    aten._unique2.default, aten.unique_dim.default, aten.equal.default, aten.is_nonzero.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operations whose shape or answer depends on values, for which the host waits."""

INDEXING = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default,
}  # fmt: skip
MAY_CROSS = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Storage, *INDEXING}
"""Operations that CUDA allows between places."""

MOVING = {torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.xpu, torch.Tensor.cpu}
NEEDING_THE_HOST: set[object] = {torch.Tensor.numpy, torch.Tensor.__array__}
DEVICE_OF = torch.Tensor.device.__get__
IS_TYPE_OF = {getattr(torch.Tensor, f"is_{name}").__get__: name for name in ("cuda", "mps", "xpu")}
"""What a mode gets instead of the attributes."""


class PlaceError(RuntimeError):
    """What CUDA would refuse."""


@dataclass(frozen=True)
class Wait:
    """A place where the host waits for the device."""

    reason: str
    line: str
    """Innermost line of the project, file:line."""

    @property
    def file(self):
        return self.line.rsplit(":", 1)[0]


class Places:
    """Place of every storage that is not on the host."""

    def __init__(self):
        self._by_storage = {}
        self._number_set = 0

    def of(self, tensor):
        entry = self._by_storage.get(tensor.untyped_storage()._cdata)
        return HOST if entry is None else entry[1]

    def put(self, tensor, place):
        storage = tensor.untyped_storage()
        self._by_storage[storage._cdata] = (StorageWeakRef(storage), place)
        self._number_set += 1
        if self._number_set % 5000 == 0:
            self._by_storage = {key: entry for key, entry in self._by_storage.items() if not entry[0].expired()}


class _Operations(TorchDispatchMode):
    """Sees what is computed."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    @override
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = [self.gpu.places.of(tensor) for tensor in tensors]
        if DEVICE in places:
            _refuse_two_places(func, tensors, places)
            self._note_waits(func, args, places)
        result = func(*args, **kwargs)
        self._hand_on(func, args, result, tensors, places)
        return result

    def _hand_on(self, func, args, result, tensors, places):
        put, of = self.gpu.places.put, self.gpu.places.of
        if func is aten.copy_.default:
            place = of(args[0])
        elif not tensors:
            place = self.gpu.place_of_new
        elif DEVICE in places:
            place = DEVICE
        else:
            place = UNDECIDED if all(one is UNDECIDED for one in places) else HOST
        if place == HOST:
            return
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                self.gpu.check_type(leaf, place)
                put(leaf, place)
        for tensor, old in zip(tensors, places, strict=True):
            if old is UNDECIDED and place == DEVICE:
                put(tensor, DEVICE)

    def _note_waits(self, func, args, places):
        of = self.gpu.places.of
        if func in WAITING:
            self.gpu.note(str(func))
        elif func is aten.copy_.default:
            is_without_waiting = len(args) > 2 and args[2]
            if of(args[0]) != of(args[1]) and UNDECIDED not in places:
                self.gpu.count_bytes(args[0], of(args[0]))
                if not is_without_waiting:
                    self.gpu.note("copy between places")
        elif func in INDEXING:
            for index in args[1]:
                if isinstance(index, torch.Tensor):
                    if index.dtype in (torch.bool, torch.uint8):
                        self.gpu.note("indexing with a mask")
                    elif of(index) == HOST and of(args[0]) == DEVICE and index.ndim:
                        self.gpu.note("indexing from the host")


def _refuse_two_places(func, tensors, places):
    if func in INDEXING and places[0] == HOST and DEVICE in places[1:]:
        raise PlaceError(f"{func}: indices should be on the CPU or on the device of the indexed tensor (cpu)")
    if func in MAY_CROSS:
        return
    for tensor, place in zip(tensors, places, strict=True):
        if place == HOST and tensor.ndim > 0 and tensor.numel() > 0:
            raise PlaceError(f"{func}: tensors on cuda:0 and on the CPU, shape {tuple(tensor.shape)}")
        if place == HOST and "_fused_" in str(func):
            raise PlaceError(f"{func}: a scalar tensor on the CPU")


class _Functions(TorchFunctionMode):
    """Sees what code asks for, devices above all."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    @override
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        gpu, first = self.gpu, args[0] if args else None
        is_on_device = isinstance(first, torch.Tensor) and gpu.is_on_device(first)
        if func == DEVICE_OF:
            return gpu.device if is_on_device else func(*args)
        if func in IS_TYPE_OF:
            return is_on_device and IS_TYPE_OF[func] == gpu.device.type
        if func is torch.Tensor.get_device:
            return 0 if is_on_device else -1
        if func is torch.Tensor.pin_memory:
            return gpu.pin(first)
        if func in NEEDING_THE_HOST and is_on_device:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func is torch.Tensor.tolist and is_on_device:
            gpu.note("tolist")
            return func(*args, **kwargs)
        if func in MOVING:
            return self._move(func, first, list(args[1:]), kwargs)
        if func is torch.Tensor.__deepcopy__:
            copy = func(*args, **kwargs)
            gpu.places.put(copy, gpu.places.of(first))
            return copy
        return self._make(func, args, kwargs)

    def _make(self, func, args, kwargs):
        """Call a function whose new tensors are where `device` says, or not decided."""
        gpu, device = self.gpu, kwargs.get("device")
        has_tensors = any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs)))
        if kwargs.get("generator") is not None:
            gpu.check_generator(kwargs["generator"], _wanted_place(gpu, args, device, has_tensors=has_tensors))
        before = gpu.place_of_new
        try:
            if device is None:
                gpu.place_of_new = UNDECIDED if has_tensors else HOST
                return func(*args, **kwargs)
            gpu.place_of_new = gpu.place_named(device)
            result = func(*args, **{**kwargs, "device": HOST})
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    gpu.check_type(leaf, gpu.place_of_new)
                    gpu.places.put(leaf, gpu.place_of_new)
            if gpu.place_of_new == DEVICE and func in (torch.tensor, torch.as_tensor):
                gpu.note("tensor from Python numbers")
            return result
        finally:
            gpu.place_of_new = before

    def _move(self, func, tensor, rest, kwargs):
        """`to`, `cpu`, `cuda`, with all that may stand among their arguments."""
        gpu, old = self.gpu, self.gpu.places.of(tensor)
        is_without_waiting = bool(kwargs.pop("non_blocking", False))
        target, rest = self._target(func, old, rest, kwargs)
        if old is UNDECIDED or target == old:
            return torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
        asked = kwargs.pop("dtype", None)
        dtype = next((one for one in rest if isinstance(one, torch.dtype)), asked) or tensor.dtype
        layout = kwargs.pop("memory_format", torch.preserve_format)
        with gpu.without_notes():
            moved = torch.Tensor.to(tensor, dtype, copy=True, memory_format=layout)
        gpu.check_type(moved, target)
        gpu.places.put(moved, target)
        gpu.count_bytes(moved, target)
        if target == HOST and not is_without_waiting:
            gpu.note("copy to the host")
        elif target == DEVICE and not (is_without_waiting and gpu.is_pinned(tensor)):
            gpu.note("copy from pageable memory")
        return moved

    def _target(self, func, old, rest, kwargs):
        """Where the tensor goes, and what is left of the arguments by position."""
        if func is not torch.Tensor.to:
            kwargs.clear()
            return (HOST if func is torch.Tensor.cpu else DEVICE), []
        device = kwargs.pop("device", None)
        if device is None and rest and isinstance(rest[0], str | torch.device | int):
            device = rest.pop(0)
        elif device is None and rest and isinstance(rest[0], torch.Tensor):
            like = rest.pop(0)
            device, rest = self.gpu.places.of(like), [like.dtype, *rest]
        rest = [one for one in rest if one is not None and not isinstance(one, bool)]
        return (old if device is None else self.gpu.place_named(device)), rest


def _wanted_place(gpu, args, device, *, has_tensors):
    """Where a function with these arguments draws its random numbers."""
    if device is not None:
        return gpu.place_named(device)
    return DEVICE if has_tensors and gpu.places.of(args[0]) != HOST else HOST


class _Stream:
    def __init__(self, *_arguments, **_options):
        pass

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        pass


class PretendedGpu:
    """Within its `with` block there is a GPU; `waits` lists where the host waited for it, in order."""

    def __init__(self, free_bytes=80 * 2**30, name="cuda"):
        """Pretend a device of the type cuda, xpu or mps."""
        self.device, self.row = torch.device(name, 0), DEVICE_TYPES[name]
        self.places, self.place_of_new = Places(), HOST
        self.waits: list[Wait] = []
        self.bytes_to_host = self.bytes_to_device = 0
        self._free_bytes = free_bytes
        self._pinned, self._generators = {}, {}
        self._is_quiet = False
        self._stack = contextlib.ExitStack()

    def is_on_device(self, tensor):
        return self.places.of(tensor) == DEVICE

    def place_named(self, device):
        """Place that code asks for by the name of a device; no other GPU is there."""
        kind = torch.device(device).type
        if kind in {"cuda", "mps", "xpu"} and kind != self.device.type:
            raise PlaceError(f"there is no device {device}, only {self.device} and the CPU")
        return DEVICE if kind == self.device.type else HOST

    def check_type(self, tensor, place):
        if place == DEVICE and tensor.dtype == torch.float64 and not self.row.has_float64:
            raise TypeError(f"{self.device} has no float64, and a tensor of shape {tuple(tensor.shape)} is of it")

    def note(self, reason):
        if self._is_quiet:
            return
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PROJECT)]
        line = "" if not frames else f"{frames[-1].filename.removeprefix(PROJECT)}:{frames[-1].lineno}"
        self.waits.append(Wait(reason, line))

    def count_bytes(self, tensor, place):
        """Add what a tensor takes on its way over the bus."""
        if place == DEVICE:
            self.bytes_to_device += tensor.nbytes
        else:
            self.bytes_to_host += tensor.nbytes

    @contextlib.contextmanager
    def without_notes(self):
        before, self._is_quiet = self._is_quiet, True
        try:
            yield
        finally:
            self._is_quiet = before

    def pin(self, tensor):
        if not self.row.has_streams:
            raise PlaceError(f"{self.device} copies from no pinned memory")
        if self.is_on_device(tensor):
            raise PlaceError("cannot pin a tensor on cuda:0, only dense CPU tensors can be pinned")
        copy = tensor.clone()
        storage = copy.untyped_storage()
        self._pinned[storage._cdata] = StorageWeakRef(storage)
        return copy

    def is_pinned(self, tensor):
        reference = self._pinned.get(tensor.untyped_storage()._cdata)
        return reference is not None and not reference.expired()

    def check_generator(self, generator, wanted):
        if self._generators.get(id(generator), (HOST,))[0] != wanted:
            raise PlaceError(f"Expected a '{wanted.type}' device type for generator")

    def __enter__(self):
        for target, value in self._replacements().items():
            self._stack.enter_context(mock.patch(target, value))
        grouping = "_group_tensors_by_device_and_dtype"
        real = getattr(import_module("torch.utils._foreach_utils"), grouping)

        def group(tensors, with_indices=False):
            groups = real(tensors, with_indices)
            return {
                (self.device if self.is_on_device(lists[0][0][0]) else device, dtype): lists
                for (device, dtype), lists in groups.items()
            }

        for name in ("torch.optim.optimizer", "torch.nn.utils.clip_grad", "torch.utils._foreach_utils"):
            self._stack.enter_context(mock.patch.object(import_module(name), grouping, group))
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *_error):
        self._stack.close()
        return False

    def _replacements(self):
        real_autocast, real_generator = torch.autocast, torch.Generator

        def autocast(device_type, *args, **kwargs):
            return real_autocast("cpu" if device_type == self.device.type else device_type, *args, **kwargs)

        def generator(device="cpu"):
            made = real_generator("cpu")
            self._generators[id(made)] = (self.place_named(device), made)  # kept, so that no other one gets its id
            return made

        def record_stream(tensor, _stream):
            if not self.is_on_device(tensor):
                raise PlaceError("record_stream of a tensor on the CPU")

        gpu = self

        class Event(_Stream):
            def record(self, *_arguments):
                pass

            def synchronize(self):
                gpu.note("event")

            def elapsed_time(self, _other):
                return 0.0

        always: dict[str, object] = {
            "is_available": lambda: True, "device_count": lambda: 1, "empty_cache": lambda: None,
            "synchronize": lambda device=None: self.note("synchronize"),
        }  # fmt: skip
        numbered = {
            "is_initialized": lambda: True,
            "current_device": lambda: 0, "set_device": lambda device: None,
            "Stream": _Stream, "Event": Event, "current_stream": lambda device=None: _Stream(),
            "stream": lambda stream: contextlib.nullcontext(), "device": lambda device: contextlib.nullcontext(),
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_device_name": lambda device=None: "pretended GPU",
            "mem_get_info": lambda device=None: (self._free_bytes, self._free_bytes),
            "memory_reserved": lambda device=None: 0, "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 2**30, "max_memory_reserved": lambda device=None: 2**30,
            "reset_peak_memory_stats": lambda device=None: None,
        }  # fmt: skip
        apple = {
            "recommended_max_memory": lambda: self._free_bytes, "current_allocated_memory": lambda: 0,
            "driver_allocated_memory": lambda: 2**30,
        }  # fmt: skip
        functions = (always, numbered if self.row.has_numbers else apple)
        return {
            **{f"torch.{self.row.name}.{name}": call for group in functions for name, call in group.items()},
            "torch.Tensor.record_stream": record_stream,
            "torch.autocast": autocast, "torch.amp.autocast": autocast, "torch.Generator": generator,
        }  # fmt: skip
