"""A module's parameters wherever they are: on a device, or kept by accelerate in main memory or on disk.

Where a model does not fit, accelerate leaves empty parameters in its modules and lends each the real ones while it
runs. Torch only: accelerate's hooks are recognised by what they have (accelerate, `AlignDevicesHook.weights_map`).
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import torch
from torch import Tensor, nn


def parameter_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A parameter's numbers; those that accelerate keeps are where it keeps them."""
    found: Tensor = getattr(module, name)
    hook = _hook(module)
    if hook is None or found.device.type != "meta":
        return found
    kept: Tensor = hook.weights_map[name]
    return kept


def replace_weight(module: nn.Module, weight: Tensor, *, original: bool) -> None:
    """Set a module's weight; `original` says that it is what it was before the first replacement.

    What accelerate keeps is laid over and not overwritten: it may be a file of the checkpoint.
    """
    hook = _hook(module)
    if hook is None or module.weight.device.type != "meta":
        with torch.no_grad():
            module.weight.copy_(weight)  # type: ignore[operator]
        return
    if not isinstance(hook.weights_map, ChainMap):
        hook.weights_map = ChainMap({}, hook.weights_map)
    if original:
        hook.weights_map = hook.weights_map.maps[1]
    else:
        hook.weights_map.maps[0]["weight"] = weight.to(parameter_of(module).device)


def device_of(module: nn.Module) -> torch.device:
    """Where a module with a weight expects its inputs."""
    hook = _hook(module)
    if hook is not None and hook.execution_device is not None:
        return torch.device(hook.execution_device)
    weight: Any = module.weight
    return weight.device


def all_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` has, with the parameters that accelerate keeps, tied ones under each of their names."""
    found = dict(model.state_dict())
    for name, tensor in found.items():
        if tensor.device.type == "meta":
            owner, _, own = name.rpartition(".")
            found[name] = parameter_of(model.get_submodule(owner), own)
    return found


def _hook(module: nn.Module) -> Any:
    """The hook that keeps a module's parameters, or None."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = [hook, *getattr(hook, "hooks", ())]
    return next((one for one in hooks if getattr(one, "offload", False) and one.weights_map is not None), None)
