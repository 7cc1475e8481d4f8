// Keeps what Orthanc's process allocates below the memory of the container, before the kernel ends Orthanc.
//
// Whoever claims a frame of 60000 x 60000, a length of 4 GB or a rendering of 40000 x 40000 makes Orthanc, DCMTK, GDCM
// or OpenJPEG ask for that memory, and each of them can be told that there is none: the call fails and Orthanc lives.
//
// Rule 1: every block is counted, and a large one is refused here. Nobody expects that of a small one: who is about to make
// many of them asks before (memory_left).
// Rule 2: what is received may have all of the budget, anything else what is left of it while the largest object is stored
// (budget.cc): a reader's wish never takes the memory of an examination.
// Rule 3: what is freed is given back to the system, or it would be missing although nobody counts it. A large block mostly
// is a mapping of its own, whatever was freed before. Others are in heaps for a few threads each, which are trimmed.
#include <malloc.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
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
// So many bytes more than after the last time are in memory and not allocated: the heaps are trimmed.
constexpr long FREED = 64 << 20;
constexpr long BETWEEN_LOOKS = 250; // ms

std::atomic<long> large{0};
// The part of it that this thread has reserved.
thread_local long reserved = 0;

// Bytes of the small blocks: what is allocated less what is freed, of a part of the threads each. One counter for all would
// take longer than the allocation.
struct alignas(64) Counter {
    std::atomic<long> bytes{0};
};
std::array<Counter, 64> small;

// What the heaps keep whatever is freed, and when that was looked at, in ms.
std::atomic<long> kept{0}, looked{0};

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

__attribute__((constructor)) void prepare()
{
    mallopt(M_MMAP_THRESHOLD, LARGE);
    const reception::Settings &settings = reception::settings();
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

// Bytes that are in memory and in no block. Less than none where blocks were not written to yet.
long unused()
{
    long size = 0, resident = 0, shared = 0;
    if (std::FILE *file = std::fopen("/proc/self/statm", "re")) {
        if (std::fscanf(file, "%ld %ld %ld", &size, &resident, &shared) != 3)
            resident = shared = 0;
        std::fclose(file);
    }
    return (resident - shared) * sysconf(_SC_PAGESIZE) - in_small_blocks() - large.load(std::memory_order_relaxed);
}

void count(void *block, long sign)
{
    if (block == nullptr)
        return;
    // With its header, which counts where blocks are small.
    const size_t size = malloc_usable_size(block) + sizeof(size_t);
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
    // What this thread has reserved becomes small blocks one by one.
    const long blocks = large.load(std::memory_order_relaxed) - reserved;
    const long taken = blocks + std::max(0L, in_small_blocks() - ORDINARY);
    return bytes <= static_cast<uint64_t>(most) && taken <= most - static_cast<long>(bytes);
}

void give_back_memory()
{
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    const long moment = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    long before = looked.load(std::memory_order_relaxed);
    if (moment - before < BETWEEN_LOOKS || !looked.compare_exchange_strong(before, moment, std::memory_order_relaxed))
        return;
    if (unused() >= kept.load(std::memory_order_relaxed) + FREED)
        malloc_trim(0);
    else if (unused() >= kept.load(std::memory_order_relaxed))
        return;
    kept.store(std::max(0L, unused()), std::memory_order_relaxed);
}

bool Reserve::hold(uint64_t bytes)
{
    if (bytes <= bytes_)
        return true;
    // As if nothing of it were reserved yet.
    if (!memory_left(bytes))
        return false;
    const auto more = static_cast<long>(bytes - bytes_);
    large.fetch_add(more, std::memory_order_relaxed);
    reserved += more;
    bytes_ = bytes;
    return true;
}

void Reserve::release()
{
    large.fetch_sub(static_cast<long>(bytes_), std::memory_order_relaxed);
    reserved -= static_cast<long>(bytes_);
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
    if (size > before && size >= LARGE && !reception::memory_left(before >= LARGE ? size - before : size)) {
        errno = ENOMEM;
        return nullptr;
    }
    count(block, -1);
    void *const found = __libc_realloc(block, size);
    // Where it fails the old block is still there.
    counted(found == nullptr && size != 0 ? block : found);
    return found;
}

void free(void *block) noexcept
{
    count(block, -1);
    __libc_free(block);
}

// C23 has these two; the C library's own would not come by here.
void free_sized(void *block, size_t) noexcept
{
    free(block);
}

void free_aligned_sized(void *block, size_t, size_t) noexcept
{
    free(block);
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
