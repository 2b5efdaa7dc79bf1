"""Preference Orchestrator's data: rewards of preferred responses, and prompts that say the weights for them."""
