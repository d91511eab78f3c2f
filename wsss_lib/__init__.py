"""Weakly supervised semantic segmentation: pixel masks learnt from image-level labels alone."""

__version__ = "0.2.0"
