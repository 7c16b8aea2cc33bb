"""seitpp_models: networks that learn from discrete tokens, and how they are trained."""
