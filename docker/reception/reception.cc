// Runs in Orthanc's process (LD_PRELOAD; docker/start.sh) and checks what the network brings before DCMTK parses it.
//
// DCMTK 3.7.0 recurses as deep as a data set is nested, keeps all that a deflated one inflates to, and aborts the whole
// association if it cannot read a data set: then the peer never sends the instances that would follow.
//
// This file guards the parser. associations.cc limits associations, budget.cc and memory.cc memory, readers.cc readers'
// requests, uploads.cc the bodies of HTTP requests, places.cc the searches. loading.cc lets those wait that load for
// readers. parking.cc isolates instances that end Orthanc, refusals.cc counts refusals, stack.cc enlarges the stacks.
//
// Rule 1: a data set that is refused here is read to its end and discarded. The answer is 0xC000 (PS3.4 B.2.3), or 0xA700
// if the peer may send it again later. The association goes on.
// Rule 2: an ordinary store costs two writes into the page cache, for its note (parking.cc).
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dcdatset.h>
#include <dcmtk/dcmdata/dcdeftag.h>
#include <dcmtk/dcmdata/dcistrma.h>
#include <dcmtk/dcmdata/dcsequen.h>
#include <dcmtk/dcmdata/dcxfer.h>
#include <dcmtk/dcmnet/dimse.h>

#include "reception.h"

namespace reception {

std::string word(const char *text)
{
    std::string padded(text == nullptr ? "" : text), encoded;
    padded.erase(padded.find_last_not_of(' ') + 1);
    for (const unsigned char byte : padded) {
        const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
                           byte == '.' || byte == '_' || byte == '-';
        std::array<char, 4> escaped{};
        std::snprintf(escaped.data(), escaped.size(), plain ? "%c" : "%%%02X", byte);
        encoded += escaped.data();
    }
    // A minus sign alone stands for an empty text.
    if (encoded == "-")
        return "%2D";
    return encoded.empty() ? "-" : encoded;
}

bool write_whole(const std::string &file, const std::string &text)
{
    const std::string part = file + ".part";
    bool written = false;
    if (std::FILE *opened = std::fopen(part.c_str(), "we")) {
        written = std::fwrite(text.data(), 1, text.size(), opened) == text.size() && std::fflush(opened) == 0 &&
                  fsync(fileno(opened)) == 0;
        written = std::fclose(opened) == 0 && written;
    }
    return written && std::rename(part.c_str(), file.c_str()) == 0;
}

// The file has one `NAME VALUE` a line, and a line `known TITLE` for each listed AE title. Without its limits Orthanc must
// not accept anything.
const Settings &settings()
{
    static const Settings *const only = [] {
        auto *const read = new Settings;
        const char *const file = std::getenv("UNDERSTUDY_RECEPTION");
        std::ifstream lines(file == nullptr ? "" : file);
        std::string name, value;
        while (lines >> name >> value) {
            if (name == "known")
                read->known.insert(value);
            else if (name == "largest")
                read->largest = std::strtoull(value.c_str(), nullptr, 10);
            else if (name == "memory")
                read->memory = std::strtoull(value.c_str(), nullptr, 10);
            else if (name == "associations")
                read->associations = std::strtoull(value.c_str(), nullptr, 10);
            else if (name == "found")
                read->found = std::strtoull(value.c_str(), nullptr, 10);
            else if (name == "found_instances")
                read->found_instances = std::strtoull(value.c_str(), nullptr, 10);
        }
        const bool whole = lines.eof() && read->largest > 0 && read->memory > 0 && read->associations > 0 &&
                           read->found > 0 && read->found_instances > 0;
        if (!whole) {
            std::fprintf(stderr,
                         "reception: Orthanc does not start, its limits are not in the file '%s': run `docker compose -f "
                         "docker/compose.yml up -d --force-recreate orthanc`, which writes it, and see the lines above\n",
                         file == nullptr ? "" : file);
            _exit(EXIT_FAILURE);
        }
        return read;
    }();
    return *only;
}

} // namespace reception

namespace {

using namespace reception;

// The same limit as in plugins/understudy/plugin/shape.py, which has to suit the small stacks of Orthanc's HTTP threads.
constexpr unsigned MAX_DEPTH = 32;
constexpr offile_off_t MAX_INFLATED = 128 << 20;
constexpr uint64_t MAX_ELEMENTS = 1000000;

// Objects with more elements are stored one at a time: each keeps a processor busy for seconds, and a small image that
// arrives meanwhile needs a processor too. An object that has waited for PATIENCE is stored beside the others.
constexpr uint64_t MANY_ELEMENTS = 10000;
constexpr std::chrono::seconds PATIENCE(20);
std::timed_mutex many_elements;

// The most bytes of a UID that the plugin gets; a longer value counts as absent.
constexpr Uint32 LONGEST_NAME = 256;

// The plugin's answer to the store of the health check (plugins/understudy/plugin/probe.py).
constexpr Uint16 PROBED = 0xC0DE;

// The first means: do not send it again. The second: send it again later (PS3.4 B.2.3).
constexpr Uint16 CANNOT_UNDERSTAND = 0xC000, OUT_OF_RESOURCES = 0xA700;

using StoreProvider = OFCondition(T_ASC_Association *, T_ASC_PresentationContextID, T_DIMSE_C_StoreRQ *, const char *, int,
                                  DcmDataset **, DIMSE_StoreProviderCallback, void *, T_DIMSE_BlockingMode, int);
using NextPDV = OFCondition(DUL_ASSOCIATIONKEY **, DUL_PDV *);
using ReadDataset = OFCondition(DcmDataset *, DcmInputStream &, E_TransferSyntax, E_GrpLenEncoding, Uint32);
using ReadSequence = OFCondition(DcmSequenceOfItems *, DcmInputStream &, E_TransferSyntax, E_GrpLenEncoding, Uint32);
using ReadElementTag = OFCondition(DcmItem *, DcmInputStream &, E_TransferSyntax, DcmTag &, Uint32 &, Uint32 &);
using ReadItemTag = OFCondition(DcmSequenceOfItems *, DcmInputStream &, E_TransferSyntax, DcmTag &, Uint32 &);

StoreProvider *const store_provider = replaced<StoreProvider>(
    "_Z19DIMSE_storeProviderP17T_ASC_AssociationhP17T_DIMSE_C_StoreRQPKciPP10DcmDataset"
    "PFvPvP21T_DIMSE_StoreProgressS2_PcS7_P18T_DIMSE_C_StoreRSPS7_ES8_20T_DIMSE_BlockingModei");
NextPDV *const next_pdv = replaced<NextPDV>("_Z11DUL_NextPDVPPvP7DUL_PDV");
ReadDataset *const read_dataset =
    replaced<ReadDataset>("_ZN10DcmDataset4readER14DcmInputStream16E_TransferSyntax16E_GrpLenEncodingj");
ReadSequence *const read_sequence =
    replaced<ReadSequence>("_ZN18DcmSequenceOfItems4readER14DcmInputStream16E_TransferSyntax16E_GrpLenEncodingj");
ReadElementTag *const read_element_tag =
    replaced<ReadElementTag>("_ZN7DcmItem16readTagAndLengthER14DcmInputStream16E_TransferSyntaxR6DcmTagRjS5_");
ReadItemTag *const read_item_tag =
    replaced<ReadItemTag>("_ZN18DcmSequenceOfItems16readTagAndLengthER14DcmInputStream16E_TransferSyntaxR6DcmTagRj");

// One C-STORE, from its request to its answer.
class Reception {
  public:
    Reception(const T_ASC_Association &association, const T_DIMSE_C_StoreRQ &request, DIMSE_StoreProviderCallback callback,
              void *data)
        : uid_(word(request.AffectedSOPInstanceUID)), sop_class_(word(request.AffectedSOPClassUID)),
          calling_(word(association.params->DULparams.callingAPTitle)), callback_(callback), data_(data),
          slot_(take_slot()), share_(settings().known.count(calling_) != 0),
          reading_(&association, Reading::Kind::data_set, &share_)
    {
        const unsigned ends = ends_of(uid_);
        suspect_ = ends > 0;
        if (without_uid())
            refuse("uid", "its SOP Instance UID is blank or longer than 64 characters");
        else if (ends >= PARKED_AT)
            refuse("parked", "it was on its way when Orthanc ended, " + std::to_string(ends) + " times: it is parked");
        else if (!suspect_)
            note("store");
        present = this;
    }

    ~Reception()
    {
        give_back_memory();
        present = nullptr;
        note("");
        give_back_slot(slot_);
    }

    Reception(const Reception &) = delete;
    Reception &operator=(const Reception &) = delete;

    bool working() const { return working_; }

    // The rest of a refused data set is discarded before DCMTK keeps or inflates it. At a fragment of odd length, which
    // PS3.8 does not allow, DCMTK would stop reading in the middle of the data set.
    void take(DUL_PDV &fragment)
    {
        arrived_ += fragment.fragmentLength;
        if (!refused_ && fragment.fragmentLength % 2 != 0)
            refuse("shape", "a fragment of it has an odd length");
        hold();
        if (refused_)
            fragment.fragmentLength = 0;
    }

    OFCondition read(DcmDataset &dataset, DcmInputStream &stream, E_TransferSyntax syntax, E_GrpLenEncoding lengths,
                     Uint32 most)
    {
        if (!refused_) {
            const OFCondition read = parse(dataset, stream, syntax, lengths, most);
            if (read == EC_MemoryExhausted)
                refuse("memory", "there was no memory for it", OUT_OF_RESOURCES);
            else if (read.bad() && read != EC_StreamNotifyClient)
                refuse("shape", read.text());
            else if (read == EC_StreamNotifyClient && stream.eos())
                refuse("shape", "it ends before its last element does");
            else if (DcmXfer(syntax).getStreamCompression() != ESC_none && stream.tell() > MAX_INFLATED)
                refuse("shape", "it inflates to more than " + std::to_string(MAX_INFLATED) + " bytes");
            hold();
            if (!refused_)
                return read;
        }
        dataset.clear();
        share_.release();
        return EC_StreamNotifyClient;
    }

    // Call it at the beginning or end of an element or item. DCMTK allocates the memory of the value next, by the length
    // that it claims. This thread gives its turn back while it waits for memory.
    OFCondition begins(const DcmInputStream &stream, Uint32 length)
    {
        if (step_ == nullptr)
            return EC_Normal;
        if (++elements_ > MAX_ELEMENTS)
            return makeOFCondition(OFM_dcmdata, 70, OF_error, "it has more than 1000000 elements");
        if (length != DCM_UndefinedLength)
            claimed_ = std::max(claimed_, static_cast<uint64_t>(stream.tell()) + length);
        if (size() > share_.received()) {
            step_->end();
            hold();
            step_->begin();
        }
        if (!elements_fit(elements_))
            refuse("memory", "there is no memory for its elements", OUT_OF_RESOURCES);
        return refused_ ? EC_MemoryExhausted : EC_Normal;
    }

    // The association ended in the middle of the data set, by the peer or by us.
    void broken()
    {
        if (reading_.ended())
            tell("slow", "it arrived too slowly: the association was ended");
    }

    // Returns the value of an element as Orthanc's parser reads it; empty if it is absent or too long for a UID.
    std::string name(const DcmTagKey &tag) const
    {
        DcmElement *element = nullptr;
        if (stored_ == nullptr || stored_->findAndGetElement(tag, element).bad() || element->getLength() > LONGEST_NAME)
            return "";
        // DCMTK changes the padding of a value that it reads, and Orthanc has not written the file yet.
        const std::unique_ptr<DcmObject> copy(element->clone());
        auto *const read = static_cast<DcmElement *>(copy.get());
        char *value = nullptr;
        if (read->getString(value).good())
            return value == nullptr ? "" : value;
        // A UID may come with the VR UN.
        Uint8 *bytes = nullptr;
        if (read->getUint8Array(bytes).bad() || bytes == nullptr)
            return "";
        return std::string(reinterpret_cast<const char *>(bytes), read->getLength());
    }

    bool storing() const { return stored_ != nullptr; }

    static void progressed(void *reception, T_DIMSE_StoreProgress *progress, T_DIMSE_C_StoreRQ *request, char *file,
                           DcmDataset **dataset, T_DIMSE_C_StoreRSP *response, DcmDataset **detail)
    {
        auto &self = *static_cast<Reception *>(reception);
        if (progress->state != DIMSE_StoreEnd) {
            self.callback_(self.data_, progress, request, file, dataset, response, detail);
            return;
        }
        std::unique_lock<std::timed_mutex> one_at_a_time(many_elements, std::defer_lock);
        if (!self.refused_ && self.elements_ > MANY_ELEMENTS)
            static_cast<void>(one_at_a_time.try_lock_for(PATIENCE));
        Reserve reserve;
        const bool many = self.elements_ > FREE_ELEMENTS;
        if (!self.refused_ && (self.share_.store() != Share::Answer::taken ||
                               (many && !patiently(reserve, self.elements_ * STORED_BYTES)))) {
            self.refuse("memory", "the memory that storing it takes did not become free", OUT_OF_RESOURCES);
            (*dataset)->clear();
        }
        if (self.refused_) {
            response->DimseStatus = self.status_;
        } else if (!self.store(progress, request, file, dataset, response, detail)) {
            // Orthanc would end the association without an answer.
            self.refuse("memory", "other work of Orthanc took the memory that storing it needs", OUT_OF_RESOURCES);
            response->DimseStatus = self.status_;
            (*dataset)->clear();
        } else {
            // Orthanc no longer needs the data set, but would keep it until the next one comes.
            if (many)
                (*dataset)->clear();
            // Orthanc survived this instance, whatever the answer is.
            if (self.suspect_)
                forget_ends_of(self.uid_);
            if (response->DimseStatus != STATUS_Success && response->DimseStatus != PROBED)
                self.tell("orthanc", "Orthanc refused it, as its log says", response->DimseStatus);
        }
    }

    static thread_local Reception *present;

  private:
    // A period of work on the data set, without waiting for the network. A suspect is worked on alone.
    class Step {
      public:
        explicit Step(Reception &reception) : reception_(reception) { begin(); }
        ~Step() { end(); }

        void begin()
        {
            locked_ = take_turn(reception_.suspect_, reception_.waits_);
            reception_.waits_ = reception_.waits_ && locked_;
            reception_.working_ = true;
            if (!locked_)
                reception_.note("beside");
            else if (reception_.suspect_)
                reception_.note("alone");
        }

        void end()
        {
            if (reception_.suspect_ || !locked_)
                reception_.note(reception_.suspect_ ? "" : "store");
            reception_.working_ = false;
            if (locked_)
                end_turn(reception_.suspect_);
        }

        Step(const Step &) = delete;
        Step &operator=(const Step &) = delete;

      private:
        Reception &reception_;
        bool locked_ = false;
    };

    static bool patiently(Reserve &reserve, uint64_t bytes)
    {
        const auto until = std::chrono::steady_clock::now() + PATIENCE;
        while (!reserve.hold(bytes)) {
            if (std::chrono::steady_clock::now() >= until)
                return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(200));
        }
        return true;
    }

    void note(const char *what) const
    {
        write_slot(slot_, *what == 0 ? "" : std::string(what) + ' ' + calling_ + ' ' + uid_);
    }

    // Returns whether there was memory for it.
    bool store(T_DIMSE_StoreProgress *progress, T_DIMSE_C_StoreRQ *request, char *file, DcmDataset **dataset,
               T_DIMSE_C_StoreRSP *response, DcmDataset **detail)
    {
        const Step step(*this);
        bool enough = true;
        stored_ = *dataset;
        try {
            callback_(data_, progress, request, file, dataset, response, detail);
        } catch (const std::bad_alloc &) {
            enough = false;
        }
        stored_ = nullptr;
        return enough;
    }

    OFCondition parse(DcmDataset &dataset, DcmInputStream &stream, E_TransferSyntax syntax, E_GrpLenEncoding lengths,
                      Uint32 most)
    {
        Step step(*this);
        step_ = &step;
        const OFCondition read = read_dataset(&dataset, stream, syntax, lengths, most);
        step_ = nullptr;
        return read;
    }

    uint64_t size() const { return std::max(arrived_, claimed_); }

    // Asks for the memory of everything that has arrived or is claimed so far.
    void hold()
    {
        const uint64_t needed = size() + elements_ * ELEMENT_BYTES;
        if (refused_ || needed <= share_.received())
            return;
        switch (share_.grow(needed - share_.received())) {
        case Share::Answer::too_large:
            refuse("large", "it is larger than " + std::to_string(settings().largest) + " bytes");
            break;
        case Share::Answer::no_memory:
            refuse("memory", "other large objects arrive, and their memory did not become free", OUT_OF_RESOURCES);
            break;
        case Share::Answer::taken:
            break;
        }
    }

    void refuse(const char *reason, const std::string &why, Uint16 status = CANNOT_UNDERSTAND)
    {
        if (refused_)
            return;
        refused_ = true;
        status_ = status;
        tell(reason, why, status);
    }

    void tell(const char *reason, const std::string &why, Uint16 status = 0) const
    {
        std::fprintf(stderr, "reception: c_store refused status=0x%04X calling=%s instance=%s because=%s\n", status,
                     calling_.c_str(), uid_.c_str(), why.c_str());
        // For an object that is too large this is the limit, not the claimed size.
        const uint64_t bytes = std::min(size(), settings().largest);
        count_refusal(calling_, reason, sop_class_, "instance=" + uid_ + ",bytes=" + std::to_string(bytes));
    }

    const std::string uid_, sop_class_, calling_;
    const DIMSE_StoreProviderCallback callback_;
    void *const data_;
    const unsigned slot_;
    Share share_;
    Reading reading_;
    uint64_t arrived_ = 0;
    uint64_t claimed_ = 0; // where the value that began last ends, by its claimed length
    uint64_t elements_ = 0;
    Uint16 status_ = 0;
    bool suspect_ = false;
    bool waits_ = true; // for its turn
    bool refused_ = false;
    bool working_ = false;
    Step *step_ = nullptr; // while DCMTK reads the data set
    DcmDataset *stored_ = nullptr; // while Orthanc stores it
};

thread_local Reception *Reception::present = nullptr;

OFCondition element_begins(const DcmInputStream &stream, Uint32 length)
{
    if (Reception::present != nullptr)
        return Reception::present->begins(stream, length);
    return question_may_parse_element() ? EC_Normal : EC_MemoryExhausted;
}

} // namespace

bool receiving()
{
    return Reception::present != nullptr;
}

// For the plugin: writes the UIDs of the instance, study and series that this thread received by C-STORE and that Orthanc
// stores now; returns 0 if there is none. So Python need not parse the headers again: a second for a million elements.
extern "C" int understudy_received(char (*names)[LONGEST_NAME + 1])
{
    if (Reception::present == nullptr || !Reception::present->storing())
        return 0;
    const std::array<DcmTagKey, 3> tags{DCM_SOPInstanceUID, DCM_StudyInstanceUID, DCM_SeriesInstanceUID};
    for (const DcmTagKey &tag : tags)
        std::snprintf(*names++, LONGEST_NAME + 1, "%s", Reception::present->name(tag).c_str());
    return 1;
}

OFCondition DIMSE_storeProvider(T_ASC_Association *assoc, T_ASC_PresentationContextID presIdCmd, T_DIMSE_C_StoreRQ *request,
                                const char *imageFileName, int writeMetaheader, DcmDataset **imageDataSet,
                                DIMSE_StoreProviderCallback callback, void *callbackData, T_DIMSE_BlockingMode blockMode,
                                int timeout)
{
    Reception reception(*assoc, *request, callback, callbackData);
    const OFCondition stored = store_provider(assoc, presIdCmd, request, imageFileName, writeMetaheader, imageDataSet,
                                              Reception::progressed, &reception, blockMode, timeout);
    if (stored.bad())
        reception.broken();
    return stored;
}

OFCondition DUL_NextPDV(DUL_ASSOCIATIONKEY **association, DUL_PDV *pdv)
{
    const OFCondition next = next_pdv(association, pdv);
    if (next.good() && Reception::present != nullptr)
        Reception::present->take(*pdv);
    else if (next.good() && !message_may_grow(pdv->fragmentLength))
        return makeOFCondition(OFM_dcmnet, 2, OF_error, "the message is too large");
    return next;
}

// Orthanc also calls this for files, and for data sets that it parses while it works on a store: those are read as usual.
OFCondition DcmDataset::read(DcmInputStream &inStream, const E_TransferSyntax xfer, const E_GrpLenEncoding glenc,
                             const Uint32 maxReadLength)
{
    Reception *reception = Reception::present;
    if (reception == nullptr && !upload_may_be_parsed())
        return errorFlag = EC_MemoryExhausted;
    if (reception == nullptr)
        question_begins_data_set();
    if (reception == nullptr || reception->working())
        return read_dataset(this, inStream, xfer, glenc, maxReadLength);
    return reception->read(*this, inStream, xfer, glenc, maxReadLength);
}

// DCMTK calls these two for each element and each item, whatever it reads.
OFCondition DcmItem::readTagAndLength(DcmInputStream &inStream, const E_TransferSyntax xfer, DcmTag &tag, Uint32 &length,
                                      Uint32 &bytesRead)
{
    const OFCondition read = read_element_tag(this, inStream, xfer, tag, length, bytesRead);
    return read.good() ? element_begins(inStream, length) : read;
}

OFCondition DcmSequenceOfItems::readTagAndLength(DcmInputStream &inStream, const E_TransferSyntax xfer, DcmTag &tag,
                                                 Uint32 &length)
{
    const OFCondition read = read_item_tag(this, inStream, xfer, tag, length);
    return read.good() ? element_begins(inStream, length) : read;
}

// DCMTK calls this once for each level of nesting, whatever it reads.
OFCondition DcmSequenceOfItems::read(DcmInputStream &inStream, const E_TransferSyntax xfer, const E_GrpLenEncoding glenc,
                                     const Uint32 maxReadLength)
{
    static thread_local unsigned depth = 0;
    if (depth >= MAX_DEPTH)
        return errorFlag = makeOFCondition(OFM_dcmdata, 69, OF_error, "its sequences are nested deeper than 32");
    const struct Level {
        Level() { ++depth; }
        ~Level() { --depth; }
    } level;
    return read_sequence(this, inStream, xfer, glenc, maxReadLength);
}
