"""The simulator's public names: sessions, the presets, frames as sources."""

from __future__ import annotations

from skyloom.ops.simulation.frame import Rig, SimulatedFrame
from skyloom.ops.simulation.presets import acceptance_session, demo_session
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sources import SimulatedSource, frame_spec, open_simulated, session_table

__all__ = [
    "Rig",
    "SimulatedFrame",
    "SimulatedSession",
    "SimulatedSource",
    "acceptance_session",
    "demo_session",
    "frame_spec",
    "open_simulated",
    "session_table",
]
