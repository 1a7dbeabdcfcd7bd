"""Models as pure functions: a small zoo, adapters from other libraries, and reparameterisations."""

from cljax.models.build import build, options
from cljax.models.images import cnn, resnet18, vit
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen
from cljax.models.zoo import Unit, mlp

__all__ = ["Unit", "build", "cnn", "flat_init", "from_linen", "mlp", "options", "resnet18", "vit"]
