// The loops of the sparse kernels, written once with compiler vectors.
//
// This file is included once per instruction set, inside of a namespace and of
// a region that targets it, with LANES set to the number of floats in one of
// its registers (16, 8 or 4). It must not include anything itself.
//
// The layout of a kernel [in, out] ("tiles"): entries sorted by (input / CHUNK,
// output, input); `starts[c * out + o]` is where row o of chunk c begins, and
// `indices` holds the place of the input in its chunk. Activations are read
// from tiles `[CHUNK][L]`: L rows of the batch side by side, so that an entry
// costs one broadcast and L / LANES multiply-adds.

// Registers of W floats; tiles of L lanes take registers of at most LANES.
template <int W>
struct Reg;
#define LTHJAX_REG(W)                                     \
  template <>                                             \
  struct Reg<W> {                                         \
    typedef float Vec __attribute__((vector_size(W * 4))); \
    typedef int Mask __attribute__((vector_size(W * 4)));  \
  };
LTHJAX_REG(4)
LTHJAX_REG(8)
LTHJAX_REG(16)
#undef LTHJAX_REG
typedef Reg<8>::Vec Vec8;
typedef Reg<8>::Mask Mask8;
template <int L>
struct Tile {
  static constexpr int W = L < LANES ? L : LANES;  // Floats per register,
  static constexpr int N = L / W;                  // registers per row.
  using Vec = typename Reg<W>::Vec;
};

// Unaligned loads and stores.
template <typename V>
static inline V Load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V>
static inline void Store(float* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Lanes of a and b (those of b are numbered from the width on).
template <typename V, typename M>
static inline V Shuffle(V a, V b, M mask) {
#if defined(__clang__)
  constexpr int n = sizeof(V) / 4;
  V out;
  for (int i = 0; i < n; ++i) out[i] = mask[i] < n ? a[mask[i]] : b[mask[i] - n];
  return out;
#else
  return __builtin_shuffle(a, b, mask);
#endif
}

// Transposes eight registers of eight.
static inline void Transpose8(Vec8 r[8]) {
  Vec8 t[8];
  for (int i = 0; i < 8; i += 2) {  // Pairs of rows, interleaved.
    t[i] = Shuffle(r[i], r[i + 1], Mask8{0, 8, 1, 9, 4, 12, 5, 13});
    t[i + 1] = Shuffle(r[i], r[i + 1], Mask8{2, 10, 3, 11, 6, 14, 7, 15});
  }
  Vec8 s[8];
  for (int h = 0; h < 8; h += 4) {  // Columns 0/4, 1/5, 2/6 and 3/7 of four rows.
    s[h] = Shuffle(t[h], t[h + 2], Mask8{0, 1, 8, 9, 4, 5, 12, 13});
    s[h + 1] = Shuffle(t[h], t[h + 2], Mask8{2, 3, 10, 11, 6, 7, 14, 15});
    s[h + 2] = Shuffle(t[h + 1], t[h + 3], Mask8{0, 1, 8, 9, 4, 5, 12, 13});
    s[h + 3] = Shuffle(t[h + 1], t[h + 3], Mask8{2, 3, 10, 11, 6, 7, 14, 15});
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = Shuffle(s[i], s[i + 4], Mask8{0, 1, 2, 3, 8, 9, 10, 11});
    r[i + 4] = Shuffle(s[i], s[i + 4], Mask8{4, 5, 6, 7, 12, 13, 14, 15});
  }
}

// to[i][l] = from[l][i] for l < rows and i < columns; the rest of the `width`
// entries of each row of `to` becomes zero.
static void TransposeInto(const float* from, long from_stride, long rows,
                          long columns, float* to, long to_stride,
                          long width) {
  long l = 0;
  for (; l + 8 <= rows; l += 8) {
    long i = 0;
    for (; i + 8 <= columns; i += 8) {
      Vec8 r[8];
      for (int k = 0; k < 8; ++k) {
        r[k] = Load<Vec8>(from + (l + k) * from_stride + i);
      }
      Transpose8(r);
      for (int k = 0; k < 8; ++k) Store(to + (i + k) * to_stride + l, r[k]);
    }
    for (; i < columns; ++i) {
      for (int k = 0; k < 8; ++k) {
        to[i * to_stride + l + k] = from[(l + k) * from_stride + i];
      }
    }
  }
  for (long i = 0; i < columns; ++i) {
    for (long k = l; k < rows; ++k) {
      to[i * to_stride + k] = from[k * from_stride + i];
    }
    for (long k = rows; k < width; ++k) to[i * to_stride + k] = 0;
  }
}

// Sums entries e..end of one row over a tile: acc[L] += value * xt[index].
template <int L>
static inline void AddRow(const float* values, const uint16_t* indices, long e,
                          long end, const float* xt, float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  constexpr int U = N >= 4 ? 2 : 4;  // Entries in flight, to hide latency.
  Vec acc[U][N];
  for (int v = 0; v < N; ++v) acc[0][v] = Load<Vec>(sums + v * W);
  for (int u = 1; u < U; ++u) {
    for (int v = 0; v < N; ++v) acc[u][v] = Vec{};
  }
  for (; e + U <= end; e += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const float* x = xt + (indices[e + u] & (CHUNK - 1)) * L;
      const float w = values[e + u];
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) acc[u][v] += w * Load<Vec>(x + v * W);
    }
  }
  for (; e < end; ++e) {
    const float* x = xt + (indices[e] & (CHUNK - 1)) * L;
    for (int v = 0; v < N; ++v) acc[0][v] += values[e] * Load<Vec>(x + v * W);
  }
  for (int v = 0; v < N; ++v) {
    Vec sum = acc[0][v] + acc[1][v];
    if (U == 4) sum += acc[2][v] + acc[3][v];
    Store(sums + v * W, sum);
  }
}

// y rows first..last of one tile of the batch; `sums` is scratch [rows][L].
template <int L>
static void ForwardTile(const Tiles& w, const float* xt, const float* bias,
                        long first, long last, float* sums, float* y,
                        long batch_rows) {
  for (long o = first; o < last; ++o) {
    for (int l = 0; l < L; ++l) sums[(o - first) * L + l] = 0;
  }
  for (long c = 0; c < w.chunks; ++c) {
    const int32_t* starts = w.starts + c * w.out;
    for (long o = first; o < last; ++o) {
      AddRow<L>(w.values, w.indices, starts[o], starts[o + 1],
                xt + c * CHUNK * L, sums + (o - first) * L);
    }
  }
  if (bias) {
    for (long o = first; o < last; ++o) {
      for (int l = 0; l < L; ++l) sums[(o - first) * L + l] += bias[o];
    }
  }
  TransposeInto(sums, L, last - first, batch_rows, y + first, w.out,
                last - first);
}

// Rows first..last for at most 4 rows of x, each in a row of `chunks * CHUNK`
// floats: dot products with eight scalar loads put together.
static void ForwardRows(const Tiles& w, const float* x, const float* bias,
                        long first, long last, long batch, float* y) {
  const long stride = w.chunks * CHUNK;
  for (long o = first; o < last; ++o) {
    Vec8 acc[4] = {};
    float rest[4] = {};
    for (long c = 0; c < w.chunks; ++c) {
      long e = w.starts[c * w.out + o];
      const long end = w.starts[c * w.out + o + 1];
      const float* xc = x + c * CHUNK;
      for (; e + 8 <= end; e += 8) {
        const Vec8 v = Load<Vec8>(w.values + e);
        const uint16_t* i = w.indices + e;
        const int i0 = i[0] & (CHUNK - 1), i1 = i[1] & (CHUNK - 1);
        const int i2 = i[2] & (CHUNK - 1), i3 = i[3] & (CHUNK - 1);
        const int i4 = i[4] & (CHUNK - 1), i5 = i[5] & (CHUNK - 1);
        const int i6 = i[6] & (CHUNK - 1), i7 = i[7] & (CHUNK - 1);
        for (long b = 0; b < batch; ++b) {
          const float* r = xc + b * stride;
          acc[b] += v * Vec8{r[i0], r[i1], r[i2], r[i3],
                             r[i4], r[i5], r[i6], r[i7]};
        }
      }
      for (; e < end; ++e) {
        const long i = w.indices[e] & (CHUNK - 1);
        for (long b = 0; b < batch; ++b) rest[b] += w.values[e] * xc[b * stride + i];
      }
    }
    for (long b = 0; b < batch; ++b) {
      const Vec8 a = acc[b];
      float sum = ((a[0] + a[4]) + (a[1] + a[5])) +
                  ((a[2] + a[6]) + (a[3] + a[7])) + rest[b];
      y[b * w.out + o] = bias ? sum + bias[o] : sum;
    }
  }
}

// dx of one tile and chunk, from dyt [out][L] into scratch [CHUNK][L].
template <int L>
static void InputGradient(const Tiles& w, const float* dyt, long c,
                          float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  for (long i = 0; i < CHUNK * L; ++i) sums[i] = 0;
  const int32_t* starts = w.starts + c * w.out;
  for (long o = 0; o < w.out; ++o) {
    Vec dy[N];
    for (int v = 0; v < N; ++v) dy[v] = Load<Vec>(dyt + o * L + v * W);
    for (long e = starts[o]; e < starts[o + 1]; ++e) {
      float* to = sums + (w.indices[e] & (CHUNK - 1)) * L;
      for (int v = 0; v < N; ++v) {
        Store(to + v * W, Load<Vec>(to + v * W) + w.values[e] * dy[v]);
      }
    }
  }
}

// Sums of the lanes of W registers, in one register: a tree of shuffles.
template <int W>
static inline typename Reg<W>::Vec SumLanes(typename Reg<W>::Vec a[W]) {
#pragma GCC unroll 4
  for (int g = 1; g < W; g *= 2) {  // g lanes in a row are kept together.
    typename Reg<W>::Mask even{}, odd{};
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const int pair = i / (2 * g) * 2 * g, within = i % g;
      even[i] = pair + within + ((i / g) % 2 ? W : 0);
      odd[i] = even[i] + g;
    }
#pragma GCC unroll 8
    for (int k = 0; k < W / (2 * g); ++k) {
      a[k] = Shuffle(a[2 * k], a[2 * k + 1], even) +
             Shuffle(a[2 * k], a[2 * k + 1], odd);
    }
  }
  return a[0];
}

// Gradients of K values that follow e, all of output o and of one chunk.
template <int L, int K>
static inline void SumEntries(const uint16_t* indices, const float* xt,
                              long x_stride, const float* dyt, long dy_stride,
                              long tiles, typename Tile<L>::Vec acc[K]) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  const float* x[K];
  for (int k = 0; k < K; ++k) {
    x[k] = xt + (indices[k] & (CHUNK - 1)) * L;
    acc[k] = Vec{};
  }
  for (long t = 0; t < tiles; ++t) {
    for (int v = 0; v < N; ++v) {
      const Vec dy = Load<Vec>(dyt + t * dy_stride + v * W);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k) {
        acc[k] += dy * Load<Vec>(x[k] + t * x_stride + v * W);
      }
    }
  }
}

// Gradients of the values of rows first..last of chunk c, over all tiles.
template <int L>
static void ValueGradients(const Tiles& w, const float* xt, const float* dyt,
                           long tiles, long c, long first, long last,
                           float* gradients) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W;
  const long x_stride = w.chunks * CHUNK * L, dy_stride = w.out * L;
  const float* xc = xt + c * CHUNK * L;
  const int32_t* starts = w.starts + c * w.out;
  for (long o = first; o < last; ++o) {
    const float* dy = dyt + o * L;
    const long end = starts[o + 1];
    long e = starts[o];
    Vec acc[W];
    for (; e + W <= end; e += W) {
      SumEntries<L, W>(w.indices + e, xc, x_stride, dy, dy_stride, tiles, acc);
      Store(gradients + e, SumLanes<W>(acc));
    }
    for (; e < end; ++e) {
      SumEntries<L, 1>(w.indices + e, xc, x_stride, dy, dy_stride, tiles, acc);
      float sum = 0;
      for (int l = 0; l < W; ++l) sum += acc[0][l];
      gradients[e] = sum;
    }
  }
}

// What the handlers call, for the number of lanes that the batch asks for.
static const Loops kLoops = {
    TransposeInto,
    ForwardRows,
    {ForwardTile<8>, ForwardTile<16>, ForwardTile<32>},
    {InputGradient<8>, InputGradient<16>, InputGradient<32>},
    {ValueGradients<8>, ValueGradients<16>, ValueGradients<32>},
};
