"""Checkpoints of other programs: diffusers, EDM, Patch Diffusion and PaDIS."""
