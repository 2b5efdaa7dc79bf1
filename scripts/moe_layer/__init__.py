"""The mixture-of-experts layer against other ways to compute it: what `scripts/bench_moe` runs."""
