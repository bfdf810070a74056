// The kernels of the instruction set in use.
#pragma once

#include <type_traits>

#include "kernels/cpu/kernels.h"

namespace janus_fast {
const Kernels& kernels();

template <typename T>
const KernelsOf<T>& kernels_of() {
  if constexpr (std::is_same_v<T, float>)
    return kernels().of_float;
  else if constexpr (std::is_same_v<T, double>)
    return kernels().of_double;
  else
    return kernels().of_bfloat16;
}
}  // namespace janus_fast
