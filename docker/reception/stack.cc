// Gives every thread of Orthanc a stack of 8 MiB.
//
// The HTTP server gives its threads 100 KB. A body with 200 nested brackets, or the rendering of an ordinary colour
// JPEG 2000, overflows that and ends Orthanc. A stack uses memory only for the pages that are touched.
#include <pthread.h>

#include <algorithm>

#include "reception.h"

namespace {
constexpr size_t STACK_BYTES = 8 << 20;
}

extern "C" int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size) noexcept
{
    using SetStackSize = int(pthread_attr_t *, size_t);
    static SetStackSize *const set = reception::replaced<SetStackSize>("pthread_attr_setstacksize");
    return set(attributes, std::max(size, STACK_BYTES));
}
