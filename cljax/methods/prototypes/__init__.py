"""Methods that answer by statistics of classes: nearest means, and closed forms on the features of a frozen network."""

from cljax.methods.prototypes.ncm import Prototypes, ncm

__all__ = ["Prototypes", "ncm"]
