"""How fast a recipe runs on this machine, and against what."""
