"""One matrix multiply for both float types, row-major, on SciPy's BLAS; the caller holds BLAS to one thread."""

from cython cimport floating


cdef void gemm(
    bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating *a, Py_ssize_t lda, const floating *b, Py_ssize_t ldb,
    floating beta, floating *c, Py_ssize_t ldc,
) noexcept nogil
