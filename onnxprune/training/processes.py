"""Several processes that train one network together, as torchrun starts them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor

from onnxprune.errors import BadInput


@dataclass(frozen=True)
class Processes:
    """Process `rank` of `world`, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def average(self, parameters: Sequence[Tensor]) -> None:
        """Give the gradients their mean over all processes; one that no process has stays None."""
        if self.world == 1 or not parameters:
            return
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in parameters]
        vector = self.total(torch.cat([has, *flat]))
        somewhere = vector[: len(has)].tolist()
        means = (vector[len(has) :] / self.world).split([p.numel() for p in parameters])
        for parameter, count, mean in zip(parameters, somewhere, means, strict=True):
            parameter.grad = mean.reshape(parameter.shape).to(parameter.dtype) if count else None

    def agree(self, parameters: Sequence[Tensor]) -> None:
        """Let all processes begin at the weights of the first. Raises BadInput where the shapes differ."""
        if self.world == 1:
            return
        shapes = repr([tuple(p.shape) for p in parameters]).encode()
        own = torch.tensor(int.from_bytes(blake2b(shapes, digest_size=7).digest(), "little"), device=self.device)
        least, most = own.clone(), own.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        if not torch.equal(least, most):
            raise BadInput("the processes pruned the model differently: give --align N, or prune first, then finetune")
        with torch.no_grad():
            for parameter in parameters:
                dist.broadcast(parameter.data, 0)


def alone() -> Processes:
    """This process by itself: where there are others, each does the same."""
    return Processes(0, 1, _device())


def _device() -> torch.device:
    number = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started this one with; alone otherwise."""
    world, rank, device = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")), _device()
    if world == 1 or dist.is_initialized():
        yield Processes(rank, world, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Processes(rank, world, device)
    finally:
        dist.destroy_process_group()
