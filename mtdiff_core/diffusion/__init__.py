"""The mathematics: forward process, model, objective, samplers. No input, no output, no plugins."""
