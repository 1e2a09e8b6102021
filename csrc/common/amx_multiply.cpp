// Blocks of 2 x 2 tiles: 4 of the 8 tile registers sum, 4 hold operands.
#include <utility>

#include "amx.h"
#include "amx_target.h"

namespace fastprune::amx {

#if FASTPRUNE_AMX
namespace {

// The argument of ldtilecfg: eight tiles of 16 lines of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_line = 0;
  uint8_t reserved[14] = {};
  uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t lines[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig kConfig;

constexpr int64_t kChunkSteps = kPanelDepth / kStepRows;

// A block of products on its way to the sums. While one block is multiplied, the one before it is
// added, a few lines a step: the adding waits for memory, the multiplying does not.
template <class Sum>
struct FinishedBlock {
  alignas(64) float products[kStrip][kStrip];
  Sum* sums;
  bool first;             // of its chunks: the sums hold nothing yet
  int64_t line = kStrip;  // lines before this one are added

  FASTPRUNE_AMX_TARGET void add_lines(int64_t stride) {
    const int64_t end = line + kStrip / kChunkSteps;
    for (; line < end; ++line) {
      Sum* target = sums + line * stride;
      if (first) {
        for (int64_t j = 0; j < kStrip; ++j) target[j] = static_cast<Sum>(products[line][j]);
      } else {
        for (int64_t j = 0; j < kStrip; ++j) target[j] += static_cast<Sum>(products[line][j]);
      }
    }
  }
};

template <class Sum>
FASTPRUNE_AMX_TARGET void multiply_strips(const StripRows& packed, int64_t a, int64_t a_end,
                                          int64_t b, int64_t b_end, Sum* sums, int64_t stride) {
  FinishedBlock<Sum> blocks[2];
  FinishedBlock<Sum>*block = &blocks[0], *before = &blocks[1];
  _tile_loadconfig(&kConfig);
  for (int64_t chunk = 0; chunk < packed.chunks(); ++chunk) {
    const int64_t steps = StripRows::steps(packed.rows(chunk));
    for (int64_t j = b; j < b_end; j += kStrip) {
      for (int64_t i = a; i < (a == b ? j + 1 : a_end); i += kStrip) {
        const BFloat16* left = packed.left + packed.offset(chunk, i);
        const BFloat16* right = packed.right + packed.offset(chunk, j);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t step = 0; step < steps; ++step, left += 2 * kTile, right += 2 * kTile) {
          _tile_loadd(4, left, 64);
          _tile_loadd(6, right, 64);
          _tile_loadd(5, left + kTile, 64);
          _tile_loadd(7, right + kTile, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
          if (before->line < kStrip) before->add_lines(stride);
        }
        while (before->line < kStrip) before->add_lines(stride);
        _tile_stored(0, &block->products[0][0], 4 * kStrip);
        _tile_stored(1, &block->products[0][16], 4 * kStrip);
        _tile_stored(2, &block->products[16][0], 4 * kStrip);
        _tile_stored(3, &block->products[16][16], 4 * kStrip);
        block->sums = sums + (i - a) * stride + (j - b);
        block->first = chunk == 0;
        block->line = 0;
        std::swap(block, before);
      }
    }
  }
  while (before->line < kStrip) before->add_lines(stride);
  _tile_release();
}

}  // namespace

template <class Sum>
void StripRows::multiply(int64_t a, int64_t a_count, int64_t b, int64_t b_count, Sum* sums,
                         int64_t stride) const {
  multiply_strips(*this, a, a + a_count, b, b + b_count, sums, stride);
}

#else

template <class Sum>
void StripRows::multiply(int64_t, int64_t, int64_t, int64_t, Sum*, int64_t) const {}

#endif

template void StripRows::multiply(int64_t, int64_t, int64_t, int64_t, float*, int64_t) const;
template void StripRows::multiply(int64_t, int64_t, int64_t, int64_t, double*, int64_t) const;

}  // namespace fastprune::amx
