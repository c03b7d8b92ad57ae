/* Preloaded: shows MindSpore a host of 64 cores, as one with NPUs has. It starts a thread a core, and its Ascend runtime
 * waits forever for more threads than a host of two cores gets. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

enum { CORES = 64 };

unsigned hardware_concurrency(void) __asm__("_ZNSt6thread20hardware_concurrencyEv"); /* std::thread's */
unsigned hardware_concurrency(void) { return CORES; }

int get_nprocs(void) { return CORES; }
int get_nprocs_conf(void) { return CORES; }

long sysconf(int name) {
  static long (*real)(int);
  if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return CORES;
  if (!real) real = dlsym(RTLD_NEXT, "sysconf");
  return real(name);
}
