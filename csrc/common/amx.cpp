#include "amx.h"

#include "amx_target.h"

#if FASTPRUNE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#endif

namespace fastprune::amx {

#if FASTPRUNE_AMX
namespace {

bool ask() {
  const char* wish = std::getenv("FASTPRUNE_AMX");
  if (wish && std::strcmp(wish, "off") == 0) return false;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("x86-64-v4")) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kBf16) || !(d & kTile)) return false;
  // Tiles enlarge what the kernel saves of a thread, so Linux wants to be asked, once a process.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool available() {
  static const bool answer = ask();
  return answer;
}

#else

bool available() { return false; }

#endif

}  // namespace fastprune::amx
