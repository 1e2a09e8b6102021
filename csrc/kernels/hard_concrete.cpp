// hard_concrete on the CPU: on the calling thread, because a large model has fewer gates than a
// small matrix has elements. The exponentials stay out of the vector loop: nothing else keeps it
// from being one.
#include "hard_concrete.h"

#include <algorithm>

#include "../common/target.h"

namespace fastprune {
namespace {

constexpr int64_t kChunk = 1024;

template <class T>
struct Chunk {
  const T* alpha;
  const T* noise;
  T* gates;
  T* slopes;
  T* open_slopes;  // dp / d alpha
  int64_t count;
};

template <class T>
void exponentials(const T* alpha, int64_t count, T* x) {
  for (int64_t i = 0; i < count; ++i) x[i] = std::exp(-alpha[i]);
}

// Draws the gates of a chunk; `x` becomes p.
template <class T>
FASTPRUNE_CLONES void draw_chunk(const Chunk<T>& chunk, T* x) {
  const T* noise = chunk.noise;
  T *gates = chunk.gates, *slopes = chunk.slopes, *open_slopes = chunk.open_slopes;
  const int64_t count = chunk.count;
  for (int64_t i = 0; i < count; ++i) {
    const gates::Draw<T> drawn = gates::draw(x[i], noise[i]);
    gates[i] = drawn.gate;
    slopes[i] = drawn.slope;
    open_slopes[i] = drawn.open * (T(1) - drawn.open);
    x[i] = drawn.open;
  }
}

template <class T>
class Model {
 public:
  explicit Model(const HardConcreteArgs& args) : args_(args) {}

  // The gates [first, first + count); returns the mean of their p.
  double draw(int64_t first, int64_t count) const {
    double open = 0;
    T x[kChunk];
    for (int64_t at = first; at < first + count; at += kChunk) {
      const Chunk<T> chunk{alpha() + at,
                           static_cast<const T*>(args_.noise) + at,
                           static_cast<T*>(args_.gates) + at,
                           static_cast<T*>(args_.slopes) + at,
                           sparsity_slopes() + at,
                           std::min(kChunk, first + count - at)};
      exponentials(chunk.alpha, chunk.count, x);
      draw_chunk(chunk, x);
      for (int64_t i = 0; i < chunk.count; ++i) open += static_cast<double>(x[i]);
    }
    return gates::mean_open(open, count);
  }

  // From dp / d alpha to d sparsity / d alpha.
  void scale(int64_t first, int64_t count, double kept_slope) const {
    const T factor = static_cast<T>(-kept_slope);
    for (int64_t i = first; i < first + count; ++i) sparsity_slopes()[i] *= factor;
  }

  double open(int64_t gate) const {
    return static_cast<double>(gates::open_probability(std::exp(-alpha()[gate])));
  }

 private:
  const T* alpha() const { return static_cast<const T*>(args_.alpha); }
  T* sparsity_slopes() const { return static_cast<T*>(args_.sparsity_slopes); }

  const HardConcreteArgs& args_;
};

template <class T>
Status run(const HardConcreteArgs& args) {
  const Model<T> model(args);
  int64_t first = 0;
  for (int64_t part = 0; part < args.sites + 2; ++part) {
    args.open[part] = model.draw(first, args.sizes[part]);
    first += args.sizes[part];
  }

  const int64_t sublayers = args.sizes[args.sites], hidden = args.sizes[args.sites + 1];
  const int64_t first_hidden = first - hidden, first_sublayer = first_hidden - sublayers;
  const double width = args.open[args.sites + 1];
  double kept = 0;
  first = 0;
  for (int64_t site = 0; site < args.sites; ++site) {
    const int64_t units = args.sizes[site];
    const double inside = args.open[site];
    const double sublayer = sublayers ? model.open(first_sublayer + site) : 1.0;
    const double share = args.shares[site];
    model.scale(first, units, width * share * sublayer / static_cast<double>(units));
    if (sublayers) model.scale(first_sublayer + site, 1, width * share * inside);
    kept += share * sublayer * inside;
    first += units;
  }
  model.scale(first_hidden, hidden, kept / static_cast<double>(hidden));
  *args.sparsity = 1 - width * kept;
  return Status::ok;
}

}  // namespace

Status hard_concrete_cpu(const HardConcreteArgs& args) {
  switch (args.dtype) {
    case DType::f32:
      return run<float>(args);
    case DType::f64:
      return run<double>(args);
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
