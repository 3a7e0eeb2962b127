cdef extern from *:
    """
    #ifdef _OPENMP
    #define FASTCONV_OPENMP 1
    #else
    #define FASTCONV_OPENMP 0
    #endif
    """
    const bint FASTCONV_OPENMP
