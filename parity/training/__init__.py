"""Training that agrees: small networks, one for each block, trained by every backend and by the oracle.

All begin with the weights of one exchange file, see the same batches of handwritten digits in the same order, and use
their framework's own optimiser and cross-entropy. What is compared is the loss at every step, the weights, statistics
and logits after the last one, and what the network then takes the test images for. `parity train-demo` runs it.
"""
