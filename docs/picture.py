"""Makes the README's picture: the demo's lights, calibrated and averaged, and skyloom's mosaic of them.

python docs/picture.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from skyloom.workflows.demo import run_demo
from skyloom.workflows.graph import Workflow
from skyloom.workflows.progress import Silent
from skyloom.workflows.runner import run_workflow

PLAIN = """
name: plain
description: As lrgb, averaged as frames come.
extends: lrgb
nodes:
  shrink: null
  consensus: null
  artifacts: null
  integrate: {inputs: [place, register, normalize, approve]}
"""


def main() -> None:
    """Write docs/mosaic.jpg."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, after = run_demo(folder, seed=1, reporter=Silent())
        workflow = folder / "plain.yaml"
        workflow.write_text(PLAIN, encoding="utf-8")
        plain = Workflow.load(workflow).with_parameters({"normalize.mode": "none", "integrate.rejection": "none"})
        run_workflow(plain, folder / "frames", project=folder / "plain")
        before = folder / "plain" / "outputs" / "picture.png"
        pictures = [Image.open(p) for p in (before, after)]
        width = 640
        small = [p.resize((width, round(p.height * width / p.width)), Image.Resampling.LANCZOS) for p in pictures]
        # What is covered well enough to stay differs by some rows.
        height = min(p.height for p in small)
        left, right = (np.asarray(p.crop((0, 0, width, height))) for p in small)
        joined = np.hstack([left, np.full((height, 8, 3), 255, dtype=np.uint8), right])
        Image.fromarray(joined).save(Path(__file__).with_name("mosaic.jpg"), quality=88)


if __name__ == "__main__":
    main()
