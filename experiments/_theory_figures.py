"""The figures of ``experiments.theory``: theory as lines, measurement as points with error bars."""

from __future__ import annotations

import numpy as np


def _pyplot():
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                          "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8})  # fmt: skip
  return pyplot


def _colours(count: int):
  return _pyplot().get_cmap("viridis")(np.linspace(0, 0.85, count))


def _points(axes, x, measured, **style):
  axes.errorbar(x, measured["mean"], measured["error"], fmt="o", markersize=3.5, elinewidth=1, capsize=0, **style)


def draw(name: str, result: dict, path: str) -> str:
  """Draws one part to ``path`` and says in a line what it shows."""
  pyplot = _pyplot()
  down, across = (2, 3) if name == "scaling" else (1, 2)
  figure, axes = pyplot.subplots(down, across, figsize=(4.3 * across, 3.6 * down), constrained_layout=True)
  told = globals()[f"_{name}"](axes, result)
  figure.savefig(path, dpi=110 if down == 1 else 85)
  pyplot.close(figure)
  return f"{name}: {told}"


def _rotation(axes, r):
  from cljax.theory import rotation_forgetting

  turned, slack, mean = r["turned"], r["slack"], r["measured"]["mean"]
  shown = [s for i, s in enumerate(np.unique(slack)) if i in (0, 3, 6, 9, 11)]
  fine = np.linspace(0, 1, 200)
  for s, colour in zip(shown, _colours(len(shown)), strict=True):
    at = np.isclose(slack, s)
    axes[0].plot(fine, rotation_forgetting(fine, s), color=colour)
    values = {"mean": mean[at], "error": r["measured"]["error"][at]}
    _points(axes[0], turned[at], values, color=colour, label=f"$1 - d/p$ = {s:.2f}")
  axes[0].set(xlabel="share of dimensions turned, $m/p$", ylabel="expected forgetting",
              title=f"random rotation, p = {r['size']}")  # fmt: skip
  axes[0].legend()
  order = (len(np.unique(turned)), -1)
  gap = (mean - r["theory"]).reshape(order).T
  level = np.abs(gap).max()
  at = slack.reshape(order)[0]
  image = axes[1].pcolormesh(np.unique(turned), at, gap, cmap="RdBu_r", vmin=-level, vmax=level, shading="nearest")
  axes[1].grid(False)
  axes[1].set(xlabel="share of dimensions turned, $m/p$", ylabel="over-parameterisation, $1 - d/p$",
              title="measured minus closed form")  # fmt: skip
  axes[1].figure.colorbar(image, ax=axes[1])
  error = r["measured"]["error"]
  z = (mean - r["theory"])[error > 1e-9] / error[error > 1e-9]
  spread = np.sqrt((z**2).mean())
  return f"{len(mean)} pairs, largest gap {level:.4f}, root mean square of gap over its standard error {spread:.2f}"


def _linear(axes, r):
  worst = []
  for panel, name in zip(axes, ("forgetting", "generalisation"), strict=True):
    for (tasks, found), colour in zip(r["tasks"].items(), _colours(len(r["tasks"])), strict=True):
      panel.plot(r["fine"], found[name]["line"], color=colour)
      _points(panel, r["rows"], found[name]["measured"], color=colour, label=f"T = {tasks}")
      m = found[name]["measured"]
      worst.append(np.abs((m["mean"] - np.asarray(found[name]["theory"])) / m["error"]).max())
    panel.set(xlabel=f"rows of each task, n (p = {r['features']})", ylabel=name)
    panel.legend()
  axes[0].set_title("forgetting $F_T$ of minimum-norm learning")
  axes[1].set_title("generalisation error $G_T$")
  axes[1].set_ylim(bottom=0)
  return f"largest gap in standard errors {max(worst):.2f} over {sum(len(r['rows']) for _ in worst)} points"


def _overlap(axes, r):
  axes[0].plot(r["kept"], r["theory"]["mean"], color="black", label="overlap formula")
  _points(axes[0], r["kept"], r["linearised"], color="tab:blue", label="linearised network, descent")
  _points(axes[0], r["kept"], r["network"], color="tab:orange", mfc="none", label="network itself, descent")
  axes[0].set(xlabel=f"directions kept by PCA-OGD (of {r['rows']})", ylabel="squared change of old outputs",
              title="forgetting by the NTK overlap")  # fmt: skip
  axes[0].set_yscale("symlog", linthresh=1e-3)
  axes[0].set_xticks(r["kept"])
  axes[1].set_xticks(range(0, r["rows"] + 1, 4))
  axes[0].set_ylim(bottom=0)
  axes[0].legend()
  cosines = r["cosines"]
  axes[1].errorbar(np.arange(1, len(cosines["mean"]) + 1), cosines["mean"], cosines["error"], fmt="o", markersize=3.5)
  axes[1].set(xlabel="principal angle", ylabel="cosine", ylim=(0, 1.05), title="singular values of the overlap")
  return f"formula against descent on the linearised network: worst gap {r['worst_relative_gap']:.1e} of the largest"


def _ideal(axes, r):
  for name, colour in (("ideal", "tab:blue"), ("plain", "tab:orange")):
    label = {"ideal": "ideal continual learner", "plain": "minimum norm, in turn"}[name]
    axes[0].plot(r["tasks"], r["theory"][name], color=colour)
    _points(axes[0], r["tasks"], r["distance"][name], color=colour, label=label)
    axes[1].plot(r["tasks"], r["theory_loss"][name], color=colour)
    _points(axes[1], r["tasks"], r["first_task_loss"][name], color=colour, label=label)
  axes[0].set(xlabel="tasks learned", ylabel="squared distance to the teacher", ylim=(-0.03, 1), title="generalisation")
  axes[1].set(xlabel="tasks learned", ylabel="loss on the first task's rows", title="forgetting of the first task")
  axes[0].legend()
  axes[1].legend()
  gaps = [np.abs(r["distance"][k]["mean"] - r["theory"][k]).max() for k in ("ideal", "plain")]
  loss = r["first_task_loss"]["ideal"]["mean"].max()
  plain = r["first_task_loss"]["plain"]
  z = np.abs(plain["mean"] - r["theory_loss"]["plain"])[1:] / plain["error"][1:]
  told = f"of the first loss {z.max():.1f} standard errors; loss of the ideal learner there at most {loss:.1e}"
  return f"largest gap of the distance {max(gaps):.4f}, {told}"


def _factorisation(axes, r):
  gaps = []
  for panel, what, title in ((axes[0], "first", "of the first task's rows"), (axes[1], "ahead", "of a task to come")):
    for name, colour in (("ideal", "tab:blue"), ("plain", "tab:orange")):
      label = {"ideal": "ideal continual learner", "plain": "factor of the last task"}[name]
      panel.plot(r["tasks"], r["theory"][what][name], color=colour)
      _points(panel, r["tasks"], r["measured"][what][name], color=colour, label=label)
      m = r["measured"][what][name]
      sure = m["error"] > 1e-6
      gaps.append(np.abs((m["mean"] - r["theory"][what][name])[sure] / m["error"][sure]).max(initial=0))
    panel.set(xlabel="tasks learned", ylabel="share left over", ylim=(-0.03, 1), title=title)
    panel.legend()
  lost = np.asarray(r["measured"]["first"]["ideal"]["mean"]).max()
  return (
    f"{r['each']} directions a task of {r['shared']} shared, factor of {r['size']} columns: largest gap in standard "
    f"errors {max(gaps):.2f}; of the first task the ideal learner leaves {lost:.1e}, a factor of the last task "
    f"{r['measured']['first']['plain']['mean'][-1]:.3f} (theory {r['theory']['first']['plain'][-1]:.3f})"
  )


def _rehearsal(axes, r):
  gaps = []
  for panel, what in zip(axes, ("distance", "first_loss"), strict=True):
    for i, colour in enumerate(_colours(len(r["stored"]))):
      each = {k: r["measured"][what][k][i] for k in ("mean", "error")}
      panel.plot(r["tasks"], r["theory"][what][i], color=colour)
      _points(panel, r["tasks"], each, color=colour, label=f"{r['stored'][i]} of {r['rows']} rows held")
      sure = each["error"] > 1e-6
      gaps.append(np.abs((each["mean"] - r["theory"][what][i])[sure] / each["error"][sure]).max(initial=0))
    panel.legend()
  axes[0].set(xlabel="tasks learned", ylabel="squared distance to the teacher", title="rehearsal: generalisation")
  axes[1].set(xlabel="tasks learned", ylabel="loss on the first task's rows", title="rehearsal: forgetting")
  ends = zip(r["stored"], r["measured"]["first_loss"]["mean"][:, -1], strict=True)
  last = ", ".join(f"{m} held {v:.3f}" for m, v in ends)
  return f"largest gap in standard errors {max(gaps):.2f}; loss on the first task's rows at the end: {last}"


def _law(law):
  return lambda P, N: law["ceiling"] - law["a"] * P ** -law["alpha"] - law["b"] * N ** -law["beta"]


def _scaling(axes, r):
  made = r["synthetic"]
  steps = np.geomspace(made["N"].min(), made["N"].max(), 60)
  sizes = np.unique(made["P"])
  for size, colour in zip(sizes, _colours(len(sizes)), strict=True):
    at = made["P"] == size
    axes[0, 0].plot(steps, _law(made["fit"])(size, steps), color=colour)
    axes[0, 0].errorbar(made["N"][at], made["sample"][at], made["noise"], fmt="o", markersize=3.5, color=colour,
                        elinewidth=1, label=f"P = {size:,.0f}")  # fmt: skip
  found, truth = made["found"], made["truth"]
  told = [f"{n} = {truth[k]}, found {found[k]['mean']:.2f} ± {found[k]['deviation']:.2f}" for n, k in
          (("α", "alpha"), ("β", "beta"))]  # fmt: skip
  axes[0, 0].set(xscale="log", xlabel="steps N", ylabel="forgetting", title="points made from a known law, and its fit")
  axes[0, 0].legend()
  axes[1, 0].plot(found["fits"][:, 0], found["fits"][:, 1], "o", markersize=3.5, color="tab:blue", label="fits")
  axes[1, 0].plot(truth["alpha"], truth["beta"], "x", markersize=9, mew=2, color="black", label="truth")
  axes[1, 0].set(xlabel="α", ylabel="β", title="\n".join(told))
  axes[1, 0].legend()
  fits = [_real(axes[:, i], r[name], name) for i, name in ((1, "mild"), (2, "severe"))]
  return "; ".join(told + fits)


def _real(axes, real, name: str) -> str:
  law, P, line = real["law"], real["parameters"], real["tradeoff"]
  steps = np.geomspace(real["steps"].min(), real["steps"].max(), 60)
  for i, colour in enumerate(_colours(len(P))):
    axes[0].plot(steps, _law(law)(float(P[i]), steps), color=colour)
    each = {k: real["forgetting"][k][i] for k in ("mean", "error")}
    _points(axes[0], real["steps"], each, color=colour, label=f"P = {P[i]:,} (rank {real['ranks'][i]})")
    axes[1].errorbar(real["loss"]["mean"][i], each["mean"], each["error"], real["loss"]["error"][i], fmt="o",
                     markersize=3.5, elinewidth=1, color=colour)  # fmt: skip
  fit = f"α = {law['alpha']:.2f}, β = {law['beta']:.2f}, R² = {law['r2']:.2f}"
  axes[0].set(xscale="log", xlabel="steps N", ylabel="forgetting (nats)",
              title=f"low-rank fine-tuning, turned {real['angle']:.0f}°, rate {real['rate']:g}\n{fit}")  # fmt: skip
  axes[0].legend()
  loss = np.asarray([real["loss"]["mean"].min(), real["loss"]["mean"].max()])
  axes[1].plot(loss, line["s"] - line["k"] * loss, color="black")
  straight = f"k = {line['k']:.2f}, R² = {line['r2']:.2f}"
  axes[1].set(xlabel="fine-tuning loss (nats)", ylabel="forgetting (nats)",
              title=f"forgetting = s − k · loss: {straight}")  # fmt: skip
  return f"{name}: {fit}; line {straight}"
