"""Data made between steps: what the model writes to prompts, its rewards and advantages, as a source of batches."""
