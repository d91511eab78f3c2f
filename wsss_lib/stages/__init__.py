"""What is done to a whole data set: training, maps, refinement, scores. No file in this room knows a run."""
