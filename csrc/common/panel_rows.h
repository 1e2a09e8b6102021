// The f32 core of a SYRK: packed panels, multiplied by the micro kernel. Takes any storage type.
#pragma once

#include "row_chunks.h"

namespace fastprune {

struct PanelRows : RowChunks {
  int64_t width;
  float* panels;  // by chunks, then by panels

  static constexpr int64_t kMultiple = kPanelMultiple;
  static int64_t bytes(int64_t depth, int64_t width) {
    return depth * round_up(width, kPanelMultiple) * sizeof(float);
  }
  PanelRows(int64_t row_count, int64_t columns, void* memory)
      : RowChunks{row_count}, width(columns), panels(static_cast<float*>(memory)) {}

  float* at(int64_t chunk, int64_t column) const {
    return panels + chunk * kPanelDepth * round_up(width, kPanelMultiple) + column * rows(chunk);
  }

  void pack(const MatrixView& matrix, const int64_t* listed, int64_t chunk, int64_t first,
            int64_t count) const {
    pack_panels(matrix, listed + chunk * kPanelDepth, rows(chunk), first, count,
                micro_kernel<float, float>().panel, at(chunk, first));
  }

  template <class Sum>
  void multiply(int64_t a, int64_t a_count, int64_t b, int64_t b_count, Sum* sums,
                int64_t stride) const {
    std::memset(sums, 0, sizeof(Sum) * round_up(a_count, kPanelMultiple) * stride);
    for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
      NextPanels<float> next;
      if (chunk + 1 < chunks()) next = {at(chunk + 1, a), at(chunk + 1, b)};
      multiply_panels(rows(chunk), at(chunk, a), a_count, at(chunk, b), b_count, a == b, sums,
                      stride, next);
    }
  }
};

}  // namespace fastprune
