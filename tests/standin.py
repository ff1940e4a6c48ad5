"""A device that is not one: `standin` computes on the CPU, refuses to mix devices as CUDA does, and counts what a GPU would wait for.

Its tensors are wrappers around tensors of the CPU, and every operation goes through `__torch_dispatch__`
(torch.utils.backend_registration, PrivateUse1). `pytest --device standin` runs the contract suite on it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

NAME = "standin"
COUNTS: Counter[str] = Counter()  # "launches", "synchronisations", "copies" since they were last cleared
# The host waits for these: it has to know a number, or a shape that depends on numbers.
_WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}


class _Module:
    """What torch asks of a backend, as `torch.cuda`."""

    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    manual_seed_all = set_device = synchronize = staticmethod(lambda *_: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])


class Wrapper(torch.Tensor):
    """A tensor on the device; `raw` is the one on the CPU that holds its numbers."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, requires_grad: bool = False) -> Wrapper:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            device=f"{NAME}:0", requires_grad=requires_grad,
        )  # fmt: skip
        made.raw = raw
        return made  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}({self.raw!r})"

    def tolist(self) -> Any:
        COUNTS["synchronisations"] += 1
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, op._schema.name
        COUNTS["launches"] += 1
        _refuse_mixed(name, args, kwargs)
        device = kwargs.get("device")
        leaves = device is not None and torch.device(device).type == "cpu"
        if name in _WAITS or (leaves and name == "aten::_to_copy" and not kwargs.get("non_blocking")):
            COUNTS["synchronisations"] += 1
        if name == "aten::copy_":
            here, there = (isinstance(one, Wrapper) for one in args[:2])
            COUNTS["synchronisations"] += not here
            COUNTS["copies"] += here and not there
        raw_args, raw_kwargs = tree_map(_raw, (args, kwargs))
        if device is not None:
            raw_kwargs["device"] = torch.device("cpu")
        out = op(*raw_args, **raw_kwargs)
        if leaves:
            return out
        # What is written in place is returned as itself, so that autograd sees one tensor.
        for number, argument in enumerate(op._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                target = args[number] if number < len(args) else kwargs.get(argument.name)
                return target if len(op._schema.returns) == 1 else tree_map(wrap, out)
        return tree_map(wrap, out)


def wrap(value: Any) -> Any:
    """A tensor of the CPU as one of the device."""
    return Wrapper(value) if isinstance(value, torch.Tensor) and not isinstance(value, Wrapper) else value


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, Wrapper) else value


def _refuse_mixed(name: str, args: Any, kwargs: Any) -> None:
    """As CUDA: a tensor of the CPU may only be copied, or be a single number."""
    seen: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.dim() and value.numel():
            seen.add(value.device.type)

    tree_map(look, (args, kwargs))
    if len(seen) > 1 and "copy" not in name:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} got {', '.join(sorted(seen))}")


def register() -> None:
    """Make the device known to torch, for the rest of the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # A module's parameters become wrappers by being swapped.
    torch.__future__.set_swap_module_params_on_conversion(True)
    library = torch.library.Library("aten", "IMPL")
    for full in torch._C._dispatch_get_all_op_names():
        if full.startswith("aten::") and (op := _factory(full.removeprefix("aten::"))) is not None:
            try:
                library.impl(full.removeprefix("aten::"), _on_cpu(op), "PrivateUse1")
            except RuntimeError:
                # It has a kernel for every device already.
                continue
    library.impl("_copy_from", _copy, "PrivateUse1")
    autocast = torch.library.Library("_", "IMPL")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _KEPT.extend((library, autocast))


_KEPT: list[torch.library.Library] = []  # what a library registers goes with it


def _factory(name: str) -> Any:
    """The operation if it makes a tensor on a device out of none; None for others."""
    plain, _dot, overload = name.partition(".")
    op = getattr(getattr(torch.ops.aten, plain, None), overload or "default", None)
    if op is None or len(op._schema.returns) != 1 or "Tensor" not in str(op._schema.returns[0].type):
        return None
    kinds = {argument.name: str(argument.type) for argument in op._schema.arguments}
    return op if "device" in kinds and not any("Tensor" in kind for kind in kinds.values()) else None


def _on_cpu(op: Any) -> Any:
    return lambda *args, **kwargs: wrap(op(*args, **{**kwargs, "device": torch.device("cpu")}))


def _copy(source: Any, target: Any, non_blocking: bool = False) -> Any:
    COUNTS["copies"] += isinstance(target, Wrapper) and not isinstance(source, Wrapper)
    _raw(target).copy_(_raw(source))
    return target
