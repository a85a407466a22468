// The loops of the sparse kernels, written once with compiler vectors.
//
// This file is included once per instruction set, inside of a namespace and of
// a region that targets it, with LANES set to the number of floats in one of
// its registers (16, 8 or 4). It must not include anything itself.
//
// The layout of a kernel [in, out] ("tiles"): entries sorted by (input / CHUNK,
// output, input); `starts[c * rows + r]` is where row r of chunk c begins, and
// `indices` holds the place of the input in its chunk. A row is an output, and
// an entry has one value; or a row is a block of B = 4 outputs that share their
// inputs, and an entry has a value for each. Activations are read from tiles
// `[CHUNK][L]`: L rows of the batch side by side, so that a value costs one
// broadcast and L / LANES multiply-adds.

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

// sums[registers] += the first of U sums of each and the others.
template <int U, int P, typename Vec>
static inline void StoreSums(Vec (&acc)[U][P], float* sums) {
  for (int v = 0; v < P; ++v) {
    Vec sum = acc[0][v];
    if constexpr (U >= 2) sum += acc[1][v];
    if constexpr (U == 4) sum += acc[2][v] + acc[3][v];
    Store(sums + v * (sizeof(Vec) / sizeof(float)), sum);
  }
}

// Entries of a row that are taken together.
constexpr int TOGETHER = 8;

// One of their values, in all lanes. All are loaded at once where that is
// possible: loads are what limits the loops.
template <int W>
static inline typename Reg<W>::Vec Spread(const float* values, int u) {
#if LANES < 8
  return values[u] + typename Reg<W>::Vec{};
#else
  const Vec8 all = Load<Vec8>(values);
#if LANES == 16
  if constexpr (W == 16) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(u),
                                 _mm512_castps256_ps512(all));
  } else
#endif
    return _mm256_permutevar8x32_ps(all, _mm256_set1_epi32(u));
#endif
}

// Sums entries first..end of a row over a tile: sums[L] += value * x[index].
// With registers of 16 floats, entries are added in the same order whatever the
// lanes, here and below, so that these may depend on the threads.
template <int L>
static inline void AddRow(const float* values, const uint16_t* indices,
                          long first, long end, const float* xt, float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  constexpr int U = N == 1 || LANES == 16 ? 4 : 2;  // In turn, to hide latency.
  Vec acc[U][N] = {};
  for (int v = 0; v < N; ++v) acc[0][v] = Load<Vec>(sums + v * W);
  long e = first;
  for (; e + TOGETHER <= end; e += TOGETHER) {
    uint64_t four[TOGETHER / 4];  // Indices.
    __builtin_memcpy(four, indices + e, sizeof(four));
#pragma GCC unroll 8
    for (int u = 0; u < TOGETHER; ++u) {
      const float* x = xt + (four[u / 4] >> 16 * (u % 4) & (CHUNK - 1)) * L;
      const Vec value = Spread<W>(values + e, u);
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) acc[u % U][v] += value * Load<Vec>(x + v * W);
    }
  }
  for (; e < end; ++e) {
    const float* x = xt + (indices[e] & (CHUNK - 1)) * L;
    for (int v = 0; v < N; ++v) acc[0][v] += values[e] * Load<Vec>(x + v * W);
  }
  StoreSums(acc, sums);
}

// The same where B outputs share an entry, which is loaded once for all their
// sums: sums[B][L] += values * x[index].
template <int L, int B>
static inline void AddBlocks(const float* values, const uint16_t* indices,
                             long first, long end, const float* xt,
                             float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  constexpr int P = N == 1 || LANES == 16 ? 1 : 2;  // Registers in a pass.
  constexpr int U = P == 1 ? 2 : 1;
  for (int p = 0; p < N; p += P) {
    Vec acc[B][U][P] = {};
    for (int k = 0; k < B; ++k) {
      for (int v = 0; v < P; ++v) {
        acc[k][0][v] = Load<Vec>(sums + k * L + (p + v) * W);
      }
    }
    long e = first;
    for (; e + U <= end; e += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const float* x = xt + (indices[e + u] & (CHUNK - 1)) * L + p * W;
        const float* w = values + B * (e + u);
        Vec in[P];
        for (int v = 0; v < P; ++v) in[v] = Load<Vec>(x + v * W);
#pragma GCC unroll 4
        for (int k = 0; k < B; ++k) {
#pragma GCC unroll 8
          for (int v = 0; v < P; ++v) acc[k][u][v] += w[k] * in[v];
        }
      }
    }
    for (; e < end; ++e) {
      const float* x = xt + (indices[e] & (CHUNK - 1)) * L + p * W;
      for (int k = 0; k < B; ++k) {
        for (int v = 0; v < P; ++v) {
          acc[k][0][v] += values[B * e + k] * Load<Vec>(x + v * W);
        }
      }
    }
    for (int k = 0; k < B; ++k) StoreSums(acc[k], sums + k * L + p * W);
  }
}

// y rows first..last of one tile of the batch; `sums` is scratch [rows][L].
template <int L, int B>
static void ForwardTile(const Tiles& w, const float* xt, const float* bias,
                        long first, long last, float* sums, float* y,
                        long batch_rows) {
  for (long o = first; o < last; ++o) {
    for (int l = 0; l < L; ++l) sums[(o - first) * L + l] = 0;
  }
  for (long c = 0; c < w.chunks; ++c) {
    const int32_t* starts = w.starts + c * w.rows;
    for (long o = first; o < last; o += B) {
      const long begin = starts[o / B], end = starts[o / B + 1];
      const float* chunk = xt + c * CHUNK * L;
      float* to = sums + (o - first) * L;
      if constexpr (B == 1) {
        AddRow<L>(w.values, w.indices, begin, end, chunk, to);
      } else {
        AddBlocks<L, B>(w.values, w.indices, begin, end, chunk, to);
      }
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

// dx of one tile and chunk, from dyt [out][L] into scratch [CHUNK][L].
template <int L, int B>
static void InputGradient(const Tiles& w, const float* dyt, long c,
                          float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N, P = B == 1 || N < 2 ? N : 2;
  // Nothing reads what a damaged index puts behind the inputs.
  const long inputs = w.in - c * CHUNK < CHUNK ? w.in - c * CHUNK : CHUNK;
  for (long i = 0; i < inputs * L; ++i) sums[i] = 0;
  const int32_t* starts = w.starts + c * w.rows;
  for (long r = 0; r < w.rows; ++r) {
    for (int p = 0; p < N; p += P) {
      Vec dy[B][P];
      for (int k = 0; k < B; ++k) {
        for (int v = 0; v < P; ++v) {
          dy[k][v] = Load<Vec>(dyt + (B * r + k) * L + (p + v) * W);
        }
      }
      for (long e = starts[r]; e < starts[r + 1]; ++e) {
        float* to = sums + (w.indices[e] & (CHUNK - 1)) * L + p * W;
        const float* values = w.values + B * e;
        for (int v = 0; v < P; ++v) {
          Vec more = values[0] * dy[0][v];
          if constexpr (B == 4) {
            more += values[2] * dy[2][v];
            more += values[1] * dy[1][v] + values[3] * dy[3][v];
          }
          Store(to + v * W, Load<Vec>(to + v * W) + more);
        }
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

// Gradients of the values of K entries of one row of a chunk; `dyt` is that of
// the first of its B outputs.
template <int L, int K, int B>
static inline void SumEntries(const uint16_t* indices, const float* xt,
                              long x_stride, const float* dyt, long dy_stride,
                              long tiles, typename Tile<L>::Vec acc[K * B]) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  const float* x[K];
  for (int i = 0; i < K; ++i) {
    x[i] = xt + (indices[i] & (CHUNK - 1)) * L;
    for (int k = 0; k < B; ++k) acc[B * i + k] = Vec{};
  }
  for (long t = 0; t < tiles; ++t) {
    for (int v = 0; v < N; ++v) {
      Vec dy[B];
      for (int k = 0; k < B; ++k) {
        dy[k] = Load<Vec>(dyt + t * dy_stride + k * L + v * W);
      }
#pragma GCC unroll 16
      for (int i = 0; i < K; ++i) {
        const Vec in = Load<Vec>(x[i] + t * x_stride + v * W);
#pragma GCC unroll 4
        for (int k = 0; k < B; ++k) acc[B * i + k] += dy[k] * in;
      }
    }
  }
}

// Gradients of the values of rows first..last of chunk c, over all tiles.
template <int L, int B>
static void ValueGradients(const Tiles& w, const float* xt, const float* dyt,
                           long tiles, long c, long first, long last,
                           float* gradients) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, K = W / B;  // Entries at a time.
  const long x_stride = w.chunks * CHUNK * L, dy_stride = w.out * L;
  const float* xc = xt + c * CHUNK * L;
  const int32_t* starts = w.starts + c * w.rows;
  for (long o = first; o < last; o += B) {
    const float* dy = dyt + o * L;
    const long end = starts[o / B + 1];
    Vec acc[W];
    long e = starts[o / B];
    for (; e + K <= end; e += K) {
      SumEntries<L, K, B>(w.indices + e, xc, x_stride, dy, dy_stride, tiles,
                          acc);
      Store(gradients + B * e, SumLanes<W>(acc));
    }
    for (; e < end; ++e) {
      SumEntries<L, 1, B>(w.indices + e, xc, x_stride, dy, dy_stride, tiles,
                          acc);
      for (int k = 0; k < B; ++k) {
        float sum = 0;
        for (int l = 0; l < W; ++l) sum += acc[k][l];
        gradients[B * e + k] = sum;
      }
    }
  }
}
