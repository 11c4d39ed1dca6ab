"""What seeing and noise took: the PSF of a mosaic, and pictures nearer to the sky, still linear."""
