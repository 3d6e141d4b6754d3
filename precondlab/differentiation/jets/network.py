"""Read a module as a sequence of layers on jets."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from precondlab.differentiation.calculus import partials
from precondlab.differentiation.jets.activations import SMOOTH, Unsupported, derivatives_of
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.layers import (
    Add,
    Affine,
    Concatenate,
    Elementwise,
    Fixed,
    Layer,
    Multiply,
    Params,
    Select,
)
from precondlab.symbol import Symbol

__all__ = ["LAYERS", "Linearized", "Network", "Unsupported"]


#: Module class → function (module, params, names) returning its layer: add layers of your own here.
#: ``params`` holds tensors and ``names`` the parameters' names by id; a name is None if frozen.
LAYERS: dict[type[nn.Module], Callable[[nn.Module, dict[str, Tensor], dict[int, str]], Layer]] = {}

Make = Callable[[dict[str, Tensor]], Layer]

_ALIGNED = 64  # bytes


@dataclass(frozen=True)
class Step:
    """One layer: how to make it, which earlier results it takes, and whether θ enters at or before it."""

    make: Make
    inputs: tuple[int, ...]
    trainable: bool


class Network:
    """A module as steps on jets, found by ``torch.fx``.

    Parameters
    ----------
    model
        Maps ``[N, d]`` to ``[N, 1]``, built from linear layers, smooth elementwise functions, sums, products,
        concatenations, and parameter-free modules of x.
    trainable
        Names of the parameters to be differentiated.

    Raises
    ------
    Unsupported
        Naming the module or operation that has no rule.
    """

    def __init__(self, model: nn.Module, trainable: Sequence[str]) -> None:
        self._model = model
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._trainable = set(trainable)
        self.steps: list[Step] = []
        self._place: dict[fx.Node, int] = {}
        try:
            graph = _Tracer().trace(model)
        except (TraceError, TypeError, RuntimeError, ValueError) as error:
            raise Unsupported(f"torch.fx cannot read {type(model).__name__}: {str(error).splitlines()[0]}") from error
        for node in graph.nodes:
            self._read(node)

    def linearize(self, params: dict[str, Tensor], algebra: JetAlgebra, x: Tensor) -> Linearized:
        """Evaluate on jets at points and keep what tangent and adjoint need."""
        return Linearized(self.steps, [step.make(params) for step in self.steps], algebra, x)

    def _read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self._place:
                raise Unsupported("a model with more than one input")
            self._place[node] = 0
        elif node.op == "output":
            if self._place.get(node.args[0]) != len(self.steps):  # type: ignore[arg-type]
                raise Unsupported("a model whose output is not its last operation")
        elif node.op == "call_module":
            self._module(node, self._model.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            self._function(node)
        elif node.op != "get_attr":
            raise Unsupported(f"the operation {node.op}")

    def _append(self, node: fx.Node, make: Make, inputs: Sequence[fx.Node], *, own: bool = False) -> None:
        places = tuple(self._place[n] for n in inputs)
        trainable = own or any(p > 0 and self.steps[p - 1].trainable for p in places)
        self.steps.append(Step(make, places, trainable))
        self._place[node] = len(self.steps)

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        inputs = [n for n in node.args if isinstance(n, fx.Node)]
        own = any(self._names.get(id(p)) in self._trainable for p in module.parameters())
        if type(module) in LAYERS:
            make = LAYERS[type(module)]
            self._append(node, lambda params: make(module, params, self._names), inputs, own=own)
        elif isinstance(module, nn.Linear):
            self._append(node, lambda params: self._affine(module, params), inputs, own=own)
        elif (derivatives := derivatives_of(module)) is not None:
            self._append(node, lambda params: Elementwise(derivatives), inputs)
        elif isinstance(module, nn.Identity):
            self._place[node] = self._place[inputs[0]]
        elif not own and self._place[inputs[0]] == 0:
            self._append(node, lambda params: Fixed(lambda algebra, x: _fixed_jets(module, algebra, x)), inputs)
        else:
            raise Unsupported(f"the layer {type(module).__name__}")

    def _affine(self, module: nn.Linear, params: dict[str, Tensor]) -> Affine:
        weight, weight_name = self._parameter(module.weight, params)
        if module.bias is None:
            return Affine(weight, None, weight_name, None)
        bias, bias_name = self._parameter(module.bias, params)
        return Affine(weight, bias, weight_name, bias_name)

    def _parameter(self, p: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, str | None]:
        if id(p) not in self._names:
            raise Unsupported("a linear layer whose weight is computed from other parameters")
        name = self._names[id(p)]
        return params[name], name if name in self._trainable else None

    def _function(self, node: fx.Node) -> None:
        target = getattr(torch, str(node.target), node.target) if node.op == "call_method" else node.target
        nodes = [n for n in node.args if isinstance(n, fx.Node)]
        constants = [n for n in nodes if n.op == "get_attr"]
        if constants:
            return self._with_constant(node, target, nodes, constants)
        numbers = [a for a in node.args if isinstance(a, int | float)]
        if target in SMOOTH and not node.kwargs:
            derivatives = SMOOTH[target]
            return self._append(node, lambda params: Elementwise(derivatives), nodes)
        if target in (operator.add, torch.add, operator.sub, torch.sub) and not node.kwargs:
            sign = 1.0 if target in (operator.add, torch.add) else -1.0
            if len(nodes) == 2:
                return self._append(node, lambda params: Add((1.0, sign)), nodes)
            (number,) = numbers
            first = node.args[0] is nodes[0]
            factor, shift = (1.0, sign * number) if first else (sign, number)
            return self._append(node, lambda params: Add((factor,), shift), nodes)
        if target in (operator.mul, torch.mul) and not node.kwargs:
            if len(nodes) == 2:
                return self._append(node, lambda params: Multiply(), nodes)
            return self._append(node, lambda params: Add((float(numbers[0]),)), nodes)
        if target is operator.truediv and len(nodes) == 1 and node.args[0] is nodes[0]:
            return self._append(node, lambda params: Add((1.0 / numbers[0],)), nodes)
        if target in (operator.neg, torch.neg):
            return self._append(node, lambda params: Add((-1.0,)), nodes)
        if target in (operator.pow, torch.pow) and numbers == [2]:
            return self._append(node, lambda params: Elementwise(SMOOTH[torch.square]), nodes)
        if target in (torch.cat, torch.concat, torch.concatenate):
            dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            if dim in (-1, 1):
                return self._append(node, lambda params: Concatenate(), list(node.args[0]))  # type: ignore[arg-type]
        columns = _columns(list(node.args)[-1]) if target is operator.getitem else None
        if columns is not None:
            return self._append(node, lambda params: Select(columns), nodes)
        raise Unsupported(f"the operation {getattr(node.target, '__name__', node.target)}")

    def _with_constant(self, node: fx.Node, target: object, nodes: list[fx.Node], constants: list[fx.Node]) -> None:
        """Read ``x @ B``, ``x + c`` and ``c x`` with a buffer or a frozen parameter."""
        tensor = _attribute(self._model, str(constants[0].target))
        others = [n for n in nodes if n.op != "get_attr"]
        if self._names.get(id(tensor)) in self._trainable or len(others) != 1:
            raise Unsupported(f"the parameter {constants[0].target} outside a layer")
        constant = tensor.detach()
        if target in (operator.matmul, torch.matmul) and node.args[0] is others[0]:
            return self._append(node, lambda params: Affine(constant.T, None, None, None), others)
        if target in (operator.add, torch.add):
            return self._append(node, lambda params: Add((1.0,), constant), others)
        if target in (operator.mul, torch.mul) and constant.dim() == 1:
            return self._append(node, lambda params: Affine(constant.diag(), None, None, None), others)
        raise Unsupported(f"the operation {getattr(node.target, '__name__', node.target)} with {constants[0].target}")


class Linearized:
    """A network at one point θ, on the jets of some points x."""

    def __init__(self, steps: Sequence[Step], layers: Sequence[Layer], algebra: JetAlgebra, x: Tensor) -> None:
        self._steps, self._layers, self._algebra = steps, layers, algebra
        self._last_use = {i: place for place, step in enumerate(steps) for i in step.inputs}
        results = {0: algebra.coordinates(x)}
        for place, (step, layer) in enumerate(zip(steps, layers, strict=True)):
            results[place + 1] = layer.primal(algebra, *(results[i] for i in step.inputs))
            self._release(results, place)
        self.value = results[len(steps)]

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for tangent and adjoint passes, each storage once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._kept()}
        return sum(storages.values())

    def pack(self) -> None:
        """Move what is kept into one piece of memory: small pieces between passing ones leave holes in the heap."""
        kept = {t.untyped_storage().data_ptr(): t for t in self._kept()}
        sizes = [-(-t.untyped_storage().nbytes() // _ALIGNED) * _ALIGNED for t in kept.values()]
        device = next(iter(kept.values())).device
        whole = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        starts = dict(zip(kept, itertools.accumulate(sizes, initial=0), strict=False))
        for pointer, t in kept.items():
            source = torch.empty(0, dtype=torch.uint8, device=device).set_(t.untyped_storage())
            whole[starts[pointer] : starts[pointer] + len(source)] = source
        for layer in self._layers:
            for name, t in vars(layer).items():
                start = starts.get(t.untyped_storage().data_ptr()) if isinstance(t, Tensor) else None
                if start is not None:
                    offset = start // t.itemsize + t.storage_offset()
                    moved = torch.empty(0, dtype=t.dtype, device=device)
                    setattr(layer, name, moved.set_(whole.untyped_storage(), offset, t.shape, t.stride()))

    def _kept(self) -> list[Tensor]:
        return [t for layer in self._layers for t in layer.kept()]

    def tangent(self, params: Params) -> Tensor:
        """Return the change ``[C, N, k, 1]`` of the output jets for a block of parameter changes."""
        results: dict[int, Tensor | None] = {0: None}
        for place, (step, layer) in enumerate(zip(self._steps, self._layers, strict=True)):
            inputs = [results[i] for i in step.inputs]
            moved = layer.tangent(self._algebra, *inputs, params=params) if step.trainable else None
            results[place + 1] = moved
            self._release(results, place)
        output = results[len(self._steps)]
        if output is None:
            raise Unsupported("an output that does not depend on the parameters")
        return output

    def _release(self, results: dict[int, Any], place: int) -> None:
        """Forget what no later step takes."""
        for i in self._steps[place].inputs:
            if self._last_use[i] == place:
                results.pop(i, None)

    def adjoint(self, w: Tensor, gradients: Params) -> None:
        """Add the adjoint of output weights ``[C, N, k, 1]`` to the parameters' blocks."""
        self._backward(
            w, lambda layer, weight, wanted: layer.adjoint(self._algebra, weight, wanted=wanted, gradients=gradients)
        )

    def rows(self, w: Tensor) -> dict[str, Tensor]:
        """Return each point's gradient of its own output weights ``[C, N, 1]``: name → ``[N, *shape]``."""
        collected: dict[str, Tensor] = {}
        ignored = _Ignore()

        def visit(layer: Layer, weight: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
            for name, value in layer.rows(weight.squeeze(2)).items():
                collected[name] = collected[name] + value if name in collected else value
            return layer.adjoint(self._algebra, weight, wanted=wanted, gradients=ignored)

        self._backward(w.unsqueeze(2), visit)
        return collected

    def _backward(self, w: Tensor, visit: Callable[[Layer, Tensor, Sequence[bool]], Sequence[Tensor | None]]) -> None:
        weights: dict[int, Tensor] = {len(self._steps): w}
        for place in range(len(self._steps), 0, -1):
            step, weight = self._steps[place - 1], weights.pop(place, None)
            if weight is None or not step.trainable:
                continue
            wanted = [i > 0 and self._steps[i - 1].trainable for i in step.inputs]
            for i, part in zip(step.inputs, visit(self._layers[place - 1], weight, wanted), strict=True):
                if part is not None:
                    weights[i] = weights[i] + part if i in weights else part


class _Ignore(dict):  # type: ignore[type-arg]
    """Gradients that nobody wants."""

    def __missing__(self, key: str) -> float:
        return 0.0

    def __setitem__(self, key: str, value: object) -> None:
        return None


class _Tracer(fx.Tracer):
    """Keep as one step every module of torch, every registered one, and every one without parameters."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential):
            return False
        fixed = next(m.parameters(), None) is None
        return type(m) in LAYERS or fixed or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:  # type: ignore[type-arg]
        # hooks check their inputs, which a trace cannot; the route's value is compared with the model's own
        return super().call_module(m, m.forward, args, kwargs)


def _fixed_jets(module: nn.Module, algebra: JetAlgebra, x: Tensor) -> Tensor:
    """Return the jets of a parameter-free module at points."""
    if getattr(module, "differentiates", False):
        channels = [module(x), *(module(x, Symbol(F)) for F in algebra.channels)]
        return torch.stack(channels).detach()
    columns = []
    orders = {alpha for F in algebra.channels for alpha in F}
    for j in range(module(x).shape[1]):
        known = partials(lambda x, j=j: module(x)[:, j : j + 1], x, [(0,) * x.shape[1], *orders])
        derived = [sum(c * known[alpha] for alpha, c in F.items()) for F in algebra.channels]
        columns.append(torch.stack([known[(0,) * x.shape[1]], *derived]))  # type: ignore[list-item]
    return torch.stack(columns, dim=2).detach()


def _columns(index: object) -> slice | None:
    """Return the columns that ``x[:, a:b]`` selects, or None for another kind of index."""
    if not isinstance(index, tuple) or len(index) != 2 or index[0] not in (Ellipsis, slice(None)):
        return None
    return index[1] if isinstance(index[1], slice) else None


def _attribute(module: nn.Module, path: str) -> Tensor:
    *modules, name = path.split(".")
    return getattr(module.get_submodule(".".join(modules)), name)
