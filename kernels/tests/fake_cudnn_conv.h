// Convolution and addition for the fake cuDNN: part of fake_cudnn.c.
//
// Tensors are N, C, D, H, W; those that are virtual live in a table here between the operations of one run.

enum { kPointwise = 0, kConvolution = 1, kForward = 10, kPointwiseOp = 13, kMaxInside = 8 };

typedef struct View { const Descriptor* of; void* at; int type; } View;
static struct { const Descriptor* of; double* values; } inside[kMaxInside];

static int64_t dim(const Descriptor* x, int i) { return int64_of(x, 902, i); }
static int is_virtual(const Descriptor* x) {
  const Attribute* a = attribute_of(x, 907);
  return a && a->bytes[0];
}

static int check_forward(const Descriptor* d) {
  const Descriptor *conv = descriptor_of(d, 702, 0), *w = descriptor_of(d, 703, 0);
  const Descriptor *x = descriptor_of(d, 704, 0), *y = descriptor_of(d, 705, 0);
  if (int64_of(conv, 106, 0) != 3) return refuse(kUnsupportedShape, "three axes in space");
  for (int name = 102; name <= 105; ++name) {
    if (attribute_of(conv, name)->count != 3) return refuse(kShapeMismatch, "one value per axis in space");
  }
  if (int32_of(conv, 100) != 0) return refuse(kUnsupportedType, "sums in f32");
  if (int32_of(conv, 101) != 1) return refuse(kNotSupported, "cross-correlation");
  const Descriptor* all[3] = {x, w, y};
  for (int t = 0; t < 3; ++t) {
    if (attribute_of(all[t], 902)->count != 5) return refuse(kUnsupportedShape, "five dimensions");
    if (int64_of(all[t], 903, 1) != 1) return refuse(kUnsupportedLayout, "channels last");
    if (dim(all[t], 1) % 8 != 0) return refuse(kUnsupportedShape, "channels in multiples of 8");
  }
  if (int32_of(x, 901) != int32_of(w, 901) || is_virtual(x) || is_virtual(w)) {
    return refuse(kUnsupportedType, "x and W are given, of one type");
  }
  if (dim(w, 1) != dim(x, 1) || dim(y, 1) != dim(w, 0) || dim(y, 0) != dim(x, 0)) {
    return refuse(kShapeMismatch, "channels or number");
  }
  for (int i = 0; i < 3; ++i) {
    const int64_t padded = dim(x, 2 + i) + int64_of(conv, 105, i) + int64_of(conv, 104, i);
    const int64_t window = (dim(w, 2 + i) - 1) * int64_of(conv, 102, i) + 1;
    if (dim(y, 2 + i) != (padded - window) / int64_of(conv, 103, i) + 1) {
      return refuse(kShapeMismatch, "the size of the result");
    }
  }
  return kSuccess;
}
static int check_pointwise(const Descriptor* d) {
  const Descriptor* mode = descriptor_of(d, 750, 0);
  const Descriptor *x = descriptor_of(d, 751, 0), *b = descriptor_of(d, 752, 0), *y = descriptor_of(d, 753, 0);
  if (int32_of(mode, 0) != 0 || int32_of(mode, 1) != 0) return refuse(kNotSupported, "addition in f32");
  for (int i = 0; i < 5; ++i) {
    if (dim(x, i) != dim(y, i)) return refuse(kShapeMismatch, "x as y");
    if (dim(b, i) != 1 && dim(b, i) != dim(y, i)) return refuse(kShapeMismatch, "b spreads or is as y");
  }
  return kSuccess;
}

static int view_of(const Descriptor* x, const Descriptor* pack, View* view) {
  view->of = x, view->type = int32_of(x, 901);
  if (!is_virtual(x)) return address_of(x, pack, &view->at);
  view->type = -1;
  for (int i = 0; i < kMaxInside; ++i) {
    if (inside[i].of == x || !inside[i].of) {
      int64_t count = 1;
      for (int k = 0; k < 5; ++k) count *= dim(x, k);
      if (!inside[i].of) inside[i].values = malloc(sizeof(double) * (size_t)count);
      inside[i].of = x;
      view->at = inside[i].values;
      return kSuccess;
    }
  }
  return refuse(kNotSupported, "too many values inside");
}
static void forget_inside(void) {
  for (int i = 0; i < kMaxInside; ++i) {
    free(inside[i].values);
    inside[i].of = NULL, inside[i].values = NULL;
  }
}
// Element n, c, d, h, w; axes of one element spread.
static int64_t place(const Descriptor* x, const int64_t index[5]) {
  int64_t offset = 0;
  for (int i = 0; i < 5; ++i) offset += (dim(x, i) == 1 ? 0 : index[i]) * int64_of(x, 903, i);
  return offset;
}
static double load(const View* v, const int64_t index[5]) {
  const int64_t i = place(v->of, index);
  if (v->type < 0) return ((const double*)v->at)[i];
  return v->type == 0 ? ((const float*)v->at)[i] : widen(((const uint16_t*)v->at)[i], v->type);
}
static void store(const View* v, const int64_t index[5], double value) {
  const int64_t i = place(v->of, index);
  if (v->type < 0) {
    ((double*)v->at)[i] = value;
  } else if (v->type == 0) {
    ((float*)v->at)[i] = (float)value;
  } else {
    ((uint16_t*)v->at)[i] = narrow(value, v->type);
  }
}

static double window(const View* x, const View* w, const Descriptor* conv, const int64_t to[5]) {
  double sum = 0;
  int64_t tap[5] = {to[1], 0, 0, 0, 0}, from[5] = {to[0], 0, 0, 0, 0};
  for (tap[2] = 0; tap[2] < dim(w->of, 2); ++tap[2]) {
    for (tap[3] = 0; tap[3] < dim(w->of, 3); ++tap[3]) {
      for (tap[4] = 0; tap[4] < dim(w->of, 4); ++tap[4]) {
        int within = 1;
        for (int i = 0; i < 3; ++i) {
          from[2 + i] = to[2 + i] * int64_of(conv, 103, i) + tap[2 + i] * int64_of(conv, 102, i) -
                        int64_of(conv, 105, i);
          within &= from[2 + i] >= 0 && from[2 + i] < dim(x->of, 2 + i);
        }
        for (int64_t c = 0; within && c < dim(x->of, 1); ++c) {
          tap[1] = from[1] = c;
          sum += load(x, from) * load(w, tap);
        }
      }
    }
  }
  return sum;
}

static int run_operation(const Descriptor* op, const Descriptor* pack) {
  const int forward = op->kind == kForward;
  View a, b, y;
  int status = view_of(descriptor_of(op, forward ? 704 : 751, 0), pack, &a);
  if (status == kSuccess) status = view_of(descriptor_of(op, forward ? 703 : 752, 0), pack, &b);
  if (status == kSuccess) status = view_of(descriptor_of(op, forward ? 705 : 753, 0), pack, &y);
  if (status != kSuccess) return status;
  if (forward && (*(float*)attribute_of(op, 700)->bytes != 1 || *(float*)attribute_of(op, 701)->bytes != 0)) {
    return refuse(kNotSupported, "factors 1 and 0");
  }
  int64_t to[5];
  for (to[0] = 0; to[0] < dim(y.of, 0); ++to[0]) {
    for (to[1] = 0; to[1] < dim(y.of, 1); ++to[1]) {
      for (to[2] = 0; to[2] < dim(y.of, 2); ++to[2]) {
        for (to[3] = 0; to[3] < dim(y.of, 3); ++to[3]) {
          for (to[4] = 0; to[4] < dim(y.of, 4); ++to[4]) {
            store(&y, to, forward ? window(&a, &b, descriptor_of(op, 702, 0), to) : load(&a, to) + load(&b, to));
          }
        }
      }
    }
  }
  return kSuccess;
}
