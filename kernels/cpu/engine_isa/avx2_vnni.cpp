// x86-64 with AVX2, FMA and AVX-VNNI; setup.py gives this file its flags.
#define JANUS_ISA avx2_vnni
#define JANUS_VECTOR_BYTES 32
#include "table.h"
