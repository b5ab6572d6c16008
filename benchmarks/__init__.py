"""How fast the library is, as ratios: `python -m benchmarks`; and `soak`, how long it holds."""
