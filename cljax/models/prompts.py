"""Prompts: learned vectors that a transformer reads beside its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.types import Model, UsageError

READS = ("class", "prompts")


class Places(NamedTuple):
  """Where a model takes prompts: ``Model.prompts``. Its ``apply`` then takes ``prompts=``, a :class:`Prompts`."""

  width: int  # of a prompt's vectors
  blocks: int  # that take prefixes


class Prompts(NamedTuple):
  """Prompts of the rows of one call.

  ``tokens [B, P, D]`` stand in front of the class token; they are put in behind patches and positions and have none of
  their own. ``prefixes {block: (keys [B, L, D], values [B, L, D])}`` stand in front of a block's projected keys and
  values, split into heads as these are; they ask nothing and are not handed on. ``read``: what the features and the
  head are of, 'class' the class token, 'prompts' the mean of the ``tokens`` behind the last norm.
  """

  tokens: Any = None
  prefixes: Mapping[int, tuple[Any, Any]] = {}
  read: str = "class"


def places_of(model: Model, owner: str) -> Places:
  """Where the model takes prompts; UsageError, naming ``owner``, for one that takes none."""
  if model.prompts is None:
    raise UsageError(
      f"model: takes no prompts, which {owner!r} needs; those that do: vit, pretrained, or one with Model.prompts"
    )
  return model.prompts


def put_in_front(prompts: Prompts | None, x):
  """``x [B, N, D]`` with the tokens of ``prompts`` in front, and how many these are."""
  if prompts is None or prompts.tokens is None:
    return x, 0
  tokens = prompts.tokens.astype(x.dtype)
  return jnp.concatenate([tokens, x], 1), tokens.shape[1]


def prefix_of(prompts: Prompts | None, block: int):
  """The prefix of a block, or None."""
  return None if prompts is None else prompts.prefixes.get(block)


def what_is_read(prompts: Prompts | None, x, ahead: int):
  """``[B, D]`` of ``x [B, ahead + N, D]``: what ``prompts.read`` says."""
  if prompts is None or prompts.read == "class":
    return x[:, ahead]
  if prompts.read != "prompts" or not ahead:
    raise UsageError(f"prompts.read: got {prompts.read!r} with {ahead} tokens; allowed: class, or prompts with tokens")
  return jnp.mean(x[:, :ahead], axis=1)


def each_row(prompt, count: int):
  """``[B, *prompt.shape]``: one prompt for all of ``count`` rows."""
  return jnp.broadcast_to(prompt[None], (count, *prompt.shape))


def rows_of(x) -> int:
  """How many rows an input has."""
  return jax.tree.leaves(x)[0].shape[0]
