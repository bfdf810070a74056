// x86-64 with AVX-512 F, BW, DQ, VL, VNNI and BF16, and AMX with int8 and bfloat16; setup.py gives this file its flags.
#define JANUS_ISA avx512_bf16_amx
#define JANUS_VECTOR_BYTES 64
#include "table.h"
