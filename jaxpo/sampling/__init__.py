"""Generation: `sampler.Sampler` (settings, no jax), `generate.generate` (ids), `text.generate_text`, `stream_text`."""
