// Ragged sites as kernel parameters. The sizes live in host memory; passing them by value needs no
// copy to the device and no synchronisation, at the price of one launch per kSitesPerBatch sites.
#pragma once

#include <limits>

#include "index.cuh"
#include "types.h"

namespace fastprune {

constexpr int kSitesPerBatch = 96;  // keeps the struct below the 4 KiB of kernel parameters

struct SiteBatch {
  int32_t count = 0;
  int32_t site[kSitesPerBatch];  // position among all sites
  int32_t units[kSitesPerBatch];
  int64_t unit_offset[kSitesPerBatch];   // sum of the sizes before it
  int64_t block_offset[kSitesPerBatch];  // sum of the squared sizes before it
  int64_t work_offset[kSitesPerBatch];   // work of the sites before it in this batch
  int64_t work = 0;                      // work of the whole batch
};
static_assert(sizeof(SiteBatch) <= 3584);

// The site of this batch that owns item `index` of the batch's work.
FASTPRUNE_HOST_DEVICE inline int site_of_work(const SiteBatch& batch, int64_t index) {
  int local = 0;
  while (local + 1 < batch.count && batch.work_offset[local + 1] <= index) ++local;
  return local;
}

// Calls body(batch) for consecutive batches of the sites for which work_of(units) is not zero.
template <typename WorkOf, typename Body>
Status for_each_batch(const int64_t* sizes, int64_t sites, const WorkOf& work_of,
                      const Body& body) {
  SiteBatch batch;
  int64_t unit_offset = 0;
  int64_t block_offset = 0;
  for (int64_t site = 0; site < sites; ++site) {
    const int64_t units = sizes[site];
    if (units > std::numeric_limits<int32_t>::max()) return Status::too_large;
    if (const int64_t work = work_of(units)) {
      if (batch.count == kSitesPerBatch) {
        if (const Status status = body(batch); status != Status::ok) return status;
        batch.count = 0;
        batch.work = 0;
      }
      const int slot = batch.count++;
      batch.site[slot] = static_cast<int32_t>(site);
      batch.units[slot] = static_cast<int32_t>(units);
      batch.unit_offset[slot] = unit_offset;
      batch.block_offset[slot] = block_offset;
      batch.work_offset[slot] = batch.work;
      batch.work += work;
    }
    unit_offset += units;
    block_offset += units * units;
  }
  return batch.count ? body(batch) : Status::ok;
}

}  // namespace fastprune
