"""From linear pixels to what a screen shows."""
