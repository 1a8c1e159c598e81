"""How good a trained model is, in every direction: metrics, the bound, and what a person can read of them."""
