"""What one frame says of itself: stars, noise, superpixels."""
