"""Encode and decode compressed networks (.sqz files) with numpy alone.

rans.py codes symbols, tables.py their frequencies, layout.py tensors as segments of symbols, and fileformat.py the
whole file, see docs/FORMAT.md. MindSpore is not imported, so a small device can decode a file.
"""
