// The kernels of the instruction set in use.
#pragma once

#include "kernels/cpu/kernels.h"

namespace janus_fast {
const Kernels& kernels();
}
