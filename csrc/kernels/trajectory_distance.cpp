// trajectory_distance on the CPU: U^T and D^T of as many variants as fit into packed panels at a
// time. A tile of the upper triangle of U D^T + D U^T is squared and summed as soon as it is there.
#include "trajectory_distance.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../common/half.h"
#include "../common/panel_rows.h"
#include "../common/syrk.h"
#include "../common/target.h"
#include "unit_rows.h"

namespace fastprune {
namespace {

constexpr int64_t kLanes = 8;    // sums side by side, so that a long sum is a loop of vectors
constexpr int64_t kSquare = 16;  // columns turned at a time: what they are written to stays in L1

// A sum in kLanes parts.
struct Lanes {
  double sums[kLanes] = {};

  FASTPRUNE_INLINE double total() const {
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
  }
};

template <class Stored>
FASTPRUNE_INLINE void add_products(const Stored* s, const Stored* t, int64_t count, Lanes& own,
                                   Lanes& teacher, Lanes& gap) {
  for (int64_t q = 0; q < count; ++q) {
    const double x = value_of(s[q]), y = value_of(t[q]);
    own.sums[q] += x * x;
    teacher.sums[q] += y * y;
    gap.sums[q] += (x - y) * (x + y);
  }
}

template <class Stored>
FASTPRUNE_CLONES RowFactors factors_of(const Stored* s, const Stored* t, int64_t width) {
  Lanes own, teacher, gap;
  int64_t k = 0;
  for (; k + kLanes <= width; k += kLanes) add_products(s + k, t + k, kLanes, own, teacher, gap);
  add_products(s + k, t + k, width - k, own, teacher, gap);
  return row_factors(own.total(), teacher.total(), gap.total());
}

FASTPRUNE_INLINE void add_squares(const float* values, int64_t count, Lanes& squares) {
  for (int64_t q = 0; q < count; ++q) {
    const double value = values[q];
    squares.sums[q] += value * value;
  }
}

FASTPRUNE_CLONES double sum_of_squares(const float* values, int64_t count) {
  Lanes squares;
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) add_squares(values + j, kLanes, squares);
  add_squares(values + j, count - j, squares);
  return squares.total();
}

// One panel of U^T and one of D^T from `count` rows of as many columns as the panel is deep; the
// rows that it lacks are zero.
template <class Stored>
FASTPRUNE_CLONES void form_panel(const Stored* s, int64_t s_stride, const Stored* t,
                                 int64_t t_stride, const RowFactors* factors, int64_t count,
                                 int64_t depth, int64_t panel, float* mean, float* difference) {
  for (int64_t first = 0; first < depth; first += kSquare) {
    const int64_t columns = depth - first < kSquare ? depth - first : kSquare;
    float* const means = mean + first * panel;
    float* const differences = difference + first * panel;
    for (int64_t i = 0; i < panel; ++i) {
      float u[kSquare] = {}, d[kSquare] = {};
      if (i < count) {
        const Stored* own = s + i * s_stride + first;
        const Stored* teacher = t + i * t_stride + first;
        for (int64_t q = 0; q < columns; ++q) {
          const UnitPair pair = unit_pair(factors[i], value_of(own[q]), value_of(teacher[q]));
          u[q] = pair.mean;
          d[q] = pair.difference;
        }
      }
      for (int64_t q = 0; q < columns; ++q) {
        means[q * panel + i] = u[q];
        differences[q * panel + i] = d[q];
      }
    }
  }
}

// U^T and D^T of one variant, packed.
struct Packed {
  PanelRows mean, difference;

  static int64_t bytes(const TrajectoryDistanceArgs& args) {
    return 2 * PanelRows::bytes(args.width, args.rows);
  }
  Packed(const TrajectoryDistanceArgs& args, char* memory)
      : mean(args.width, args.rows, memory),
        difference(args.width, args.rows, memory + bytes(args) / 2) {}
};

// Rows [first, first + count) of a variant.
template <class Stored>
void pack(const TrajectoryDistanceArgs& args, int64_t variant, int64_t first, int64_t count,
          const Packed& packed) {
  const int64_t s_stride = args.strides[1], t_stride = args.teacher_stride;
  const Stored* s =
      static_cast<const Stored*>(args.features) + variant * args.strides[0] + first * s_stride;
  const Stored* t = static_cast<const Stored*>(args.teacher) + first * t_stride;
  std::vector<RowFactors> factors;
  factors.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    factors.push_back(factors_of(s + i * s_stride, t + i * t_stride, args.width));
  }
  const int64_t panel = micro_kernel<float, float>().panel;
  for (int64_t chunk = 0; chunk < packed.mean.chunks(); ++chunk) {
    const int64_t column = chunk * kPanelDepth;
    for (int64_t i = 0; i < count; i += panel) {
      form_panel(s + i * s_stride + column, s_stride, t + i * t_stride + column, t_stride,
                 factors.data() + i, std::min(panel, count - i), packed.mean.rows(chunk), panel,
                 packed.mean.at(chunk, first + i), packed.difference.at(chunk, first + i));
    }
  }
}

// The sum of the squares of a tile, and of its mirror image.
double squares_of_tile(const Packed& packed, const TriangleTiles& tiles, int64_t index) {
  const auto [row, column] = tiles.pair(index);
  const int64_t a = row * tiles.block, a_count = tiles.extent(row);
  const int64_t b = column * tiles.block, b_count = tiles.extent(column);
  const PanelRows &u = packed.mean, &d = packed.difference;
  Buffer<float> sums(tiles.block * tiles.block);
  std::memset(sums.get(), 0, sizeof(float) * tiles.block * tiles.block);
  for (int64_t chunk = 0; chunk < u.chunks(); ++chunk) {
    NextPanels<float> next;
    if (chunk + 1 < u.chunks()) next = {u.at(chunk + 1, a), d.at(chunk + 1, b)};
    multiply_panels(u.rows(chunk), u.at(chunk, a), a_count, d.at(chunk, b), b_count, a == b,
                    sums.get(), tiles.block, {d.at(chunk, a), u.at(chunk, b)});
    multiply_panels(u.rows(chunk), d.at(chunk, a), a_count, u.at(chunk, b), b_count, a == b,
                    sums.get(), tiles.block, next);
  }
  double total = 0;
  for (int64_t i = 0; i < a_count; ++i) {
    const float* values = sums.get() + i * tiles.block;
    if (a != b) {
      total += 2 * sum_of_squares(values, b_count);
    } else {
      total += sum_of_squares(values + i, 1) + 2 * sum_of_squares(values + i + 1, b_count - i - 1);
    }
  }
  return total;
}

template <class Stored>
Status accumulate(const TrajectoryDistanceArgs& args, const TaskRunner& run) {
  if (args.variants == 0 || args.rows == 0 || args.width == 0) return Status::ok;
  const TriangleTiles tiles{args.rows, syrk_block(args.rows)};
  const int64_t bytes = Packed::bytes(args);
  const int64_t pass = std::clamp<int64_t>(kPackedBytes / bytes, 1, args.variants);
  Buffer<char> memory(pass * bytes);
  const auto packed = [&](int64_t slot) { return Packed(args, memory.get() + slot * bytes); };
  std::vector<double> totals(pass * tiles.count());

  for (int64_t begin = 0; begin < args.variants; begin += pass) {
    const int64_t count = std::min(pass, args.variants - begin);
    run(count * tiles.blocks(), [&](int64_t task) {
      const int64_t slot = task / tiles.blocks(), block = task % tiles.blocks();
      pack<Stored>(args, begin + slot, block * tiles.block, tiles.extent(block), packed(slot));
    });
    run(count * tiles.count(), [&](int64_t task) {
      const int64_t slot = task / tiles.count();
      totals[task] = squares_of_tile(packed(slot), tiles, task % tiles.count());
    });
    for (int64_t slot = 0; slot < count; ++slot) {
      double total = 0;
      for (int64_t tile = 0; tile < tiles.count(); ++tile) {
        total += totals[slot * tiles.count() + tile];
      }
      args.out[begin + slot] += total;
    }
  }
  return Status::ok;
}

}  // namespace

Status trajectory_distance_cpu(const TrajectoryDistanceArgs& args, const TaskRunner& run) {
  switch (args.dtype) {
    case DType::f32:
      return accumulate<float>(args, run);
    case DType::bf16:
      return accumulate<BFloat16>(args, run);
    case DType::f16:
      return accumulate<Half>(args, run);
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
