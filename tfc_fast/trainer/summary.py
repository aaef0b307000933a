"""The summary of a run: what the phase analysis found, and the numbers of the run itself."""

from __future__ import annotations

from typing import Any

from tfc_fast import phases
from tfc_fast.run_directory import RunDirectory

__all__ = ["summarize"]


def summarize(
    run: RunDirectory,
    *,
    planned_steps: int,
    chance_loss: float,
    overhead: dict[str, float | int] | None,
    stopped_by: str | None,
) -> tuple[dict[str, Any], phases.PhaseSummary]:
    """Analyse the log and the records on disk and write `summary.json`.

    Args:
        run: The run; all of its records are on disk.
        planned_steps: Number of steps that the settings ask for.
        chance_loss: Loss of a network that knows only the class frequencies.
        overhead: What the probe cost; None without one.
        stopped_by: Signal or event that ended the run early, else None.

    Returns:
        The content of `summary.json`: everything of `phases.PhaseSummary`, and `diagnosis` (of
        `phases.Diagnosis`), `steps`, `planned_steps`, `accuracy` (smoothed like the loss, at the
        last step), `chance_loss`, `seconds` (in all steps together), `overhead`, `stopped_by`. None
        stands for what was not measured or is not finite. And the analysis itself.

    Raises:
        StorageError: A file cannot be read or written.
    """
    log = run.read_train()
    records = run.read_metrics()
    analysis = phases.analyze(log["loss"], records, steps=log["step"], chance_loss=chance_loss)
    window = run.read_json(run.config_path)["settings"]["window"]
    accuracy = phases.smoothed_loss(log["accuracy"])
    run.write_json(
        run.summary_path,
        {
            **analysis.to_dict(),
            "diagnosis": phases.diagnose(analysis, records, dead_window=window).to_dict(),
            "steps": len(log["step"]),
            "planned_steps": planned_steps,
            "accuracy": accuracy[-1] if len(accuracy) else None,
            "chance_loss": chance_loss,
            "seconds": log["step_seconds"].sum(),
            "overhead": overhead,
            "stopped_by": stopped_by,
        },
    )
    # Read back rather than returned as it is: what a user sees here is what stands on disk.
    return run.read_json(run.summary_path), analysis
