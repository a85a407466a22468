// The loops for blocks of four outputs that share their inputs: an activation
// that is loaded once meets four weights, where single entries meet one.
//
// This file is included behind loops.h, as that is. In the layout of blocks, a
// row of the tiles is a group of four outputs, an entry an input of that group:
// `starts` and `indices` count entries, and `values` has four of them each.

typedef Reg<4>::Vec Vec4;

// Registers that one pass over the entries of a row takes: four sums of each
// have to fit beside what they read.
template <int L>
struct Pass {
  static constexpr int P = Tile<L>::N < 2 ? 1 : 2;
};

// Sums entries e..end of one row over a tile: sums[4][L] += values * xt[index].
template <int L>
static inline void AddBlocks(const float* values, const uint16_t* indices,
                             long first, long end, const float* xt,
                             float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N, P = Pass<L>::P;
  constexpr int U = P == 1 ? 2 : 1;  // Entries in flight, to hide latency.
  for (int p = 0; p < N; p += P) {
    Vec acc[U][4][P];
    for (int k = 0; k < 4; ++k) {
      for (int v = 0; v < P; ++v) {
        acc[0][k][v] = Load<Vec>(sums + k * L + (p + v) * W);
        if (U == 2) acc[U - 1][k][v] = Vec{};
      }
    }
    long e = first;
    for (; e + U <= end; e += U) {
#pragma GCC unroll 2
      for (int u = 0; u < U; ++u) {
        const float* x = xt + (indices[e + u] & (CHUNK - 1)) * L + p * W;
        const float* w = values + 4 * (e + u);
        Vec in[P];
        for (int v = 0; v < P; ++v) in[v] = Load<Vec>(x + v * W);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          for (int v = 0; v < P; ++v) acc[u][k][v] += w[k] * in[v];
        }
      }
    }
    for (; e < end; ++e) {
      const float* x = xt + (indices[e] & (CHUNK - 1)) * L + p * W;
      for (int k = 0; k < 4; ++k) {
        for (int v = 0; v < P; ++v) {
          acc[0][k][v] += values[4 * e + k] * Load<Vec>(x + v * W);
        }
      }
    }
    for (int k = 0; k < 4; ++k) {
      for (int v = 0; v < P; ++v) {
        const Vec sum = U == 2 ? acc[0][k][v] + acc[U - 1][k][v] : acc[0][k][v];
        Store(sums + k * L + (p + v) * W, sum);
      }
    }
  }
}

// y rows first..last of one tile of the batch; `sums` is scratch [rows][L].
template <int L>
static void ForwardBlockTile(const Tiles& w, const float* xt, const float* bias,
                             long first, long last, float* sums, float* y,
                             long batch_rows) {
  for (long o = first; o < last; ++o) {
    for (int l = 0; l < L; ++l) sums[(o - first) * L + l] = 0;
  }
  for (long c = 0; c < w.chunks; ++c) {
    const int32_t* starts = w.starts + c * w.rows;
    for (long o = first; o < last; o += 4) {
      AddBlocks<L>(w.values, w.indices, starts[o / 4], starts[o / 4 + 1],
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

// Rows first..last for B rows of x, each in a row of `chunks * CHUNK` floats.
template <int B>
static inline void BlockRows(const Tiles& w, const float* x, const float* bias,
                             long first, long last, float* y) {
  constexpr int U = B == 1 ? 4 : 2;  // Entries in flight.
  const long stride = w.chunks * CHUNK;
  for (long o = first; o < last; o += 4) {
    Vec4 acc[U][B] = {};
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
          for (int b = 0; b < B; ++b) acc[u][b] += v * at[b * stride];
        }
      }
      for (; e < end; ++e) {
        const float* at = xc + (w.indices[e] & (CHUNK - 1));
        const Vec4 v = Load<Vec4>(w.values + 4 * e);
        for (int b = 0; b < B; ++b) acc[0][b] += v * at[b * stride];
      }
    }
    for (int b = 0; b < B; ++b) {
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

// dx of one tile and chunk, from dyt [out][L] into scratch [CHUNK][L].
template <int L>
static void BlockInputGradient(const Tiles& w, const float* dyt, long c,
                               float* sums) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N, P = Pass<L>::P;
  for (long i = 0; i < CHUNK * L; ++i) sums[i] = 0;
  const int32_t* starts = w.starts + c * w.rows;
  for (long r = 0; r < w.rows; ++r) {
    for (int p = 0; p < N; p += P) {
      Vec dy[4][P];
      for (int k = 0; k < 4; ++k) {
        for (int v = 0; v < P; ++v) {
          dy[k][v] = Load<Vec>(dyt + (4 * r + k) * L + (p + v) * W);
        }
      }
      for (long e = starts[r]; e < starts[r + 1]; ++e) {
        float* to = sums + (w.indices[e] & (CHUNK - 1)) * L + p * W;
        const float* values = w.values + 4 * e;
        for (int v = 0; v < P; ++v) {
          const Vec even = values[0] * dy[0][v] + values[2] * dy[2][v];
          const Vec odd = values[1] * dy[1][v] + values[3] * dy[3][v];
          Store(to + v * W, Load<Vec>(to + v * W) + (even + odd));
        }
      }
    }
  }
}

// Gradients of the values of K entries: `dyt` is row 0 of four of outputs.
template <int L, int K>
static inline void SumBlocks(const uint16_t* indices, const float* xt,
                             long x_stride, const float* dyt, long dy_stride,
                             long tiles, typename Tile<L>::Vec acc[4 * K]) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, N = Tile<L>::N;
  const float* x[K];
  for (int i = 0; i < K; ++i) {
    x[i] = xt + (indices[i] & (CHUNK - 1)) * L;
    for (int k = 0; k < 4; ++k) acc[4 * i + k] = Vec{};
  }
  for (long t = 0; t < tiles; ++t) {
    for (int v = 0; v < N; ++v) {
      Vec dy[4];
      for (int k = 0; k < 4; ++k) {
        dy[k] = Load<Vec>(dyt + t * dy_stride + k * L + v * W);
      }
#pragma GCC unroll 4
      for (int i = 0; i < K; ++i) {
        const Vec in = Load<Vec>(x[i] + t * x_stride + v * W);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) acc[4 * i + k] += dy[k] * in;
      }
    }
  }
}

// Gradients of the values of rows first..last of chunk c, over all tiles.
template <int L>
static void BlockValueGradients(const Tiles& w, const float* xt,
                                const float* dyt, long tiles, long c,
                                long first, long last, float* gradients) {
  using Vec = typename Tile<L>::Vec;
  constexpr int W = Tile<L>::W, K = W / 4;
  const long x_stride = w.chunks * CHUNK * L, dy_stride = w.out * L;
  const float* xc = xt + c * CHUNK * L;
  const int32_t* starts = w.starts + c * w.rows;
  for (long o = first; o < last; o += 4) {
    const float* dy = dyt + o * L;
    const long end = starts[o / 4 + 1];
    long e = starts[o / 4];
    Vec acc[W];
    for (; e + K <= end; e += K) {
      SumBlocks<L, K>(w.indices + e, xc, x_stride, dy, dy_stride, tiles, acc);
      Store(gradients + 4 * e, SumLanes<W>(acc));
    }
    for (; e < end; ++e) {
      SumBlocks<L, 1>(w.indices + e, xc, x_stride, dy, dy_stride, tiles, acc);
      for (int k = 0; k < 4; ++k) {
        float sum = 0;
        for (int l = 0; l < W; ++l) sum += acc[k][l];
        gradients[4 * e + k] = sum;
      }
    }
  }
}

// What the handlers call for blocks.
static const Loops kBlockLoops = {
    TransposeInto,
    ForwardBlockRows,
    {ForwardBlockTile<8>, ForwardBlockTile<16>, ForwardBlockTile<32>},
    {BlockInputGradient<8>, BlockInputGradient<16>, BlockInputGradient<32>},
    {BlockValueGradients<8>, BlockValueGradients<16>, BlockValueGradients<32>},
};
