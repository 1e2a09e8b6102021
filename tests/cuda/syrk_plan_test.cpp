// Checks csrc/kernels/syrk_plan.h: every part of every tile is done once, no block is idle, the
// workspace stays small, and shapes known by heart are cut as they should be. Silent and 0 if all
// is well.
#include "kernels/syrk_plan.h"

#include <cstdio>

using namespace fastprune;
using namespace fastprune::syrk;

namespace {

int failures = 0;

void expect(bool holds, const char* what, int64_t tiles, int64_t rows) {
  if (holds) return;
  ++failures;
  std::printf("not true for %lld tiles of %lld rows: %s\n", static_cast<long long>(tiles),
              static_cast<long long>(rows), what);
}

}  // namespace

int main() {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (int64_t tiles : {0, 1, 2, 3, 6, 21, 78, 131, 132, 133, 263, 264, 265, 300, 1056, 3600}) {
      for (int64_t parts : {0, 1, 2, 3, 7, 8, 64, 129, 1024, 100000}) {
        for (int64_t rows = parts * 256 - 1; rows <= parts * 256 + 1; ++rows) {
          if (rows < 0) continue;
          const Plan plan = plan_for(tiles, rows, dtype);
          const int64_t needed = ceil_div(rows, 256);
          expect(int64_t{plan.splits} * plan.split_parts >= needed, "every part is done", tiles,
                 rows);
          expect(plan.splits == 1 || int64_t{plan.splits - 1} * plan.split_parts < needed,
                 "no block is idle", tiles, rows);
          expect(plan.splits >= 1 && plan.split_parts >= 1, "there is work, if only to mirror",
                 tiles, rows);
          expect(workspace_elements(tiles, plan) * 8 <= int64_t{132} << 20, "a small workspace",
                 tiles, rows);
          expect((plan.splits == 1) == (workspace_elements(tiles, plan) == 0),
                 "a workspace only where it is used", tiles, rows);
        }
      }
    }
  }

  // 12 sites of 3072 units: the GPU is full. A Gram of 384 columns over 262,144 rows: it would have
  // work for six blocks. Up to two parts, a second pass costs what it saves.
  expect(tiles_of(3072) == 300 && tiles_of(384) == 6 && tiles_of(385) == 10, "tiles_of", 0, 0);
  expect(plan_for(3600, 2048, DType::f32).splits == 1, "no split", 3600, 2048);
  expect(plan_for(6, 262144, DType::f32).splits >= 40, "split", 6, 262144);
  expect(plan_for(6, 262144, DType::bf16).splits >= 40, "split", 6, 262144);
  expect(plan_for(1, 512, DType::f32).splits == 1, "no split", 1, 512);
  return failures != 0;
}
