"""Files people bring, and the frames in them."""
