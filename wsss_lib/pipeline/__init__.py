"""The loop, the multi-scale CAMs, the scoring, and the files of a run."""
