"""One method on one data set in one folder. Each kind of run has a file under the name of its paper."""
