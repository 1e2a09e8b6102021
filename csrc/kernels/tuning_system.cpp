// tuning_system on the CPU: tiles of W^T W in f64 from the SYRK core, multiplied with the Gram and
// summed per pair of units before the next tile, so W^T W never exists as a whole.
#include "tuning_system.h"

#include <vector>

#include "../common/syrk.h"
#include "../common/target.h"

namespace fastprune {
namespace {

TriangleTiles tiles_of(const TuningSystemArgs& args) {
  const int64_t block = syrk_block(args.units * args.group) / args.group;
  return {args.units, std::max<int64_t>(block, 1)};
}

template <class Stat>
FASTPRUNE_CLONES void multiply(const double* a, const Stat* b, int64_t count, double* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = a[j] * static_cast<double>(b[j]);
}

double sum(const double* values, int64_t count) {
  double total = 0.0;
  for (int64_t j = 0; j < count; ++j) total += values[j];
  return total;
}

template <class Stat>
void fill_a(const TuningSystemArgs& args, const MatrixView& weight, const TriangleTiles& tiles,
            TriangleTiles::Pair tile) {
  const int64_t group = args.group, columns = args.units * group;
  const int64_t u0 = tile.row * tiles.block, u_count = tiles.extent(tile.row);
  const int64_t v0 = tile.column * tiles.block, v_count = tiles.extent(tile.column);
  PanelProduct<double, double> product(u_count * group, v_count * group);
  product.compute({weight, u0 * group, u_count * group}, {weight, v0 * group, v_count * group}, 0,
                  args.outputs);

  const Stat* gram = static_cast<const Stat*>(args.gram);
  Stat* a = static_cast<Stat*>(args.a);
  std::vector<double> products(v_count * group);
  std::vector<double> sums(v_count);
  for (int64_t u = 0; u < u_count; ++u) {
    const int64_t v_first = tile.row == tile.column ? u : 0;
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t i = u * group; i < (u + 1) * group; ++i) {
      const Stat* gram_row = gram + (u0 * group + i) * columns + v0 * group;
      // In a unit's own block only i <= j was computed; the rest follows by symmetry.
      const int64_t first = tile.row == tile.column ? i : 0;
      multiply(product.row(i) + first, gram_row + first, v_count * group - first,
               products.data() + first);
      for (int64_t v = v_first; v < v_count; ++v) {
        const bool own = tile.row == tile.column && v == u;
        if (own) sums[v] += products[i] + 2.0 * sum(&products[i + 1], (u + 1) * group - i - 1);
        if (!own) sums[v] += sum(&products[v * group], group);
      }
    }
    for (int64_t v = v_first; v < v_count; ++v) {
      const Stat value = static_cast<Stat>(sums[v]);
      a[(u0 + u) * args.units + v0 + v] = value;
      a[(v0 + v) * args.units + u0 + u] = value;
    }
  }
}

template <class Stat>
void fill_b(const TuningSystemArgs& args, const MatrixView& weight, int64_t u0, int64_t u_count) {
  const int64_t first = u0 * args.group, count = u_count * args.group;
  const Stat* cross = static_cast<const Stat*>(args.cross) + first * args.outputs;
  std::vector<double> row(count);
  std::vector<double> sums(count, 0.0);
  for (int64_t k = 0; k < args.outputs; ++k) {
    pack_panels(weight, &k, 1, first, count, count, row.data());
    for (int64_t j = 0; j < count; ++j) {
      sums[j] += row[j] * static_cast<double>(cross[j * args.outputs + k]);
    }
  }
  Stat* b = static_cast<Stat*>(args.b);
  for (int64_t u = 0; u < u_count; ++u) {
    b[u0 + u] = static_cast<Stat>(sum(&sums[u * args.group], args.group));
  }
}

template <class Stat>
void run(const TuningSystemArgs& args, int64_t begin_tile, int64_t end_tile) {
  const TriangleTiles tiles = tiles_of(args);
  const MatrixView weight{args.weight, args.weight_dtype, args.weight_stride};
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const TriangleTiles::Pair tile = tiles.pair(index);
    fill_a<Stat>(args, weight, tiles, tile);
    if (tile.row == tile.column) {
      fill_b<Stat>(args, weight, tile.row * tiles.block, tiles.extent(tile.row));
    }
  }
}

}  // namespace

int64_t tuning_system_tiles(const TuningSystemArgs& args) { return tiles_of(args).count(); }

Status tuning_system_cpu(const TuningSystemArgs& args, int64_t begin_tile, int64_t end_tile) {
  if (args.stat_dtype == DType::f32) {
    run<float>(args, begin_tile, end_tile);
  } else if (args.stat_dtype == DType::f64) {
    run<double>(args, begin_tile, end_tile);
  } else {
    return Status::unsupported_dtype;
  }
  return Status::ok;
}

}  // namespace fastprune
