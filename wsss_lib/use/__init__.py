"""Using what a run has made: the model file, predictions for new pictures, and the commands of the shell."""
