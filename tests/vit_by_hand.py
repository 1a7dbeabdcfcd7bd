"""Vision transformers in NumPy, float64: the zoo's from its leaves, with prompts; a published one from its tensors."""

from __future__ import annotations

import jax
import numpy as np
import scipy.special

from cljax.core import tree


def leaves(params):
  return {n: np.asarray(v, np.float64) for n, v in zip(tree.paths(params), jax.tree.leaves(params), strict=True)}


def softmax(a):
  return scipy.special.softmax(a, -1)


def tanh_gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x):
  return 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))


def normed(x, scale, bias, epsilon):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def attended(q, k, v, heads):
  """``[B, N, D]``, head by head."""
  size, out = q.shape[-1] // heads, []
  for h in range(heads):
    own = slice(h * size, (h + 1) * size)
    fit = np.einsum("bqd,bkd->bqk", q[..., own], k[..., own]) / np.sqrt(size)
    out.append(softmax(fit) @ v[..., own])
  return np.concatenate(out, -1)


def patches_of(x, p):
  rows = [
    x[:, i : i + p, j : j + p].reshape(len(x), -1) for i in range(0, x.shape[1], p) for j in range(0, x.shape[2], p)
  ]
  return np.stack(rows, 1)


def zoo(params, x, *, patch, heads, depth, tokens=None, prefixes=None, read="class"):
  """``(logits, features)`` of the zoo's ViT on ``x [B, H, W, C]``, with the prompts of :mod:`cljax.models.prompts`."""
  p, x = leaves(params), np.asarray(x, np.float64)
  dense = lambda name, a: a @ p[f"{name}/kernel"] + p[f"{name}/bias"]
  norm = lambda name, a: normed(a, p[f"{name}/scale"], p[f"{name}/bias"], 1e-6)
  h = dense("patches", patches_of(x, patch))
  h = np.concatenate([np.broadcast_to(p["class_token/token"], (len(x), 1, h.shape[-1])), h], 1) + p["position/position"]
  ahead = 0
  if tokens is not None:
    h, ahead = np.concatenate([tokens, h], 1), tokens.shape[1]
  for i in range(depth):
    q, k, v = np.split(dense(f"attention_{i}/qkv", norm(f"norm_{i}_0", h)), 3, -1)
    if prefixes and i in prefixes:
      k, v = (np.concatenate([a, b], 1) for a, b in zip(prefixes[i], (k, v), strict=True))
    h = h + dense(f"attention_{i}/out", attended(q, k, v, heads))
    h = h + dense(f"mlp_{i}_out", tanh_gelu(dense(f"mlp_{i}_in", norm(f"norm_{i}_1", h))))
  h = norm("norm", h)
  features = h[:, :ahead].mean(1) if read == "prompts" else h[:, ahead]
  return dense("head", features), features


def published(t, x, *, prefix, heads, depth, epsilon, tokens=("cls_token",)):
  """The tokens ``[B, N, D]`` behind the last norm, of Hugging Face's tensors ``t`` on normalised ``x [B, H, W, C]``."""
  t = {n: np.asarray(a, np.float64) for n, a in t.items()}
  linear = lambda name, a: a @ t[f"{name}.weight"].T + t[f"{name}.bias"]
  norm = lambda name, a: normed(a, t[f"{name}.weight"], t[f"{name}.bias"], epsilon)
  e = f"{prefix}embeddings."
  w, b = (t[f"{e}patch_embeddings.projection.{n}"] for n in ("weight", "bias"))
  p = w.shape[-1]
  found = [[np.broadcast_to(t[e + name][0, 0], (len(x), w.shape[0]))] for name in tokens]
  h = [a[0] for a in found]
  for i in range(0, x.shape[1], p):
    for j in range(0, x.shape[2], p):
      h.append(np.einsum("bijc,dcij->bd", x[:, i : i + p, j : j + p], w) + b)
  h = np.stack(h, 1) + t[f"{e}position_embeddings"]
  for i in range(depth):
    n = f"{prefix}encoder.layer.{i}."
    a = norm(n + "layernorm_before", h)
    q, k, v = (linear(f"{n}attention.attention.{part}", a) for part in ("query", "key", "value"))
    h = h + linear(n + "attention.output.dense", attended(q, k, v, heads))
    h = h + linear(n + "output.dense", exact_gelu(linear(n + "intermediate.dense", norm(n + "layernorm_after", h))))
  return norm(prefix + "layernorm", h)
