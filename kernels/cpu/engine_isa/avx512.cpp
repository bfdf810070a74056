// x86-64 with AVX-512 F, BW, DQ and VL; setup.py gives this file its flags.
#define JANUS_ISA avx512
#define JANUS_VECTOR_BYTES 64
#include "table.h"
