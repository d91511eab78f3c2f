"""Parts of ``benchmarks/gpu.py``; each function that it names runs in a process of its own."""
