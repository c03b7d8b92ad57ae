"""Inference: evaluate a network, classify images, export a network, and run exported models."""
