"""Ways to multiply by the Jacobian of a function of a parameter dict, behind one interface.

Every route is a class called as ``Route(function, params, space)`` with ``value``, the
function's output ``[m]``, ``jvp(V: [n k]) -> [m k]`` and ``vjp(U: [m k]) -> [n k]``.
The function is evaluated once, at construction; every product reuses that evaluation as far as
the route can.
"""

from precondlab.differentiation.choose import ROUTES, Route, linearize

__all__ = ["ROUTES", "Route", "linearize"]
