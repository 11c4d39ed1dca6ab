"""From bands of filters to the channels of a colour picture, on linear data."""
