"""Figures of a demonstration: the curves of each network, and how far apart they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.errors import BackendMissingError
from parity.spec import SPECS
from parity.training.optimizers import ADAM_FORMULAS, OPTIMIZERS
from parity.training.run import DTYPES, Job, Outcome, Report

# Colour-blind safe (Okabe and Ito, "Color Universal Design", 2008), one for each backend in turn.
COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#F0E442", "#009E73", "#56B4E9", "#CC79A7", "#000000")
TITLES = {"sgd": "SGD with momentum", "adam": "Adam, each framework's own formula"}

NOTHING = 1e-17  # where a logarithm would not end: a difference of zero
BOTTOM, TOP = 1e-17, 10.0


def draw(report: Report, folder: Path) -> list[Path]:
    """One figure for each network, as PNG and SVG; the same numbers make the same bytes.

    Raises:
        BackendMissingError: where Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise BackendMissingError(
            "the figures need Matplotlib, not installed here", remedy="pip install 'attention-parity[train]'"
        ) from None
    from matplotlib.figure import Figure  # not pyplot: no window, no state that threads share

    settings: Any = {
        "svg.hashsalt": "attention-parity",
        "svg.fonttype": "none",
        "font.size": 11,
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(settings):
        for block in dict.fromkeys(outcome.job.block for outcome in report.outcomes):
            figure = Figure(figsize=(11, 7.2), layout="constrained")
            _panels(figure, report, block)
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
                file = folder / f"{block}.{kind}"
                figure.savefig(file, dpi=100, metadata=metadata)
                written.append(file)
    return written


def _panels(figure: Any, report: Report, block: str) -> None:
    optimizers = [name for name in OPTIMIZERS if any(_shown(report, block, name))]
    grid = figure.subplots(2, len(optimizers), sharex=True, squeeze=False)
    count = len({outcome.backend for outcome in report.outcomes if outcome.job.block == block})
    figure.suptitle(f"{SPECS[block].options_class.class_name}: one training on {count} backends")
    for column, name in enumerate(optimizers):
        curves, apart = grid[0][column], grid[1][column]
        curves.set_title(TITLES[name])
        _curves(curves, report, list(_shown(report, block, name)))
        for outcome in _shown(report, block, name):
            _difference(apart, report, outcome)
        _between_formulas(apart, report, block, name)
        for dtype in dict.fromkeys(outcome.job.dtype for outcome in _shown(report, block, name)):
            allowed = Job(block, name, dtype).envelope.loss.tolerance
            apart.axhline(allowed, color="black", linestyle="--", linewidth=1)
            apart.annotate(
                f"envelope of {dtype}",
                (report.steps, allowed),
                xytext=(0, -2),  # below: above it are the lines of Adam's formulas
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=9,
            )
        curves.set_ylim(bottom=0)
        apart.set_yscale("log")
        apart.set_ylim(BOTTOM, TOP)
        apart.set_xlabel("step")
    grid[0][0].set_ylabel("loss of the batch")
    grid[1][0].set_ylabel("off the oracle by, largest so far")
    handles, labels = grid[0][0].get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)


def _shown(report: Report, block: str, optimizer: str) -> Iterator[Outcome]:
    """The results of a network and an optimiser, float64 first."""
    for dtype in DTYPES:
        for outcome in report.outcomes:
            job = outcome.job
            asked = (job.block, job.optimizer, job.dtype, job.biased) == (block, optimizer, dtype, False)
            if asked and outcome.trained is not None:
                yield outcome


def _curves(axes: Any, report: Report, outcomes: Sequence[Outcome]) -> None:
    """The oracle's curve as a band, and on it those of the backends, each with marks at steps of its own."""
    if not outcomes:
        return
    steps = np.arange(1, report.steps + 1)
    axes.plot(steps, _expected(report, outcomes[0]), color="#CCCCCC", linewidth=7, label="oracle")
    names = list(report.frameworks)
    every = max(len(names), report.steps // 5)
    # Of each backend its lowest precision: two lines of one colour on each other would show nothing.
    for outcome in {outcome.backend: outcome for outcome in outcomes}.values():
        assert outcome.trained is not None
        number = names.index(outcome.backend)
        axes.plot(
            steps,
            outcome.trained.losses,
            color=COLOURS[number % len(COLOURS)],
            linewidth=0.7,
            marker="o",
            markersize=5,
            markevery=(number * every // len(names), every),
            label=outcome.backend,
        )


def _difference(axes: Any, report: Report, outcome: Outcome) -> None:
    assert outcome.trained is not None
    number = list(report.frameworks).index(outcome.backend)
    axes.plot(
        np.arange(1, report.steps + 1),
        _so_far(outcome.trained.losses - _expected(report, outcome)),
        color=COLOURS[number % len(COLOURS)],
        linewidth=1.2,
    )


def _so_far(difference: NDArray) -> NDArray:
    """The largest absolute difference up to each step; what is no number counts as the largest there is."""
    return np.maximum.accumulate(np.maximum(np.nan_to_num(np.abs(difference), nan=TOP), NOTHING))


def _expected(report: Report, outcome: Outcome) -> NDArray:
    job, framework = outcome.job, report.frameworks[outcome.backend]
    key = Job(job.block, job.optimizer, "float64"), framework if job.optimizer == "adam" else "any"
    return report.references[key].losses


def _between_formulas(axes: Any, report: Report, block: str, optimizer: str) -> None:
    """How far the oracle itself gets with the formulas of the other frameworks."""
    wanted = Job(block, optimizer, "float64")
    known = {name: report.references.get((wanted, name)) for name in ADAM_FORMULAS}
    found = {name: one.losses for name, one in known.items() if one}
    if len(found) < 2:
        return
    first, *others = found
    for name, style in zip(others, ("-.", ":"), strict=False):
        axes.plot(
            np.arange(1, report.steps + 1),
            _so_far(found[name] - found[first]),
            color="#666666",
            linestyle=style,
            linewidth=1.6,
            label=f"the formula of {name} against that of {first}",
        )
    axes.legend(loc="center left", bbox_to_anchor=(0.02, 0.25), fontsize=9, frameon=False)
