// Refuses a large allocation that would not fit into the memory of the container, before the kernel ends Orthanc.
//
// Whoever claims a frame of 60000 x 60000, a length of 4 GB or a rendering of 40000 x 40000 makes Orthanc, DCMTK, GDCM
// or OpenJPEG ask for that memory, and each of them can be told that there is none: the call fails and Orthanc lives.
//
// Rule 1: only blocks from LARGE bytes on are counted, so that an ordinary allocation pays one comparison. Many small ones
// are counted by those who know their number (Elements).
// Rule 2: what is received may have all of the budget, anything else what is left of it while the largest object is stored
// (budget.cc): a reader's wish never takes the memory of an examination.
#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>

#include "reception.h"

extern "C" {
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);
}

// Whether this thread receives an instance, by C-STORE (reception.cc) or by HTTP (requests.cc).
bool receiving();
bool uploading();

namespace {

constexpr size_t LARGE = 1 << 20;

std::atomic<long> taken{0};
long budget = LONG_MAX, budget_of_others = LONG_MAX;

__attribute__((constructor)) void read_budget()
{
    const reception::Settings &settings = reception::settings();
    if (settings.memory == 0)
        return;
    budget = static_cast<long>(settings.memory);
    budget_of_others = budget - static_cast<long>(reception::FACTOR * settings.largest);
}

long most_of_this_thread()
{
    return receiving() || uploading() ? budget : budget_of_others;
}

bool fits(size_t size)
{
    if (size < LARGE)
        return true;
    const long most = most_of_this_thread();
    if (size <= static_cast<size_t>(most) && taken.load(std::memory_order_relaxed) <= most - static_cast<long>(size))
        return true;
    errno = ENOMEM;
    return false;
}

void count(void *block, long sign)
{
    if (block == nullptr)
        return;
    const size_t size = malloc_usable_size(block);
    if (size >= LARGE)
        taken.fetch_add(sign * static_cast<long>(size), std::memory_order_relaxed);
}

void *counted(void *block)
{
    count(block, 1);
    return block;
}

} // namespace

namespace reception {

namespace {
// After so many bytes of small blocks the heaps are trimmed. The C library has a heap for many of the threads, and would
// keep in each of them as much as the largest object there took.
constexpr uint64_t TRIMMED = 16 << 20;
} // namespace

bool Elements::hold(uint64_t bytes)
{
    if (bytes <= taken_)
        return true;
    const auto more = static_cast<long>(bytes - taken_);
    if (taken.fetch_add(more, std::memory_order_relaxed) > most_of_this_thread() - more) {
        taken.fetch_sub(more, std::memory_order_relaxed);
        return false;
    }
    taken_ = bytes;
    return true;
}

void Elements::release()
{
    if (taken_ == 0)
        return;
    if (taken_ >= TRIMMED)
        malloc_trim(0);
    taken.fetch_sub(static_cast<long>(taken_), std::memory_order_relaxed);
    taken_ = 0;
}

} // namespace reception

extern "C" {

void *malloc(size_t size) noexcept
{
    return fits(size) ? counted(__libc_malloc(size)) : nullptr;
}

void *calloc(size_t number, size_t size) noexcept
{
    size_t all = 0;
    if (__builtin_mul_overflow(number, size, &all)) {
        errno = ENOMEM;
        return nullptr;
    }
    return fits(all) ? counted(__libc_calloc(number, size)) : nullptr;
}

void *realloc(void *block, size_t size) noexcept
{
    const size_t before = block == nullptr ? 0 : malloc_usable_size(block);
    if (size > before && !fits(before >= LARGE ? size - before : size))
        return nullptr;
    count(block, -1);
    void *const found = __libc_realloc(block, size);
    // Where it fails the old block is still there.
    counted(found == nullptr && size != 0 ? block : found);
    return found;
}

void free(void *block) noexcept
{
    const int before = errno;
    count(block, -1);
    __libc_free(block);
    errno = before;
}

void *memalign(size_t alignment, size_t size) noexcept
{
    return fits(size) ? counted(__libc_memalign(alignment, size)) : nullptr;
}

void *aligned_alloc(size_t alignment, size_t size) noexcept
{
    return memalign(alignment, size);
}

int posix_memalign(void **block, size_t alignment, size_t size) noexcept
{
    if (alignment % sizeof(void *) != 0 || alignment == 0 || (alignment & (alignment - 1)) != 0)
        return EINVAL;
    const int before = errno;
    void *const found = memalign(alignment, size);
    errno = before;
    if (found == nullptr)
        return ENOMEM;
    *block = found;
    return 0;
}
}
