"""From raw frames to calibrated ones: links, masters, and the arithmetic inside a task."""
