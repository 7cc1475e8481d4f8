// Declares what the files of the reception share. reception.cc explains the library.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_set>
#include <utility>

struct T_ASC_Association;
struct mg_connection;

namespace reception {

// Returns the original of a function that one of these files replaces. Orthanc must not run without it.
template <typename Function> Function *replaced(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == nullptr) {
        std::fprintf(stderr, "reception: this image has no %s: build the image again\n", name);
        _exit(EXIT_FAILURE);
    }
    return reinterpret_cast<Function *>(found);
}

// Returns a peer's text as one printable word: every byte except letters, digits and ._- becomes %XX.
std::string word(const char *text);

// While Orthanc stores an object, it uses this many times the object's size; measured with objects of 50 to 400 MB.
constexpr uint64_t FACTOR = 4;

// The memory that DCMTK uses for an element or an item in addition to its value; on the wire an element has 8 bytes.
constexpr uint64_t ELEMENT_BYTES = 200;
// The additional memory, in small blocks, that Orthanc uses for each element while it stores the object. Measured with
// 20,000 to 240,000 elements of the VRs LO, LT, OB, UN and US, and with items.
constexpr uint64_t STORED_BYTES = 850;
// An ordinary image has at most FREE_ELEMENTS; they are never refused memory. Beyond them, memory is checked once every
// STEP_OF_ELEMENTS.
constexpr uint64_t FREE_ELEMENTS = 2000, STEP_OF_ELEMENTS = 100;

// Says whether this thread may allocate `bytes` more, given what Orthanc has allocated now (memory.cc).
bool memory_left(uint64_t bytes);
// Says whether this thread may allocate more small blocks, or whether any thread may. Freed blocks that are still in memory
// count as well, because the kernel counts them.
bool elements_left(bool of_all = false);
// Says whether there is memory for this thread's elements; `number` is their count so far. Not every call checks.
inline bool elements_fit(uint64_t number)
{
    return number <= FREE_ELEMENTS || number % STEP_OF_ELEMENTS != 0 || elements_left();
}
// If this thread loads instances for readers: waits until it may allocate `bytes` more; false if that took too long, and in
// any other thread (loading.cc).
bool memory_comes(uint64_t bytes);
// Waits until such a thread may write more elements. It may use the memory that is kept for receptions as well.
void wait_for_elements();
// Says whether this thread works for nobody who waits for its answer: it loads, parses or writes metadata.
bool loads();
// Says whether this thread answers a request or a command (readers.cc).
bool answers();
// Returns freed memory to the system. Call it when much may have been freed.
void give_back_memory();

// Replaces a file by rename, so that a reader never sees half of it; false if the disk refuses the write.
bool write_whole(const std::string &file, const std::string &text);

// The limits that `understudy prepare-orthanc` derived (adapters/orthanc_config.py). Orthanc exits if one is missing.
struct Settings {
    uint64_t largest = 0;  // bytes of one object
    uint64_t memory = 0;   // bytes that all receptions and all blocks of 1 MiB and more may take
    size_t associations = 0; // the number that the edge lets in
    size_t found = 0;           // most answers to one query, Orthanc's LimitFindResults
    size_t found_instances = 0; // the same at the level IMAGE, Orthanc's LimitFindInstances
    std::unordered_set<std::string> known; // listed AE titles, as words
};
const Settings &settings();

// Counts a refusal for the operator. `calling` is a word; `about` names the SOP class; `detail` is printable.
void count_refusal(const std::string &calling, const char *reason, const std::string &about, const std::string &detail);

// The share of the memory that one reception has, from its first byte until the object is stored or refused.
class Share {
  public:
    enum class Answer { taken, too_large, no_memory };

    // Strangers are refused memory before listed devices and users of HTTP are.
    explicit Share(bool listed);
    ~Share();
    Share(const Share &) = delete;
    Share &operator=(const Share &) = delete;

    // Asks for `bytes` more, before the reception allocates them. The call may wait for other receptions.
    Answer grow(uint64_t bytes);
    // Asks for the memory that Orthanc needs to store the object: several times its size.
    Answer store();
    // Gives the whole share back: the object was discarded.
    void release();

    uint64_t received() const { return received_; }
    // Says whether others wait for memory while this reception holds more than the free part.
    bool is_waited_for() const;

  private:
    friend class Budget;
    const bool listed_;
    const uint64_t number_;
    uint64_t received_ = 0;
    bool storing_ = false;
    bool waiting_to_store_ = false;
    bool waiting_ = false;
};

// Reserves memory that this thread will allocate in small blocks, for the lifetime of this object.
class Reserve {
  public:
    Reserve() = default;
    ~Reserve() { release(); }
    Reserve(const Reserve &) = delete;
    Reserve &operator=(const Reserve &) = delete;

    // Reserves `bytes` in all, not in addition; false, with nothing changed, if there is no memory for them.
    bool hold(uint64_t bytes);
    void release();

  private:
    uint64_t bytes_ = 0;
};

// What this thread reads from a peer, and the time for which it may still wait.
class Reading {
  public:
    enum class Kind { request, command, identifier, data_set };

    // The identifier of a command, and a data set to be stored, have a share of the memory.
    Reading(const T_ASC_Association *association, Kind kind, Share *share = nullptr);
    ~Reading();
    Reading(const Reading &) = delete;
    Reading &operator=(const Reading &) = delete;

    // The peer was too slow, another peer got its place, or its message is too large.
    bool ended() const { return ended_; }
    bool is_message() const { return kind_ == Kind::command || kind_ == Kind::identifier; }

  private:
    friend struct Network;
    const T_ASC_Association *const association_;
    const Kind kind_;
    Share *const share_;
    Reading *const outer_;
    double left_;
    uint64_t bytes_ = 0; // of a command or an identifier
    bool ended_ = false;
};

// Call it before this thread parses `bytes` more of a command or an identifier; false if the message is too large.
bool message_may_grow(uint64_t bytes);

// The file of notes says what this process works on. It has a header and then slots, each of SLOT_BYTES. The first
// SLOTS_OF_REQUESTS slots are for HTTP requests; after them comes one slot for each thread that stores (parking.cc).
constexpr size_t SLOT_BYTES = 256;
constexpr unsigned SLOTS_OF_REQUESTS = 128;
unsigned take_slot();
void give_back_slot(unsigned slot);
void write_slot(unsigned slot, const std::string &text);

// ends_of: how often Orthanc ended while this instance was being processed. From PARKED_AT ends on, it is refused.
constexpr unsigned PARKED_AT = 2;
unsigned ends_of(const std::string &uid);
void forget_ends_of(const std::string &uid);

// A thread takes a turn before it works on an instance: a suspect is worked on alone, all others at the same time. False if
// the turn did not come in time: then the thread works without a turn, and its note says so. Pass `waits` as false
// after a thread has waited in vain once, so that it does not wait again.
bool take_turn(bool alone, bool waits);
void end_turn(bool alone);

// The right to let Orthanc search its index, for the lifetime of this object. The constructor may wait (places.cc).
class Place {
  public:
    explicit Place(std::string caller);
    ~Place();
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;

    // False if no place became free in time.
    bool taken() const { return taken_; }

  private:
    const std::string caller_;
    bool taken_ = false;
};

// Handles an HTTP request, or answers the request itself if the body is too large (uploads.cc).
int within_limits(mg_connection *connection, int (*handle)(mg_connection *));

// Handles an HTTP request as a question, which fails if there is not enough memory for it (readers.cc).
int with_memory(mg_connection *connection, int (*handle)(mg_connection *));
// Call it when this thread begins to work on a command that came by DICOM.
void question_begins();
// Call it before this thread's question, if it has one, parses a data set.
void question_begins_data_set();
// Call it before this thread's question parses another element; false if there is no memory for the element.
bool question_may_parse_element();
// Answers this thread's HTTP request with a refusal, unless its answer has begun (requests.cc).
void refuse_request(int status, const std::string &reason);

// Call it when this thread's HTTP request reads more from its peer: the instances before that are stored (requests.cc).
void reads_on();

// Call it before the body of this thread's HTTP request is parsed; false if there is no memory for it. The call may wait.
bool upload_may_be_parsed();

// Says whether Orthanc was asked to stop; then it accepts nothing new (stop.cc).
bool stopping();

// Call it after an orderly stop of Orthanc (stop.cc): no instance that was being processed becomes a suspect.
void ended_in_order();

// Says whether the last command that this thread received lacks a SOP Instance UID that DCMTK can represent.
bool &without_uid();

} // namespace reception
