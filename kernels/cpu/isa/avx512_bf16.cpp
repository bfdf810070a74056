// x86-64 with AVX-512 F, BW, DQ, VL, VNNI and BF16; setup.py gives this file its flags.
#define JANUS_ISA avx512_bf16
#define JANUS_VECTOR_BYTES 64
#include "table.h"
