"""What a run did, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from skyloom.workflows.machine import format_bytes, format_seconds
from skyloom.workflows.places import Place


@dataclass(frozen=True)
class NodeReport:
    """What a node did in this run."""

    name: str
    key: str
    units: int
    skipped: int
    seconds: float
    work: float
    peak_memory: float
    """Bytes of this process at its peak up to the end of the node."""
    reused: int = 0
    """Units taken over from an earlier result."""
    planned_memory: float = 0.0
    """Bytes the plan foresaw, of this process or of one worker of a cluster."""
    worker_memory: float = 0.0
    """Bytes of the largest worker of a cluster at its peak; 0: there was none."""


@dataclass(frozen=True)
class RunReport:
    """What a run did."""

    project: Place
    nodes: tuple[NodeReport, ...]
    left_out: tuple[tuple[str, str], ...]
    quality: tuple[str, ...]
    """How well the result is known, a line each."""
    outputs: tuple[Place, ...]
    seconds: float
    planned_memory: float
    peak_memory: float
    page: Place | None = None
    """`report.html`."""

    def __repr__(self) -> str:
        return f"<skyloom run of {self.project}: {summary(self)}>"

    def _repr_html_(self) -> str:
        from skyloom.workflows.notebook import report_html

        return report_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values (what `run --json` prints)."""
        plain = asdict(self)
        plain["project"] = str(self.project)
        plain["outputs"] = [str(path) for path in self.outputs]
        plain["page"] = str(self.page) if self.page else None
        return plain


def summary(report: RunReport) -> str:
    """One line that sums a run up."""
    return (
        f"done in {format_seconds(report.seconds)}, peak memory {format_bytes(report.peak_memory)} "
        f"(planned {format_bytes(report.planned_memory)})"
    )
