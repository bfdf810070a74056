"""The Triton kernels, one file an operation; installed as ``janus_fast.kernels``.

A file has one function for each registered operation that it implements, of the same name: it takes the operation's
flat arguments, launches kernels, and returns its results. Keywords beyond them choose tiles, for tests.
"""
