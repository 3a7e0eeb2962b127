"""BLAS for the kernels: `gemm` of blas.pxd, and the blocked product behind linear layers."""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython cimport floating

from fastconv._ext.buffers cimport float_size, read_from, write_to
from fastconv._ext.team cimport Task, run

from scipy.linalg import cython_blas

from fastconv._ext.capture import Kernel

ctypedef void (*Sgemm)(
    char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *, float *, int *
) noexcept nogil
ctypedef void (*Dgemm)(
    char *, char *, int *, int *, int *, double *, double *, int *, double *, int *, double *, double *, int *
) noexcept nogil


ctypedef void (*Sgemv)(
    char *, int *, int *, float *, float *, int *, float *, int *, float *, float *, int *
) noexcept nogil
ctypedef void (*Dgemv)(
    char *, int *, int *, double *, double *, int *, double *, int *, double *, double *, int *
) noexcept nogil


cdef void *scipy_function(str name, bytes arguments) except NULL:
    """One of SciPy's BLAS, looked up as `cimport` would, signature and all; but SciPy is not needed to compile."""
    cdef bytes real = b"__pyx_t_5scipy_6linalg_11cython_blas_" + name[:1].encode()
    cdef bytes signature = b"void (" + arguments.replace(b"R", real) + b")"
    return PyCapsule_GetPointer(cython_blas.__pyx_capi__[name], signature)


cdef bytes of_gemm = b"char *, char *, int *, int *, int *, R *, R *, int *, R *, int *, R *, R *, int *"
cdef bytes of_gemv = b"char *, int *, int *, R *, R *, int *, R *, int *, R *, R *, int *"
cdef Sgemm sgemm = <Sgemm> scipy_function("sgemm", of_gemm)
cdef Dgemm dgemm = <Dgemm> scipy_function("dgemm", of_gemm)
cdef Sgemv sgemv = <Sgemv> scipy_function("sgemv", of_gemv)
cdef Dgemv dgemv = <Dgemv> scipy_function("dgemv", of_gemv)


cdef class Hold:
    """A context in which BLAS's own pool runs on one thread: `get` and `set` are addresses of functions that ask for
    its count and set it, 0 where there are none. The count is the process's: holders are counted, in all threads, and
    the last one restores it. The GIL is held throughout."""

    cdef int (*get)() noexcept
    cdef void (*set)(int) noexcept
    cdef Py_ssize_t holders
    cdef int before

    def __init__(self, size_t get, size_t set):
        self.get, self.set = <int (*)() noexcept> get, <void (*)(int) noexcept> set

    def __enter__(self):
        self.holders += 1
        if self.holders == 1 and self.set != NULL:
            self.before = self.get()
            if self.before != 1:
                self.set(1)

    def __exit__(self, *error):
        if self.holders == 1 and self.set != NULL and self.before != 1:
            self.set(self.before)
        self.holders = max(<Py_ssize_t> 0, self.holders - 1)

    def forget(self):
        """Nobody holds: in a forked child, where the other threads are not."""
        self.holders = 0


cdef enum:
    FEW_ROWS = 8
    PACKED = 1 << 20  # multiply-adds, about, from which gemm packs what it multiplies
    LONGEST_SUM = 1 << 18  # terms that gemv adds up with as many digits as gemm, which does so in pieces: along rows,
    LONGEST_CHAIN = 1 << 14  # and down columns
    PIECE = 1 << 16  # elements


cdef Py_ssize_t longest = 1 << 30  # rows, columns, or steps between rows that one call of BLAS is given


cdef void gemm(
    bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating *a, Py_ssize_t lda, const floating *b, Py_ssize_t ldb,
    floating beta, floating *c, Py_ssize_t ldc,
) noexcept nogil:
    """c (m, n) = op(a) (m, k) @ op(b) (k, n) + beta * c, row-major. BLAS counts in 32 bits: what is larger is cut."""
    cdef Py_ssize_t rows = longest, columns = longest, inner = longest  # of a piece
    cdef Py_ssize_t i = 0, j, p
    if max(m, n, k, lda, ldb, ldc) <= longest:
        product(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
        return
    # a row that BLAS cannot step over is a piece of its own
    if lda > longest:
        if transpose_a:
            inner = 1
        else:
            rows = 1
    if ldb > longest:
        if transpose_b:
            columns = 1
        else:
            inner = 1
    if ldc > longest:
        rows = 1
    while i < m:
        j = 0
        while j < n:
            p = 0
            while True:  # at least once: beta * c, where k is 0
                product(
                    transpose_a, transpose_b, min(rows, m - i), min(columns, n - j), min(inner, k - p),
                    a + (p * lda + i if transpose_a else i * lda + p), min(lda, longest),
                    b + (j * ldb + p if transpose_b else p * ldb + j), min(ldb, longest),
                    beta if p == 0 else <floating> 1, c + i * ldc + j, min(ldc, longest),
                )
                p += inner
                if p >= k:
                    break
            j += columns
        i += rows


cdef inline void product(
    bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating *a, Py_ssize_t lda, const floating *b, Py_ssize_t ldb,
    floating beta, floating *c, Py_ssize_t ldc,
) noexcept nogil:
    """BLAS sees the transposed product b' a'."""
    cdef char ta = b'T' if transpose_a else b'N'
    cdef char tb = b'T' if transpose_b else b'N'
    cdef int rows = <int> m, columns = <int> n, inner = <int> k
    cdef int ld_a = <int> lda, ld_b = <int> ldb, ld_c = <int> ldc
    cdef floating one = 1
    cdef bint by_rows = (m == 1 and n > 0 and k > 0) or (m <= FEW_ROWS and m * n * k > PACKED)
    if by_rows and k <= (LONGEST_SUM if transpose_b else LONGEST_CHAIN):
        product_of_rows(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
    elif floating is float:
        sgemm(&tb, &ta, &columns, &rows, &inner, &one, <float *> b, &ld_b, <float *> a, &ld_a, &beta, c, &ld_c)
    else:
        dgemm(&tb, &ta, &columns, &rows, &inner, &one, <double *> b, &ld_b, <double *> a, &ld_a, &beta, c, &ld_c)


cdef void product_of_rows(
    bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating *a, Py_ssize_t lda, const floating *b, Py_ssize_t ldb,
    floating beta, floating *c, Py_ssize_t ldc,
) noexcept nogil:
    """The same row by row: gemm would pack b, which takes longer than to multiply by it. Of b as much as the second
    cache holds is taken at a time."""
    cdef char tb = b'T' if transpose_b else b'N'
    cdef int ld_a = <int> lda if transpose_a else 1, ld_b = <int> ldb, one_step = 1, rows, columns
    cdef Py_ssize_t at = 0, i, some, length = k if transpose_b else n, count = n if transpose_b else k
    cdef Py_ssize_t most = count if m == 1 else max(<Py_ssize_t> 1, PIECE // max(<Py_ssize_t> 1, length))
    cdef floating one = 1, before = beta
    cdef const floating *x
    cdef floating *y
    while at < count:
        some = min(most, count - at)
        rows, columns = (<int> k, <int> some) if transpose_b else (<int> n, <int> some)
        for i in range(m):
            x = a + (i if transpose_a else i * lda)
            y = c + i * ldc
            if transpose_b:
                y += at
            else:
                x += at * ld_a
            if floating is float:
                sgemv(
                    &tb, &rows, &columns, &one, <float *> b + at * ldb, &ld_b, <float *> x, &ld_a, &before, y,
                    &one_step,
                )
            else:
                dgemv(
                    &tb, &rows, &columns, &one, <double *> b + at * ldb, &ld_b, <double *> x, &ld_a, &before, y,
                    &one_step,
                )
        if not transpose_b:
            before = 1
        at += most


cdef struct Matmul:
    const void *b
    const void *bias  # may be NULL
    void *out
    Py_ssize_t m, n, k, lda, ldb, row_block, column_block, inner_block
    Py_ssize_t across, blocks  # side by side; of one sum
    bint transpose_a, transpose_b


@Kernel
def matmul(a, b, bias, out, Py_ssize_t row_block, Py_ssize_t column_block, Py_ssize_t inner_block, int num_threads):
    """out[i] = a @ b over the i-th `inner_block` of the sums' terms, cut into blocks of `row_block` x `column_block`
    outputs, one BLAS call each; bias, which may be None, is added to every row. a and b are matrices, C-contiguous or
    transposed so, out (sums, m, n) and bias C-contiguous; all of one float type."""
    cdef Py_ssize_t itemsize = float_size(out)
    cdef Matrix left = matrix(a, itemsize), right = matrix(b, itemsize)
    cdef Py_ssize_t m = left.rows, n = right.columns, k = left.columns
    if right.rows != k or min(row_block, column_block, inner_block) < 1:
        raise ValueError(
            f"matmul: got {a.shape} and {b.shape} for {out.shape}, in blocks of {row_block}, {column_block}, "
            f"{inner_block}"
        )
    row_block = min(row_block, max(<Py_ssize_t> 1, m))
    column_block = min(column_block, max(<Py_ssize_t> 1, n))
    inner_block = min(inner_block, max(<Py_ssize_t> 1, k))
    cdef Py_ssize_t across = (n + column_block - 1) // column_block
    cdef Py_ssize_t blocks = (m + row_block - 1) // row_block * across
    cdef Py_ssize_t sums = max(<Py_ssize_t> 1, (k + inner_block - 1) // inner_block)
    cdef Matmul c = Matmul(
        right.first, read_from(bias, n, itemsize), write_to(out, sums * m * n, itemsize), m, n, k, left.step,
        right.step, row_block, column_block, inner_block, across, blocks, left.transposed, right.transposed,
    )
    if m == 0 or n == 0:
        return
    run(
        <Task> matmul_task[float] if itemsize == sizeof(float) else <Task> matmul_task[double], left.first, &c,
        sums * blocks, num_threads,
    )


cdef struct Matrix:
    const void *first
    Py_ssize_t rows, columns, step  # elements between the rows that lie in memory
    bint transposed


cdef Matrix matrix(array, Py_ssize_t itemsize) except *:
    """How a matrix lies, which the caller holds."""
    cdef Py_buffer view
    cdef Py_ssize_t rows, columns
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    try:
        if view.ndim != 2 or view.itemsize != itemsize:
            raise ValueError(f"matmul: matrices of {itemsize} bytes an element expected, got {array.shape}")
        rows, columns = view.shape[0], view.shape[1]
        if lies_in_rows(rows, columns, view.strides[0], view.strides[1], itemsize):
            return Matrix(view.buf, rows, columns, max(<Py_ssize_t> 1, columns), False)
        if lies_in_rows(columns, rows, view.strides[1], view.strides[0], itemsize):
            return Matrix(view.buf, rows, columns, max(<Py_ssize_t> 1, rows), True)
        raise ValueError(f"matmul: a matrix must be contiguous, or its transpose, got strides {array.strides}")
    finally:
        PyBuffer_Release(&view)


cdef inline bint lies_in_rows(
    Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t down, Py_ssize_t along, Py_ssize_t itemsize
) noexcept:
    return (columns <= 1 or along == itemsize) and (rows <= 1 or down == columns * itemsize)


cdef void matmul_task(const floating *a, const Matmul *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t sum = task // c.blocks, p = sum * c.inner_block, block = task % c.blocks, row, column
    cdef Py_ssize_t i = block // c.across * c.row_block, j = block % c.across * c.column_block
    cdef Py_ssize_t rows = min(c.row_block, c.m - i), columns = min(c.column_block, c.n - j)
    cdef const floating *bias = <const floating *> c.bias
    cdef floating *out = <floating *> c.out + (sum * c.m + i) * c.n + j
    gemm(
        c.transpose_a, c.transpose_b, rows, columns, min(c.inner_block, c.k - p),
        a + (p * c.lda + i if c.transpose_a else i * c.lda + p), c.lda,
        <const floating *> c.b + (j * c.ldb + p if c.transpose_b else p * c.ldb + j), c.ldb, <floating> 0, out, c.n,
    )
    if c.bias != NULL:
        for row in range(rows):
            for column in range(columns):
                out[row * c.n + column] += bias[j + column]


def set_longest(Py_ssize_t count):
    """Cut products into pieces of at most `count` rows, columns and terms, as if BLAS counted no further; returns what
    held before (tests do this)."""
    global longest
    cdef Py_ssize_t before = longest
    longest = count
    return before
