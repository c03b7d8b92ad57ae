"""Use a trained network: evaluate it, classify images with it, export it, and run exported models."""
