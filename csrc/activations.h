// What activations are called, in models and in operations.
#pragma once

#include <utility>

#include "kernels/activation.h"

namespace janus_fast {

constexpr std::pair<const char*, Activation> kActivations[] = {
    {"none", Activation::kNone}, {"relu", Activation::kRelu},        {"gelu", Activation::kGelu},
    {"silu", Activation::kSilu}, {"gelu_new", Activation::kGeluNew}, {"quick_gelu", Activation::kQuickGelu},
};

}  // namespace janus_fast
