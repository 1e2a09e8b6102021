// Register blocks of kRows x 3 vectors: 24 accumulators of the 32 AVX-512 registers, 12 of the 16
// in AVX2 and SSE. The shape depends on the instruction set, so this file selects by hand what
// target_clones selects elsewhere.
#include "micro_kernel.h"

#include "target.h"

namespace fastprune {
namespace {

// `kWidth` numbers as one value, wherever they lie in memory.
template <class T, int kWidth>
struct Vector {
  typedef T type __attribute__((vector_size(kWidth * sizeof(T)), aligned(sizeof(T)), may_alias));
};

template <class T, class Sum, int kBytes, int kRows>
FASTPRUNE_INLINE void multiply(int64_t depth, const T* a, const T* b, Sum* c, int64_t c_stride,
                               const void* next) {
  constexpr int kWidth = kBytes / sizeof(T);
  constexpr int kPanel = 3 * kWidth;
  using Values = typename Vector<T, kWidth>::type;

  // Every index below is a constant after unrolling; otherwise GCC keeps `block` in memory.
  Values block[kRows][3] = {};
  const char* fetched = static_cast<const char*>(next);
  for (int64_t p = 0; p < depth; ++p, a += kPanel, b += kPanel, fetched += kFetchBytes) {
    __builtin_prefetch(fetched, 0, 2);
    const Values b0 = *reinterpret_cast<const Values*>(b);
    const Values b1 = *reinterpret_cast<const Values*>(b + kWidth);
    const Values b2 = *reinterpret_cast<const Values*>(b + 2 * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      block[i][0] += a[i] * b0;
      block[i][1] += a[i] * b1;
      block[i][2] += a[i] * b2;
    }
  }
  T sums[kRows][kPanel];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    *reinterpret_cast<Values*>(&sums[i][0]) = block[i][0];
    *reinterpret_cast<Values*>(&sums[i][kWidth]) = block[i][1];
    *reinterpret_cast<Values*>(&sums[i][2 * kWidth]) = block[i][2];
  }
  for (int i = 0; i < kRows; ++i, c += c_stride) {
    for (int j = 0; j < kPanel; ++j) c[j] += static_cast<Sum>(sums[i][j]);
  }
}

#if defined(__x86_64__) && defined(__GNUC__)

template <class T, class Sum>
__attribute__((target("arch=x86-64-v4"))) void run_v4(int64_t depth, const T* a, const T* b, Sum* c,
                                                      int64_t c_stride, const void* next) {
  multiply<T, Sum, 64, 8>(depth, a, b, c, c_stride, next);
}

template <class T, class Sum>
__attribute__((target("arch=x86-64-v3"))) void run_v3(int64_t depth, const T* a, const T* b, Sum* c,
                                                      int64_t c_stride, const void* next) {
  multiply<T, Sum, 32, 4>(depth, a, b, c, c_stride, next);
}

#endif

template <class T, class Sum>
void run_baseline(int64_t depth, const T* a, const T* b, Sum* c, int64_t c_stride,
                  const void* next) {
  multiply<T, Sum, 16, 4>(depth, a, b, c, c_stride, next);
}

template <class T, class Sum>
MicroKernel<T, Sum> select() {
  constexpr int64_t kSize = sizeof(T);
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return {3 * 64 / kSize, 8, run_v4<T, Sum>};
  if (__builtin_cpu_supports("x86-64-v3")) return {3 * 32 / kSize, 4, run_v3<T, Sum>};
#endif
  return {3 * 16 / kSize, 4, run_baseline<T, Sum>};
}

}  // namespace

template <class T, class Sum>
const MicroKernel<T, Sum>& micro_kernel() {
  static const MicroKernel<T, Sum> kernel = select<T, Sum>();
  return kernel;
}

template const MicroKernel<float, float>& micro_kernel();
template const MicroKernel<float, double>& micro_kernel();
template const MicroKernel<double, double>& micro_kernel();

}  // namespace fastprune
