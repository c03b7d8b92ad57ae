"""Deep Compression (Han et al. 2016, https://arxiv.org/abs/1510.00149): prune, quantize, encode.

pipeline.py runs the stages in order: prune.py, quantize.py or, for a target size, allocate.py, and retraining.py for
the training between them. compress.py writes the results. The codec is src/sqz/.
"""
