"""klip_monai: out-of-distribution overlays for CT from the KL divergence between a diffusion prior and its posterior.

Research use only; not a medical device. Importing this package is cheap: torch, astra and highdicom are
imported by the modules that need them.
"""

__version__ = "0.1.0"
