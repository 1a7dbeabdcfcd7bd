"""The rival of a population in PyTorch: seeds as one ensemble, ``torch.func.vmap`` over stacked parameters, compiled.

Written as a user of PyTorch would write it: one function takes the step of one member, ``vmap`` maps it over the
members, ``torch.compile`` compiles the whole; rows are drawn and memories filled by vectorised operations beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cljax import memory
from experiments.benchmarks import _torch


def stacked(trees) -> dict[str, Any]:
  """``{path: tensor [S, ...]}`` of one tree a member."""
  made = [_torch.tensors(one) for one in trees]
  return {path: _torch.require().stack([m[path] for m in made]).contiguous() for path in made[0]}


class Buffers:
  """A reservoir a member (Vitter's algorithm R): ``rows[name] [S, capacity, ...]``, ``count [S]``, ``seen``."""

  def __init__(self, members: list[_torch.Buffer]):
    torch = _torch.require()
    self.rows = {name: torch.stack([m.rows[name] for m in members]).contiguous() for name in members[0].rows}
    self.count, self.seen = torch.tensor([m.count for m in members]), members[0].seen
    self.size, self.capacity = len(members), members[0].capacity
    self.member = torch.arange(self.size)[:, None]
    self.draw = torch.Generator().manual_seed(0)

  def add(self, **new) -> None:
    torch, n = _torch.require(), len(next(iter(new.values()))[0])
    free = self.count[:, None] + torch.arange(n)
    chance = (torch.rand(self.size, n, generator=self.draw) * (self.seen + 1 + torch.arange(n))).long()
    place = torch.where(free < self.capacity, free, chance)
    member, at = torch.nonzero(place < self.capacity, as_tuple=True)
    for name, value in new.items():
      self.rows[name][member, place[member, at]] = value[member, at]
    self.count, self.seen = torch.clamp(self.count + n, max=self.capacity), self.seen + n

  def places(self, n: int):
    """``[S, n]`` places of stored rows without repetition: all of them, or the first n of a shuffle."""
    torch, count = _torch.require(), int(self.count.min())
    if n >= count:
      return torch.arange(count).expand(self.size, count)
    return torch.rand(self.size, count, generator=self.draw).topk(n, dim=1).indices

  def sample(self, n: int, *names: str) -> list[Any]:
    at = self.places(n)
    return [self.rows[name][self.member, at] for name in names]


def trainer(
  name: str, net: Callable, learners: list, x, y, learning_rate: float, hyper: Mapping[str, Any], compiled: bool
) -> Callable:
  """``train(index [S, K, B]) -> {path: tensor [S, ...]}``: SGD steps of every member, going on from ``learners``.

  ``hyper``: the method's options. ``compiled``: ``torch.compile`` over the vmapped step.
  """
  torch = _torch.require()
  F, vmap, grad = torch.nn.functional, torch.func.vmap, torch.func.grad
  p = stacked([m.params for m in learners])
  x, y = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y)).long()
  logits = lambda p, x: net(p, {}, x)
  loss = lambda p, bx, by: F.cross_entropy(logits(p, bx), by)
  moved = lambda p, g: {path: value - learning_rate * g[path] for path, value in p.items()}

  def mapped(step):
    if compiled:  # past eight programs of one function PyTorch compiles no more, without an error
      torch.compiler.reset()
    return torch.compile(vmap(step), fullgraph=True) if compiled else vmap(step)

  def finetune():
    step = mapped(lambda p, bx, by: moved(p, grad(loss)(p, bx, by)))
    return lambda bx, by: step(p, bx, by)

  def ewc():
    states = [m.opt_state.penalty for m in learners]
    anchor, importance = (stacked([getattr(s, part) for s in states]) for part in ("anchor", "importance"))

    def one(p, anchor, importance, bx, by):
      g = grad(loss)(p, bx, by)
      pulled = {k: g[k] + hyper["strength"] * importance[k] * (p[k] - anchor[k]) for k in p}
      return moved(p, pulled)

    step = mapped(one)
    return lambda bx, by: step(p, anchor, importance, bx, by)

  def er():
    buffers = Buffers([_torch.buffer_of(m.method_state) for m in learners])
    step = mapped(lambda p, bx, by, mx, my: moved(p, grad(loss)(p, torch.cat([bx, mx]), torch.cat([by, my]))))

    def train(bx, by):
      after = step(p, bx, by, *buffers.sample(hyper["replay_batch"] or by.shape[1], "x", "y"))
      buffers.add(x=bx, y=by)
      return after

    return train

  def derpp():
    buffers = Buffers([_torch.buffer_of(m.method_state) for m in learners])

    def losses(p, bx, by, one_x, one_z, two_x, two_y):
      z, z_one, z_two = logits(p, torch.cat([bx, one_x, two_x])).split([len(bx), len(one_x), len(two_x)])
      kept = hyper["alpha"] * F.mse_loss(z_one, one_z) + hyper["beta"] * F.cross_entropy(z_two, two_y)
      return F.cross_entropy(z, by) + kept, z.detach()

    def one(p, *rows):
      g, z = grad(losses, has_aux=True)(p, *rows)
      return moved(p, g), z

    step = mapped(one)

    def train(bx, by):
      n = hyper["replay_batch"] or by.shape[1]
      after, z = step(p, bx, by, *buffers.sample(n, "x", "logits"), *buffers.sample(n, "x", "y"))
      buffers.add(x=bx, y=by, logits=z)
      return after

    return train

  def agem():
    episodes = Buffers([_episodes(m.method_state.memory) for m in learners])

    def one(p, bx, by, mx, my):
      reference, g = grad(loss)(p, mx, my), grad(loss)(p, bx, by)
      inner = sum((g[k] * reference[k]).sum() for k in p)
      factor = torch.where(inner < 0, inner / sum((r * r).sum() for r in reference.values()), torch.zeros(()))
      return moved(p, {k: g[k] - factor * reference[k] for k in p})

    step = mapped(one)
    return lambda bx, by: step(p, bx, by, *episodes.sample(hyper["reference_batch"] or by.shape[1], "x", "y"))

  made = {"finetune": finetune, "ewc": ewc, "er": er, "derpp": derpp, "agem": agem}[name]()

  def train(index):
    nonlocal p
    for rows in torch.from_numpy(np.array(index)).long().unbind(1):
      p = made(x[rows], y[rows])
    return p

  return train


def _episodes(state) -> _torch.Buffer:
  """What a ring holds, as a buffer that nothing is added to."""
  torch = _torch.require()
  rows, weight = memory.ring(len(state.rows["y"]), len(state.seen)).contents(state)
  stored = {name: torch.from_numpy(np.array(rows[name])[np.asarray(weight) > 0]) for name in ("x", "y")}
  size = len(stored["y"])
  return _torch.Buffer({**stored, "y": stored["y"].long()}, size, size)
