// path_step on the CPU: chunks of units that stay in the first cache between their loops.
// Entering is rare, so what it takes is kept out of the vector loops.
#include "path_step.h"

#include <algorithm>
#include <limits>

#include "../common/target.h"

namespace fastprune {
namespace {

constexpr int64_t kChunk = 1024;
constexpr double kNever = std::numeric_limits<double>::infinity();

template <class T>
struct Rates {
  T kappa;
  T alpha;
  T nu;
};

// The units of one chunk.
template <class T>
struct Chunk {
  T* mask;
  T* dual;
  T* gate;
  double* crossing;
  const T* gradient;
  const T* threshold;
  int64_t count;
};

// What a step makes of the duals of a chunk. Kept, because the compiler may fuse a product and a
// sum in one loop and not in another, and then two loops would disagree about who enters.
template <class T>
struct Moved {
  T rise[kChunk];
  T dual[kChunk];
};

// Moves the masks, and the duals out of place. Whether any unit enters.
template <class T>
FASTPRUNE_CLONES bool move_masks(const Chunk<T>& chunk, const Rates<T>& rates, Moved<T>& moved) {
  T *mask = chunk.mask, *rise = moved.rise, *after = moved.dual;
  const T *dual = chunk.dual, *gate = chunk.gate;
  const T *gradient = chunk.gradient, *threshold = chunk.threshold;
  const double* crossing = chunk.crossing;
  const T rate = rates.kappa * rates.alpha, alpha = rates.alpha, nu = rates.nu;
  const int64_t count = chunk.count;
  int entering = 0;
  for (int64_t j = 0; j < count; ++j) {
    const T pull = (mask[j] - gate[j]) / nu;
    mask[j] -= rate * (gradient[j] + pull);
    rise[j] = alpha * pull;
    after[j] = dual[j] + rise[j];
    entering |= static_cast<int>(after[j] > threshold[j]) & static_cast<int>(crossing[j] == kNever);
  }
  return entering != 0;
}

template <class T>
void record(const Chunk<T>& chunk, double step, const Moved<T>& moved) {
  for (int64_t j = 0; j < chunk.count; ++j) {
    if (chunk.crossing[j] != kNever || !(moved.dual[j] > chunk.threshold[j])) continue;
    const T missing = chunk.threshold[j] - chunk.dual[j], rise = moved.rise[j];
    const T fraction = missing > 0 ? (missing < rise ? missing / rise : 1) : 0;
    chunk.crossing[j] = step + static_cast<double>(fraction);
  }
}

template <class T>
FASTPRUNE_CLONES void move_gates(const Chunk<T>& chunk, T kappa, const Moved<T>& moved) {
  T *dual = chunk.dual, *gate = chunk.gate;
  const T *after = moved.dual, *threshold = chunk.threshold;
  const int64_t count = chunk.count;
  for (int64_t j = 0; j < count; ++j) {
    const T excess = after[j] - threshold[j];
    dual[j] = after[j];
    gate[j] = excess > 0 ? kappa * excess : 0;
  }
}

int64_t chunks_of(int64_t units) { return (units + kChunk - 1) / kChunk; }

template <class T>
void run(const PathStepArgs& args, int64_t begin, int64_t end) {
  const auto of = [](const void* values) { return static_cast<const T*>(values); };
  const int64_t chunks = chunks_of(args.units);
  Moved<T> moved;
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t path = piece / chunks, first = piece % chunks * kChunk;
    const int64_t at = path * args.units + first;
    const Rates<T> rates{of(args.kappa)[path], of(args.alpha)[path], of(args.nu)[path]};
    const Chunk<T> chunk{static_cast<T*>(args.mask) + at,
                         static_cast<T*>(args.dual) + at,
                         static_cast<T*>(args.gate) + at,
                         args.crossing + at,
                         of(args.gradient) + at,
                         of(args.threshold) + at,
                         std::min(kChunk, args.units - first)};
    if (move_masks(chunk, rates, moved)) record(chunk, args.step, moved);
    move_gates(chunk, rates.kappa, moved);
  }
}

}  // namespace

int64_t path_step_pieces(const PathStepArgs& args) { return args.paths * chunks_of(args.units); }

Status path_step_cpu(const PathStepArgs& args, int64_t begin, int64_t end) {
  switch (args.dtype) {
    case DType::f32:
      run<float>(args, begin, end);
      return Status::ok;
    case DType::f64:
      run<double>(args, begin, end);
      return Status::ok;
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
