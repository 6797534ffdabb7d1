// The matrix products of cuBLAS that candle and this project call, in plain loops with float32 sums.
#include <cstring>

#include "card.h"
#include "cuda_fp16.h"

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 14 };

struct Handle {
    void* stream = nullptr;
};

// A matrix of a batch, column after column.
struct Matrix {
    char* start;
    int type;
    long long leading;
    bool transposed = false;

    size_t size() const { return type == FLOAT32 ? 4 : type == FLOAT64 ? 8 : 2; }
    char* at(int row, int column) const {
        if (transposed) std::swap(row, column);
        return start + size() * (row + leading * column);
    }
    float get(int row, int column) const {
        char* from = at(row, column);
        switch (type) {
            case FLOAT32: return *reinterpret_cast<float*>(from);
            case FLOAT64: return *reinterpret_cast<double*>(from);
            case FLOAT16: return *reinterpret_cast<__half*>(from);
            default: return *reinterpret_cast<__nv_bfloat16*>(from);
        }
    }
    void set(int row, int column, float value) const {
        char* to = at(row, column);
        switch (type) {
            case FLOAT32: *reinterpret_cast<float*>(to) = value; break;
            case FLOAT64: *reinterpret_cast<double*>(to) = value; break;
            case FLOAT16: *reinterpret_cast<__half*>(to) = value; break;
            default: *reinterpret_cast<__nv_bfloat16*>(to) = value;
        }
    }
    // Of `rows x columns`: whether columns do not overlap, and all of it is memory.
    bool fits(int rows, int columns) const {
        if (transposed) std::swap(rows, columns);
        size_t last = size() * (rows + leading * (columns - 1));
        return leading >= rows && emulated::is_live(reinterpret_cast<emulated::Device>(start), last);
    }
    Matrix moved(long long numbers) const {
        return {start + size() * numbers, type, leading, transposed};
    }
};

int multiply(
    Handle* handle, int m, int n, int k, float alpha, Matrix a, long long a_step, Matrix b, long long b_step,
    float beta, Matrix c, long long c_step, int batch) {
    for (int i = 0; i < batch; i++) {
        bool all = a.moved(i * a_step).fits(m, k) && b.moved(i * b_step).fits(k, n);
        if (!all || !c.moved(i * c_step).fits(m, n)) {
            std::fprintf(stderr, "emulated card: a product leaves its memory\n");
            return INVALID_VALUE;
        }
    }
    emulated::enqueue(handle->stream, [=] {
        for (int i = 0; i < batch; i++) {
            Matrix x = a.moved(i * a_step), y = b.moved(i * b_step), z = c.moved(i * c_step);
            std::vector<float> left(size_t(m) * k), right(size_t(k) * n);
            for (int r = 0; r < m; r++)
                for (int j = 0; j < k; j++) left[size_t(r) * k + j] = x.get(r, j);
            for (int q = 0; q < n; q++)
                for (int j = 0; j < k; j++) right[size_t(q) * k + j] = y.get(j, q);
            for (int q = 0; q < n; q++)
                for (int r = 0; r < m; r++) {
                    float sum = 0;
                    for (int j = 0; j < k; j++) sum += left[size_t(r) * k + j] * right[size_t(q) * k + j];
                    z.set(r, q, alpha * sum + (beta == 0 ? 0 : beta * z.get(r, q)));
                }
        }
    });
    return SUCCESS;
}

// Factors have the type that sums have: 16 bits for `CUBLAS_COMPUTE_16F`.
float factor(const void* from, int compute) {
    if (compute == 64) return *static_cast<const __half*>(from);
    return *static_cast<const float*>(from);
}

Matrix matrix(const void* start, int type, int leading, int operation) {
    return {static_cast<char*>(const_cast<void*>(start)), type, leading, operation != 0};
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cublasCreate_v2(Handle** handle) { return *handle = new Handle, SUCCESS; }
EXPORT int cublasDestroy_v2(Handle* handle) { return delete handle, SUCCESS; }
EXPORT int cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, SUCCESS; }
EXPORT int cublasSetWorkspace_v2(Handle*, void* start, size_t bytes) {
    bool fits = emulated::is_live(reinterpret_cast<emulated::Device>(start), bytes);
    return fits ? SUCCESS : INVALID_VALUE;
}
EXPORT int cublasGemmEx(
    Handle* handle, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
    const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute, int) {
    return multiply(
        handle, m, n, k, factor(alpha, compute), matrix(a, a_type, lda, ta), 0, matrix(b, b_type, ldb, tb), 0,
        factor(beta, compute), matrix(c, c_type, ldc, 0), 0, 1);
}
EXPORT int cublasGemmStridedBatchedEx(
    Handle* handle, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
    long long a_step, const void* b, int b_type, int ldb, long long b_step, const void* beta, void* c, int c_type,
    int ldc, long long c_step, int batch, int compute, int) {
    return multiply(
        handle, m, n, k, factor(alpha, compute), matrix(a, a_type, lda, ta), a_step, matrix(b, b_type, ldb, tb),
        b_step, factor(beta, compute), matrix(c, c_type, ldc, 0), c_step, batch);
}
EXPORT int cublasDgemmStridedBatched() { return NOT_SUPPORTED; }
