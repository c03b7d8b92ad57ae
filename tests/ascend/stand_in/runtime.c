/* CANN's runtime (acl*, Hccl*) without a device: its memory is the host's, copies are copies, and kernels compute
 * nothing, but for additions of float32, with which a device is probed.
 *
 * Only what has to hand something back is here; stand_in.py makes every other function that MindSpore asks for return
 * 0, which is success. Signatures: CANN's acl/acl_rt.h, aclnn/acl_meta.h and hccl/hccl.h.
 *
 * Environment: STAND_IN_SOC, the chip's name (Ascend910B1); STAND_IN_BUSY=1, a device that refuses; STAND_IN_THREADS=1,
 * to say on stderr in which threads CANN is entered. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OK = 0, DEVICE_REFUSES = 507033, DEVICES = 8 };
enum { DEVICE_TO_HOST = 2 };      /* aclrtMemcpyKind */
enum { FLOAT32 = 0, INT64 = 9 }; /* aclDataType */
static const size_t MEMORY = 32ul << 30;

static void *handle(void) { return calloc(1, 64); } /* For what is only handed back again. */

void say_thread(const char *function) {
  static int said;
  if (getenv("STAND_IN_THREADS") && said++ < 8)
    fprintf(stderr, "stand-in: %s in %s thread\n", function, syscall(SYS_gettid) == getpid() ? "the main" : "another");
}

/* Memory: zeros at first, so that what no kernel has computed is 0. MindSpore frees its pool when it ends. */
static int reserve(void **memory, size_t size) {
  *memory = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *memory == MAP_FAILED;
}
int aclrtMalloc(void **memory, size_t size, int policy) { return reserve(memory, size); }
int aclrtMallocAlign32(void **memory, size_t size, int policy) { return reserve(memory, size); }
int aclrtFree(void *memory) { return OK; }
int aclrtMallocHost(void **memory, size_t size) {
  *memory = aligned_alloc(512, (size + 1023) / 512 * 512);
  return *memory ? OK : 1;
}
int aclrtFreeHost(void *memory) {
  free(memory);
  return OK;
}
int aclrtReserveMemAddress(void **memory, size_t size, size_t alignment, void *at, uint64_t flags) {
  return reserve(memory, size);
}
int aclrtReleaseMemAddress(void *memory) { return OK; }
int aclrtMallocPhysical(void **memory, size_t size, const void *properties, uint64_t flags) {
  *memory = handle();
  return OK;
}
int aclrtGetMemInfo(int kind, size_t *unused, size_t *total) {
  *unused = *total = MEMORY;
  return OK;
}
int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) {
  memcpy(to, from, size);
  /* A graph branches by a truth value of one byte, which no kernel has computed either. */
  if (kind == DEVICE_TO_HOST && size == 1) *(unsigned char *)to = *(const unsigned char *)from != 0;
  return OK;
}
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind, void *stream) {
  return aclrtMemcpy(to, room, from, size, kind);
}
int aclrtMemset(void *at, size_t room, int value, size_t size) {
  memset(at, value, size);
  return OK;
}
int aclrtMemsetAsync(void *at, size_t room, int value, size_t size, void *stream) {
  memset(at, value, size);
  return OK;
}

/* The device. */
static int device;
static char context[64];
int aclInit(const char *configuration) {
  say_thread("aclInit");
  return OK;
}
const char *aclrtGetSocName(void) {
  const char *name = getenv("STAND_IN_SOC");
  return name ? name : "Ascend910B1";
}
const char *aclGetRecentErrMsg(void) {
  return getenv("STAND_IN_BUSY") ? "EE1001: The argument is invalid. Reason: device 0 is used by another process" : "";
}
int aclrtGetDeviceCount(uint32_t *count) {
  *count = DEVICES;
  return OK;
}
int aclrtSetDevice(int number) {
  if (getenv("STAND_IN_BUSY")) return DEVICE_REFUSES;
  device = number;
  return OK;
}
int aclrtGetDevice(int *number) {
  *number = device;
  return OK;
}
int aclrtGetRunMode(int *mode) {
  *mode = 1; /* ACL_HOST: the program runs beside the device, not on it. */
  return OK;
}
int aclrtCreateContext(void **created, int number) {
  *created = context;
  return OK;
}
int aclrtGetCurrentContext(void **current) {
  *current = context;
  return OK;
}

/* Streams and events: all is done at once. */
int aclrtCreateStream(void **stream) { return !(*stream = handle()); }
int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flags) { return !(*stream = handle()); }
int aclrtCreateEvent(void **event) { return !(*event = handle()); }
int aclrtCreateEventWithFlag(void **event, uint32_t flags) { return !(*event = handle()); }
int aclrtCreateEventExWithFlag(void **event, uint32_t flags) { return !(*event = handle()); }
int aclrtQueryEvent(void *event, int *status) {
  *status = 0; /* ACL_EVENT_STATUS_COMPLETE */
  return OK;
}
int aclrtQueryEventStatus(void *event, int *status) {
  *status = 1; /* ACL_EVENT_RECORDED_STATUS_COMPLETE */
  return OK;
}
int aclrtStreamQuery(void *stream, int *status) {
  *status = 0; /* ACL_STREAM_STATUS_COMPLETE */
  return OK;
}

/* Descriptions of operators, tensors, models and channels: handed back, never read. */
void *aclopCreateAttr(void) { return handle(); }
void *aclCreateDataBuffer(void *data, size_t size) { return handle(); }
void *aclGetDataBufferAddr(const void *buffer) { return context; }
void *aclCreateTensorDesc(int type, int dimensions, const int64_t *shape, int format) { return handle(); }
void *aclCreateIntArray(const int64_t *values, uint64_t count) { return handle(); }
void *aclCreateFloatArray(const float *values, uint64_t count) { return handle(); }
void *aclCreateBoolArray(const char *values, uint64_t count) { return handle(); }
void *aclCreateTensorList(const void *const *tensors, uint64_t count) { return handle(); }
void *aclCreateScalarList(const void *const *scalars, uint64_t count) { return handle(); }
void *aclmdlCreateDataset(void) { return handle(); }
void *aclmdlCreateDesc(void) { return handle(); }
void *aclmdlCreateExecConfigHandle(void) { return handle(); }
void *aclprofCreateConfig(void) { return handle(); }
void *aclrtAllocatorCreateDesc(void) { return handle(); }
void *acltdtCreateChannel(uint32_t device, const char *name) { return handle(); }
void *acltdtCreateChannelWithCapacity(uint32_t device, const char *name, size_t capacity) { return NULL; } /* Not here. */
void *acltdtCreateDataset(void) { return handle(); }
void *acltdtCreateDataItem(int kind, const int64_t *shape, size_t dimensions, int type, void *data, size_t size) {
  return handle();
}
int aclSetAclOpExecutorRepeatable(void *executor) { return 1; } /* An error: executors are not used again. */
int aclopCompileAndExecute(void) {
  say_thread("aclopCompileAndExecute");
  return OK;
}
int aclopCompileAndExecuteV2(void) {
  say_thread("aclopCompileAndExecuteV2");
  return OK;
}

/* The one thing that is computed: float32 + float32 (aclnnAdd) and float32 + number (aclnnAdds). */
struct operand {
  void *data;
  size_t count;
  int type;
};
struct addition {
  const struct operand *left, *right, *sum;
};
void *aclCreateTensor(const int64_t *shape, uint64_t dimensions, int type, const int64_t *strides, int64_t offset,
                      int format, const int64_t *stored, uint64_t stored_dimensions, void *data) {
  struct operand *tensor = malloc(sizeof *tensor);
  *tensor = (struct operand){data, 1, type};
  for (uint64_t i = 0; i < dimensions; i++) tensor->count *= shape[i];
  return tensor;
}
void *aclCreateScalar(void *value, int type) {
  struct operand *scalar = malloc(sizeof *scalar + sizeof(int64_t));
  *scalar = (struct operand){scalar + 1, 1, type};
  memcpy(scalar->data, value, type == INT64 ? sizeof(int64_t) : type == FLOAT32 ? sizeof(float) : 1);
  return scalar;
}
int aclnnAddGetWorkspaceSize(const struct operand *left, const struct operand *right, const void *factor,
                             struct operand *sum, uint64_t *workspace, void **executor) {
  struct addition *addition = *executor = malloc(sizeof *addition);
  *addition = (struct addition){left, right, sum};
  *workspace = 0;
  return OK;
}
static float value(const struct operand *of, size_t index) {
  index %= of->count;
  return of->type == INT64 ? (float)((int64_t *)of->data)[index] : ((float *)of->data)[index];
}
int aclnnAdd(void *workspace, uint64_t size, const struct addition *addition, void *stream) {
  const struct operand *left = addition->left, *right = addition->right, *sum = addition->sum;
  int numbers = left->type == FLOAT32 && (right->type == FLOAT32 || right->type == INT64) && sum->type == FLOAT32;
  if (!numbers || !left->count || !right->count) return OK;
  for (size_t i = 0; i < sum->count; i++) ((float *)sum->data)[i] = value(left, i) + value(right, i);
  return OK;
}
int aclnnAddsGetWorkspaceSize(const struct operand *left, const struct operand *right, const void *factor,
                              struct operand *sum, uint64_t *workspace, void **executor) {
  return aclnnAddGetWorkspaceSize(left, right, factor, sum, workspace, executor);
}
int aclnnAdds(void *workspace, uint64_t size, const struct addition *addition, void *stream) {
  return aclnnAdd(workspace, size, addition, stream);
}

/* The cache of aclnn's executors: there is none. */
int GetCannVersion(void) { return 0; }
int InitHugeMemThreadLocal(void *argument, int shared) { return OK; }
int UnInitHugeMemThreadLocal(void *argument, int shared) { return OK; }
int ReleaseHugeMem(void *argument, int shared) { return OK; }
int InitPTACacheThreadLocal(void) { return OK; }
int UnInitPTACacheThreadLocal(void) { return OK; }
int SetPTAHashKey(uint64_t hash) { return OK; }
int SetPTACacheHashKey(void *key, size_t length) { return OK; }
int CanUsePTACache(const char *operator) { return 0; }
void *PTAGetExecCache(uint64_t hash, uint64_t *workspace) { return NULL; }
void *PTAFindExecCache(void *key, size_t length, uint64_t *workspace) { return NULL; }

/* HCCL, as if the others had sent the same. */
int HcclGetRootInfo(void *root) {
  memset(root, 1, 4108); /* HCCL_ROOT_INFO_BYTES */
  return OK;
}
int HcclCommInitRootInfo(uint32_t size, const void *root, uint32_t rank, void **communicator) {
  return !(*communicator = handle());
}
int HcclCommInitRootInfoConfig(uint32_t size, const void *root, uint32_t rank, const void *settings, void **communicator) {
  return !(*communicator = handle());
}
int HcclGetCommName(void *communicator, char *name) {
  strcpy(name, "stand-in");
  return OK;
}
int HcclGetRankSize(void *communicator, uint32_t *size) {
  const char *given = getenv("RANK_SIZE");
  *size = given ? atoi(given) : 1;
  return OK;
}
int HcclGetRankId(void *communicator, uint32_t *rank) {
  const char *given = getenv("RANK_ID");
  *rank = given ? atoi(given) : 0;
  return OK;
}
int HcclAllReduce(void *from, void *to, uint64_t count, int type, int operation, void *communicator, void *stream) {
  memcpy(to, from, count * sizeof(float));
  return OK;
}
