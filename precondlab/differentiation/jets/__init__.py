"""Closed-form Taylor propagation through feed-forward networks."""

from precondlab.differentiation.jets.layers import Layer
from precondlab.differentiation.jets.network import LAYERS, Network, Unsupported
from precondlab.differentiation.jets.route import Jets, NetworkOutputs

__all__ = ["LAYERS", "Jets", "Layer", "Network", "NetworkOutputs", "Unsupported"]
