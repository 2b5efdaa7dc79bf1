"""Every preference method on real data from one SFT model: what `scripts/compare_losses` runs."""
