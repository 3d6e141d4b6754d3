"""Ways to multiply by the Jacobian of a function of a parameter dict, behind one interface.

Every route is a :class:`Route`, made as ``Route(function, params, space)``, with ``value``, the
function's output ``[m]``, ``jvp(V: [n k]) -> [m k]`` and ``vjp(U: [m k]) -> [n k]``.
The function is evaluated once, at construction; every product reuses that evaluation as far as
the route can.
"""

from precondlab.differentiation.calculus import Pointwise
from precondlab.differentiation.choose import ROUTES, linearize
from precondlab.differentiation.route import Route

__all__ = ["ROUTES", "Pointwise", "Route", "linearize"]
