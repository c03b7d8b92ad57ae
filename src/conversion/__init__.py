"""Conversion of SqueezeNet's weights from and to the formats of other frameworks (convert.py).

A module for each format reads a file as arrays, without running anything in it; names.py has what other systems call
the parameters, recognition.py finds the architecture that they belong to, and converting.py does the rest.
"""
