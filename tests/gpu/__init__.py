"""What compilers make of the kernels for GPUs, and what a decode launches: checks that need no GPU."""
