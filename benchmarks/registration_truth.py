"""Where frames were placed against where they truly look.

    python benchmarks/registration_truth.py FRAMES [PROJECT]

FRAMES is a folder `skyloom simulate` wrote; PROJECT a run over it up to `place` or further (preset `stack`), which
is made when it is not there. Errors are distances (pixels of the frame) between what the found WCS and the truth
say of points all over every frame, less one rotation and one scale of the whole: without a WCS in any header the
place of the mosaic on the sky is free. Errors common to a panel tell how far the mosaic bends: `loop` is the
largest difference between two panels. Steps are differences between two frames that see the same sky.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.session.ingest import ingest
from skyloom.ops.simulation.simulate import SimulatedFrame, SimulatedSession
from skyloom.workflows.graph import Workflow
from skyloom.workflows.progress import reporter
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.store import Store

POINTS = 9
"""A side, on which a frame is compared."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameScore:
    """One frame."""

    name: str
    panel: tuple[int, int]
    bad: str
    """What was wrong with it on purpose; "" = nothing."""
    placed: bool
    reason: str
    """Why it was left out."""
    island: int
    residual: float
    """What `locate` says: rms distance to the same stars in the other frames (px)."""
    rms: float
    """Error (px); NaN where it was not placed or nothing true is known."""
    worst: float


@dataclass(frozen=True)
class Score:
    """All frames."""

    frames: tuple[FrameScore, ...]
    rms: float
    worst: float
    """Largest error (px) of any point of a good frame."""
    loop: float
    """Largest distance between the mean errors of two panels (px)."""
    steps: float
    """rms distance between what two overlapping frames say of the same sky (px)."""
    notes: str

    @property
    def good(self) -> list[FrameScore]:
        """Frames with nothing wrong."""
        return [f for f in self.frames if not f.bad]

    @property
    def lost(self) -> list[FrameScore]:
        """Good frames that were not placed."""
        return [f for f in self.good if not f.placed]

    @property
    def taken(self) -> list[FrameScore]:
        """Bad frames that were not left out."""
        return [f for f in self.frames if f.bad and f.placed]


def directions(text: str, pixels: Floats) -> Floats:
    """Unit vectors that a WCS gives pixels."""
    ra, dec = np.radians(pixel_to_sky(parse_wcs(text), pixels[:, 0], pixels[:, 1]))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def errors(mine: Floats, true: Floats) -> Floats:
    """Differences (n, 2) in the plane tangent to the middle of the truth (radians), less rotation and scale."""
    keep = np.ones(len(mine), np.bool_)
    middle = true.mean(axis=0)
    middle /= np.linalg.norm(middle)
    east = np.cross([0.0, 0.0, 1.0], middle)
    east /= np.linalg.norm(east)
    basis = np.stack([east, np.cross(middle, east), middle])
    away = np.zeros(len(mine), np.complex128)
    for _ in range(4):
        # One frame that lies wrong must not turn the others.
        u, _, vt = np.linalg.svd(true[keep].T @ mine[keep])
        turned = mine @ (u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt).T
        a, b = ((v @ basis.T) for v in (turned, true))
        p, q = (v[:, 0] / v[:, 2] + 1j * v[:, 1] / v[:, 2] for v in (a, b))
        mp, mq = p[keep].mean(), q[keep].mean()
        turn = np.vdot(p[keep] - mp, q[keep] - mq) / np.vdot(p[keep] - mp, p[keep] - mp)
        away = turn * (p - mp) + mq - q
        keep = np.abs(away) <= 8.0 * max(float(np.median(np.abs(away[keep]))), 1e-12)
    return np.stack([away.real, away.imag], axis=-1)


def score(frames: Path, project: Path) -> Score:
    """Compare a project with the truth of its frames."""
    truth = json.loads((frames / "truth.json").read_text(encoding="utf-8"))
    session = SimulatedSession.from_dict(truth["session"])
    true_of = {Path(path).name: frame for path, frame in zip(session.paths, session.lights, strict=False)}
    table = ingest([frames])
    names = [Path(str(n)).name for n in table["name"].values]
    store = Store(project)
    location, approval = store.open("locate").load(), store.open("approve").load()
    use = approval["use"].values.astype(bool)
    texts = [str(t) if ok else "" for t, ok in zip(location["wcs"].values, use, strict=True)]
    reasons = [str(a or b) for a, b in zip(location["reason"].values, approval["reason"].values, strict=True)]
    good = [i for i, name in enumerate(names) if texts[i] and not true_of[name].bad]
    away = dict(zip(good, _all_errors([true_of[names[i]] for i in good], [texts[i] for i in good]), strict=True))
    scores = []
    for i, name in enumerate(names):
        frame = true_of[name]
        distance = np.hypot(*away[i].T) if i in away else np.full(1, np.nan)
        scores.append(
            FrameScore(
                name=name,
                panel=frame.panel,
                bad=frame.bad,
                placed=bool(texts[i]),
                reason="" if texts[i] else reasons[i],
                island=int(location["island"].values[i]),
                residual=float(location["residual"].values[i]),
                rms=float(np.sqrt(np.mean(distance**2))),
                worst=float(distance.max()),
            )
        )
    panels: dict[tuple[int, int], list[Floats]] = {}
    for i in good:
        panels.setdefault(true_of[names[i]].panel, []).append(away[i].mean(axis=0))
    means = np.array([np.mean(v, axis=0) for v in panels.values()])
    loop = np.linalg.norm(means[:, None] - means[None], axis=-1).max() if len(means) else np.nan
    every = np.concatenate([np.hypot(*away[i].T) for i in good]) if good else np.full(1, np.nan)
    steps = _steps([true_of[names[i]] for i in good], [away[i] for i in good])
    return Score(
        frames=tuple(scores),
        rms=float(np.sqrt(np.mean(every**2))),
        worst=float(every.max()),
        loop=float(loop),
        steps=steps,
        notes=str(location["notes"].values),
    )


def _points(frame: SimulatedFrame) -> Floats:
    x, y = np.meshgrid(
        np.linspace(0, frame.camera.width - 1, POINTS), np.linspace(0, frame.camera.height - 1, POINTS)
    )
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _look(frame: SimulatedFrame) -> Floats:
    assert frame.exposure.pointing is not None
    return frame.exposure.pointing.look(*_points(frame).T)


def _all_errors(frames: Sequence[SimulatedFrame], texts: Sequence[str]) -> list[Floats]:
    """Errors of the points of each frame (px)."""
    if not frames:
        return []
    mine = np.concatenate([directions(t, _points(f)) for f, t in zip(frames, texts, strict=True)])
    true = np.concatenate([_look(f) for f in frames])
    scale = np.radians(np.array([f.exposure.pointing.scale for f in frames if f.exposure.pointing]) / 3600.0)
    away = errors(mine, true).reshape(len(frames), -1, 2)
    return list(away / scale[:, None, None])


def _steps(frames: Sequence[SimulatedFrame], away: Sequence[Floats]) -> float:
    """Root mean square difference of the errors of two frames at points that both see."""
    found = []
    looks = [_look(f) for f in frames]
    middles = [v.mean(axis=0) for v in looks]
    for i in range(len(frames)):
        for j in range(i):
            a, b = frames[i].exposure.pointing, frames[j].exposure.pointing
            assert a is not None
            assert b is not None
            reach = np.radians(a.scale / 3600.0) * 2.0 * np.hypot(frames[i].camera.height, frames[i].camera.width)
            if np.linalg.norm(middles[i] - middles[j]) > reach:
                continue
            near = np.linalg.norm(looks[i][:, None] - looks[j][None], axis=-1)
            close = near < np.radians(a.scale / 3600.0) * frames[i].camera.width / (POINTS - 1) * 0.71
            k, m = np.nonzero(close & (near == near.min(axis=1, keepdims=True)))
            found.append(np.linalg.norm(away[i][k] - away[j][m], axis=-1))
    every = np.concatenate(found) if found else np.full(1, np.nan)
    return float(np.sqrt(np.mean(every**2))) if every.size else float("nan")


def describe(found: Score) -> str:
    """Report as text."""
    islands = sorted({f.island for f in found.good if f.placed})
    lines = [
        f"{sum(f.placed for f in found.good)} of {len(found.good)} good frames placed, islands {islands}",
        f"error: rms {found.rms:.3f} px, worst {found.worst:.3f} px; loop {found.loop:.3f} px; "
        f"steps {found.steps:.3f} px rms",
        *(
            f"  worst frame {f.name}: rms {f.rms:.3f}, worst {f.worst:.3f}, says {f.residual:.3f} px"
            for f in sorted((f for f in found.good if f.placed), key=lambda f: -f.rms)[:3]
        ),
        *(f"LOST {f.name}: {f.reason}" for f in found.lost),
        *(f"TAKEN {f.bad} {f.name}" for f in found.taken),
        *(f"told {f.bad} {f.name}: {f.reason}" for f in found.frames if f.bad and not f.placed),
        f"notes: {found.notes}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run where needed, compare, print; 1 where a good frame is lost, a bad one taken or an error above 0.1 px."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.PARAM=VALUE")
    options = parser.parse_args(arguments)
    project = options.project or options.frames.with_name(options.frames.name + "-project")
    workflow = Workflow.load("stack")
    if options.set:
        workflow = workflow.with_parameters(dict(s.split("=", 1) for s in options.set))
    shown = reporter()
    run_workflow(workflow.until("place"), [str(options.frames)], project=project, reporter=shown)
    shown.close()
    found = score(options.frames, project)
    print(json.dumps(asdict(found), indent=1) if options.json else describe(found))
    return int(bool(found.lost or found.taken or not found.rms <= 0.1))


if __name__ == "__main__":
    raise SystemExit(main())
