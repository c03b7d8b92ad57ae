"""The .sqz codec: a compressed network as bytes and back, with numpy alone.

rans.py codes symbols, tables.py the frequencies that it needs, layout.py arrays as segments of symbols, and
fileformat.py the whole file, which docs/FORMAT.md describes. Nothing here imports MindSpore, so a small device can
decode a file.
"""
