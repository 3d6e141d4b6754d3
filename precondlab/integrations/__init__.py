"""Models and training loops of other packages; each module needs the extra of its name."""

from precondlab.integrations.hosted import Hosted

__all__ = ["Hosted"]
