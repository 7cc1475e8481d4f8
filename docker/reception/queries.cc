// Tells the reader that the answers to a C-FIND were cut. Orthanc returns at most LimitFindResults answers and reports
// success, as if there were no others (seen with 1.13.0). It holds about 15 kB for each before it sends the first.
//
// Rule 1: the reader gets the answers up to the limit, and at the end "out of resources" (PS3.4 C.4.1.1.4), not success.
// Rule 2: Orthanc looks for all answers before it sends the first. It does so when the query has a place (places.cc).
#include <new>
#include <optional>

#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dcdeftag.h>
#include <dcmtk/dcmdata/dcdatset.h>
#include <dcmtk/dcmnet/dimse.h>

#include "reception.h"

namespace {

using namespace reception;

constexpr Uint16 OUT_OF_RESOURCES = 0xA700;

using FindProvider = OFCondition(T_ASC_Association *, T_ASC_PresentationContextID, T_DIMSE_C_FindRQ *,
                                 DIMSE_FindProviderCallback, void *, T_DIMSE_BlockingMode, int);

FindProvider *const find_provider = replaced<FindProvider>(
    "_Z18DIMSE_findProviderP17T_ASC_AssociationhP16T_DIMSE_C_FindRQ"
    "PFvPvbS2_P10DcmDatasetiP17T_DIMSE_C_FindRSPPS5_S8_ES3_20T_DIMSE_BlockingModei");

struct Query {
    DIMSE_FindProviderCallback callback;
    void *data;
    std::string calling;
};

size_t limit_of(DcmDataset *identifiers)
{
    OFString level;
    if (identifiers != nullptr)
        identifiers->findAndGetOFString(DCM_QueryRetrieveLevel, level);
    return level == "IMAGE" ? settings().found_instances : settings().found;
}

// Answers are numbered from 1; the final response counts too and has no identifier.
void answered(void *data, OFBool cancelled, T_DIMSE_C_FindRQ *request, DcmDataset *identifiers, int number,
              T_DIMSE_C_FindRSP *response, DcmDataset **found, DcmDataset **detail)
{
    const Query &query = *static_cast<Query *>(data);
    question_begins();
    const char *failed = nullptr;
    try {
        std::optional<Place> place;
        if (number == 1)
            place.emplace(query.calling);
        if (place && !place->taken())
            failed = "other searches took too long";
        else
            query.callback(query.data, cancelled, request, identifiers, number, response, found, detail);
    } catch (const std::bad_alloc &) {
        failed = "there is no memory";
    }
    if (failed != nullptr) {
        *found = nullptr;
        response->DimseStatus = OUT_OF_RESOURCES;
        std::fprintf(stderr, "reception: query cut calling=%s because=%s\n", query.calling.c_str(), failed);
        return;
    }
    const size_t limit = limit_of(identifiers);
    if (response->DimseStatus != STATUS_Success || static_cast<size_t>(number) <= limit)
        return;
    response->DimseStatus = OUT_OF_RESOURCES;
    std::fprintf(stderr, "reception: query cut calling=%s answers=%zu\n", query.calling.c_str(), limit);
}

} // namespace

OFCondition DIMSE_findProvider(T_ASC_Association *assoc, T_ASC_PresentationContextID presIdCmd, T_DIMSE_C_FindRQ *request,
                               DIMSE_FindProviderCallback callback, void *callbackData, T_DIMSE_BlockingMode blockMode,
                               int timeout)
{
    Query query{callback, callbackData, word(assoc->params->DULparams.callingAPTitle)};
    return find_provider(assoc, presIdCmd, request, answered, &query, blockMode, timeout);
}
