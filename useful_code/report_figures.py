"""The pictures of a training run: curves, reward histograms, calibration, reward against length.

Each function returns a matplotlib `Figure` that belongs to no window and no global state; `report.write_report` puts
them on a page. matplotlib is imported on first use. Empty or one-point input gives a figure that says so.
"""

from collections.abc import Mapping, Sequence
from math import isfinite, log
from typing import TYPE_CHECKING, Any

import numpy as np

from useful_code import metrics
from useful_code.user_errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour-blindness can tell apart; they differ in lightness too.
BLUE, VERMILION, GREY, DARK = "#0072B2", "#D55E00", "#8A8A8A", "#222222"

# key in Trainer.state.log_history -> title, unit, value of a model that gives every response the same reward
CURVES: dict[str, tuple[str, str, float | None]] = {
    "loss": ("Loss", "nats per pair", log(2)),
    "accuracy": ("Accuracy", "share of pairs right", 0.5),
    "margin": ("Mean margin", "chosen minus rejected reward", 0.0),
}


def training_curves(
    log_history: Sequence[Mapping[str, Any]], curves: Mapping[str, tuple[str, str, float | None]] = CURVES
) -> "Figure":
    """One panel per metric against the step, training and evaluation, from `Trainer.state.log_history`.

    A metric is drawn when any entry has `key` or `eval_key`. Values that are not finite cannot be drawn; the panel
    says how many there were. With more than 40 points the raw values are pale and a running mean is drawn over them.
    """
    present = [key for key in curves if any(key in entry or f"eval_{key}" in entry for entry in log_history)]
    figure = new_figure(width=3.7 * max(1, len(present)), height=3.6)
    legend: dict[str, Any] = {}  # label -> handle, one for all panels
    for i, key in enumerate(present):
        axes = figure.add_subplot(1, len(present), i + 1)
        title, unit, uninformed = curves[key]
        steps, values, num_bad = _finite_points(log_history, key)
        eval_steps, eval_values, num_bad_eval = _finite_points(log_history, f"eval_{key}")
        if uninformed is not None:
            axes.axhline(uninformed, color=GREY, linewidth=1, linestyle=":", label="constant reward")
        if len(values) > 40:
            window = max(5, len(values) // 20)
            axes.plot(steps, values, color=BLUE, linewidth=0.8, alpha=0.3)
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            # Each mean stands at the middle of its window, so the curve is not shifted to the right.
            middle = np.asarray(steps[(window - 1) // 2 : (window - 1) // 2 + len(smooth)])
            axes.plot(middle, smooth, color=BLUE, linewidth=2, label="training, running mean")
        elif len(values):
            marker = "o" if len(values) < 15 else None
            axes.plot(steps, values, color=BLUE, linewidth=1.8, marker=marker, markersize=4, label="training")
        if len(eval_values):
            axes.plot(
                eval_steps, eval_values, color=VERMILION, linewidth=1.8, marker="s", markersize=4, label="evaluation"
            )
        axes.locator_params(axis="x", integer=True)
        finish(axes, title=title, xlabel="optimizer step", ylabel=unit)
        if num_bad + num_bad_eval:
            _corner_note(axes, f"not drawn because not finite: {num_bad + num_bad_eval}")
        legend |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if present:
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    else:
        say_empty(figure, "the log has no training curve")
    return figure


def reward_histograms(panels: Mapping[str, tuple[metrics.Values, metrics.Values]]) -> "Figure":
    """Chosen against rejected rewards, one panel per entry: {"before training": (chosen, rejected), ...}.

    Panels have their own reward axis: a fresh head spreads rewards far less than a trained one.
    """
    figure = new_figure(width=4.9 * max(1, len(panels)), height=3.4)
    if not panels:
        say_empty(figure, "no rewards")
    for i, (name, (chosen, rejected)) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        chosen, rejected = np.asarray(chosen, dtype=float), np.asarray(rejected, dtype=float)  # (B,), (B,)
        both = np.concatenate([chosen, rejected])
        if len(both) == 0:
            finish(axes, title=name, xlabel="reward", ylabel="responses (%)")
            say_empty(axes, "no rewards")
            continue
        edges = np.histogram_bin_edges(both, bins=int(np.clip(2 * len(both) ** 0.4, 5, 50)))
        for rewards, color, label in ((rejected, VERMILION, "rejected"), (chosen, BLUE, "chosen")):
            weights = np.full(len(rewards), 100 / max(1, len(rewards)))
            style: dict[str, Any] = {"bins": edges, "weights": weights, "color": color}
            axes.hist(rewards, **style, histtype="stepfilled", alpha=0.28)
            axes.hist(rewards, **style, histtype="step", linewidth=1.5)
            # An empty plot call gives the legend one entry with both outline and fill.
            axes.fill([], [], facecolor=(color, 0.28), edgecolor=color, linewidth=1.5, label=label)
            if len(rewards):
                axes.axvline(rewards.mean(), color=color, linewidth=1.2, linestyle="--")
        axes.plot([], [], color=DARK, linewidth=1.2, linestyle="--", label="means")
        accuracy = metrics.pair_accuracy(chosen - rejected) if len(chosen) == len(rejected) else float("nan")
        title = name[:1].upper() + name[1:] + (f": {100 * accuracy:.1f} % of pairs right" if isfinite(accuracy) else "")
        finish(axes, title=title, xlabel="reward (logit)", ylabel="responses (%)")
        axes.margins(y=0.12)
        handles, labels = axes.get_legend_handles_labels()
        order = [labels.index(label) for label in ("chosen", "rejected", "means")]
        axes.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False, fontsize=8)
    return figure


def reliability_diagram(
    margins: metrics.Values, num_bins: int = 10, correct: metrics.Values | None = None, unit: str = "pairs"
) -> "Figure":
    """Stated confidence sigmoid(|margin|) against how often it was right, with 95 % Wilson intervals and bin counts.

    `margins` are chosen minus rejected rewards of held-out pairs, (B,), or other log-odds of what `unit` names; then
    `correct` (B,) in [0, 1] says how right their signs were. On the diagonal the model means what it says; below, it is
    too sure.
    """
    confidence, by_sign = metrics.preference_confidence(margins)  # (B,), (B,)
    correct = by_sign if correct is None else correct
    bins = metrics.reliability_bins(confidence, correct, num_bins, lowest=0.5)
    figure = new_figure(width=4.7, height=4.7)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    bottom = 0.5
    upper.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, linestyle="--", label="perfect calibration")
    used = np.flatnonzero(bins["counts"])
    if len(used):
        share, counts = bins["mean_outcome"][used], bins["counts"][used]
        ends = np.array([metrics.wilson_interval(s * n, int(n)) for s, n in zip(share, counts, strict=True)])  # (U, 2)
        upper.errorbar(
            bins["mean_probability"][used],
            share,
            yerr=np.maximum(0, [share - ends[:, 0], ends[:, 1] - share]),
            color=BLUE,
            marker="o",
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            capsize=3,
            label=f"held-out {unit}, 95 % interval",
        )
        upper.legend(frameon=False, fontsize=8, loc="upper left")
        bottom = min(bottom, float(ends.min()))  # room below 0.5 only where a bin needs it
    else:
        say_empty(lower, f"no {unit}")
    upper.set(ylim=(bottom - 0.03, 1.02), xlim=(0.49, 1.01))
    error = metrics.expected_calibration_error(confidence, correct, num_bins, lowest=0.5)
    title = f"Calibration error (ECE) {error:.3f}, {len(confidence):,} {unit}" if len(used) else "Calibration"
    finish(upper, title=title, xlabel="", ylabel=f"share of {unit} right")
    widths = np.diff(bins["edges"])
    bars = lower.bar(bins["edges"][:-1], bins["counts"], width=0.9 * widths, align="edge", color=BLUE, alpha=0.55)
    lower.bar_label(bars, labels=[f"{n:,}" if n else "" for n in bins["counts"]], fontsize=7, padding=1)
    lower.margins(y=0.25)
    finish(lower, title="", xlabel="confidence: sigmoid of |margin|", ylabel=unit)
    return figure


def reward_against_length(
    chosen_rewards: metrics.Values,
    chosen_lengths: metrics.Values,
    rejected_rewards: metrics.Values,
    rejected_lengths: metrics.Values,
    unit: str = "tokens",
) -> "Figure":
    """Scatter of every response with the median reward per tenth of the lengths; both correlations in the title."""
    rewards = np.concatenate([np.asarray(chosen_rewards, float), np.asarray(rejected_rewards, float)])  # (S,)
    lengths = np.concatenate([np.asarray(chosen_lengths, float), np.asarray(rejected_lengths, float)])  # (S,)
    figure = new_figure(width=4.7, height=4.7)
    axes = figure.add_subplot()
    title = "Reward and length"
    if len(rewards):
        look: dict[str, Any] = {"s": 12, "linewidths": 0, "alpha": float(np.clip(15 / len(rewards) ** 0.5, 0.12, 0.6))}
        axes.scatter(rejected_lengths, rejected_rewards, color=VERMILION, marker="D", label="rejected", **look)
        axes.scatter(chosen_lengths, chosen_rewards, color=BLUE, marker="o", label="chosen", **look)
        if len(rewards) >= 50:
            tenths = np.array_split(np.argsort(lengths, kind="stable"), 10)
            medians = [(np.median(lengths[tenth]), np.median(rewards[tenth])) for tenth in tenths]
            axes.plot(
                *zip(*medians, strict=True),
                color=DARK,
                linewidth=1.8,
                marker="o",
                markersize=3.5,
                label="median per tenth",
            )
        pearson = metrics.pearson_correlation(rewards, lengths)
        spearman = metrics.spearman_correlation(rewards, lengths)
        if isfinite(pearson):
            title += f": Pearson {pearson:+.2f}, Spearman {spearman:+.2f}"
        handles, labels = axes.get_legend_handles_labels()
        order = [labels.index(label) for label in ("chosen", "rejected", "median per tenth") if label in labels]
        legend = axes.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False, fontsize=8)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    else:
        say_empty(axes, "no responses")
    finish(axes, title=title, xlabel=f"response length ({unit})", ylabel="reward (logit)")
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure in the style of all others; sizes in inches.

    A bare Figure draws with Agg into a file and never opens a window.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UserError("the report needs matplotlib: pip install matplotlib") from error
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.06)  # inches around the panels
    return Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")


def finish(axes: "Axes", title: str, xlabel: str, ylabel: str) -> None:
    """Title, labels and the common look of axes that are drawn."""
    axes.set_title(title, fontsize=10, color=DARK, loc="left")
    axes.set_xlabel(xlabel, fontsize=9, color=DARK)
    axes.set_ylabel(ylabel, fontsize=9, color=DARK)
    axes.tick_params(labelsize=8, color=GREY, labelcolor=DARK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(axis="y", color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)


def say_empty(where: Any, text: str) -> None:
    """Instead of data, on a figure or on axes."""
    place = {} if not hasattr(where, "transAxes") else {"transform": where.transAxes}
    where.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=10, **place)


def _corner_note(axes: "Axes", text: str) -> None:
    axes.text(0.02, 0.02, text, transform=axes.transAxes, fontsize=7.5, color=VERMILION)


def _finite_points(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float], int]:
    """Steps and values of one key, and how many values were left out because they are not finite."""
    points = [(float(entry["step"]), float(entry[key])) for entry in log_history if key in entry and "step" in entry]
    finite = [(step, value) for step, value in points if isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite], len(points) - len(finite)
