// The module janus_fast._engine.
#include <pybind11/pybind11.h>

namespace janus_fast {
void bind_kernels(pybind11::module_& m);
void bind_decoding(pybind11::module_& m);
void bind_probe(pybind11::module_& m);
}  // namespace janus_fast

PYBIND11_MODULE(_engine, m) {
  janus_fast::bind_kernels(m);
  janus_fast::bind_decoding(m);
  janus_fast::bind_probe(m);
}
