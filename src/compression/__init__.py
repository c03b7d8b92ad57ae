"""Deep Compression (Han et al. 2016, https://arxiv.org/abs/1510.00149): prune, share, code.

A wing of its own: the model and the training loop know nothing of it. prune.py, share.py, allocate.py, tables.py,
rans.py and fileformat.py know numpy alone and no MindSpore, as a decoder on a small device would; docs/FORMAT.md
describes the file. steps.py is the order in which things are done; retraining.py trains meanwhile.
"""
