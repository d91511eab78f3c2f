"""Every picture, slider and progress bar."""
