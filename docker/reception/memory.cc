// Keeps the memory of Orthanc's process below the limit of the container, so that the kernel does not kill Orthanc.
//
// A peer that claims a frame of 60000 x 60000, a length of 4 GB or a rendering of 40000 x 40000 makes Orthanc, DCMTK, GDCM
// or OpenJPEG ask for that memory. Each of them handles a failed allocation: the call fails and Orthanc goes on.
//
// Rule 1: every block is counted, but only a large one is refused here. No caller expects a small one to fail, so code that
// is about to make many small ones asks first (memory_left).
// Rule 2: receptions may use the whole budget. Everything else may use what remains of it while the largest object is
// stored (budget.cc): a reader's request never takes the memory of an examination.
// Rule 3: the threads that load instances for readers wait before a block of theirs is refused (loading.cc).
// Rule 4: freed memory is given back to the system. Otherwise it would be neither counted nor available. Most large blocks
// have a mapping of their own, whatever was freed before. The others are in heaps of a few threads each; these are trimmed.
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

// Say whether this thread receives an instance, by C-STORE (reception.cc) or by HTTP (requests.cc).
bool receiving();
bool uploading();

namespace {

constexpr size_t LARGE = 1 << 20;
// The memory of small blocks in ordinary work: Orthanc with its caches, and small objects. core/intake.py reserves it.
constexpr long ORDINARY = 384 << 20;
// The heaps are trimmed when this many bytes more than after the last check are in memory but not allocated.
constexpr long FREED = 64 << 20;
constexpr long BETWEEN_LOOKS = 250; // ms

std::atomic<long> large{0};
// The part of `large` that this thread has reserved.
thread_local long reserved = 0;

// The bytes of small blocks, allocated less freed. Each counter serves a part of the threads: one counter for all would take
// longer than the allocation.
struct alignas(64) Counter {
    std::atomic<long> bytes{0};
};
std::array<Counter, 64> small;

// The unused bytes that were in the heaps at the last check, and the time of that check in ms.
std::atomic<long> kept{0}, looked{0};

Counter &counter_of_this_thread()
{
    // The descriptors of threads are whole pages apart, so the low bits say nothing.
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

// Asks for the memory of a large block.
bool large_fits(size_t size)
{
    if (reception::memory_left(size))
        return true;
    // The size may be a lie that no memory suffices for.
    if (size <= static_cast<size_t>(most_of_this_thread()) && reception::memory_comes(size))
        return true;
    errno = ENOMEM;
    return false;
}

long taken()
{
    // This thread's reserve turns into small blocks one by one, so it must not count twice.
    const long blocks = large.load(std::memory_order_relaxed) - reserved;
    return blocks + std::max(0L, in_small_blocks() - ORDINARY);
}

bool fits(size_t size)
{
    return size < LARGE || large_fits(size);
}

// Returns the bytes of this process that are in memory and could not be read from a file again.
long resident()
{
    long size = 0, pages = 0, shared = 0;
    if (std::FILE *file = std::fopen("/proc/self/statm", "re")) {
        if (std::fscanf(file, "%ld %ld %ld", &size, &pages, &shared) != 3)
            pages = shared = 0;
        std::fclose(file);
    }
    return (pages - shared) * sysconf(_SC_PAGESIZE);
}

// Returns the bytes that are in memory but in no block. Negative if blocks have not been written to yet.
long unused()
{
    return resident() - in_small_blocks() - large.load(std::memory_order_relaxed);
}

void count(void *block, long sign)
{
    if (block == nullptr)
        return;
    // The header is included, because it matters for small blocks.
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
    return bytes <= static_cast<uint64_t>(most) && taken() <= most - static_cast<long>(bytes);
}

bool elements_left(bool of_all)
{
    if (taken() > (of_all ? budget : most_of_this_thread()))
        return false;
    if (resident() <= budget + ORDINARY)
        return true;
    give_back_memory();
    return resident() <= budget + ORDINARY;
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
    // memory_left does not count what this thread has reserved, so this asks for the whole number.
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
    if (size > before && size >= LARGE && !large_fits(before >= LARGE ? size - before : size))
        return nullptr;
    count(block, -1);
    void *const found = __libc_realloc(block, size);
    // If it fails, the old block still exists.
    counted(found == nullptr && size != 0 ? block : found);
    return found;
}

void free(void *block) noexcept
{
    count(block, -1);
    __libc_free(block);
}

// C23 has these two; the C library's own versions would not call our free().
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
