"""Data sets: images, image-level labels and, for evaluation only, masks."""
