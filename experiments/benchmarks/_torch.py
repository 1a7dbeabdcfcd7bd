"""The rival of the engine in PyTorch: eager loops of the same methods, from the same state, on the same networks.

Networks are functions of a dict of tensors, named as in the zoo. PyTorch is the extra ``bench``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cljax import memory
from cljax.core import tree
from cljax.core.types import UsageError


def require() -> Any:
  """The ``torch`` module; UsageError where it is not installed."""
  try:
    import torch
  except ImportError:
    raise UsageError("engine: its PyTorch loops need torch; pip install 'cljax[bench]'") from None
  return torch


def tensors(arrays) -> dict[str, Any]:
  """A tree of parameters, or of their shapes, as ``{path: tensor}`` in PyTorch's layouts."""
  torch, out = require(), {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
    name, array = tree.path_name(path), np.asarray(leaf)
    if name.endswith("kernel"):
      array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
    out[name] = torch.from_numpy(np.array(array, order="C"))
  return out


def mlp(p, stats, x):
  del stats
  F = require().nn.functional
  x, depth = x.flatten(1), sum(name.startswith("hidden") for name in p) // 2
  for i in range(depth):
    x = F.relu(F.linear(x, p[f"hidden_{i}/kernel"], p[f"hidden_{i}/bias"]))
  return F.linear(x, p["head/kernel"], p["head/bias"])


def cnn(p, stats, x):
  del stats
  F = require().nn.functional
  x = x.movedim(-1, 1)
  for i in range(sum(name.startswith("conv") for name in p) // 2):
    if i:  # as 'SAME' pads: below and to the right where the side is even
      x = F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1))
    x = F.relu(F.conv2d(x, p[f"conv_{i}/kernel"], p[f"conv_{i}/bias"], stride=2 if i else 1, padding=0 if i else 1))
  return F.linear(x.amax((2, 3)), p["head/kernel"], p["head/bias"])


def resnet(p, stats, x):
  F = require().nn.functional

  def norm(x, name):
    mean, var = stats[f"batch_stats/{name}/mean"], stats[f"batch_stats/{name}/var"]
    return F.batch_norm(x, mean, var, p[f"{name}/scale"], p[f"{name}/bias"], training=True, momentum=0.1)

  x = F.relu(norm(F.conv2d(x.movedim(-1, 1), p["conv/kernel"], padding=1), "norm"))
  for stage in range(4):
    for block in range(2):
      name, stride = f"block_{stage}_{block}", 2 if stage and not block else 1
      y = F.relu(norm(F.conv2d(x, p[f"{name}/conv_0/kernel"], stride=stride, padding=1), f"{name}/norm_0"))
      y = norm(F.conv2d(y, p[f"{name}/conv_1/kernel"], padding=1), f"{name}/norm_1")
      if f"{name}/project/kernel" in p:
        x = norm(F.conv2d(x, p[f"{name}/project/kernel"], stride=stride), f"{name}/norm_project")
      x = F.relu(x + y)
  return F.linear(x.mean((2, 3)), p["head/kernel"], p["head/bias"])


def vit(p, stats, x, patch: int = 4, heads: int = 4):
  del stats
  F = require().nn.functional
  dense = lambda x, name: F.linear(x, p[f"{name}/kernel"], p[f"{name}/bias"])
  norm = lambda x, name: F.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], p[f"{name}/bias"], eps=1e-6)
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(2, 3).reshape(b, -1, patch * patch * c)
  x = dense(x, "patches")
  x = require().cat([p["class_token/token"].expand(b, -1, -1), x], 1) + p["position/position"]
  n, d = x.shape[1:]
  for i in range(sum(name.endswith("qkv/kernel") for name in p)):
    q, k, v = dense(norm(x, f"norm_{i}_0"), f"attention_{i}/qkv").reshape(b, n, 3, heads, d // heads).unbind(2)
    seen = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    x = x + dense(seen.transpose(1, 2).reshape(b, n, d), f"attention_{i}/out")
    y = F.gelu(dense(norm(x, f"norm_{i}_1"), f"mlp_{i}_in"), approximate="tanh")
    x = x + dense(y, f"mlp_{i}_out")
  return dense(norm(x, "norm")[:, 0], "head")


NETWORKS: dict[str, Callable] = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "vit": vit}


class Buffer:
  """A reservoir (Vitter's algorithm R) of tensors; ``seen`` counts the rows that came."""

  def __init__(self, rows: Mapping[str, Any], count: int, seen: int):
    self.rows, self.count, self.seen = dict(rows), count, seen
    self.capacity = len(next(iter(self.rows.values())))
    self.rng = np.random.default_rng(0)

  def add(self, **new) -> None:
    size = len(next(iter(new.values())))
    places = self.rng.integers(0, self.seen + 1 + np.arange(size))
    for i in range(size):
      place = self.count if self.count < self.capacity else int(places[i])
      if place < self.capacity:
        for name, value in new.items():
          self.rows[name][place] = value[i]
        self.count = max(self.count, place + 1)
    self.seen += size

  def sample(self, n: int) -> dict[str, Any]:
    at = require().from_numpy(self.rng.choice(self.count, min(n, self.count), replace=False))
    return {name: value[at] for name, value in self.rows.items()}


def buffer_of(replay) -> Buffer:
  """The memory of a :class:`cljax.methods.replay.buffers.Replay`, with the rows that wait for it."""
  as_tensor = lambda a: require().from_numpy(np.array(a))
  rows = {name: as_tensor(replay.memory.rows[name]) for name in ("x", "y", "logits") if name in replay.memory.rows}
  rows["y"] = rows["y"].long()
  out = Buffer(rows, int(replay.memory.count), int(replay.memory.seen))
  waiting = np.flatnonzero(np.asarray(replay.weight) > 0)
  if len(waiting):
    out.add(**{name: as_tensor(np.asarray(replay.pending[name])[waiting]) for name in rows})
  return out


def trainer(name: str, net: Callable, learner, x, y, learning_rate: float, hyper: Mapping[str, Any], old) -> Callable:
  """``train(index [K, B]) -> {path: tensor}``: SGD steps of a method that goes on from ``learner`` (one member's).

  ``hyper``: the method's options. ``old``: the classes of the tasks before. The tensors returned are the parameters.
  """
  torch = require()
  F = torch.nn.functional
  p = {path: value.requires_grad_() for path, value in tensors(learner.params).items()}
  stats, x, y = tensors(learner.model_state), torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y)).long()
  optimizer = torch.optim.SGD(list(p.values()), lr=learning_rate)
  logits = lambda x: net(p, stats, x)

  def backward(loss) -> None:
    optimizer.zero_grad()
    loss.backward()

  def finetune(bx, by):
    backward(F.cross_entropy(logits(bx), by))
    optimizer.step()

  def ewc():
    state = learner.opt_state.penalty
    anchor, importance = tensors(state.anchor), tensors(state.importance)

    def step(bx, by):
      backward(F.cross_entropy(logits(bx), by))
      with torch.no_grad():
        for path, value in p.items():
          value.grad.addcmul_(importance[path], value - anchor[path], value=hyper["strength"])
      optimizer.step()

    return step

  def si():
    state = learner.opt_state.penalty
    anchor, importance, walked = tensors(state.anchor), tensors(state.importance), tensors(state.path)

    def step(bx, by):
      backward(F.cross_entropy(logits(bx), by))
      gradient = {path: value.grad.clone() for path, value in p.items()}
      before = {path: value.detach().clone() for path, value in p.items()}
      with torch.no_grad():
        for path, value in p.items():
          value.grad.addcmul_(importance[path], value - anchor[path], value=2.0 * hyper["strength"])
        optimizer.step()
        for path, value in p.items():
          walked[path].addcmul_(gradient[path], value - before[path], value=-1.0)

    return step

  def er():
    buffer = buffer_of(learner.method_state)

    def step(bx, by):
      stored = buffer.sample(hyper["replay_batch"] or len(bx))
      backward(F.cross_entropy(logits(torch.cat([bx, stored["x"]])), torch.cat([by, stored["y"]])))
      optimizer.step()
      buffer.add(x=bx, y=by)

    return step

  def derpp():
    buffer = buffer_of(learner.method_state)

    def step(bx, by):
      one, two = (buffer.sample(hyper["replay_batch"] or len(bx)) for _ in range(2))
      z, z_one, z_two = logits(torch.cat([bx, one["x"], two["x"]])).split([len(bx), len(one["x"]), len(two["x"])])
      loss = F.cross_entropy(z, by) + hyper["alpha"] * F.mse_loss(z_one, one["logits"])
      backward(loss + hyper["beta"] * F.cross_entropy(z_two, two["y"]))
      optimizer.step()
      buffer.add(x=bx, y=by, logits=z.detach())

    return step

  def agem():
    state = learner.method_state.memory
    ring = memory.ring(len(state.rows["y"]), len(state.seen))
    rows, weight = ring.contents(state)
    stored = {name: torch.from_numpy(np.array(rows[name])[np.asarray(weight) > 0]) for name in ("x", "y")}
    size = len(stored["y"])
    episodes = Buffer({**stored, "y": stored["y"].long()}, size, size)

    def step(bx, by):
      stored = episodes.sample(hyper["reference_batch"] or len(bx))
      backward(F.cross_entropy(logits(stored["x"]), stored["y"]))
      reference = [value.grad.clone() for value in p.values()]
      backward(F.cross_entropy(logits(bx), by))
      with torch.no_grad():
        inner = sum((value.grad * r).sum() for value, r in zip(p.values(), reference, strict=True))
        if inner < 0:
          factor = inner / sum((r * r).sum() for r in reference)
          for value, r in zip(p.values(), reference, strict=True):
            value.grad.sub_(factor * r)
      optimizer.step()

    return step

  def gpm():
    state = learner.opt_state.finalize  # under SGD as good as on the gradient
    bases = {path: torch.from_numpy(np.array(basis)[:, : int(state.ranks[path])].copy())
             for path, basis in state.bases.items()}  # fmt: skip

    def step(bx, by):
      backward(F.cross_entropy(logits(bx), by))
      with torch.no_grad():
        for path, value in p.items():
          if path in bases:
            value.grad.sub_((value.grad @ bases[path]) @ bases[path].T)
          elif "head/kernel" in bases or not path.startswith("head"):
            value.grad.zero_()
      optimizer.step()

    return step

  def lwf():
    state = learner.method_state
    teacher, teacher_stats = tensors(state.params), tensors(state.model_state)
    T, classes = hyper["temperature"], torch.tensor(list(old))

    def step(bx, by):
      with torch.no_grad():
        target = F.softmax(net(teacher, teacher_stats, bx)[:, classes] / T, -1)
      z = logits(bx)
      kept = F.kl_div(F.log_softmax(z[:, classes] / T, -1), target, reduction="batchmean")
      backward(F.cross_entropy(z, by) + hyper["strength"] * T**2 * kept)
      optimizer.step()

    return step

  made = {"ewc": ewc, "si": si, "er": er, "derpp": derpp, "agem": agem, "gpm": gpm, "lwf": lwf}
  step = made[name]() if name in made else finetune

  def train(index):
    for rows in torch.from_numpy(np.array(index)).long():
      step(x[rows], y[rows])
    return p

  return train
