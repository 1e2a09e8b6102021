// The C interface through which Python drives the emulated kernels.
#include "cuda_on_cpu.h"
#include "kernels/block_lstsq.h"
#include "kernels/fisher_outer.h"
#include "kernels/gram.h"
#include "kernels/greedy_rearrange.h"
#include "kernels/hard_concrete.h"
#include "kernels/mask_grad.h"
#include "kernels/masked_norm.h"
#include "kernels/obs_greedy.h"
#include "kernels/path_step.h"
#include "kernels/trajectory_distance.h"
#include "kernels/tuning_system.h"

alignas(32) unsigned char fastprune_shared_memory[emulator::kSharedCapacity];

using namespace fastprune;

extern "C" {

void emulator_schedule(int schedule) {
  emulator::machine.schedule = static_cast<emulator::Schedule>(schedule);
}

void emulator_grid_limit(unsigned limit) { emulator::machine.grid_limit = limit; }

// `file` must outlive the setting; line 0 skips nothing. Returns how often the barrier was met
// since the previous call.
long emulator_skip_barrier(const char* file, unsigned line) {
  const long met = emulator::machine.skipped.met;
  emulator::machine.skipped = {file, line};
  return met;
}

#define FASTPRUNE_ENTRY(op, Args)                                                             \
  int emulated_##op(const Args* args) { return static_cast<int>(op##_cuda(*args, nullptr)); } \
  long sizeof_##op() { return sizeof(Args); }

#define FASTPRUNE_ENTRY_WITH_WORKSPACE(op, Args)                          \
  long workspace_##op(const Args* args) { return op##_workspace(*args); } \
  int emulated_##op(const Args* args, void* workspace) {                  \
    return static_cast<int>(op##_cuda(*args, workspace, nullptr));        \
  }                                                                       \
  long sizeof_##op() { return sizeof(Args); }

FASTPRUNE_ENTRY(path_step, PathStepArgs)
FASTPRUNE_ENTRY(hard_concrete, HardConcreteArgs)
FASTPRUNE_ENTRY(masked_norm, MaskedNormArgs)
FASTPRUNE_ENTRY(tuning_system, TuningSystemArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(fisher_outer, FisherOuterArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(gram, GramArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(mask_grad, MaskGradArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(greedy_rearrange, GreedyRearrangeArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(block_lstsq, BlockLstsqArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(obs_greedy, ObsGreedyArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(trajectory_distance, TrajectoryDistanceArgs)
FASTPRUNE_ENTRY_WITH_WORKSPACE(masked_norm_backward, MaskedNormBackwardArgs)

}  // extern "C"
