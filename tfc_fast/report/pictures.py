"""The figures of a report as PNG images, with captions and descriptions for who cannot see them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tfc_fast.phases import PhaseSummary, SitePhase
from tfc_fast.records import Records
from tfc_fast.report import figures
from tfc_fast.report.bins import bin_records
from tfc_fast.report.words import FirstPhase, first_phase

_FIRST_PHASES: dict[FirstPhase, str] = {
    "ended": "The first phase ended at step {end}.",
    "open": "The first phase did not end.",
    "none": "There was no first phase.",
    "unknown": "When the first phase ended is not known.",
}


@dataclass(frozen=True)
class Picture:
    """One figure of a report.

    Attributes:
        name: of the file, without ending.
        title: heading on the page.
        caption: one sentence: what is seen and how to read it.
        alt: what it shows, in words.
        png: the image; None if nothing of it was measured.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes | None

    @property
    def data_uri(self) -> str:
        """The image as a URI that needs no file."""
        return "data:image/png;base64," + base64.b64encode(self.png or b"").decode("ascii")


def draw(
    steps: npt.NDArray[np.int64],
    loss: npt.NDArray[np.float64],
    records: Records,
    summary: PhaseSummary,
) -> list[Picture]:
    """All figures of a run.

    Args:
        steps: step of each loss, `[n]`.
        loss: losses, `[n]`.
        records: the records; may be empty.
        summary: analysis of the run.

    Returns:
        The pictures in the order of the page.
    """
    end = summary.first_phase_end
    phase = first_phase(summary)
    has_first_phase = phase in ("ended", "open")
    binned = bin_records(records)
    decay = float(summary.thresholds["decay"] or 0.0)
    chance = summary.thresholds["chance_loss"]
    return [
        Picture(
            "loss",
            "Loss",
            "The training loss of every step and its exponential average; the first phase is "
            "shaded and lasts until the average is "
            f"{100 * float(summary.thresholds['drop'] or 0.0):g} % below its plateau.",
            f"Line plot of the training loss of {summary.n_steps} steps. "
            + _FIRST_PHASES[phase].format(end=end),
            _png(
                figures.loss_figure(
                    steps,
                    loss,
                    first_phase_end=end,
                    has_first_phase=has_first_phase,
                    chance_loss=chance,
                    decay=decay,
                )
            ),
        ),
        Picture(
            "feature_similarity",
            "Similarity of features",
            "Mean cosine of the features of two samples at every site: lines between classes that "
            "rise in the first phase are the collapse, lines that fall after it the recovery.",
            "Line plots of the mean cosine of features, a line per site. "
            + _courses(summary, False),
            _png(
                figures.similarity_figure(
                    binned, "feature", first_phase_end=end, has_first_phase=has_first_phase
                )
            ),
        ),
        Picture(
            "gradient_similarity",
            "Similarity of gradients",
            "Mean cosine of the gradients of the loss with respect to the features: the more alike "
            "they are within a class, the more all its samples push the weights the same way.",
            "Line plots of the mean cosine of gradients, a line per site. "
            + _courses(summary, True),
            _png(
                figures.similarity_figure(
                    binned, "grad", first_phase_end=end, has_first_phase=has_first_phase
                )
            ),
        ),
        Picture(
            "gates",
            "Gates",
            "A gate is open where a unit is active: the fraction of open gates, how often two "
            "samples agree on a gate, and how many units are open for no sample of the step or of "
            "the last steps (the window of the probe).",
            "Line plots of fractions, a line per site: open gates, agreement of gates, dead units.",
            _png(
                figures.gates_figure(binned, first_phase_end=end, has_first_phase=has_first_phase)
            ),
        ),
        Picture(
            "heatmap",
            "All sites at a glance",
            "The same similarities as colours, one row per site and one column per step, so that "
            "the site where the collapse begins and is strongest stands out.",
            "Heat maps of the mean cosine, sites from input to output against steps. "
            + _courses(summary, False),
            _png(figures.heatmap_figure(binned, first_phase_end=end)),
        ),
    ]


def _png(figure: Figure | None) -> bytes | None:
    if figure is None:
        return None
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _courses(summary: PhaseSummary, gradients: bool) -> str:
    """The first phase at every site, in words."""

    def course(site: SitePhase) -> str | None:
        rise = site.grad_within if gradients else site.feature_between
        if rise.peak_step is None:
            return None
        return f"{site.site}: {rise.start:.2f} to {rise.peak:.2f} (step {rise.peak_step})"

    courses = [text for text in map(course, summary.sites) if text is not None]
    if not courses:
        return ""
    pairs = "within" if gradients else "between"
    return f"From start to peak of the first phase, {pairs} classes: {'; '.join(courses)}."
