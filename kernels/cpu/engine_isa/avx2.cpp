// x86-64 with AVX2 and FMA; setup.py gives this file its flags.
#define JANUS_ISA avx2
#define JANUS_VECTOR_BYTES 32
#include "table.h"
