// Packing for AMX: rows are interleaved by pairs for the right form, and that transposed for the
// left one.
#include "amx.h"
#include "amx_target.h"

namespace fastprune::amx {

#if FASTPRUNE_AMX
namespace {

// Two rows of a strip: a line of either tile of the right form.
FASTPRUNE_AMX_TARGET inline void interleave(__m512i even, __m512i odd, BFloat16* right) {
  // The unpack instructions work on 128 bits at a time; this order makes up for it.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  even = _mm512_permutexvar_epi64(order, even);
  odd = _mm512_permutexvar_epi64(order, odd);
  _mm512_store_si512(right, _mm512_unpacklo_epi16(even, odd));
  _mm512_store_si512(right + kTile, _mm512_unpackhi_epi16(even, odd));
}

// The left form of a tile from the right one: 16 x 16 pairs transposed, in squares of 4 x 4 at
// first, then the squares.
FASTPRUNE_AMX_TARGET void transpose_pairs(const BFloat16* right, BFloat16* left) {
  __m512i line[16], pairs[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) line[i] = _mm512_load_si512(right + 32 * i);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(line[i], line[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(line[i], line[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    line[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    line[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    line[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    line[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i even_top = _mm512_shuffle_i32x4(line[i], line[4 + i], 0x88);
    const __m512i even_end = _mm512_shuffle_i32x4(line[8 + i], line[12 + i], 0x88);
    const __m512i odd_top = _mm512_shuffle_i32x4(line[i], line[4 + i], 0xdd);
    const __m512i odd_end = _mm512_shuffle_i32x4(line[8 + i], line[12 + i], 0xdd);
    _mm512_store_si512(left + 32 * i, _mm512_shuffle_i32x4(even_top, even_end, 0x88));
    _mm512_store_si512(left + 32 * (4 + i), _mm512_shuffle_i32x4(odd_top, odd_end, 0x88));
    _mm512_store_si512(left + 32 * (8 + i), _mm512_shuffle_i32x4(even_top, even_end, 0xdd));
    _mm512_store_si512(left + 32 * (12 + i), _mm512_shuffle_i32x4(odd_top, odd_end, 0xdd));
  }
}

// One step of one strip from `depth` rows and `count` columns.
FASTPRUNE_AMX_TARGET void pack_step(const BFloat16* data, int64_t row_stride, const int64_t* rows,
                                    int64_t depth, int64_t count, BFloat16* left, BFloat16* right) {
  const __mmask32 present = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  for (int64_t p = 0; p < kStepRows; p += 2) {
    __m512i even = _mm512_setzero_si512(), odd = even;
    if (p < depth) even = _mm512_maskz_loadu_epi16(present, data + rows[p] * row_stride);
    if (p + 1 < depth) odd = _mm512_maskz_loadu_epi16(present, data + rows[p + 1] * row_stride);
    interleave(even, odd, right + 16 * p);
  }
  transpose_pairs(right, left);
  transpose_pairs(right + kTile, left + kTile);
}

// The same from chosen columns.
void gather_step(const BFloat16* data, int64_t row_stride, const int64_t* rows, int64_t depth,
                 const int64_t* columns, int64_t count, BFloat16* left, BFloat16* right) {
  BFloat16 gathered[kStepRows * kStrip];
  int64_t lines[kStepRows];
  for (int64_t p = 0; p < depth; ++p) {
    const BFloat16* row = data + rows[p] * row_stride;
    for (int64_t j = 0; j < count; ++j) gathered[p * kStrip + j] = row[columns[j]];
    lines[p] = p;
  }
  pack_step(gathered, kStrip, lines, depth, count, left, right);
}

}  // namespace

void StripRows::pack(const MatrixView& matrix, const int64_t* listed, int64_t chunk, int64_t first,
                     int64_t count) const {
  const BFloat16* data = static_cast<const BFloat16*>(matrix.data);
  const int64_t stride = matrix.row_stride;
  listed += chunk * kPanelDepth;
  for (int64_t p = 0; p < rows(chunk); p += kStepRows) {
    const int64_t height = std::min(kStepRows, rows(chunk) - p);
    for (int64_t j = first; j < first + count; j += kStrip) {
      const int64_t width = std::min(kStrip, first + count - j);
      const int64_t at = offset(chunk, j) + p * kStrip;
      if (matrix.columns) {
        gather_step(data, stride, listed + p, height, matrix.columns + j, width, left + at,
                    right + at);
      } else {
        pack_step(data + j, stride, listed + p, height, width, left + at, right + at);
      }
    }
  }
}

#else

void StripRows::pack(const MatrixView&, const int64_t*, int64_t, int64_t, int64_t) const {}

#endif

}  // namespace fastprune::amx
