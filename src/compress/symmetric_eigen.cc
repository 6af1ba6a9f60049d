#include "compress/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "base/check.h"

namespace bantam {
namespace {

constexpr size_t kLanes = 8;
// Reflections whose effect on the rest of the matrix is made good for together: each pass over the matrix costs as much as one of them.
constexpr size_t kBlock = 32;
// Columns that a thread turns at once: so many of all rows stay in a cache of the second level.
constexpr size_t kStrip = 16;
constexpr size_t kRotationsAtOnce = size_t{1} << 16;
constexpr size_t kVectorsAtOnce = 8;
constexpr size_t kTogetherMin = 192;  // rows

// In an order of its own, so that it is vectorised, and the same for every caller.
double Dot(const double* a, const double* b, size_t n) {
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) sums[k] += a[i + k] * b[i + k];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

void AddTimes(double factor, const double* in, double* out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] += factor * in[i];
}

// Householder's reduction in blocks (Dongarra et al., "Block reduction of matrices to condensed forms", 1989): A of a block's steps is
// A_0 - V W^T - W V^T, and is written down once a block.
class Tridiagonal {
 public:
  Tridiagonal(std::vector<double> a, size_t n) : n_(n), a_(std::move(a)), diagonal_(n), beside_(n), factors_(n), sums_(n) {
    v_.resize(kBlock * n);
    w_.resize(kBlock * n);
  }

  void Reduce(ThreadPool& pool) {
    // Of small matrices meeting takes longer than the work.
    if (n_ < kTogetherMin) return Reduce(/*thread=*/0, /*threads=*/1, [] {});
    pool.Run([&](int thread) { Reduce(thread, pool.size(), [&] { pool.Barrier(thread); }); });
  }

  std::vector<double>& diagonal() { return diagonal_; }
  std::vector<double>& beside() { return beside_; }  // [i]: between i and i + 1

  // z = H_0 H_1 ... z for eigenvectors of the three diagonals, [count][n].
  void TurnBack(std::span<double> z) const {
    for (size_t first = 0; first < z.size() / n_; first += kVectorsAtOnce) {
      const size_t end = std::min(first + kVectorsAtOnce, z.size() / n_);
      for (size_t j = n_; j-- > 0;) {
        if (factors_[j] == 0) continue;
        const double* v = &a_[j * n_ + j + 1];
        for (size_t k = first; k < end; ++k) {
          double* vector = &z[k * n_ + j + 1];
          AddTimes(-factors_[j] * Dot(v, vector, n_ - j - 1), v, vector, n_ - j - 1);
        }
      }
    }
  }

 private:
  double* V(size_t b) { return &v_[b * n_]; }
  double* W(size_t b) { return &w_[b * n_]; }

  template <typename Meet>
  void Reduce(int thread, int threads, const Meet& meet) {
    for (size_t first = 0; first < n_; first += kBlock) {
      const size_t count = std::min(kBlock, n_ - first);
      for (size_t b = 0; b < count; ++b) {
        const size_t j = first + b;
        if (thread == 0) Reflect(j, b);
        meet();
        const auto [begin, end] = Share(n_ - j - 1, thread, threads);
        for (size_t i = j + 1 + begin; i < j + 1 + end; ++i) sums_[i] = Dot(&a_[i * n_ + j + 1], V(b) + j + 1, n_ - j - 1);
        meet();
        if (thread == 0) FinishStep(j, b);
      }
      meet();
      const auto [begin, end] = Share(n_ - first - count, thread, threads);
      for (size_t i = first + count + begin; i < first + count + end; ++i) WriteRow(i, first + count, count);
      meet();
    }
  }

  // The reflection that makes row j zero from j + 2 on. Its vector takes the row's place.
  void Reflect(size_t j, size_t block) {
    double* row = &a_[j * n_];
    for (size_t b = 0; b < block; ++b) {
      AddTimes(-V(b)[j], W(b) + j, row + j, n_ - j);
      AddTimes(-W(b)[j], V(b) + j, row + j, n_ - j);
    }
    diagonal_[j] = row[j];
    std::fill(V(block), V(block) + n_, 0.0);
    factors_[j] = 0;
    if (j + 1 >= n_) return;
    const size_t left = n_ - j - 1;
    double* v = row + j + 1;
    beside_[j] = v[0];
    const double rest = Dot(v + 1, v + 1, left - 1);
    if (rest > 0) {
      // The sign that cancels nothing.
      const double length = std::copysign(std::sqrt(v[0] * v[0] + rest), v[0]);
      const double head = v[0] + length;
      for (size_t i = 1; i < left; ++i) v[i] /= head;
      factors_[j] = head / length;
      beside_[j] = -length;
      v[0] = 1;
      std::copy(v, v + left, V(block) + j + 1);
    }
  }

  // w = f (A v) - f^2 (v A v) / 2 v.
  void FinishStep(size_t j, size_t block) {
    double* w = W(block);
    std::fill(w, w + n_, 0.0);
    if (factors_[j] == 0) return;
    const size_t left = n_ - j - 1;
    const double* v = V(block) + j + 1;
    w += j + 1;
    std::copy(sums_.begin() + static_cast<std::ptrdiff_t>(j + 1), sums_.end(), w);
    for (size_t b = 0; b < block; ++b) {
      const double of_w = Dot(W(b) + j + 1, v, left);
      const double of_v = Dot(V(b) + j + 1, v, left);
      AddTimes(-of_w, V(b) + j + 1, w, left);
      AddTimes(-of_v, W(b) + j + 1, w, left);
    }
    for (size_t i = 0; i < left; ++i) w[i] *= factors_[j];
    AddTimes(-factors_[j] / 2 * Dot(w, v, left), v, w, left);
  }

  void WriteRow(size_t i, size_t from, size_t count) {
    double* row = &a_[i * n_ + from];
    for (size_t b = 0; b < count; ++b) {
      const double v = V(b)[i];
      const double w = W(b)[i];
      const double* vs = V(b) + from;
      const double* ws = W(b) + from;
      for (size_t k = 0; k < n_ - from; ++k) row[k] -= v * ws[k] + w * vs[k];
    }
  }

  const size_t n_;
  std::vector<double> a_;  // [n][n]: what is left, and in front of it the vectors of reflections, from the diagonal on
  std::vector<double> diagonal_, beside_;
  std::vector<double> factors_;  // of reflections: I - f v v^T; 0: none
  std::vector<double> sums_;     // A v
  std::vector<double> v_, w_;    // [kBlock][n]
};

// Turns rows i and i + 1 of the vectors.
struct Rotation {
  uint32_t row;
  double cosine;
  double sine;
};

// Every thread has columns of its own.
void Apply(const std::vector<Rotation>& rotations, size_t n, ThreadPool& pool, std::vector<double>* z) {
  pool.Run([&](int thread) {
    const auto [begin, end] = Share((n + kStrip - 1) / kStrip, thread, pool.size());
    for (size_t strip = begin; strip < end; ++strip) {
      const size_t first = strip * kStrip;
      const size_t count = std::min(kStrip, n - first);
      for (const Rotation& rotation : rotations) {
        double* upper = z->data() + rotation.row * n + first;
        double* lower = upper + n;
        const double c = rotation.cosine, s = rotation.sine;
        for (size_t k = 0; k < count; ++k) {
          const double f = lower[k];
          lower[k] = s * upper[k] + c * f;
          upper[k] = c * upper[k] - s * f;
        }
      }
    }
  });
}

// The QL method on three diagonals.
class Ql {
 public:
  // z [n][n], row after row the vectors; empty: only values are wanted.
  Ql(std::vector<double>& d, std::vector<double>& e, std::vector<double>* z, ThreadPool& pool) : d_(d), e_(e), z_(z), pool_(pool) {
    double largest = 0;
    for (size_t i = 0; i < d.size(); ++i) largest = std::max({largest, std::abs(d[i]), std::abs(e[i])});
    negligible_ = largest * std::numeric_limits<double>::epsilon() / 16;
  }

  // False when it does not end, which numbers that are finite do not make it.
  bool Run() {
    for (size_t i = 0; i < d_.size(); ++i) {
      for (size_t steps = 0;; ++steps) {
        const size_t end = EndOfBlock(i);
        if (end == i) break;
        if (steps == kStepsMax) return false;
        Step(i, end);
      }
    }
    Flush();
    return true;
  }

 private:
  static constexpr size_t kStepsMax = 200;

  // The first place from i on behind which the next element is nothing.
  size_t EndOfBlock(size_t i) const {
    for (; i + 1 < d_.size(); ++i) {
      const double beside = std::abs(e_[i]);
      if (beside <= negligible_ || beside <= std::numeric_limits<double>::epsilon() * (std::abs(d_[i]) + std::abs(d_[i + 1]))) break;
    }
    return i;
  }

  // A step with Wilkinson's shift, from the end of the block to its beginning.
  void Step(size_t begin, size_t end) {
    double g = (d_[begin + 1] - d_[begin]) / (2 * e_[begin]);
    g = d_[end] - d_[begin] + e_[begin] / (g + std::copysign(std::hypot(g, 1.0), g));
    double sine = 1, cosine = 1, p = 0;
    for (size_t i = end; i-- > begin;) {
      const double f = sine * e_[i];
      const double b = cosine * e_[i];
      const double r = std::hypot(f, g);
      e_[i + 1] = r;
      if (r == 0) {
        d_[i + 1] -= p;
        e_[end] = 0;
        return;
      }
      sine = f / r;
      cosine = g / r;
      g = d_[i + 1] - p;
      const double t = (d_[i] - g) * sine + 2 * cosine * b;
      p = sine * t;
      d_[i + 1] = g + p;
      g = cosine * t - b;
      if (z_ != nullptr) rotations_.push_back({static_cast<uint32_t>(i), cosine, sine});
    }
    d_[begin] -= p;
    e_[begin] = g;
    e_[end] = 0;
    if (rotations_.size() >= kRotationsAtOnce) Flush();
  }

  void Flush() {
    if (z_ != nullptr && !rotations_.empty()) Apply(rotations_, d_.size(), pool_, z_);
    rotations_.clear();
  }

  std::vector<double>& d_;
  std::vector<double>& e_;
  std::vector<double>* const z_;
  ThreadPool& pool_;
  double negligible_ = 0;
  std::vector<Rotation> rotations_;
};

}  // namespace

Result<SymmetricEigen> DecomposeSymmetric(std::vector<double> a, size_t n, size_t count, ThreadPool& pool) {
  CHECK(n > 0 && a.size() == n * n && count <= n);
  double largest = 0;
  for (const double value : a) {
    if (!std::isfinite(value)) return Error(Code::kCorrupt, "a matrix that holds what is no number");
    largest = std::max(largest, std::abs(value));
  }
  SymmetricEigen eigen;
  eigen.values.assign(n, 0);
  // Squares of what is very small or very large are still numbers.
  const double scale = largest > 0 ? std::exp2(-std::ilogb(largest)) : 1;
  for (double& value : a) value *= scale;
  Tridiagonal reduced(std::move(a), n);
  reduced.Reduce(pool);
  std::vector<double> z;
  if (count > 0) {
    z.resize(n * n);
    for (size_t i = 0; i < n; ++i) z[i * n + i] = 1;
  }
  if (!Ql(reduced.diagonal(), reduced.beside(), count > 0 ? &z : nullptr, pool).Run()) {
    return Error(Code::kInternal, "the eigenvalues of a matrix were not found; please report it");
  }
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  const std::vector<double>& values = reduced.diagonal();
  std::stable_sort(order.begin(), order.end(), [&](uint32_t x, uint32_t y) { return values[x] > values[y]; });
  for (size_t i = 0; i < n; ++i) eigen.values[i] = values[order[i]] / scale;
  eigen.vectors.resize(count * n);
  for (size_t i = 0; i < count; ++i) std::copy_n(&z[order[i] * n], n, &eigen.vectors[i * n]);
  pool.Run([&](int thread) {
    const auto [begin, end] = Share(count, thread, pool.size());
    reduced.TurnBack(std::span(eigen.vectors).subspan(begin * n, (end - begin) * n));
  });
  return eigen;
}

}  // namespace bantam
