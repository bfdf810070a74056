// Any processor that the compiler's default flags allow.
#define JANUS_ISA generic
#define JANUS_VECTOR_BYTES 16
#include "table.h"
