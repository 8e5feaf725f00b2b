// A cuDNN for tests: records the calls, checks them as cuDNN's documentation demands (which attributes a
// descriptor has, of which type and how many, what must be finalised before what, what an execution must
// be given), runs fused attention on host addresses in plain loops, and fails where it is told to.
//
// Built by the tests with the system's C compiler, one copy per test. Every number below is from
// NVIDIA's public headers, written down a second time on purpose: a wrong one in `names.rs` shows.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum {
  kSuccess = 0, kBadParam = 2000, kInvalidValue = 2001, kNullPointer = 2002, kMisaligned = 2003,
  kNotFinalized = 2004, kSizeInsufficient = 2006, kShapeMismatch = 2008, kAttributeType = 2010,
  kNotSupported = 3000, kUnsupportedShape = 3002, kUnsupportedType = 3003, kUnsupportedLayout = 3004
};
enum {
  kEngine = 2, kEngineConfig = 3, kHeuristics = 4, kPlan = 5, kGraph = 15, kPack = 16, kTensor = 17,
  kSdpa = 41
};
enum {
  kHandleType = 0, kDataType = 1, kBoolean = 2, kInt64 = 3, kFloat = 4, kDouble = 5, kVoidPointer = 6,
  kConvolutionMode = 7, kHeurMode = 8, kNoteType = 11, kPointwiseMode = 14, kDescriptor = 15
};

// Attributes that can be set: descriptor, attribute, type, fewest and most elements, must be set.
static const struct Rule { int kind, name, type, least, most, required; } rules[] = {
    {kTensor, 900, kInt64, 1, 1, 1},       {kTensor, 901, kDataType, 1, 1, 1},
    {kTensor, 902, kInt64, 1, 8, 1},       {kTensor, 903, kInt64, 1, 8, 1},
    {kTensor, 906, kInt64, 1, 1, 1},       {kTensor, 907, kBoolean, 1, 1, 0},
    {kTensor, 908, kBoolean, 1, 1, 0},     {kSdpa, 2800, kDescriptor, 1, 1, 1},
    {kSdpa, 2801, kDescriptor, 1, 1, 1},   {kSdpa, 2802, kDescriptor, 1, 1, 1},
    {kSdpa, 2803, kDescriptor, 1, 1, 1},   {kSdpa, 2805, kDescriptor, 1, 1, 0},
    {kGraph, 800, kHandleType, 1, 1, 1},   {kGraph, 801, kDescriptor, 1, 64, 1},
    {kHeuristics, 200, kHeurMode, 1, 1, 1}, {kHeuristics, 201, kDescriptor, 1, 1, 1},
    {kPlan, 400, kHandleType, 1, 1, 1},    {kPlan, 401, kDescriptor, 1, 1, 1},
    {kPack, 1000, kInt64, 1, 64, 1},       {kPack, 1001, kVoidPointer, 1, 64, 1},
    {kPack, 1003, kVoidPointer, 1, 1, 1},
    {0, 0, kPointwiseMode, 1, 1, 1},       {0, 1, kDataType, 1, 1, 1},
    {1, 100, kDataType, 1, 1, 1},          {1, 101, kConvolutionMode, 1, 1, 1},
    {1, 102, kInt64, 1, 8, 1},             {1, 103, kInt64, 1, 8, 1},
    {1, 104, kInt64, 1, 8, 1},             {1, 105, kInt64, 1, 8, 1},
    {1, 106, kInt64, 1, 1, 1},             {10, 700, kFloat, 1, 1, 1},
    {10, 701, kFloat, 1, 1, 1},            {10, 702, kDescriptor, 1, 1, 1},
    {10, 703, kDescriptor, 1, 1, 1},       {10, 704, kDescriptor, 1, 1, 1},
    {10, 705, kDescriptor, 1, 1, 1},       {13, 750, kDescriptor, 1, 1, 1},
    {13, 751, kDescriptor, 1, 1, 1},       {13, 752, kDescriptor, 1, 1, 1},
    {13, 753, kDescriptor, 1, 1, 1},
};
enum { kRules = sizeof(rules) / sizeof(rules[0]), kMaxAttributes = 8 };

typedef struct Attribute { int name, type; int64_t count; unsigned char* bytes; } Attribute;
typedef struct Descriptor {
  int kind, live, finalized, attributes;
  Attribute attribute[kMaxAttributes];
  struct Descriptor* graph;  // of heuristics, configurations, engines and plans
  int index;                 // of a configuration or an engine
} Descriptor;
typedef struct Handle { int live; void* stream; } Handle;

static char journal[1 << 16];
static char last_error[512];
static int live_descriptors, live_handles, version = 91900;
static int engines = 2, refused_plans = 0, engine_note = -1, noted_engine = -1;
static int64_t workspace_bytes = 0;
static struct { char call[64]; int at, seen, status; } failure;

static int size_of(int type) {
  switch (type) {
    case kBoolean: return 1;
    case kDataType: case kFloat: case kHeurMode: case kNoteType: case kConvolutionMode: case kPointwiseMode:
      return 4;
    default: return 8;
  }
}
static void note(const char* format, long a, long b, long c) {
  const size_t used = strlen(journal);
  snprintf(journal + used, sizeof(journal) - used, format, a, b, c);
}
static int refuse(int status, const char* why) {
  snprintf(last_error, sizeof(last_error), "%s", why);
  return status;
}
static int told_to_fail(const char* call) {
  return strcmp(call, failure.call) == 0 && ++failure.seen == failure.at;
}
#define FAIL_IF_TOLD(call) \
  if (told_to_fail(call)) return refuse(failure.status, "told to fail")

static const Attribute* attribute_of(const Descriptor* d, int name) {
  for (int i = 0; i < d->attributes; ++i) {
    if (d->attribute[i].name == name) return &d->attribute[i];
  }
  return NULL;
}
static int64_t int64_of(const Descriptor* d, int name, int i) {
  return ((const int64_t*)attribute_of(d, name)->bytes)[i];
}
static int int32_of(const Descriptor* d, int name) { return *(const int*)attribute_of(d, name)->bytes; }
static Descriptor* descriptor_of(const Descriptor* d, int name, int i) {
  const Attribute* a = attribute_of(d, name);
  return a ? ((Descriptor**)a->bytes)[i] : NULL;
}

// --- what the tests say and ask --------------------------------------------------------------------

EXPORT const char* fake_journal(void) { return journal; }
EXPORT int fake_live(void) { return live_descriptors + live_handles; }
EXPORT void fake_version(int number) { version = number; }
// The `at`-th call of `call` (counted from here, beginning with 1) fails with `status`.
EXPORT void fake_failure(const char* call, int at, int status) {
  snprintf(failure.call, sizeof(failure.call), "%s", call);
  failure.at = at, failure.seen = 0, failure.status = status;
}
// How many engines mode A proposes, how many plans are refused, the workspace of each plan, and a
// numerical note (or -1) of one engine.
EXPORT void fake_engines(int count, int refused, int64_t workspace, int noted, int numerical_note) {
  engines = count, refused_plans = refused, workspace_bytes = workspace, noted_engine = noted,
  engine_note = numerical_note;
}

// --- handles -----------------------------------------------------------------------------------------

EXPORT size_t cudnnGetVersion(void) { return (size_t)version; }
EXPORT const char* cudnnGetErrorString(int status) {
  switch (status) {
    case kSuccess: return "CUDNN_STATUS_SUCCESS";
    case kBadParam: return "CUDNN_STATUS_BAD_PARAM";
    case kNotFinalized: return "CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED";
    case kNotSupported: return "CUDNN_STATUS_NOT_SUPPORTED";
    default: return "CUDNN_STATUS_OF_ANOTHER_KIND";
  }
}
EXPORT void cudnnGetLastErrorString(char* message, size_t size) { snprintf(message, size, "%s", last_error); }
EXPORT int cudnnCreate(Handle** handle) {
  FAIL_IF_TOLD("cudnnCreate");
  *handle = calloc(1, sizeof(Handle));
  (*handle)->live = 1;
  ++live_handles;
  return kSuccess;
}
EXPORT int cudnnDestroy(Handle* handle) {
  if (!handle->live) abort();
  handle->live = 0;
  --live_handles;
  return kSuccess;
}
EXPORT int cudnnSetStream(Handle* handle, void* stream) {
  FAIL_IF_TOLD("cudnnSetStream");
  if (!handle->live) return refuse(kBadParam, "dead handle");
  handle->stream = stream;
  return kSuccess;
}

// --- descriptors -------------------------------------------------------------------------------------

EXPORT int cudnnBackendCreateDescriptor(int kind, Descriptor** out) {
  FAIL_IF_TOLD("cudnnBackendCreateDescriptor");
  *out = calloc(1, sizeof(Descriptor));  // never freed, so that use after destruction is seen
  (*out)->kind = kind, (*out)->live = 1;
  ++live_descriptors;
  return kSuccess;
}
EXPORT int cudnnBackendDestroyDescriptor(Descriptor* d) {
  if (!d->live) abort();
  d->live = 0;
  --live_descriptors;
  return kSuccess;
}
EXPORT int cudnnBackendSetAttribute(Descriptor* d, int name, int type, int64_t count, const void* values) {
  FAIL_IF_TOLD("cudnnBackendSetAttribute");
  if (!d->live) return refuse(kBadParam, "destroyed descriptor");
  if (d->finalized) return refuse(kBadParam, "attribute of a finalised descriptor");
  if (!values) return refuse(kNullPointer, "no values");
  const struct Rule* rule = NULL;
  for (int i = 0; i < kRules; ++i) {
    if (rules[i].kind == d->kind && rules[i].name == name) rule = &rules[i];
  }
  if (!rule) return refuse(kBadParam, "the descriptor has no such attribute");
  if (rule->type != type) return refuse(kAttributeType, "another type");
  if (count < rule->least || count > rule->most) return refuse(kSizeInsufficient, "another count");
  if (type == kDescriptor) {
    for (int64_t i = 0; i < count; ++i) {
      const Descriptor* other = ((Descriptor* const*)values)[i];
      if (!other->live) return refuse(kBadParam, "reference to a destroyed descriptor");
      if (!other->finalized) return refuse(kNotFinalized, "reference to an open descriptor");
    }
  }
  if (type == kHandleType && !(*(Handle* const*)values)->live) return refuse(kBadParam, "dead handle");
  if (attribute_of(d, name)) return refuse(kBadParam, "set twice");
  Attribute* a = &d->attribute[d->attributes++];
  a->name = name, a->type = type, a->count = count;
  a->bytes = malloc((size_t)(count * size_of(type)));
  memcpy(a->bytes, values, (size_t)(count * size_of(type)));
  note("set %ld.%ld x%ld\n", d->kind, name, count);
  return kSuccess;
}

static int check_tensor(const Descriptor* d) {
  if (attribute_of(d, 902)->count != attribute_of(d, 903)->count) {
    return refuse(kShapeMismatch, "dimensions and strides differ in number");
  }
  for (int i = 0; i < attribute_of(d, 902)->count; ++i) {
    if (int64_of(d, 902, i) < 1) return refuse(kUnsupportedShape, "an empty dimension");
  }
  return kSuccess;
}
static int check_sdpa(const Descriptor* d) {
  const int names[4] = {2800, 2801, 2802, 2803};
  const Descriptor *q = descriptor_of(d, 2800, 0), *k = descriptor_of(d, 2801, 0);
  for (int t = 0; t < 4; ++t) {
    const Descriptor* x = descriptor_of(d, names[t], 0);
    if (attribute_of(x, 902)->count != 4) return refuse(kUnsupportedShape, "four dimensions: B, H, S, D");
    if (int32_of(x, 901) != int32_of(q, 901)) return refuse(kUnsupportedType, "types differ");
    if (int32_of(x, 901) != 2 && int32_of(x, 901) != 9) return refuse(kUnsupportedType, "f16 or bf16");
    if (int64_of(x, 903, 3) != 1) return refuse(kUnsupportedLayout, "D must be contiguous");
    const Descriptor* like = t == 2 ? k : t == 3 ? q : x;
    for (int i = 0; i < 4; ++i) {
      if (int64_of(x, 902, i) != int64_of(like, 902, i)) return refuse(kShapeMismatch, "v as k, o as q");
    }
    if (int64_of(x, 902, 0) != int64_of(q, 902, 0) || int64_of(x, 902, 1) != int64_of(q, 902, 1) ||
        int64_of(x, 902, 3) != int64_of(q, 902, 3)) {
      return refuse(kShapeMismatch, "B, H, D");
    }
  }
  if (int64_of(q, 902, 3) % 8 != 0) return refuse(kUnsupportedShape, "D must be a multiple of 8");
  const Descriptor* scale = descriptor_of(d, 2805, 0);
  if (scale && (int32_of(scale, 901) != 0 || !attribute_of(scale, 908))) {
    return refuse(kUnsupportedType, "the scale is an f32 by value");
  }
  return kSuccess;
}
static int check_forward(const Descriptor* d);
static int check_pointwise(const Descriptor* d);

EXPORT int cudnnBackendFinalize(Descriptor* d) {
  FAIL_IF_TOLD("cudnnBackendFinalize");
  if (!d->live || d->finalized) return refuse(kBadParam, "destroyed or finalised before");
  for (int i = 0; i < kRules; ++i) {
    if (rules[i].kind == d->kind && rules[i].required && !attribute_of(d, rules[i].name)) {
      char text[64];
      snprintf(text, sizeof(text), "attribute %d is missing", rules[i].name);
      return refuse(kBadParam, text);
    }
  }
  int status = kSuccess;
  if (d->kind == kTensor) status = check_tensor(d);
  if (d->kind == kSdpa) status = check_sdpa(d);
  if (d->kind == 10) status = check_forward(d);
  if (d->kind == 13) status = check_pointwise(d);
  if (d->kind == kHeuristics) d->graph = descriptor_of(d, 201, 0);
  if (d->kind == kPlan) {
    if (refused_plans > 0) {
      --refused_plans;
      return refuse(kNotSupported, "this engine cannot");
    }
    d->graph = descriptor_of(d, 401, 0)->graph;
  }
  if (d->kind == kPack && attribute_of(d, 1000)->count != attribute_of(d, 1001)->count) {
    return refuse(kBadParam, "as many addresses as ids");
  }
  if (status != kSuccess) return status;
  d->finalized = 1;
  note("finalize %ld\n", d->kind, 0, 0);
  return kSuccess;
}

EXPORT int cudnnBackendGetAttribute(Descriptor* d, int name, int type, int64_t wanted, int64_t* count, void* out) {
  FAIL_IF_TOLD("cudnnBackendGetAttribute");
  if (d->kind != kEngine && !d->finalized) return refuse(kNotFinalized, "an open descriptor");
  if (d->kind == kHeuristics && name == 202 && type == kDescriptor) {
    const int there = int32_of(d, 200) == 3 ? engines : 1;
    if (wanted == 0) {
      *count = there;
      return kSuccess;
    }
    *count = wanted < there ? wanted : there;
    for (int i = 0; i < *count; ++i) {
      Descriptor* config = ((Descriptor**)out)[i];
      if (config->kind != kEngineConfig) return refuse(kBadParam, "needs configurations to fill");
      config->finalized = 1, config->graph = d->graph, config->index = i;
    }
  } else if (d->kind == kEngineConfig && name == 300 && type == kDescriptor && wanted == 1) {
    Descriptor* engine = *(Descriptor**)out;
    if (engine->kind != kEngine) return refuse(kBadParam, "needs an engine to fill");
    engine->finalized = 1, engine->graph = d->graph, engine->index = d->index;
    *count = 1;
  } else if (d->kind == kEngine && d->finalized && name == 1301 && type == kInt64 && wanted == 1) {
    *(int64_t*)out = 1000 + d->index, *count = 1;
  } else if (d->kind == kEngine && d->finalized && name == 1303 && type == kNoteType) {
    *count = d->index == noted_engine && wanted > 0 ? 1 : 0;
    if (*count == 1) *(int*)out = engine_note;
  } else if (d->kind == kPlan && name == 402 && type == kInt64 && wanted == 1) {
    *(int64_t*)out = workspace_bytes, *count = 1;
  } else {
    return refuse(kBadParam, "no such attribute to read");
  }
  return kSuccess;
}

// --- execution ---------------------------------------------------------------------------------------

static double widen(uint16_t bits, int type) {
  if (type == 9) {
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
  }
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double x = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
  return bits >> 15 ? -x : x;
}
static uint16_t narrow(double x, int type) {
  if (type == 9) {
    const float y = (float)x;
    uint32_t bits;
    memcpy(&bits, &y, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  if (x == 0) return 0;
  int exponent;
  frexp(fabs(x), &exponent);
  exponent = exponent < -13 ? -13 : exponent;
  const double steps = nearbyint(ldexp(fabs(x), 11 - exponent));
  const uint16_t sign = x < 0 ? 0x8000 : 0;
  return (uint16_t)(sign | (uint16_t)(((exponent + 13) << 10) + (int)steps));
}

static int address_of(const Descriptor* tensor, const Descriptor* pack, void** address) {
  const int64_t uid = int64_of(tensor, 906, 0);
  for (int i = 0; i < attribute_of(pack, 1000)->count; ++i) {
    if (int64_of(pack, 1000, i) == uid) {
      *address = ((void**)attribute_of(pack, 1001)->bytes)[i];
      if (!*address) return refuse(kNullPointer, "a null address");
      if ((uint64_t)*address % (uint64_t)int64_of(tensor, 900, 0)) return refuse(kMisaligned, "alignment");
      return kSuccess;
    }
  }
  return refuse(kBadParam, "no address for a tensor of the graph");
}
static int64_t at(const Descriptor* x, int64_t b, int64_t h, int64_t s) {
  return b * int64_of(x, 903, 0) + h * int64_of(x, 903, 1) + s * int64_of(x, 903, 2);
}

static int run_sdpa(const Descriptor* op, const Descriptor* pack) {
  const Descriptor* tensors[4];
  void* address[4];
  for (int t = 0; t < 4; ++t) {
    tensors[t] = descriptor_of(op, 2800 + t, 0);
    const int status = address_of(tensors[t], pack, &address[t]);
    if (status != kSuccess) return status;
  }
  double scale = 1;
  const Descriptor* factor = descriptor_of(op, 2805, 0);
  if (factor) {
    void* host;
    const int status = address_of(factor, pack, &host);
    if (status != kSuccess) return status;
    scale = *(const float*)host;
  }
  const Descriptor *q = tensors[0], *k = tensors[1];
  const uint16_t *queries = address[0], *keys = address[1], *values = address[2];
  uint16_t* out = address[3];
  const int type = int32_of(q, 901);
  const int64_t batch = int64_of(q, 902, 0), heads = int64_of(q, 902, 1), rows = int64_of(q, 902, 2);
  const int64_t d = int64_of(q, 902, 3), count = int64_of(k, 902, 2);
  double *weight = malloc(sizeof(double) * (size_t)count), *sum = malloc(sizeof(double) * (size_t)d);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < rows; ++i) {
        double most = -INFINITY, total = 0;
        for (int64_t j = 0; j < count; ++j) {
          double dot = 0;
          for (int64_t e = 0; e < d; ++e) {
            dot += widen(queries[at(q, b, h, i) + e], type) * widen(keys[at(k, b, h, j) + e], type);
          }
          weight[j] = dot * scale;
          most = weight[j] > most ? weight[j] : most;
        }
        for (int64_t e = 0; e < d; ++e) sum[e] = 0;
        for (int64_t j = 0; j < count; ++j) {
          const double w = exp(weight[j] - most);
          total += w;
          for (int64_t e = 0; e < d; ++e) sum[e] += w * widen(values[at(tensors[2], b, h, j) + e], type);
        }
        for (int64_t e = 0; e < d; ++e) out[at(tensors[3], b, h, i) + e] = narrow(sum[e] / total, type);
      }
    }
  }
  free(weight);
  free(sum);
  return kSuccess;
}

#include "fake_cudnn_conv.h"

#ifndef WITHOUT_EXECUTE
EXPORT int cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
  FAIL_IF_TOLD("cudnnBackendExecute");
  if (!handle->live || !plan->live || !pack->live) return refuse(kBadParam, "something destroyed");
  if (plan->kind != kPlan || pack->kind != kPack) return refuse(kBadParam, "not a plan and a pack");
  if (!plan->finalized || !pack->finalized) return refuse(kNotFinalized, "plan or pack");
  if (!plan->graph->live) return refuse(kBadParam, "the plan's graph is destroyed");
  if (workspace_bytes > 0) {
    void* workspace = *(void**)attribute_of(pack, 1003)->bytes;
    if (!workspace) return refuse(kNullPointer, "no workspace");
    memset(workspace, 0x5a, (size_t)workspace_bytes);
  }
  note("execute\n", 0, 0, 0);
  for (int i = 0; i < attribute_of(plan->graph, 801)->count; ++i) {
    const Descriptor* op = descriptor_of(plan->graph, 801, i);
    if (!op->live) return refuse(kBadParam, "an operation is destroyed");
    if (op->kind != kSdpa && op->kind != kForward && op->kind != kPointwiseOp) {
      return refuse(kNotSupported, "this operation");
    }
    const int status = op->kind == kSdpa ? run_sdpa(op, pack) : run_operation(op, pack);
    if (status != kSuccess) return status;
  }
  forget_inside();
  return kSuccess;
}
#endif
