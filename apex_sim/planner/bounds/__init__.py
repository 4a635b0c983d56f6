"""How good can a plan be at best?  Bounds that no simulation of it can beat."""
