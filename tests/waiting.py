"""What would make the host wait for a GPU, found on the CPU: operations whose result the host must know to go on."""

import functools

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "item",
    "lift_fresh",  # torch.tensor(numbers, device=…): a copy from memory that is not pinned
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
# They wait where a mask tells the places: for how many these are.
MASKS = {"index", "index_put", "index_put_", "_index_put_impl_"}


class NothingWaits(TorchDispatchMode):
    """Within it, an operation that would wait for the device is an error.

    Leave optimisers outside: some count their steps on the CPU, and may read what they counted. What brings values to
    the host is an error too, though on the CPU it is no operation.
    """

    def __enter__(self):
        self._before = {name: getattr(torch.Tensor, name) for name in ("cpu", "numpy")}
        for name in self._before:
            setattr(torch.Tensor, name, functools.partialmethod(_refuse, name))
        return super().__enter__()

    def __exit__(self, *error):
        for name, method in self._before.items():
            setattr(torch.Tensor, name, method)
        return super().__exit__(*error)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        masked = name in MASKS and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        assert name not in WAITS and not masked, f"{operation} makes the host wait for the device"
        return operation(*args, **(kwargs or {}))


def _refuse(tensor, name, *_, **__):
    raise AssertionError(f"Tensor.{name} makes the host wait for the device")
