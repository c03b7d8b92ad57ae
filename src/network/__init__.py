"""The parts of the network beside `src/squeezenet.py`: layers, tables, sizes, and functions of a built network."""
