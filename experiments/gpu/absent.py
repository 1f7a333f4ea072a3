"""A device that is not there: shapes, dtypes, devices and bytes of an update, without its numbers.

Tensors are torch's fake ones on a device of their own: an operation on tensors of two devices fails as it would on a GPU, and a model of
any size takes no memory.  Where a program reads a number from the device it is told one: :class:`Ledger` counts how often it asks.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "absent"
aten = torch.ops.aten


def register() -> None:
    """Make ``torch.device("absent")`` known to this process; does nothing the second time.

    Raises:
        ValueError: a torch that cannot have a device made in Python.
    """
    if torch._C._get_privateuse1_backend_name() == DEVICE:
        return
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
    except ImportError as error:
        raise ValueError(f"torch {torch.__version__} has no devices made in Python: take 2.10 or newer") from error
    set_up(DEVICE)


class Ledger(TorchDispatchMode):
    """Follows every tensor that is made, and answers where values are asked for.

    Args:
        hops: terms of an adjoint's series, which would go on by the sizes of terms.

    Attributes:
        now, peak: bytes held by tensors on the absent device, and the most of them since the last :meth:`forget`.
        reads: how often the program waited for a number from the device.
        uploads: copies from main memory to the device.
    """

    def __init__(self, *, hops: int = 2):
        super().__init__()
        self.now = self.peak = self.reads = self.uploads = 0
        self._held: set[int] = set()
        self._hops, self._left = hops, hops

    def forget(self) -> None:
        """Begin to look for a peak, and to count, from here."""
        self.peak, self.reads, self.uploads, self._left = self.now, 0, 0, self._hops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("generator", None)  # no numbers are drawn
        if func is aten._local_scalar_dense.default:
            return self._answer(args[0])
        if func is aten.index.Tensor and any(index is not None and index.dtype == torch.bool for index in args[1]):
            out = self._all_chosen(*args)
        elif func is aten._to_copy.default and args[0].device.type == "cpu" and _is_absent(kwargs.get("device")):
            self.uploads += 1
            out = torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=DEVICE)
        else:
            out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
                tensor.is_any = func.name().startswith("aten::any")  # type: ignore[attr-defined]
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device.type != DEVICE or key in self._held:
            return
        self._held.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.now -= size

    def _answer(self, scalar: Tensor) -> bool | int | float:
        """Numbers are one and finite.  Rows are alive until the last token, and need as many terms as they are given."""
        self.reads += scalar.device.type == DEVICE
        if scalar.dtype != torch.bool:
            return 1.0 if scalar.is_floating_point() else 1
        if not getattr(scalar, "is_any", False) or not torch.is_grad_enabled():
            return True
        self._left -= 1
        return self._left >= 0

    @staticmethod
    def _all_chosen(tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
        """Every token is a real one."""
        (mask,) = indices
        assert mask is not None
        return tensor.new_empty((mask.numel(), *tensor.shape[mask.dim() :]))


class _Constants(TorchFunctionMode):
    """Tensors made of Python's numbers, and copies of those: torch would make them with the device's own functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_absent(kwargs.get("device")):
            here = func(*args, **{**kwargs, "device": "cpu"})
            return torch.empty(here.shape, dtype=here.dtype, device=DEVICE)
        if func is Tensor.__deepcopy__:
            return args[0].detach().clone()
        return func(*args, **kwargs)


def _is_absent(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE


@contextmanager
def absent(*, hops: int = 2) -> Iterator[Ledger]:
    """Work on fake tensors inside; see :class:`Ledger`."""
    register()
    ledger = Ledger(hops=hops)
    with FakeTensorMode(), ledger, _Constants():
        yield ledger


def move(*modules: nn.Module) -> None:
    """Put fake weights on the absent device in the place of a module's own, which may be on ``meta``; to be called inside
    :func:`absent`.  What was one tensor stays one."""
    moved: dict[int, Tensor] = {}
    for module in (part for whole in modules for part in whole.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    moved.setdefault(id(tensor), _elsewhere(tensor))
                    tensors[name] = moved[id(tensor)]


def _elsewhere(tensor: Tensor) -> Tensor:
    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
