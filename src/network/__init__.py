"""Parts of the network around src/squeezenet.py: layers, the design space, geometry, and a summary."""
