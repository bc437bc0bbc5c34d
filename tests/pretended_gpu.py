"""A GPU for machines without one: tensors that say they are on it, compute on the CPU, and mix with no others.

Finds what would only show on a GPU: tensors left behind in main memory, arrays read where none can be read. It refuses
less than a GPU would, and says nothing of speed, memory or rounding there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
ROOM = 8 * 10**9
"""Bytes that are free on it."""
NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)
OTHERS = (torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_)
"""What may be given a tensor in main memory for one on a GPU."""


class OnGpu(torch.Tensor):
    """A tensor of main memory, `inner`, that pretends to be on the GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made: Any = torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=GPU)
        return made

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self, **_: object) -> str:
        return f"OnGpu({self.inner})"

    def __deepcopy__(self, memo: object) -> OnGpu:
        made = OnGpu(self.inner.detach().clone().requires_grad_(self.inner.requires_grad))
        made.__dict__.update({name: value for name, value in self.__dict__.items() if name != "inner"})
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _called(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: object, types: object, args: object = (), kwargs: object = None) -> Any:
        raise AssertionError(f"{func} was called below what is pretended here")


class _Intercepting(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = any(isinstance(one, OnGpu) for one in tree_flatten((args, kwargs))[0])
        if ours or func in (torch.Tensor.to, torch.Tensor.cuda) or _is_gpu(kwargs.get("device")):
            return _called(func, args, kwargs)
        return func(*args, **kwargs)


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _called(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    first = args[0] if args else None
    answers: dict[Any, Any] = {
        torch.Tensor.device.__get__: GPU,
        torch.Tensor.is_cuda.__get__: True,
        torch.Tensor.is_cpu.__get__: False,
        torch.Tensor.get_device: 0,
        torch._has_compatible_shallow_copy_type: False,
    }
    for asked, answer in answers.items():
        if func == asked:
            return answer
    if func in NUMPY:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    moves: dict[Any, Sequence[Any]] = {torch.Tensor.cpu: ("cpu",), torch.Tensor.cuda: ("cuda",)}
    if func in (torch.Tensor.to, torch.Tensor.type_as, *moves):
        return _moved(first, [*args[1:], *moves.get(func, ())], kwargs)
    if func == torch.Tensor.requires_grad_:
        first.inner.requires_grad_(*args[1:], **kwargs)
        return first
    return _computed(func, args, kwargs)


def _computed(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    flat, shape = tree_flatten((tuple(args), kwargs))
    ours = [one for one in flat if isinstance(one, OnGpu)]
    if (ours or _is_gpu(kwargs.get("device"))) and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError("a generator of the GPU was expected, but one of the CPU came")
    others = [one for one in flat if isinstance(one, torch.Tensor) and not isinstance(one, OnGpu) and one.dim() > 0]
    mixes = func in OTHERS and (isinstance(args[0], OnGpu) or func == torch.Tensor.copy_)
    if func == torch.Tensor.__setitem__ and not isinstance(args[2], OnGpu):
        # Values come from elsewhere into slices alone.
        mixes = mixes and not any(isinstance(one, torch.Tensor) for one in tree_flatten(args[1])[0])
    if ours and others and not mixes:
        name, sizes = getattr(func, "__name__", func), [tuple(one.shape) for one in others]
        raise RuntimeError(f"all tensors were expected on one device, but {name} came with {sizes} in main memory")
    device = kwargs.get("device")
    stays = (bool(ours) if device is None else _is_gpu(device)) and not (
        func == torch.Tensor.copy_ and not isinstance(args[0], OnGpu)
    )
    plain, named = tree_unflatten([one.inner if isinstance(one, OnGpu) else one for one in flat], shape)
    found = func(*plain, **(named if device is None else named | {"device": CPU}))
    if isinstance(found, torch.Size):
        return found
    known = {id(one.inner): one for one in ours}

    def back(one: Any) -> Any:
        if not stays or not isinstance(one, torch.Tensor) or isinstance(one, OnGpu):
            return one
        return known[id(one)] if id(one) in known else OnGpu(one)

    return tree_map(back, found) if any(isinstance(one, torch.Tensor) for one in tree_flatten(found)[0]) else found


def _moved(tensor: torch.Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    """`Tensor.to`."""
    named = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "other")}
    device, rest = kwargs.get("device"), []
    for one in (*args, kwargs.get("other")):
        if isinstance(one, torch.Tensor):
            device = GPU if isinstance(one, OnGpu) else CPU
            rest.append(one.dtype)
        elif isinstance(one, str | torch.device):
            device = one
        elif isinstance(one, torch.dtype):
            rest.append(one)
    was = isinstance(tensor, OnGpu)
    will = was if device is None else _is_gpu(device)
    inner = tensor.inner if isinstance(tensor, OnGpu) else tensor
    done = inner.to(*rest, **named) if rest or named else inner
    if was == will and done is inner:
        return tensor
    if was != will and done is inner:
        done = inner.detach().clone()
    return OnGpu(done) if will else done


@contextmanager
def pretended_gpu(room: int = ROOM) -> Iterator[None]:
    """Within the block there is a GPU, with so many bytes free."""
    said = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "mem_get_info": lambda *_: (room, room),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
    }
    cast = torch.autocast
    with ExitStack() as stack:
        for name, answer in said.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, "autocast", return_value=cast("cpu", enabled=False)))
        # Else a module's parameters keep their objects, which are in main memory.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        stack.enter_context(_Intercepting())
        yield
