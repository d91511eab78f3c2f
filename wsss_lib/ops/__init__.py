"""Pure tensor functions: any device, batched, no files, no state."""
