"""Models as pure functions: a small zoo, adapters from other libraries, and reparameterisations."""

from cljax.models.activations import ElephantUnits, elephant, elephant_shape_penalty
from cljax.models.adapters import from_apply, from_nnx
from cljax.models.build import build, options, register
from cljax.models.convolution import conv
from cljax.models.decoder import decoder, generate, pretrained_decoder
from cljax.models.diffusion import denoiser
from cljax.models.generating import matrix_factorisation, vae
from cljax.models.images import cnn, resnet18, vit
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen
from cljax.models.masks import masked, mixture_apply, top_mask
from cljax.models.pretrained import pretrained
from cljax.models.pretrained.zero_shot import clip_classifier
from cljax.models.prompts import Places, Prompts
from cljax.models.reparameterise import reparameterise
from cljax.models.tasks import by_row
from cljax.models.transformer import transformer
from cljax.models.zoo import Unit, mlp

__all__ = [
  "ElephantUnits",
  "Places",
  "Prompts",
  "Unit",
  "build",
  "by_row",
  "clip_classifier",
  "cnn",
  "conv",
  "decoder",
  "denoiser",
  "elephant",
  "elephant_shape_penalty",
  "flat_init",
  "from_apply",
  "from_linen",
  "from_nnx",
  "generate",
  "masked",
  "matrix_factorisation",
  "mixture_apply",
  "mlp",
  "options",
  "pretrained",
  "pretrained_decoder",
  "register",
  "reparameterise",
  "resnet18",
  "top_mask",
  "transformer",
  "vae",
  "vit",
]
