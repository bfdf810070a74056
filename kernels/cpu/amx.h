// The registers of AMX: eight tiles of up to 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace janus_fast {
namespace JANUS_ISA {

constexpr int64_t kTileHeight = 16, kTileGroups = 16, kTileLanes = 16;

// Their shapes, as long as this lives. Tiles 0 to 3 are sums and 4 rows, of the stated height; 6 and 7 are columns. 5
// is either, since two tiles of rows are taken at once in full height only.
class TileRegisters {
 public:
  explicit TileRegisters(int64_t height = kTileHeight) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    for (int tile = 0; tile < 8; tile++) {
      shapes.bytes[tile] = 64;
      shapes.rows[tile] = static_cast<uint8_t>(tile <= 4 ? height : kTileGroups);
    }
    // The intrinsic does not say that it reads all of them, nor do loads of tiles that they read what was stored
    // before.
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

}  // namespace JANUS_ISA
}  // namespace janus_fast
