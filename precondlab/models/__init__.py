"""Models u(x; θ): ``torch.nn`` modules that map points ``[N, d]`` to values ``[N, 1]``."""

from precondlab.models.constraints import box_mask, masked, periodic
from precondlab.models.fourier import fourier
from precondlab.models.kan import kan
from precondlab.models.mlp import fourier_mlp, mlp
from precondlab.models.modified_mlp import modified_mlp
from precondlab.models.partitioned import partitioned
from precondlab.models.random_features import random_features
from precondlab.models.siren import siren

__all__ = [
    "box_mask",
    "fourier",
    "fourier_mlp",
    "kan",
    "masked",
    "mlp",
    "modified_mlp",
    "partitioned",
    "periodic",
    "random_features",
    "siren",
]
