"""Ways to multiply by the Jacobian of a function of a parameter dict, behind one interface.

Every route is a :class:`Route`, made as ``Route(function, params, space)``, with ``value``, the
function's output ``[m]``, ``jvp(V: [n k]) -> [m k]`` and ``vjp(U: [m k]) -> [n k]``.
The function is evaluated once, at construction; every product reuses that evaluation as far as
the route can. Where only values at many points are wanted, :func:`values` has the route's own way to them.
"""

from precondlab.differentiation.calculus import Pointwise
from precondlab.differentiation.choose import ROUTES, linearize, values
from precondlab.differentiation.route import Route

__all__ = ["ROUTES", "Pointwise", "Route", "linearize", "values"]
