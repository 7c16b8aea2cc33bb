"""The version of tokenstore and seitpp_models."""

__version__ = "0.1.0"
