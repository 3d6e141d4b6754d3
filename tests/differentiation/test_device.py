"""Products stay on the device of the parameters: no number and no tensor goes to the host in between."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from precondlab.map import Map
from precondlab.models import mlp
from precondlab.operators import GGN, Gram, Jacobian, Kernel
from precondlab.problems import advection, poisson

F64 = torch.float64
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


class NoTransfer(TorchDispatchMode):
    """Refuse operations that bring a number to the host or a tensor to another device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError(f"{func} waits for the device")
        devices = {t.device for t in args if isinstance(t, torch.Tensor) and t.dim()}
        devices |= {torch.device(kwargs["device"])} if kwargs.get("device") is not None else set()
        if len(devices) > 1:
            raise RuntimeError(f"{func} works on {devices}")
        return func(*args, **kwargs)


def operators(device="cpu"):
    net = mlp((2, 8, 8, 1), seed=0).to(device)
    for route in ("jets", "graph"):
        yield route, Gram(Jacobian(poisson(dim=2).residual(net, interior=40, boundary=8), route=route))
    J = Jacobian(poisson(dim=2).residual(net, interior=40, boundary=8), memory_budget=3000)
    yield from (("rebuilt", Gram(J)), ("kernel", Kernel(J)))
    yield "formed", Gram(Jacobian(poisson(dim=2).residual(net, interior=40, boundary=8)).formed())
    yield "shifted", Gram(Jacobian(advection().residual(net, interior=20, boundary=8)))
    x, y = torch.linspace(0, 1, 20, dtype=F64, device=device).view(10, 2), torch.arange(10, device=device) % 3
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)).double().to(device)
    yield "curvature", GGN(classifier, nn.CrossEntropyLoss(), (x, y))


def test_the_mode_sees_a_transfer():
    r = Map(lambda p: p["a"] ** 2, {"a": torch.ones(2, dtype=F64)})
    J = Jacobian(r)
    with NoTransfer(), pytest.raises(RuntimeError, match="waits for the device"):
        J.forward(r.domain.random(1))[0, 0].item()
    with NoTransfer(), pytest.raises(RuntimeError, match="works on"):
        torch.ones(2, device="meta") + torch.ones(2)


@pytest.mark.parametrize(("name", "A"), [pytest.param(n, A, id=n) for n, A in operators()])
def test_no_transfer_within_a_product(name, A):
    V = A.domain.random(3)
    with NoTransfer():
        A.forward(V[:, :1])
        A.forward(V)


@cuda
@pytest.mark.device
def test_products_on_the_device_are_those_on_the_host():
    for (name, host), (_, device) in zip(operators(), operators("cuda"), strict=True):
        V = host.domain.random(3)
        there = V.cuda()
        device.forward(there)
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = device.forward(there)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(found.cpu(), host.forward(V), rtol=1e-9, atol=1e-9, msg=name)
