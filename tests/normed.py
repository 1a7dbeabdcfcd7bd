"""A small network with BatchNorm that gives its features: what tests of second passes look at."""

from __future__ import annotations

import flax.linen as nn

from cljax import models
from cljax.core.types import Outputs


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(6, name="in")(x.reshape(x.shape[0], -1))
    h = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    return Outputs(nn.Dense(4, name="head")(h), h, (h,))


def normed():
  return models.from_linen(Normed(), (4, 4, 1))
