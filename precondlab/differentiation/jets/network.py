"""Read a module as a sequence of layers on jets."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from precondlab.differentiation.calculus import partials
from precondlab.differentiation.context import call
from precondlab.differentiation.jets.activations import (
    SMOOTH,
    UNREADABLE,
    WITH_SETTINGS,
    Unsupported,
    derivatives_of,
    power,
)
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.columns import Concatenate, Fixed, Select, Sum
from precondlab.differentiation.jets.layers import Add, Affine, Elementwise, Layer, Multiply, Scale
from precondlab.differentiation.jets.linearized import Linearized, Make, Step
from precondlab.symbol import Symbol

__all__ = ["LAYERS", "Linearized", "Network", "Unsupported"]


#: Module class → function (module, params, names) returning its layer: add layers of your own here.
#: ``params`` holds tensors and ``names`` the parameters' names by id; a name is None if frozen.
LAYERS: dict[type[nn.Module], Callable[[nn.Module, dict[str, Tensor], dict[int, str]], Layer]] = {}


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
        self._trainable = set(trainable)
        self._names: dict[int, str] = {}
        self._own: dict[str, Tensor] = {}
        for name, p in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
            self._own[name] = p.detach()
            if id(p) not in self._names or name in self._trainable:
                self._names[id(p)] = name
        self.steps: list[Step] = []
        self._place: dict[fx.Node, int] = {}
        if self._graph(model, [0]) != len(self.steps):
            raise Unsupported("a model whose output is not its last operation")

    def linearize(self, params: dict[str, Tensor], algebra: JetAlgebra, x: Tensor) -> Linearized:
        """Evaluate on jets at points, with given parameters and buffers, and keep what tangent and adjoint need."""
        return Linearized(self.steps, self.layers(params), algebra, x)

    def layers(self, params: dict[str, Tensor]) -> list[Layer]:
        """Return the layers of the steps, with given parameters and buffers."""
        params = {**self._own, **params}
        return [step.make(params) for step in self.steps]

    def _graph(self, module: nn.Module, inputs: Sequence[int]) -> int:
        """Append the steps of a module whose inputs are results of earlier steps; return the place of its output."""
        try:
            graph = _Tracer().trace(module)
        except UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Unsupported(f"torch.fx cannot read {type(module).__name__}: {reason}") from error
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        if len(placeholders) != len(inputs):
            raise Unsupported("a model with more than one input")
        self._place.update(zip(placeholders, inputs, strict=True))
        for node in graph.nodes:
            if node.op == "output":
                break
            if node.op == "call_module":
                self._place[node] = self._module(node, module.get_submodule(str(node.target)))
            elif node.op in ("call_function", "call_method"):
                self._place[node] = self._function(node, module)
            elif node.op not in ("placeholder", "get_attr"):
                raise Unsupported(f"the operation {node.op}")
        return self._at(node.args[0])

    def _append(self, make: Make, *inputs: int, own: bool = False) -> int:
        trainable = own or any(p > 0 and self.steps[p - 1].trainable for p in inputs)
        self.steps.append(Step(make, inputs, trainable, own))
        return len(self.steps)

    def _at(self, argument: object) -> int:
        """Return the place of a result of an earlier step."""
        if not isinstance(argument, fx.Node) or argument not in self._place:
            raise Unsupported(f"{argument!r} where a result of an earlier layer should be")
        return self._place[argument]

    def _module(self, node: fx.Node, module: nn.Module) -> int:
        inputs = [self._at(argument) for argument in (*node.args, *node.kwargs.values())]
        if len(inputs) != 1 and type(module) not in LAYERS:
            raise Unsupported(f"the layer {type(module).__name__} with {len(inputs)} inputs")
        own = any(self._names.get(id(p)) in self._trainable for p in module.parameters())
        if type(module) in LAYERS:
            make = LAYERS[type(module)]
            return self._append(lambda params: make(module, params, self._names), *inputs, own=own)
        if isinstance(module, nn.Linear):
            return self._append(lambda params: self._affine(module, params), *inputs, own=own)
        if (derivatives := derivatives_of(module)) is not None:
            return self._append(lambda params: Elementwise(derivatives), *inputs)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
            return self._normalization(module, *inputs, own=own)
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and not module.training):
            return inputs[0]
        if not own and inputs == [0]:
            return self._append(lambda params: self._fixed(module, params), 0)
        if own or type(module).__module__.startswith("torch."):
            raise Unsupported(f"the layer {type(module).__name__}")
        return self._graph(module, inputs)

    def _normalization(self, module: nn.LayerNorm | nn.RMSNorm, x: int, *, own: bool) -> int:
        """Append ``g (x − mean x) / √(var x + ε) + b``, or ``g x / √(mean x² + ε)``, step by step."""
        if isinstance(module, nn.LayerNorm):
            mean = self._append(lambda params: Sum(mean=True), x)
            x = self._append(lambda params: Add((1.0, -1.0)), x, mean)
        eps = torch.finfo(next(self._model.parameters()).dtype).eps if module.eps is None else module.eps
        square = self._append(lambda params: Elementwise(SMOOTH[torch.square]), x)
        variance = self._append(lambda params: Sum(mean=True), square)
        shifted = self._append(lambda params: Add((1.0,), eps), variance)
        scale = self._append(lambda params: Elementwise(SMOOTH[torch.rsqrt]), shifted)
        return self._scale(
            module.weight, getattr(module, "bias", None), self._append(lambda params: Multiply(), x, scale)
        )

    def _scale(self, weight: Tensor | None, bias: Tensor | None, x: int) -> int:
        """Append ``g x + b`` with numbers or vectors g and b; None is 1 or 0."""
        known = [(p, self._names.get(id(p))) for p in (weight, bias)]
        names = [name if name in self._trainable else None for _, name in known]

        def make(params: dict[str, Tensor]) -> Scale:
            g, b = (None if p is None else params[name] if name else p.detach() for p, name in known)
            return Scale(g, b, *names)

        return self._append(make, x, own=any(names))

    def _fixed(self, module: nn.Module, params: dict[str, Tensor]) -> Fixed:
        state = {name: params[self._names[id(p)]] for name, p in (*module.named_parameters(), *module.named_buffers())}

        def function(*arguments: object) -> Tensor:
            return call(module, state, arguments)

        differentiates = getattr(module, "differentiates", False)
        return Fixed(lambda algebra, x: _fixed_jets(function, differentiates, algebra, x))

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

    def _function(self, node: fx.Node, module: nn.Module) -> int:
        target = getattr(torch, str(node.target), node.target) if node.op == "call_method" else node.target
        name = getattr(node.target, "__name__", node.target)
        if target in (torch.cat, torch.concat, torch.concatenate):
            given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
            if given.get("dim", 0) in (-1, 1) and isinstance(given["tensors"], list | tuple):
                return self._append(lambda params: Concatenate(), *map(self._at, given["tensors"]))
            raise Unsupported(f"the operation {name} over another axis than the last")
        if any(isinstance(value, fx.Node) for value in node.kwargs.values()):
            raise Unsupported(f"the operation {name} with keywords")
        nodes = [n for n in node.args if isinstance(n, fx.Node)]
        constants = [n for n in nodes if n.op == "get_attr"]
        if constants:
            return self._with_constant(node, target, nodes, _attribute(module, str(constants[0].target)))
        inputs = [self._at(n) for n in nodes]
        if target in (torch.mean, torch.sum) and _is_width(node):
            return self._append(lambda params: Sum(mean=target is torch.mean), *inputs)
        if target in WITH_SETTINGS and len(inputs) == 1 and node.args[0] is nodes[0]:
            derivatives = WITH_SETTINGS[target](*node.args[1:], **node.kwargs)
            return self._append(lambda params: Elementwise(derivatives), *inputs)
        columns = _columns(list(node.args)[-1]) if target is operator.getitem else None
        if columns is not None:
            return self._append(lambda params: Select(columns), *inputs)
        found = (
            None
            if node.kwargs
            else self._arithmetic(target, inputs, list(node.args), first=node.args[:1] == tuple(nodes[:1]))
        )
        if found is None:
            raise Unsupported(f"the operation {name}")
        return found

    def _arithmetic(self, target: object, inputs: list[int], args: list[object], *, first: bool) -> int | None:
        """Append an elementwise function or an operation of arithmetic; None for any other."""
        numbers = [a for a in args if isinstance(a, int | float)]
        if len(inputs) + len(numbers) != len(args):
            return None
        if target in SMOOTH and not numbers:
            derivatives = SMOOTH[target]
            return self._append(lambda params: Elementwise(derivatives), *inputs)
        if target in (operator.add, torch.add, operator.sub, torch.sub):
            sign = 1.0 if target in (operator.add, torch.add) else -1.0
            if len(inputs) == 2:
                return self._append(lambda params: Add((1.0, sign)), *inputs)
            (number,) = numbers
            factor, shift = (1.0, sign * number) if first else (sign, number)
            return self._append(lambda params: Add((factor,), shift), *inputs)
        if target in (operator.mul, torch.mul):
            if len(inputs) == 1:
                return self._append(lambda params: Add((float(numbers[0]),)), *inputs)
            if inputs[0] == inputs[1]:
                return self._append(lambda params: Elementwise(SMOOTH[torch.square]), inputs[0])
            return self._append(lambda params: Multiply(), *inputs)
        if target in (operator.truediv, torch.div):
            if first and numbers:
                return self._append(lambda params: Add((1.0 / numbers[0],)), *inputs)
            inverse = self._append(lambda params: Elementwise(SMOOTH[torch.reciprocal]), inputs[-1])
            if numbers:
                return self._append(lambda params: Add((float(numbers[0]),)), inverse)
            return self._append(lambda params: Multiply(), inputs[0], inverse)
        if target in (operator.neg, torch.neg):
            return self._append(lambda params: Add((-1.0,)), *inputs)
        if target in (operator.pow, torch.pow) and first and numbers:
            derivatives = power(numbers[0])
            return self._append(lambda params: Elementwise(derivatives), *inputs)
        return None

    def _with_constant(self, node: fx.Node, target: object, nodes: list[fx.Node], tensor: Tensor) -> int:
        """Read ``x @ B``, ``x + c`` and ``c x`` with a parameter or a buffer."""
        others = [self._at(n) for n in nodes if n.op != "get_attr"]
        own = self._names.get(id(tensor)) in self._trainable
        if len(others) == 1 and target in (operator.add, torch.add):
            return self._scale(None, tensor, *others)
        if len(others) == 1 and target in (operator.mul, torch.mul):
            return self._scale(tensor, None, *others)
        if len(others) == 1 and target in (operator.matmul, torch.matmul) and node.args[0] is nodes[0] and not own:
            known, constant = self._names.get(id(tensor)), tensor.detach().clone()
            return self._append(
                lambda params: Affine((constant if known is None else params[known]).T, None, None, None), *others
            )
        raise Unsupported(f"the operation {getattr(node.target, '__name__', node.target)} with a parameter or a buffer")


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


def _fixed_jets(function: Callable[..., Tensor], differentiates: bool, algebra: JetAlgebra, x: Tensor) -> Tensor:
    """Return the jets of a fixed function at points; one that differentiates takes a symbol, too."""
    if differentiates:
        channels = [function(x), *(function(x, Symbol(F)) for F in algebra.channels)]
        return torch.stack(channels).detach()
    columns = []
    orders = {alpha for F in algebra.channels for alpha in F}
    for j in range(function(x).shape[1]):
        known = partials(lambda x, j=j: function(x)[:, j : j + 1], x, [(0,) * x.shape[1], *orders])
        derived = [sum(c * known[alpha] for alpha, c in F.items()) for F in algebra.channels]
        columns.append(torch.stack([known[(0,) * x.shape[1]], *derived]))  # type: ignore[list-item]
    return torch.stack(columns, dim=2).detach()


def _is_width(node: fx.Node) -> bool:
    """Whether a mean or sum is over the last axis and keeps it."""
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    return given.get("keepdim") is True and given.get("dim") in (-1, 1, [-1], [1], (-1,), (1,))


def _columns(index: object) -> slice | None:
    """Return the columns that ``x[:, a:b]`` selects, or None for another kind of index."""
    if not isinstance(index, tuple) or len(index) != 2 or index[0] not in (Ellipsis, slice(None)):
        return None
    columns = index[1]
    known = isinstance(columns, slice) and not any(
        isinstance(end, fx.Node) for end in (columns.start, columns.stop, columns.step)
    )
    return columns if known else None


def _attribute(module: nn.Module, path: str) -> Tensor:
    *modules, name = path.split(".")
    return getattr(module.get_submodule(".".join(modules)), name)
