// Checks csrc/common/sites.cuh: batches, offsets beyond 2^31, and who owns which piece of work.
// Silent and 0 if all is well.
#include "common/sites.cuh"

#include <cstdio>
#include <vector>

using namespace fastprune;

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("not true: %s\n", what);
}

}  // namespace

int main() {
  // Every third site is empty; the rest are so wide that offsets pass 2^31 within a few sites.
  std::vector<int64_t> sizes(400);
  for (size_t s = 0; s < sizes.size(); ++s) sizes[s] = s % 3 == 0 ? 0 : 50000 + s;

  int64_t unit_offset = 0, block_offset = 0, seen = 0, next = 0;
  const auto work_of = [](int64_t units) { return units * 3; };
  const Status status =
      for_each_batch(sizes.data(), sizes.size(), work_of, [&](const SiteBatch& batch) {
        int64_t work = 0;
        for (int i = 0; i < batch.count; ++i) {
          for (; sizes[next] == 0; ++next) {
          }
          expect(batch.site[i] == next && batch.units[i] == sizes[next], "sites in order");
          expect(batch.unit_offset[i] == unit_offset, "unit_offset");
          expect(batch.block_offset[i] == block_offset, "block_offset");
          expect(batch.work_offset[i] == work, "work_offset");
          expect(site_of_work(batch, work) == i, "the first piece of a site's work");
          work += work_of(sizes[next]);
          expect(site_of_work(batch, work - 1) == i, "the last piece of a site's work");
          unit_offset += sizes[next];
          block_offset += sizes[next] * sizes[next];
          ++next;
          ++seen;
        }
        expect(batch.work == work, "the batch's work");
        return Status::ok;
      });
  expect(status == Status::ok && seen == 266, "every site that has work, once");
  expect(block_offset > (int64_t{1} << 32), "the test reaches offsets beyond 32 bits");

  // A body's failure ends the walk; a site no kernel can index is refused.
  int calls = 0;
  const auto fail = [&](const SiteBatch&) {
    ++calls;
    return Status::launch_failed;
  };
  expect(for_each_batch(sizes.data(), sizes.size(), work_of, fail) == Status::launch_failed,
         "the status is handed on");
  expect(calls == 1, "nothing runs after a failure");
  const int64_t huge[] = {int64_t{1} << 31};
  expect(for_each_batch(huge, 1, work_of, fail) == Status::too_large, "too_large");
  return failures != 0;
}
