// How CPU leaf loops get the instruction set of the machine they run on.
#pragma once

// One function, compiled for AVX-512, AVX2 and the baseline; the loader picks. Loops in lambdas are
// not cloned, so a leaf is a plain function and calls nothing but FASTPRUNE_INLINE functions.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FASTPRUNE_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTPRUNE_CLONES
#endif

#define FASTPRUNE_INLINE inline __attribute__((always_inline))
