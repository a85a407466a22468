// The loops for at most four rows of x, which are read as they are, and all that
// the handlers call. This file is included behind loops.h, as that is.

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

typedef Reg<4>::Vec Vec4;

// Rows first..last for N rows of x, each in a row of `chunks * CHUNK` floats,
// where four outputs share an entry.
template <int N>
static inline void BlockRows(const Tiles& w, const float* x, const float* bias,
                             long first, long last, float* y) {
  constexpr int U = N == 1 ? 4 : 2;  // Entries in flight.
  const long stride = w.chunks * CHUNK;
  for (long o = first; o < last; o += 4) {
    Vec4 acc[U][N] = {};
    for (long c = 0; c < w.chunks; ++c) {
      const int32_t* starts = w.starts + c * w.rows + o / 4;
      const float* xc = x + c * CHUNK;
      const long end = starts[1];
      long e = starts[0];
      for (; e + U <= end; e += U) {
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          const float* at = xc + (w.indices[e + u] & (CHUNK - 1));
          const Vec4 v = Load<Vec4>(w.values + 4 * (e + u));
#pragma GCC unroll 4
          for (int b = 0; b < N; ++b) acc[u][b] += v * at[b * stride];
        }
      }
      for (; e < end; ++e) {
        const float* at = xc + (w.indices[e] & (CHUNK - 1));
        const Vec4 v = Load<Vec4>(w.values + 4 * e);
        for (int b = 0; b < N; ++b) acc[0][b] += v * at[b * stride];
      }
    }
    for (int b = 0; b < N; ++b) {
      Vec4 sum = acc[0][b] + acc[1][b];
      if (U == 4) sum += acc[U - 2][b] + acc[U - 1][b];
      if (bias) sum += Load<Vec4>(bias + o);
      Store(y + b * w.out + o, sum);
    }
  }
}

// The same for at most 4 rows of x.
static void ForwardBlockRows(const Tiles& w, const float* x, const float* bias,
                             long first, long last, long batch, float* y) {
  if (batch == 1) return BlockRows<1>(w, x, bias, first, last, y);
  if (batch == 2) return BlockRows<2>(w, x, bias, first, last, y);
  if (batch == 3) return BlockRows<3>(w, x, bias, first, last, y);
  BlockRows<4>(w, x, bias, first, last, y);
}

// What the handlers call, for the number of lanes that the batch asks for.
template <int B>
static constexpr Loops AllLoops() {
  return {
      TransposeInto,
      B == 1 ? ForwardRows : ForwardBlockRows,
      {ForwardTile<8, B>, ForwardTile<16, B>, ForwardTile<32, B>},
      {InputGradient<8, B>, InputGradient<16, B>, InputGradient<32, B>},
      {ValueGradients<8, B>, ValueGradients<16, B>, ValueGradients<32, B>},
  };
}
static const Loops kLoops = AllLoops<1>(), kBlockLoops = AllLoops<4>();
