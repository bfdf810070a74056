// The activations of feed-forward blocks, on every device.
#pragma once

#include <cstdint>

namespace janus_fast {

enum class Activation : uint8_t { kNone, kRelu, kGelu, kSilu, kGeluNew, kQuickGelu };

}  // namespace janus_fast
