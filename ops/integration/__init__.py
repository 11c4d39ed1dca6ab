"""From frames to the canvas."""
