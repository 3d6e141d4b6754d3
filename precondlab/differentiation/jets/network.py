"""Read a module as a sequence of layers on jets."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


_TRANSPOSITIONS = (
    *((getattr, "T"), (getattr, "mT"), (torch.t,)),
    *((torch.transpose, *axes) for axes in ((0, 1), (1, 0), (-2, -1), (-1, -2))),
)


class Network:
    """A module as steps on jets, found by ``torch.fx``.

    Parameters
    ----------
    model
        Maps ``[N, d]`` to ``[N, 1]``, built from linear layers, products with and sums of parameters of its own
        (``x @ W + b``, ``a * x``), smooth elementwise functions, sums, products, concatenations, and parameter-free
        modules of x.
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
        self._given: dict[fx.Node, _Given] = {}
        self._unbiased: dict[fx.Node, tuple[int, Tensor, bool]] = {}
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
            elif node.op == "get_attr":
                self._given[node] = _Given(_attribute(module, str(node.target)))
            elif node.op in ("call_function", "call_method"):
                target = getattr(torch, str(node.target), node.target) if node.op == "call_method" else node.target
                if (given := self._rewritten(node, target)) is not None:
                    self._given[node] = given
                else:
                    self._place[node] = self._function(node, target)
            elif node.op != "placeholder":
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
            if any(id(p) not in self._names for p in (module.weight, module.bias) if p is not None):
                raise Unsupported("a linear layer whose weight is computed from other parameters")
            return self._linear(module.weight, module.bias, *inputs)
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
        (g, g_name), (b, b_name) = self._read(weight), self._read(bias)
        return self._append(lambda params: Scale(g(params), b(params), g_name, b_name), x, own=bool(g_name or b_name))

    def _linear(self, weight: Tensor, bias: Tensor | None, x: int, *, transposed: bool = False) -> int:
        """Append ``W x + b``, W given by its transpose if so said."""
        (W, W_name), (b, b_name) = self._read(weight), self._read(bias)

        def make(params: dict[str, Tensor]) -> Affine:
            matrix = W(params)
            assert matrix is not None  # only the bias may be
            return Affine(matrix.T if transposed else matrix, b(params), W_name, b_name, transposed)

        return self._append(make, x, own=bool(W_name or b_name))

    def _read(self, p: Tensor | None) -> tuple[Callable[[dict[str, Tensor]], Tensor | None], str | None]:
        """Return how to take a tensor from parameters and buffers, and its name if it is to be differentiated."""
        name = self._names.get(id(p))
        if name is None:
            constant = None if p is None else p.detach().clone()
            return lambda params: constant, None
        return lambda params: params[name], name if name in self._trainable else None

    def _fixed(self, module: nn.Module, params: dict[str, Tensor]) -> Fixed:
        state = {name: params[self._names[id(p)]] for name, p in (*module.named_parameters(), *module.named_buffers())}

        def function(*arguments: object) -> Tensor:
            return call(module, state, arguments)

        differentiates = getattr(module, "differentiates", False)
        return Fixed(lambda algebra, x: _fixed_jets(function, differentiates, algebra, x))

    def _function(self, node: fx.Node, target: object) -> int:
        name = getattr(node.target, "__name__", node.target)
        if target in (torch.cat, torch.concat, torch.concatenate):
            given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
            if given.get("dim", 0) in (-1, 1) and isinstance(given["tensors"], list | tuple):
                return self._append(lambda params: Concatenate(), *map(self._at, given["tensors"]))
            raise Unsupported(f"the operation {name} over another axis than the last")
        if any(n in self._given for n in node.all_input_nodes):
            found = self._with_parameter(node, target)
            if found is None:
                raise Unsupported(f"the operation {name} with a parameter or a buffer")
            return found
        if any(isinstance(value, fx.Node) for value in node.kwargs.values()):
            raise Unsupported(f"the operation {name} with keywords")
        nodes = [n for n in node.args if isinstance(n, fx.Node)]
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

    def _rewritten(self, node: fx.Node, target: object) -> _Given | None:
        """Return a parameter that is only transposed or multiplied by a number, as such; None for all else."""
        if len(node.all_input_nodes) != 1 or node.all_input_nodes[0] not in self._given or node.kwargs:
            return None
        p, first = self._given[node.all_input_nodes[0]], isinstance(node.args[0], fx.Node)
        others = tuple(a for a in node.args if not isinstance(a, fx.Node))
        if p.tensor.dim() == 2 and (target, *others) in _TRANSPOSITIONS:
            return replace(p, transposed=not p.transposed)
        if target in (operator.neg, torch.neg) and not others:
            return replace(p, factor=-p.factor)
        if len(others) == 1 and isinstance(others[0], int | float) and others[0]:
            if target in (operator.mul, torch.mul):
                return replace(p, factor=others[0] * p.factor)
            if target in (operator.truediv, torch.div) and first:
                return replace(p, factor=p.factor / others[0])
        return None

    def _with_parameter(self, node: fx.Node, target: object) -> int | None:
        """Append linear functions ``W x + b``, and ``x ± c`` and ``c x``, with parameters or buffers."""
        args = list(node.args)
        if target is nn.functional.linear and 2 <= len(args) + len(node.kwargs) <= 3:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | node.kwargs
            x, weight, bias, transposed = named.get("input"), named.get("weight"), named.get("bias"), False
        elif node.kwargs:
            return None
        elif target is torch.addmm and len(args) == 3:
            (bias, x, weight), transposed = args, True
        elif target in (operator.matmul, torch.matmul, torch.mm) and len(args) == 2:
            (x, weight), bias, transposed = args, None, True
        else:
            return self._by_entries(target, args)
        W, b = (self._given.get(p) if isinstance(p, fx.Node) else None for p in (weight, bias))
        if W is None or W.tensor.dim() != 2 or (b is None) != (bias is None):
            return None
        start, transposed = self._times(W.factor, self._at(x)), transposed ^ W.transposed
        place = self._linear(W.tensor, None, start, transposed=transposed)
        self._unbiased[node] = start, W.tensor, transposed
        return place if b is None else self._shifted(place, b, node)

    def _by_entries(self, target: object, args: Sequence[object]) -> int | None:
        """Append ``x ± c``, ``c − x`` and ``c x``."""
        nodes = [a for a in args if isinstance(a, fx.Node)]
        given = [self._given[n] for n in nodes if n in self._given]
        if len(args) != 2 or len(nodes) != 2 or len(given) != 1 or given[0].transposed:
            return None
        (p,), first = given, nodes[1] in self._given
        other = nodes[0 if first else 1]
        x = self._at(other)
        if target in (operator.mul, torch.mul):
            return self._scale(p.tensor, None, self._times(p.factor, x))
        if target in (operator.add, torch.add):
            return self._shifted(x, p, other)
        if target in (operator.sub, torch.sub):
            return self._shifted(x, replace(p, factor=-p.factor)) if first else self._shifted(self._times(-1.0, x), p)
        return None

    def _shifted(self, x: int, b: _Given, node: fx.Node | None = None) -> int:
        """Append ``x + b``, as one step with ``W x`` if that is the last one and nothing else takes it."""
        alone = node is not None and len(node.users) <= 1 and x == len(self.steps) and b.factor == 1
        if alone and node in self._unbiased:
            start, weight, transposed = self._unbiased[node]
            if b.tensor.shape == weight.shape[transposed : 1 + transposed]:
                self.steps.pop()
                return self._linear(weight, b.tensor, start, transposed=transposed)
        return self._times(b.factor, self._scale(None, b.tensor, self._times(1 / b.factor, x)))

    def _times(self, factor: float, x: int) -> int:
        return x if factor == 1 else self._append(lambda params: Add((factor,)), x)


@dataclass(frozen=True)
class _Given:
    """A parameter or a buffer, times a number, and transposed or not, where a model uses it."""

    tensor: Tensor
    factor: float = 1.0
    transposed: bool = False


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
