// setup.py compiles the files beside this one once for each instruction set, with its flags, its name as JANUS_ISA,
// which is a namespace, and JANUS_VECTOR_BYTES. So nothing in them may be shared with another file: no inline function
// or template of the standard library that the linker could pick for the whole library.
#pragma once

#define JANUS_STRING_(x) #x
#define JANUS_STRING(x) JANUS_STRING_(x)
#define JANUS_JOIN_(a, b) a##_##b
#define JANUS_JOIN(a, b) JANUS_JOIN_(a, b)
