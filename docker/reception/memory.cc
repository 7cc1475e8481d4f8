// Keeps what Orthanc's process allocates below the memory of the container, before the kernel ends Orthanc.
//
// Whoever claims a frame of 60000 x 60000, a length of 4 GB or a rendering of 40000 x 40000 makes Orthanc, DCMTK, GDCM
// or OpenJPEG ask for that memory, and each of them can be told that there is none: the call fails and Orthanc lives.
//
// Rule 1: every block is counted, and a large one is refused here. Nobody expects that of a small one: who is about to make
// many of them asks before (memory_left).
// Rule 2: what is received may have all of the budget, anything else what is left of it while the largest object is stored
// (budget.cc): a reader's wish never takes the memory of an examination.
// Rule 3: what many small blocks took is given back to the system. The C library has a heap for many of the threads, and
// would keep in each of them as much as the largest object there took.
#include <malloc.h>
#include <pthread.h>

#include <algorithm>
#include <array>
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
// What small blocks take in ordinary work, of the memory that core/intake.py reserves for it: Orthanc with its caches,
// and small objects.
constexpr long ORDINARY = 384 << 20;
// Small blocks of so many bytes were freed: the heaps are trimmed.
constexpr long FREED = 64 << 20;

std::atomic<long> large{0};

// Bytes of the small blocks: what is allocated less what is freed, of a part of the threads each. One counter for all would
// take longer than the allocation.
struct alignas(64) Counter {
    std::atomic<long> bytes{0};
};
std::array<Counter, 64> small;
// The most of them since the heaps were trimmed.
std::atomic<long> most_small{0};

Counter &counter_of_this_thread()
{
    // The descriptors of threads are pages apart.
    const uint64_t mixed = (static_cast<uint64_t>(pthread_self()) >> 12) * 0x9E3779B97F4A7C15ULL;
    return small[mixed >> 58];
}

long in_small_blocks()
{
    long sum = 0;
    for (const Counter &counter : small)
        sum += counter.bytes.load(std::memory_order_relaxed);
    return sum;
}

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
    if (size < LARGE || reception::memory_left(size))
        return true;
    errno = ENOMEM;
    return false;
}

void count(void *block, long sign)
{
    if (block == nullptr)
        return;
    const size_t size = malloc_usable_size(block);
    std::atomic<long> &bytes = size >= LARGE ? large : counter_of_this_thread().bytes;
    bytes.fetch_add(sign * static_cast<long>(size), std::memory_order_relaxed);
}

void *counted(void *block)
{
    count(block, 1);
    return block;
}

} // namespace

namespace reception {

bool memory_left(uint64_t bytes)
{
    const long most = most_of_this_thread();
    const long now = in_small_blocks();
    long before = most_small.load(std::memory_order_relaxed);
    while (before < now && !most_small.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
    }
    const long taken = large.load(std::memory_order_relaxed) + std::max(0L, now - ORDINARY);
    return bytes <= static_cast<uint64_t>(most) && taken <= most - static_cast<long>(bytes);
}

void give_back_memory()
{
    const long now = in_small_blocks();
    long before = most_small.load(std::memory_order_relaxed);
    if (before - now >= FREED && most_small.compare_exchange_strong(before, now, std::memory_order_relaxed))
        malloc_trim(0);
}

bool Reserve::hold(uint64_t bytes)
{
    if (bytes <= bytes_)
        return true;
    if (!memory_left(bytes - bytes_))
        return false;
    large.fetch_add(static_cast<long>(bytes - bytes_), std::memory_order_relaxed);
    bytes_ = bytes;
    return true;
}

void Reserve::release()
{
    large.fetch_sub(static_cast<long>(bytes_), std::memory_order_relaxed);
    bytes_ = 0;
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
