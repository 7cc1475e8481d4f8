// Keeps Orthanc reachable: no peer blocks the accept thread, and no peer keeps an association that it does not use.
//
// Rule 1: the accept thread never waits for a peer. Orthanc reads and answers every association request in that one
// thread; DCMTK waits there up to 30 s for a request, and up to 30 s more until a rejected peer closes.
// Rule 2: every read ends. We wait for a peer for at most REQUEST_SECONDS during a request, and COMMAND_SECONDS during a
// command. During a data set the peer has a credit of at most GRACE_SECONDS: waiting uses it up, and each FLOOR bytes
// give one second back. So a peer that sends quickly at first gains no hours of waiting. Our own work does not count.
// Rule 3: when few associations are free, an idle one is ended for each new one: strangers first, then the caller with
// the most associations, then the one that has been idle longest. Images that arrive are never cut off, unless they
// arrive slower than FLOOR.
// Rule 4: a command has at most COMMAND_BYTES; its identifier has at most IDENTIFIER_BYTES and needs a share of the memory
// (budget.cc).
// Rule 5: everything that Orthanc rejects inside an association is counted (refusals.cc).
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dcdeftag.h>
#include <dcmtk/dcmdata/dcdatset.h>
#include <dcmtk/dcmdata/dcuid.h>
#include <dcmtk/dcmnet/assoc.h>
#include <dcmtk/dcmnet/dcmtrans.h>
#include <dcmtk/dcmnet/dimse.h>

#include "reception.h"

namespace {

using namespace reception;

constexpr double REQUEST_SECONDS = 2;
constexpr double COMMAND_SECONDS = 30;
constexpr double GRACE_SECONDS = 60;
constexpr double FLOOR = 16 << 10;
// An N-ACTION about 20,000 instances has 4 MB (PS3.4 J.3.2). Bytes that are empty elements use MEMORY_OF_BYTE times as much
// memory.
constexpr uint64_t COMMAND_BYTES = 64 << 10, IDENTIFIER_BYTES = 4 << 20, MEMORY_OF_BYTE = 25;
// While others wait for memory that a data set holds or claims, its credit is HURRY_SECONDS, and it has to arrive fast
// enough to fill that memory within WHOLE_SECONDS.
constexpr double HURRY_SECONDS = 15, WHOLE_SECONDS = 300;
// An association that has had no command for QUIET_SECONDS, or is SLOW_SECONDS behind FLOOR, may be ended for a new one.
constexpr double QUIET_SECONDS = 2, SLOW_SECONDS = 10;
// One in RESERVED_PART associations is kept free.
constexpr size_t RESERVED_PART = 8;

using ReceiveAssociation = OFCondition(T_ASC_Network *, T_ASC_Association **, long, void **, unsigned long *, OFBool,
                                       DUL_BLOCKOPTIONS, int, const T_ASC_ImplementationIdentification &);
using AcknowledgeAssociation = OFCondition(T_ASC_Association *, void **, unsigned long *);
using DropAssociation = OFCondition(T_ASC_Association *, int);
using ReceiveCommand = OFCondition(T_ASC_Association *, T_DIMSE_BlockingMode, int, T_ASC_PresentationContextID *,
                                   T_DIMSE_Message *, DcmDataset **, DcmDataset **);
using ReceiveDataset = OFCondition(T_ASC_Association *, T_DIMSE_BlockingMode, int, T_ASC_PresentationContextID *,
                                   DcmDataset **, DIMSE_ProgressCallback, void *);
using Read = ssize_t(DcmTCPConnection *, void *, size_t);
using DataAvailable = OFBool(DcmTCPConnection *, int);

ReceiveAssociation *const receive_association = replaced<ReceiveAssociation>(
    "_Z22ASC_receiveAssociationP13T_ASC_NetworkPP17T_ASC_AssociationlPPvPmb16DUL_BLOCKOPTIONSi"
    "RK34T_ASC_ImplementationIdentification");
AcknowledgeAssociation *const acknowledge_association =
    replaced<AcknowledgeAssociation>("_Z26ASC_acknowledgeAssociationP17T_ASC_AssociationPPvPm");
DropAssociation *const drop_association = replaced<DropAssociation>("_Z22ASC_dropSCPAssociationP17T_ASC_Associationi");
ReceiveCommand *const receive_command = replaced<ReceiveCommand>(
    "_Z20DIMSE_receiveCommandP17T_ASC_Association20T_DIMSE_BlockingModeiPhP15T_DIMSE_MessagePP10DcmDatasetS7_");
ReceiveDataset *const receive_dataset = replaced<ReceiveDataset>(
    "_Z28DIMSE_receiveDataSetInMemoryP17T_ASC_Association20T_DIMSE_BlockingModeiPhPP10DcmDatasetPFvPvmES6_");
Read *const read_connection = replaced<Read>("_ZN16DcmTCPConnection4readEPvm");
DataAvailable *const data_available = replaced<DataAvailable>("_ZN16DcmTCPConnection20networkDataAvailableEi");

double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One association that Orthanc accepted. The mutex of Callers guards it.
struct Caller {
    std::string title;
    bool known = false;
    bool working = false; // Orthanc works on a command of this caller
    double quiet_since = 0;
    bool sending = false; // a data set is arriving
    double behind = 0;    // seconds that we waited for the caller, less those that its bytes gave back
    bool unwanted = false;
    std::string asks; // SOP class of a query, until Orthanc reads the identifier

    bool useless(double time) const
    {
        if (sending)
            return behind > SLOW_SECONDS;
        return !working && time - quiet_since > QUIET_SECONDS;
    }
};

class Callers {
  public:
    void add(const T_ASC_Association *association, const char *calling)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        make_room();
        auto caller = std::make_shared<Caller>();
        caller->title = word(calling);
        caller->known = settings().known.count(caller->title) != 0;
        caller->quiet_since = now();
        ++associations_of_[caller->title];
        callers_[association] = std::move(caller);
    }

    void remove(const T_ASC_Association *association)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = callers_.find(association);
        if (found == callers_.end())
            return;
        const auto count = associations_of_.find(found->second->title);
        if (--count->second == 0)
            associations_of_.erase(count);
        callers_.erase(found);
    }

    // Calls the function on a caller, under the lock. Returns its result, or `otherwise` for an unknown association.
    template <typename Result, typename Function>
    Result with(const T_ASC_Association *association, Result otherwise, Function function)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = callers_.find(association);
        return found == callers_.end() ? otherwise : function(*found->second);
    }

  private:
    void make_room()
    {
        const size_t all = settings().associations;
        if (all == 0 || callers_.size() + std::max<size_t>(1, all / RESERVED_PART) < all)
            return;
        const double time = now();
        Caller *worst = nullptr;
        for (const auto &[association, caller] : callers_)
            if (!caller->unwanted && caller->useless(time) && (worst == nullptr || rank(*caller) < rank(*worst)))
                worst = caller.get();
        if (worst == nullptr)
            return;
        worst->unwanted = true;
        std::fprintf(stderr, "reception: association ended calling=%s because=others wait and it does nothing\n",
                     worst->title.c_str());
    }

    std::tuple<bool, bool, long, double> rank(const Caller &caller) const
    {
        return {caller.known, caller.sending, -static_cast<long>(associations_of_.at(caller.title)), caller.quiet_since};
    }

    std::mutex mutex_;
    std::map<const T_ASC_Association *, std::shared_ptr<Caller>> callers_;
    std::map<std::string, size_t> associations_of_;
};

// Never destroyed: threads use it until the process ends.
Callers &callers()
{
    static auto *const only = new Callers;
    return *only;
}

thread_local Reading *present = nullptr;

bool printable(const char *title)
{
    const std::string text(title);
    return text.find_first_not_of(' ') != std::string::npos && std::none_of(text.begin(), text.end(), [](unsigned char byte) {
               return byte < 0x20 || byte == 0x7F || byte == '\\';
           });
}

// Counts every presentation context that Orthanc rejects: the peer will send nothing of that class and syntax. Orthanc
// gives the class as the reason even if it rejected only all the transfer syntaxes.
void count_refused_contexts(T_ASC_Parameters &parameters)
{
    std::vector<T_ASC_PresentationContext> refused;
    std::unordered_set<std::string> classes;
    const int count = ASC_countPresentationContexts(&parameters);
    for (int number = 0; number < count; ++number) {
        T_ASC_PresentationContext context;
        if (ASC_getPresentationContext(&parameters, number, &context).bad())
            continue;
        if (context.resultReason == ASC_P_ACCEPTANCE)
            classes.insert(context.abstractSyntax);
        else
            refused.push_back(context);
    }
    for (const T_ASC_PresentationContext &context : refused) {
        std::string syntaxes;
        for (unsigned syntax = 0; syntax < context.transferSyntaxCount && syntax < 8; ++syntax)
            syntaxes += (syntaxes.empty() ? "" : ",") + word(context.proposedTransferSyntaxes[syntax]);
        const char *reason = "class";
        if (classes.count(context.abstractSyntax) != 0)
            reason = "alternative";
        else if (dcmIsaStorageSOPClassUID(context.abstractSyntax, ESSC_All))
            reason = "syntax";
        count_refusal(word(parameters.DULparams.callingAPTitle), reason, word(context.abstractSyntax), "syntax=" + syntaxes);
    }
}

// Returns the SOP class of a query or retrieval; empty for every other command.
std::string asked_class(const T_DIMSE_Message &message)
{
    switch (message.CommandField) {
    case DIMSE_C_FIND_RQ:
        return word(message.msg.CFindRQ.AffectedSOPClassUID);
    case DIMSE_C_MOVE_RQ:
        return word(message.msg.CMoveRQ.AffectedSOPClassUID);
    case DIMSE_C_GET_RQ:
        return word(message.msg.CGetRQ.AffectedSOPClassUID);
    default:
        return "";
    }
}

// DCMTK cannot represent a C-STORE-RQ with a UID that is blank or longer than 64. Fills `message` from the rest of such
// a command, so that the instance is refused like any other and the association goes on. False if that is impossible.
bool refusable(DcmDataset &command, T_DIMSE_Message &message)
{
    Uint16 field = 0, id = 0, type = DIMSE_DATASET_NULL;
    if (command.findAndGetUint16(DCM_CommandField, field).bad() || field != DIMSE_C_STORE_RQ ||
        command.findAndGetUint16(DCM_MessageID, id).bad() ||
        command.findAndGetUint16(DCM_CommandDataSetType, type).bad() || type == DIMSE_DATASET_NULL)
        return false;
    OFString sop_class, instance;
    command.findAndGetOFString(DCM_AffectedSOPClassUID, sop_class);
    command.findAndGetOFString(DCM_AffectedSOPInstanceUID, instance);
    std::memset(&message, 0, sizeof(message));
    message.CommandField = DIMSE_C_STORE_RQ;
    T_DIMSE_C_StoreRQ &store = message.msg.CStoreRQ;
    store.MessageID = id;
    store.DataSetType = DIMSE_DATASET_PRESENT;
    OFStandard::strlcpy(store.AffectedSOPClassUID, sop_class.c_str(), sizeof(store.AffectedSOPClassUID));
    OFStandard::strlcpy(store.AffectedSOPInstanceUID, instance.c_str(), sizeof(store.AffectedSOPInstanceUID));
    return true;
}

} // namespace

namespace reception {

bool &without_uid()
{
    static thread_local bool found = false;
    return found;
}

Reading::Reading(const T_ASC_Association *association, Kind kind, Share *share)
    : association_(association), kind_(kind), share_(share), outer_(present),
      left_(kind == Kind::request ? REQUEST_SECONDS : kind == Kind::data_set ? GRACE_SECONDS : COMMAND_SECONDS)
{
    if (kind == Kind::data_set)
        callers().with(association_, false, [](Caller &caller) {
            caller.behind = 0;
            return caller.sending = true;
        });
    present = this;
}

Reading::~Reading()
{
    present = outer_;
    if (kind_ == Kind::data_set)
        callers().with(association_, false, [](Caller &caller) {
            caller.quiet_since = now();
            return caller.sending = false;
        });
}

// Lets the replaced functions of a connection use the reading of this thread.
struct Network {
    static void waited(Reading &reading, double seconds)
    {
        reading.left_ -= seconds;
        if (reading.kind_ == Reading::Kind::data_set && reading.share_->is_waited_for())
            reading.left_ = std::min(reading.left_, HURRY_SECONDS);
        const bool begins = reading.kind_ == Reading::Kind::request || reading.kind_ == Reading::Kind::command;
        reading.ended_ = reading.left_ <= 0 || (begins && stopping()) || callers().with(reading.association_, false, [&](Caller &caller) {
            caller.behind = GRACE_SECONDS - reading.left_;
            return caller.unwanted;
        });
    }

    static void arrived(Reading &reading, ssize_t bytes)
    {
        if (reading.kind_ != Reading::Kind::data_set || bytes <= 0)
            return;
        const bool hurries = reading.share_->is_waited_for();
        const double rate = hurries ? std::max(FLOOR, static_cast<double>(reading.share_->received()) / WHOLE_SECONDS) : FLOOR;
        reading.left_ = std::min(hurries ? HURRY_SECONDS : GRACE_SECONDS, reading.left_ + static_cast<double>(bytes) / rate);
    }

    // Adds `bytes` to a command or an identifier. False if it is too large: then no more of it is read.
    static bool grows(Reading &reading, uint64_t bytes)
    {
        if (reading.ended_)
            return false;
        reading.bytes_ += bytes;
        const bool command = reading.kind_ == Reading::Kind::command;
        if (command ? reading.bytes_ <= COMMAND_BYTES
                    : reading.bytes_ <= IDENTIFIER_BYTES &&
                          reading.share_->grow(bytes * MEMORY_OF_BYTE) == Share::Answer::taken)
            return true;
        const std::string title =
            callers().with(reading.association_, std::string("-"), [](Caller &caller) { return caller.title; });
        std::fprintf(stderr, "reception: message refused calling=%s because=its %s is too large\n", title.c_str(),
                     command ? "command" : "identifier");
        count_refusal(title, "message", "-", "bytes=" + std::to_string(reading.bytes_));
        reading.ended_ = true;
        return false;
    }

    // Waits until there is something to read; false if the peer's time is over.
    static bool readable(Reading &reading, int socket, double most)
    {
        const double until = now() + most;
        while (!reading.ended_) {
            const double began = now();
            pollfd waiting{socket, POLLIN, 0};
            const int found = poll(&waiting, 1, std::max(0, static_cast<int>(std::min(0.1, until - began) * 1000)));
            waited(reading, now() - began);
            if (found > 0)
                return !reading.ended_;
            if (now() >= until || (found < 0 && errno != EINTR))
                return false;
        }
        return false;
    }
};

bool message_may_grow(uint64_t bytes)
{
    return present == nullptr || !present->is_message() || Network::grows(*present, bytes);
}

} // namespace reception

OFBool DcmTCPConnection::networkDataAvailable(int timeout)
{
    if (present == nullptr)
        return data_available(this, timeout);
    return Network::readable(*present, getSocket(), timeout);
}

ssize_t DcmTCPConnection::read(void *buf, size_t nbyte)
{
    if (present != nullptr && !Network::readable(*present, getSocket(), GRACE_SECONDS)) {
        errno = ETIMEDOUT;
        return -1;
    }
    const ssize_t bytes = read_connection(this, buf, nbyte);
    if (present != nullptr)
        Network::arrived(*present, bytes);
    return bytes;
}

OFCondition ASC_receiveAssociation(T_ASC_Network *network, T_ASC_Association **assoc, long maxReceivePDUSize,
                                   void **associatePDU, unsigned long *associatePDUlength, OFBool useSecureLayer,
                                   DUL_BLOCKOPTIONS block, int timeout, const T_ASC_ImplementationIdentification &implId)
{
    const Reading reading(nullptr, Reading::Kind::request);
    const OFCondition received = receive_association(network, assoc, maxReceivePDUSize, associatePDU, associatePDUlength,
                                                     useSecureLayer, block, timeout, implId);
    if (received.good() && *assoc != nullptr && stopping()) {
        const T_ASC_RejectParameters reject = {ASC_RESULT_REJECTEDTRANSIENT, ASC_SOURCE_SERVICEPROVIDER_PRESENTATION_RELATED,
                                               ASC_REASON_SP_PRES_TEMPORARYCONGESTION};
        ASC_rejectAssociation(*assoc, &reject);
        return makeOFCondition(OFM_dcmnet, 1, OF_error, "Orthanc is stopping");
    }
    // Orthanc neither answers nor closes an association with such a title.
    if (received.good() && *assoc != nullptr && !printable((*assoc)->params->DULparams.callingAPTitle)) {
        const T_ASC_RejectParameters reject = {ASC_RESULT_REJECTEDPERMANENT, ASC_SOURCE_SERVICEUSER,
                                               ASC_REASON_SU_CALLINGAETITLENOTRECOGNIZED};
        ASC_rejectAssociation(*assoc, &reject);
        return makeOFCondition(OFM_dcmnet, 1, OF_error, "the calling AE title is blank or has control characters");
    }
    return received;
}

OFCondition ASC_acknowledgeAssociation(T_ASC_Association *assoc, void **associatePDU, unsigned long *associatePDUlength)
{
    count_refused_contexts(*assoc->params);
    const OFCondition acknowledged = acknowledge_association(assoc, associatePDU, associatePDUlength);
    if (acknowledged.good())
        callers().add(assoc, assoc->params->DULparams.callingAPTitle);
    return acknowledged;
}

OFCondition ASC_dropSCPAssociation(T_ASC_Association *association, int)
{
    // Orthanc aborts when a caller that is not a reader sends a query, and does not read the identifier.
    const auto [title, asks] = callers().with(association, std::pair<std::string, std::string>(), [](Caller &caller) {
        return std::make_pair(caller.title, caller.asks);
    });
    if (!asks.empty())
        count_refusal(title, "query", asks, "instance=-");
    callers().remove(association);
    return drop_association(association, 0);
}

OFCondition DIMSE_receiveCommand(T_ASC_Association *assoc, T_DIMSE_BlockingMode blocking, int timeout,
                                 T_ASC_PresentationContextID *presID, T_DIMSE_Message *msg, DcmDataset **statusDetail,
                                 DcmDataset **commandSet)
{
    // `ours` is false if Orthanc requested the association. With timeout 0 Orthanc looks for a C-CANCEL without waiting.
    const bool ours = callers().with(assoc, false, [&](Caller &caller) {
        if (timeout > 0 && caller.working) {
            caller.working = false;
            caller.quiet_since = now();
        }
        return true;
    });
    if (ours && commandSet == nullptr && timeout > 0 && stopping())
        return DIMSE_OUTOFRESOURCES;
    if (!ours || commandSet != nullptr)
        return receive_command(assoc, blocking, timeout, presID, msg, statusDetail, commandSet);
    question_begins();
    const Reading reading(assoc, Reading::Kind::command);
    DcmDataset *command = nullptr;
    OFCondition received = receive_command(assoc, blocking, timeout, presID, msg, statusDetail, &command);
    const std::unique_ptr<DcmDataset> owner(command);
    if (reading.ended())
        return DIMSE_OUTOFRESOURCES;
    without_uid() = received.bad() && command != nullptr && refusable(*command, *msg);
    if (without_uid())
        received = EC_Normal;
    // An echo does not count as work: a peer that sends nothing else counts as idle.
    if (received.good() && timeout > 0 && msg->CommandField != DIMSE_C_ECHO_RQ)
        callers().with(assoc, false, [&](Caller &caller) {
            caller.asks = asked_class(*msg);
            return caller.working = true;
        });
    return received;
}

OFCondition DIMSE_receiveDataSetInMemory(T_ASC_Association *assoc, T_DIMSE_BlockingMode blocking, int timeout,
                                         T_ASC_PresentationContextID *presID, DcmDataset **dataObject,
                                         DIMSE_ProgressCallback callback, void *callbackData)
{
    const bool ours = callers().with(assoc, false, [](Caller &caller) {
        caller.asks.clear();
        return true;
    });
    // For a store, reception.cc has begun the reading.
    if (!ours || present != nullptr)
        return receive_dataset(assoc, blocking, timeout, presID, dataObject, callback, callbackData);
    Share share(callers().with(assoc, false, [](Caller &caller) { return caller.known; }));
    const Reading reading(assoc, Reading::Kind::identifier, &share);
    return receive_dataset(assoc, blocking, timeout, presID, dataObject, callback, callbackData);
}
