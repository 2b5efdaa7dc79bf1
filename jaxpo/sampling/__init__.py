"""Generation: `request.Request` (what is asked, no jax), `engine.Engine`, `text.encode_prompt`, `constraints`."""
