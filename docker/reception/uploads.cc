// Applies the same limits to the bodies of HTTP requests as to objects that arrive by DICOM.
//
// Orthanc keeps a whole body in memory. Only of a chunked body of STOW-RS does it keep just the part that is arriving.
//
// Rule 1: a body with a Content-Length is refused before it is read: by 413 if it is too large, by 503 if other large
// objects use the memory; both answers give the reason. While Orthanc is stopping, every POST gets 503.
// CivetWeb then reads the rest of the body and drops it. If the connection were closed with bytes unread, the kernel would
// reset it, and the edge would lose the answer and send 502.
// Rule 2: a chunked body is cut off as soon as one object in it is too large.
#include <civetweb.h>

#include <cstring>

#include "reception.h"

namespace reception {

namespace {

using Read = int(mg_connection *, void *, size_t);

Read *const read_body = replaced<Read>("mg_read");

// The upload of one request, used by the thread that works on the request.
class Upload {
  public:
    explicit Upload(bool chunked) : chunked_(chunked) { present = this; }
    ~Upload() { present = nullptr; }
    Upload(const Upload &) = delete;
    Upload &operator=(const Upload &) = delete;

    Share::Answer told(uint64_t bytes) { return share_.grow(bytes); }

    Share::Answer arrived(uint64_t bytes)
    {
        if (!chunked_)
            return Share::Answer::taken;
        if (parsed_)
            share_.release();
        parsed_ = false;
        return share_.grow(bytes);
    }

    bool parse()
    {
        const bool first = !parsed_;
        parsed_ = true;
        if (!first || share_.store() == Share::Answer::taken)
            return true;
        count(Share::Answer::no_memory);
        return false;
    }

    static void count(Share::Answer answer)
    {
        count_refusal("-", answer == Share::Answer::too_large ? "large" : "memory", "-", "instance=-");
    }

    static thread_local Upload *present;

  private:
    const bool chunked_;
    Share share_{true};
    bool parsed_ = false;
};

thread_local Upload *Upload::present = nullptr;

int refuse(mg_connection *connection, int status, const char *error, const std::string &message)
{
    const std::string body = std::string(R"({"error": ")") + error + R"(", "message": ")" + message + R"("})";
    std::fprintf(stderr, "reception: upload refused because=%s\n", message.c_str());
    mg_printf(connection,
              "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
              status == 413 ? "413 Payload Too Large" : "503 Service Unavailable\r\nRetry-After: 30", body.size(),
              body.c_str());
    return status;
}

int refuse(mg_connection *connection, Share::Answer answer, long long length)
{
    Upload::count(answer);
    if (answer == Share::Answer::too_large)
        return refuse(connection, 413, "too_large",
                      "the body has " + std::to_string(length) + " bytes, and at most " +
                          std::to_string(settings().largest) + " are taken");
    return refuse(connection, 503, "no_memory", "other large objects arrive: send it again later");
}

} // namespace

int within_limits(mg_connection *connection, int (*handle)(mg_connection *))
{
    if (stopping() && std::strcmp(mg_get_request_info(connection)->request_method, "POST") == 0)
        return refuse(connection, 503, "stopping", "this appliance is stopping: send it again later");
    const long long length = mg_get_request_info(connection)->content_length;
    Upload upload(length < 0);
    const Share::Answer answer = length > 0 ? upload.told(static_cast<uint64_t>(length)) : Share::Answer::taken;
    return answer == Share::Answer::taken ? with_memory(connection, handle) : refuse(connection, answer, length);
}

bool upload_may_be_parsed() { return Upload::present == nullptr || Upload::present->parse(); }

} // namespace reception

extern "C" int mg_read(mg_connection *connection, void *buffer, size_t length)
{
    reception::reads_on();
    const int bytes = reception::read_body(connection, buffer, length);
    reception::Upload *const upload = reception::Upload::present;
    if (bytes <= 0 || upload == nullptr)
        return bytes;
    const reception::Share::Answer answer = upload->arrived(static_cast<uint64_t>(bytes));
    if (answer == reception::Share::Answer::taken)
        return bytes;
    std::fprintf(stderr, "reception: upload cut off because=%s\n",
                 answer == reception::Share::Answer::too_large ? "an object of it is too large" : "there is no memory for it");
    reception::Upload::count(answer);
    return -1;
}
